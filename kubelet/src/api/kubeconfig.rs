//! What a kubeconfig says: where the API server is, whom to believe, and who this node is.

use std::path::{Path, PathBuf};

use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tokio_rustls::rustls::pki_types::pem;

/// Why there is no client for the API server.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig cannot be read or understood.
    #[error("cannot use the kubeconfig {}", .path.display())]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// It asks for something that is not built.
    #[error("the kubeconfig {} has {field}, which this agent does not know how to use", .path.display())]
    NotBuilt {
        /// Which.
        path: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// Credentials other than certificates.
    #[error("the credentials of the kubeconfig {} are of no use", .path.display())]
    Credentials {
        /// The kubeconfig.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// A file of certificates.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no PEM, or lacks what it should hold.
    #[error("{what} in {place} cannot be used: {why}")]
    Pem {
        /// `the client certificate` …
        what: &'static str,
        /// The file, or the field of the kubeconfig.
        place: String,
        /// Why not.
        why: String,
    },
    /// The certificate and the key, or the versions of TLS.
    #[error("TLS cannot be set up")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// The name that the server's certificate is to have.
    #[error("{name:?} is no name that a server's certificate can have")]
    ServerName {
        /// `tls-server-name`, or the host of the server's URL.
        name: String,
    },
}

impl ApiError {
    pub(super) fn pem(what: &'static str, place: &Pem, why: &pem::Error) -> Self {
        let why = match why {
            pem::Error::NoItemsFound => "there is none".to_owned(),
            other => other.to_string(),
        };
        let place = place.place();
        Self::Pem { what, place, why }
    }
}

/// Text in PEM, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// A file, read again when it changes.
    File(PathBuf),
    /// The text itself, of the kubeconfig's field `.0`.
    Data(&'static str, Vec<u8>),
}

impl Pem {
    /// The text, as it is now.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, ApiError> {
        match self {
            Self::Data(_, text) => Ok(text.clone()),
            Self::File(path) => std::fs::read(path).map_err(|source| ApiError::Read {
                path: path.clone(),
                source,
            }),
        }
    }

    pub(super) fn place(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Data(field, _) => format!("the kubeconfig's {field}"),
        }
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place())
    }
}

/// Who this node says it is in the TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody: a token says it.
    None,
    /// Whoever the certificate was made out to.
    Certificate {
        /// The certificate, its chain following.
        certificate: Pem,
        /// Its private key; may be in the same file.
        key: Pem,
    },
}

/// A kubeconfig's current context, resolved.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The file.
    pub path: PathBuf,
    /// The server, the token and what else goes into headers.
    pub config: kube::Config,
    /// The certificates that servers are believed by; none for those of the host.
    pub authority: Option<Pem>,
    /// Who this node is.
    pub identity: Identity,
    /// Where a token is that goes before one in the kubeconfig.
    pub token_file: Option<PathBuf>,
}

impl Endpoint {
    /// Reads a kubeconfig; relative paths in it begin at its directory. Certificates are read when a connection is opened.
    ///
    /// # Errors
    /// When it cannot be read, or asks for what is not built.
    pub async fn read(path: &Path) -> Result<Self, ApiError> {
        let unusable = |source: KubeconfigError| ApiError::Kubeconfig {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
        let authority = authority(&kubeconfig, path)?;
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(unusable)?;
        // Not kube's to read: it would send the line end that such a file has.
        let token_file = config.auth_info.token_file.take();
        let token_file = token_file
            .filter(|file| !file.is_empty())
            .map(PathBuf::from);
        if token_file.is_some() {
            config.auth_info.token = None;
        }
        let identity = identity(&config.auth_info, path)?;
        Ok(Self {
            path: path.to_owned(),
            config,
            authority,
            identity,
            token_file,
        })
    }

    /// The name that the server's certificate has to have.
    pub(super) fn server_name(&self) -> String {
        let host = || self.config.cluster_url.host().unwrap_or_default();
        let name = self.config.tls_server_name.as_deref();
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(host);
        name.trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned()
    }
}

/// Data goes before a file, as in client-go.
fn pem_of(
    field: &'static str,
    data: Option<&str>,
    file: Option<&str>,
    path: &Path,
) -> Result<Option<Pem>, ApiError> {
    use base64::Engine as _;
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let text = base64::engine::general_purpose::STANDARD.decode(data);
        let text = text.map_err(|error| ApiError::Pem {
            what: field,
            place: path.display().to_string(),
            why: error.to_string(),
        })?;
        return Ok(Some(Pem::Data(field, text)));
    }
    let file = file.filter(|file| !file.is_empty());
    Ok(file.map(|file| Pem::File(file.into())))
}

fn authority(kubeconfig: &Kubeconfig, path: &Path) -> Result<Option<Pem>, ApiError> {
    let context = kubeconfig.current_context.as_ref();
    let context = kubeconfig
        .contexts
        .iter()
        .find(|named| Some(&named.name) == context);
    let context = context.and_then(|named| named.context.as_ref());
    let cluster = context.and_then(|context| {
        let mut clusters = kubeconfig.clusters.iter();
        clusters
            .find(|named| named.name == context.cluster)?
            .cluster
            .as_ref()
    });
    let Some(cluster) = cluster else {
        // Whatever is wrong with it is said by who resolves the context.
        return Ok(None);
    };
    if cluster
        .proxy_url
        .as_ref()
        .is_some_and(|url| !url.is_empty())
    {
        return Err(ApiError::NotBuilt {
            path: path.to_owned(),
            field: "proxy-url",
        });
    }
    pem_of(
        "certificate-authority-data",
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
        path,
    )
}

/// Who `user` is by a certificate; `path` is named in errors.
///
/// # Errors
/// When only half of a pair is there.
pub(crate) fn identity(user: &AuthInfo, path: &Path) -> Result<Identity, ApiError> {
    use secrecy::ExposeSecret as _;
    let certificate = pem_of(
        "client-certificate-data",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
        path,
    )?;
    let key = pem_of(
        "client-key-data",
        user.client_key_data.as_ref().map(|key| key.expose_secret()),
        user.client_key.as_deref(),
        path,
    )?;
    match (certificate, key) {
        (None, None) => Ok(Identity::None),
        (Some(certificate), Some(key)) => Ok(Identity::Certificate { certificate, key }),
        (certificate, _) => Err(ApiError::Pem {
            what: match certificate {
                Some(_) => "client-key",
                None => "client-certificate",
            },
            place: path.display().to_string(),
            why: "there is none, and the other half is there".to_owned(),
        }),
    }
}
