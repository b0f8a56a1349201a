//! TLS towards the API server, made anew when a file that it is made of changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::kubeconfig::{ApiError, Endpoint, Identity, Pem};
use crate::connections;
use crate::errors::error_chain;
use crate::stamp::{Stamp, stamp};

/// Where hosts have the certificates that they believe by (Go's `crypto/x509`, root_linux.go).
const OF_HOST: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom to believe, and who we are, with what was made of it last.
#[derive(Debug)]
pub(super) struct TlsSource {
    authority: Option<Pem>,
    identity: Identity,
    anybody: bool,
    protocols: Vec<Vec<u8>>,
    made: Mutex<Made>,
}

#[derive(Debug)]
struct Made {
    stamps: Vec<(PathBuf, Stamp)>,
    config: Arc<ClientConfig>,
    /// Which of the files' states that was of use this is of.
    generation: u64,
}

impl TlsSource {
    /// Reads all there is to read.
    ///
    /// # Errors
    /// When something is missing or cannot be used.
    pub(super) fn new(
        endpoint: &Endpoint,
        identity: Identity,
        http2: bool,
    ) -> Result<Self, ApiError> {
        let protocols: &[&[u8]] = match http2 {
            true => &[b"h2", b"http/1.1"],
            false => &[b"http/1.1"],
        };
        let anybody = endpoint.config.accept_invalid_certs;
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.to_vec()).collect();
        let files = files(endpoint.authority.as_ref(), &identity);
        // Before the files are read: a change in between shows at the next look.
        let stamps = stamps(files);
        let config = make(endpoint.authority.as_ref(), &identity, anybody, &protocols)?;
        Ok(Self {
            authority: endpoint.authority.clone(),
            identity,
            anybody,
            protocols,
            made: Mutex::new(Made {
                stamps,
                config,
                generation: 0,
            }),
        })
    }

    /// What a connection that is opened now is secured with. Files that cannot be used, such as one half written, leave
    /// it as it was.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.made_now().config.clone()
    }

    /// Another number whenever connections are secured with something else than before.
    pub(super) fn generation(&self) -> u64 {
        self.made_now().generation
    }

    fn made_now(&self) -> MutexGuard<'_, Made> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(files(self.authority.as_ref(), &self.identity));
        if now != made.stamps {
            made.stamps = now;
            let (authority, identity) = (self.authority.as_ref(), &self.identity);
            match make(authority, identity, self.anybody, &self.protocols) {
                Ok(config) => {
                    made.config = config;
                    made.generation += 1;
                }
                Err(error) => tracing::warn!(
                    "{}; connections to the API server go on with what was there before",
                    error_chain(&error)
                ),
            }
        }
        made
    }
}

fn files<'a>(authority: Option<&'a Pem>, identity: &'a Identity) -> Vec<&'a Path> {
    let mut pems: Vec<&Pem> = authority.into_iter().collect();
    if let Identity::Certificate { certificate, key } = identity {
        pems.extend([certificate, key]);
    }
    let files = pems.into_iter().filter_map(|pem| match pem {
        Pem::File(path) => Some(path.as_path()),
        Pem::Data(..) => None,
    });
    files.collect()
}

fn stamps(files: Vec<&Path>) -> Vec<(PathBuf, Stamp)> {
    let stamped = files.into_iter().map(|path| (path.to_owned(), stamp(path)));
    stamped.collect()
}

fn make(
    authority: Option<&Pem>,
    identity: &Identity,
    anybody: bool,
    protocols: &[Vec<u8>],
) -> Result<Arc<ClientConfig>, ApiError> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match anybody {
        true => builder
            .dangerous()
            .with_custom_certificate_verifier(connections::believe_anybody(&provider)),
        false => builder.with_root_certificates(roots(authority)?),
    };
    let mut config = match identity {
        Identity::None => builder.with_no_client_auth(),
        Identity::Certificate { certificate, key } => {
            let chain = certificates("the client certificate", certificate)?;
            let key_text = key.read()?;
            let key = PrivateKeyDer::from_pem_slice(&key_text)
                .map_err(|why| ApiError::pem("the client's private key", key, &why))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = protocols.to_vec();
    Ok(Arc::new(config))
}

fn roots(authority: Option<&Pem>) -> Result<RootCertStore, ApiError> {
    let mut roots = RootCertStore::empty();
    let what = "the certificate authority";
    match authority {
        Some(authority) => {
            for certificate in certificates(what, authority)? {
                roots.add(certificate).map_err(|why| ApiError::Pem {
                    what,
                    place: authority.place(),
                    why: why.to_string(),
                })?;
            }
        }
        None => {
            let of_host = OF_HOST.iter().map(|path| Pem::File(path.into()));
            let mut found = of_host.filter_map(|pem| certificates(what, &pem).ok());
            // A host has odd ones among hundreds: those that can be used are enough.
            let _ = roots.add_parsable_certificates(found.next().unwrap_or_default());
        }
    }
    Ok(roots)
}

fn certificates(what: &'static str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    let text = pem.read()?;
    let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|why| ApiError::pem(what, pem, &why))?;
    if all.is_empty() {
        let why = tokio_rustls::rustls::pki_types::pem::Error::NoItemsFound;
        return Err(ApiError::pem(what, pem, &why));
    }
    Ok(all)
}
