//! What a pod refers to, as it is at one moment: the input of pure rooms.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::certificates::{CertificateWish, Credential};
use super::data::{Bytes, Found, ObjectData, Token};
use super::references::{Kind, TokenWish};
use super::trust::TrustWish;

/// Why an object that a pod refers to cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// There is no API server to ask for it.
    #[error("couldn't get {} {namespace}/{name}, no kubeClient defined", in_camel_case(*kind))]
    NoApiServer {
        /// What it is.
        kind: Kind,
        /// The pod's namespace.
        namespace: Box<str>,
        /// The object's name.
        name: Box<str>,
    },
    /// The API server has no such object.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// What it is.
        kind: Kind,
        /// Its name.
        name: Box<str>,
    },
    /// No manifest has such an object.
    #[error(
        "{kind} {name:?} not found; put the {} {namespace}/{name} into a file in {}, or mend the one that 'kubelet status' names",
        in_manifests(*kind),
        .directory.display()
    )]
    NotInManifests {
        /// What it is.
        kind: Kind,
        /// The pod's namespace.
        namespace: Box<str>,
        /// The object's name.
        name: Box<str>,
        /// Where manifests are.
        directory: Arc<Path>,
    },
    /// The API server has not answered yet.
    #[error("failed to sync {kind} cache: timed out waiting for the condition")]
    NotYet {
        /// What it is.
        kind: Kind,
    },
    /// There is no token or certificate; why not.
    #[error("{0}")]
    NoToken(Arc<str>),
    /// There are no trust bundles; why not.
    #[error("{0}")]
    NoTrust(Box<str>),
}

fn in_camel_case(kind: Kind) -> &'static str {
    match kind {
        Kind::ConfigMap => "configMap",
        Kind::Secret => "secret",
    }
}

fn in_manifests(kind: Kind) -> &'static str {
    match kind {
        Kind::ConfigMap => "ConfigMap",
        Kind::Secret => "Secret",
    }
}

impl ObjectError {
    /// Whether it is known that there is no such object, which is no error where it is optional.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NotInManifests { .. })
    }
}

impl ObjectError {
    /// Whether it is only that the API server has not answered, or has no token to give.
    #[must_use]
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::NotYet { .. } | Self::NoToken(_))
    }
}

/// Where objects of a pod come from.
#[derive(Clone, Debug, Default)]
enum Source {
    /// From nowhere.
    #[default]
    None,
    Cluster,
    /// From manifests in this directory.
    Manifests(Arc<Path>),
}

/// The objects that one pod refers to, as they are at one moment.
#[derive(Clone, Debug, Default)]
pub struct PodSnapshot {
    namespace: Box<str>,
    source: Source,
    objects: BTreeMap<(Kind, Box<str>), Found<Arc<ObjectData>>>,
    tokens: BTreeMap<TokenWish, Found<Token>>,
    trust: BTreeMap<TrustWish, Found<Bytes>>,
    certificates: BTreeMap<(Box<str>, usize), Found<Credential>>,
}

