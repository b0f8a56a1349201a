//! Which objects a pod refers to. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ServiceAccountTokenProjection};

use super::certificates::CertificateWish;
use super::kept::ObjectKey;
use super::trust::TrustWish;
use crate::pod::{self, Pod, PodName};

/// A kind of object with content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Kind {
    /// As upstream's messages call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What tells one token of a pod's service account from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenWish {
    /// For whom it is; empty: the API server.
    pub audience: Box<str>,
    /// How long it is to be good for, seconds.
    pub expiration_seconds: i64,
}

/// What a token is good for where the projection does not say, seconds (`expirationSeconds`, v1 API default).
const DEFAULT_EXPIRATION: i64 = 3600;

impl TokenWish {
    /// What `source` of a projected volume asks for.
    #[must_use]
    pub fn of(source: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: source.audience.as_deref().unwrap_or_default().into(),
            expiration_seconds: source.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION),
        }
    }
}

/// Something at the API server that a pod needs, in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reference {
    Object(Kind, Box<str>),
    Token(TokenWish),
    Trust(TrustWish),
    Certificate(CertificateWish),
}

/// The configMaps and secrets that `pod` refers to.
pub fn objects_of(pod: &Pod) -> impl Iterator<Item = ObjectKey> + use<> {
    let namespace: Box<str> = PodName::of(pod).namespace.as_ref().into();
    references(pod)
        .into_iter()
        .filter_map(move |found| match found {
            Reference::Object(kind, name) => Some((kind, namespace.clone(), name)),
            Reference::Token(_) | Reference::Trust(_) | Reference::Certificate(_) => None,
        })
}

/// All that `pod` refers to.
pub(super) fn references(pod: &Pod) -> BTreeSet<Reference> {
    let spec = pod::spec(pod);
    let mut found = BTreeSet::new();
    let mut object = |kind: Kind, name: &str| {
        // The API allows empty names of old, and no object has one.
        if !name.is_empty() {
            found.insert(Reference::Object(kind, name.into()));
        }
    };
    for secret in spec.image_pull_secrets.iter().flatten() {
        object(Kind::Secret, &secret.name);
    }
    for (_, container) in pod::containers(pod) {
        of_environment(container, &mut object);
    }
    for container in pod::ephemeral_containers(pod) {
        of_environment(&container, &mut object);
    }
    let mut others = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            object(Kind::ConfigMap, &source.name);
        }
        if let Some(name) = volume
            .secret
            .as_ref()
            .and_then(|s| s.secret_name.as_deref())
        {
            object(Kind::Secret, name);
        }
        let projected = volume.projected.iter();
        let sources = projected.flat_map(|p| p.sources.iter().flatten());
        for (index, source) in sources.enumerate() {
            if let Some(source) = &source.config_map {
                object(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &source.secret {
                object(Kind::Secret, &source.name);
            }
            if let Some(source) = &source.service_account_token {
                others.push(Reference::Token(TokenWish::of(source)));
            }
            if let Some(wish) = source.cluster_trust_bundle.as_ref().and_then(TrustWish::of) {
                others.push(Reference::Trust(wish));
            }
            if let Some(source) = &source.pod_certificate {
                let wish = CertificateWish::of(&volume.name, index, source);
                others.push(Reference::Certificate(wish));
            }
        }
    }
    found.extend(others);
    found
}

fn of_environment(container: &Container, object: &mut dyn FnMut(Kind, &str)) {
    for from in container.env_from.iter().flatten() {
        if let Some(source) = &from.config_map_ref {
            object(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &from.secret_ref {
            object(Kind::Secret, &source.name);
        }
    }
    let variables = container.env.iter().flatten();
    for from in variables.filter_map(|variable| variable.value_from.as_ref()) {
        if let Some(source) = &from.config_map_key_ref {
            object(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &from.secret_key_ref {
            object(Kind::Secret, &source.name);
        }
    }
}