impl PodSnapshot {
    /// Of a pod of `namespace` on a node without an API server.
    #[must_use]
    pub fn standalone(namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            ..Self::default()
        }
    }

    /// Of a pod of `namespace` on a node with an API server, nothing being known yet.
    #[must_use]
    pub fn of_cluster(namespace: &str) -> Self {
        Self {
            source: Source::Cluster,
            ..Self::standalone(namespace)
        }
    }

    /// Of a static pod of `namespace` whose objects are in `directory`, nothing being known yet.
    #[must_use]
    pub fn of_manifests(namespace: &str, directory: Arc<Path>) -> Self {
        Self {
            source: Source::Manifests(directory),
            ..Self::standalone(namespace)
        }
    }

    /// The same, with what is known of one object.
    #[must_use]
    pub fn with(mut self, kind: Kind, name: &str, found: Found<Arc<ObjectData>>) -> Self {
        self.objects.insert((kind, name.into()), found);
        self
    }

    /// The same, with what is known of one token.
    #[must_use]
    pub fn with_token(mut self, wish: TokenWish, found: Found<Token>) -> Self {
        self.tokens.insert(wish, found);
        self
    }

    /// The same, with what is known of some trust bundles.
    #[must_use]
    pub fn with_trust(mut self, wish: TrustWish, found: Found<Bytes>) -> Self {
        self.trust.insert(wish, found);
        self
    }

    /// The same, with what is known of one certificate.
    #[must_use]
    pub fn with_certificate(mut self, wish: &CertificateWish, found: Found<Credential>) -> Self {
        let key = (wish.volume.clone(), wish.source);
        self.certificates.insert(key, found);
        self
    }

    /// The namespace of all of them.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The object of `kind` called `name`.
    ///
    /// # Errors
    /// When it is not there, or nobody knows yet.
    pub fn get(&self, kind: Kind, name: &str) -> Result<Arc<ObjectData>, ObjectError> {
        let (namespace, name) = (self.namespace.clone(), Box::<str>::from(name));
        match (self.objects.get(&(kind, name.clone())), &self.source) {
            (_, Source::None) => Err(ObjectError::NoApiServer {
                kind,
                namespace,
                name,
            }),
            (Some(Found::There(data)), _) => Ok(data.clone()),
            (Some(Found::Missing), Source::Manifests(directory)) => {
                Err(ObjectError::NotInManifests {
                    kind,
                    namespace,
                    name,
                    directory: directory.clone(),
                })
            }
            (Some(Found::Missing), _) => Err(ObjectError::NotFound { kind, name }),
            (Some(Found::Unknown(_)) | None, _) => Err(ObjectError::NotYet { kind }),
        }
    }

    /// As [`PodSnapshot::get`]; none for an object that is not there and need not be.
    ///
    /// # Errors
    /// As [`PodSnapshot::get`].
    pub fn get_optional(
        &self,
        kind: Kind,
        name: &str,
        optional: bool,
    ) -> Result<Option<Arc<ObjectData>>, ObjectError> {
        match self.get(kind, name) {
            Err(error) if optional && error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// The token that `wish` asks for.
    ///
    /// # Errors
    /// When there is none.
    pub fn token(&self, wish: &TokenWish) -> Result<Token, ObjectError> {
        if !matches!(self.source, Source::Cluster) {
            let why =
                "failed to fetch token: cannot use TokenManager when kubelet is in standalone mode";
            return Err(ObjectError::NoToken(why.into()));
        }
        match self.tokens.get(wish) {
            Some(Found::There(token)) => Ok(token.clone()),
            Some(Found::Unknown(Some(why))) => Err(ObjectError::NoToken(why.clone())),
            _ => Err(ObjectError::NoToken(
                "failed to fetch token: timed out waiting for the condition".into(),
            )),
        }
    }

    /// The certificates that `wish` asks for, as PEM; nothing where there are none and need not be.
    ///
    /// # Errors
    /// When there are none, or none of this kind are had here.
    pub fn trust(&self, wish: &TrustWish, optional: bool) -> Result<Bytes, ObjectError> {
        let why = match self.trust.get(wish) {
            Some(Found::There(anchors)) => return Ok(anchors.clone()),
            Some(Found::Missing) if optional => return Ok(Bytes::from([])),
            Some(Found::Missing) => wish.missing(),
            Some(Found::Unknown(_)) => "ClusterTrustBundle informer has not yet synced".to_owned(),
            None => {
                "ClusterTrustBundle projection is not supported in static kubelet mode".to_owned()
            }
        };
        Err(ObjectError::NoTrust(why.into()))
    }

    /// The certificate for the source with the number `source` of the projected volume `volume`, and its key.
    ///
    /// # Errors
    /// When there is none, or none are had here.
    pub fn certificate(&self, volume: &str, source: usize) -> Result<Credential, ObjectError> {
        let why = match self.certificates.get(&(volume.into(), source)) {
            Some(Found::There(credential)) => return Ok(credential.clone()),
            Some(Found::Unknown(Some(why))) => why.clone(),
            Some(Found::Unknown(None) | Found::Missing) => {
                "credential bundle is not issued yet".into()
            }
            None => "pod certificates are not had here: feature gate PodCertificateRequest is off, or there is no API server".into(),
        };
        Err(ObjectError::NoToken(why))
    }
}
