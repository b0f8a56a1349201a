//! TLS of the node's API: the certificate of the files that are configured, read again when they change, or the one that the
//! cluster's signer has issued last. A connection that is open goes on with the certificate that it began with.
//!
//! A client may show a certificate, where there is an authority to judge it by; whose it is, and whether it counts, is
//! judged with each request (`auth/certificate`), as upstream does: a handshake does not fail for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedCipherSuite,
};

use super::auth::ClientAuthority;
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::join::{Serving, ServingPair};
use crate::stamp::{Stamp, stamp};

/// The largest file of certificates or keys that is read.
const MOST_BYTES: u64 = 4 << 20;
/// What errors call the certificate that the cluster's signer has issued.
const ISSUED: &str = "the issued serving certificate";

/// Why the node's API cannot be served with TLS.
#[derive(Debug, thiserror::Error)]
pub enum ServingTlsError {
    /// A file that cannot be read.
    #[error("cannot read {what} {}", .path.display())]
    Read {
        /// What it should have.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that has something else than it should.
    #[error("{} has no {what} that can be used: {why}", .path.display())]
    Content {
        /// What it should have.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A certificate and a key that do not go together, or an option that leaves nothing to speak.
    #[error("cannot serve with {} and {}", .certificate.display(), .key.display())]
    Unusable {
        /// `tlsCertFile`.
        certificate: PathBuf,
        /// `tlsPrivateKeyFile`.
        key: PathBuf,
        /// Why.
        source: Error,
    },
}

/// What TLS is spoken.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Whether TLS 1.2 is too old (`tlsMinVersion: VersionTLS13`).
    pub only_13: bool,
    /// `tlsCipherSuites`, in Go's names; all where there are none. Those of TLS 1.3 are always spoken, as by Go.
    pub cipher_suites: Vec<String>,
}

/// Where the certificate comes from.
#[derive(Debug)]
pub enum CertificateSource {
    /// Files.
    Files {
        /// `tlsCertFile`, or the agent's own.
        certificate: PathBuf,
        /// `tlsPrivateKeyFile`, or the agent's own.
        key: PathBuf,
        /// Whether they are read again when they change (`ReloadKubeletServerCertificateFile`).
        reload: bool,
    },
    /// The cluster's signer (`serverTLSBootstrap`); by this clock it has expired or not.
    Issued(Serving, Clock),
}

impl CertificateSource {
    /// Files that are read again when they change.
    #[must_use]
    pub fn files(certificate: PathBuf, key: PathBuf) -> Self {
        Self::Files {
            certificate,
            key,
            reload: true,
        }
    }
}

/// What connections to the node's API are secured with.
#[derive(Debug)]
pub struct ServingTls {
    source: CertificateSource,
    authority: Option<Arc<ClientAuthority>>,
    options: TlsOptions,
    made: Mutex<Made>,
}

#[derive(Debug)]
struct Made {
    of: Of,
    /// Which of the authorities' states its names are of.
    authority: u64,
    config: Option<Arc<ServerConfig>>,
}

/// Which state of the source a configuration is of.
#[derive(Debug)]
enum Of {
    Files([Stamp; 2]),
    Issued(Option<Arc<ServingPair>>),
}

impl Of {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Files(a), Self::Files(b)) => a == b,
            (Self::Issued(Some(a)), Self::Issued(Some(b))) => Arc::ptr_eq(a, b),
            (Self::Issued(None), Self::Issued(None)) => true,
            _ => false,
        }
    }
}

impl ServingTls {
    /// Reads the certificate and its key. With an `authority`, clients are asked for a certificate.
    ///
    /// # Errors
    /// When a file is missing or of no use. What was issued and is of no use is said, and waited out.
    pub fn new(
        source: CertificateSource,
        authority: Option<Arc<ClientAuthority>>,
        options: TlsOptions,
    ) -> Result<Self, ServingTlsError> {
        // Before the files are read: a change in between shows at the next look.
        let of = source.state();
        let generation = authority.as_ref().map_or(0, |known| known.generation());
        let config = match make(&source, &of, authority.as_deref(), &options) {
            Err(error) if matches!(source, CertificateSource::Issued(..)) => {
                tracing::warn!("{}", error_chain(&error));
                None
            }
            made => made?,
        };
        Ok(Self {
            made: Mutex::new(Made {
                of,
                authority: generation,
                config,
            }),
            source,
            authority,
            options,
        })
    }

    /// What a connection that begins now is secured with; none while there is no certificate. What cannot be used, such as a
    /// certificate whose key is not there yet, leaves it as it was.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        let authority = self
            .authority
            .as_ref()
            .map_or(0, |known| known.generation());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match &self.source {
            CertificateSource::Files { reload: false, .. } => None,
            source => Some(source.state()).filter(|now| !now.is(&made.of)),
        };
        if now.is_some() || authority != made.authority {
            if let Some(now) = now {
                made.of = now;
            }
            made.authority = authority;
            match make(
                &self.source,
                &made.of,
                self.authority.as_deref(),
                &self.options,
            ) {
                Ok(config) => {
                    made.config = config;
                    tracing::info!(
                        "the node's API has taken up what has changed of its certificates"
                    );
                }
                Err(error) => tracing::warn!(
                    "{}; the node's API goes on with the certificate before",
                    error_chain(&error)
                ),
            }
        }
        let config = made.config.clone();
        config.filter(|_| !self.source.has_expired(&made.of))
    }
}

impl CertificateSource {
    fn state(&self) -> Of {
        match self {
            Self::Files {
                certificate, key, ..
            } => Of::Files([stamp(certificate), stamp(key)]),
            Self::Issued(serving, _) => Of::Issued(serving.borrow().clone()),
        }
    }

    /// Whether what was issued has expired. Files are the administrator's, and served as they are.
    fn has_expired(&self, of: &Of) -> bool {
        match (self, of) {
            (Self::Issued(_, clock), Of::Issued(Some(pair))) => pair.not_after() <= clock.wall(),
            _ => false,
        }
    }
}

/// None where there is nothing to serve with.
fn make(
    source: &CertificateSource,
    of: &Of,
    authority: Option<&ClientAuthority>,
    options: &TlsOptions,
) -> Result<Option<Arc<ServerConfig>>, ServingTlsError> {
    let (certificate, key, chain, text) = match (source, of) {
        (
            CertificateSource::Files {
                certificate, key, ..
            },
            _,
        ) => {
            let chain = certificates("certificate", certificate)?;
            let text = read("private key", key)?;
            (certificate.as_path(), key.as_path(), chain, text)
        }
        (CertificateSource::Issued(..), Of::Issued(Some(pair))) => {
            let place = Path::new(ISSUED);
            let chain = chain_of("certificate", place, pair.certificate())?;
            (place, place, chain, pair.key().to_vec())
        }
        (CertificateSource::Issued(..), _) => return Ok(None),
    };
    let private = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|why| ServingTlsError::content("private key", key, &why))?;
    let unusable = |source| ServingTlsError::Unusable {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    };
    let provider = Arc::new(provider(&options.cipher_suites));
    let versions = match options.only_13 {
        true => &[&TLS13][..],
        false => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(unusable)?;
    let builder = match authority {
        Some(authority) => builder.with_client_cert_verifier(Arc::new(AskedNotJudged {
            authorities: authority.names(),
            algorithms: provider.signature_verification_algorithms,
        })),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Sessions that are taken up again would cost memory for each client that ever came.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(tokio_rustls::rustls::server::NoServerSessionStorage {});
    Ok(Some(Arc::new(config)))
}

/// Ring, without the suites of TLS 1.2 that are not among `names`, where there are any.
fn provider(names: &[String]) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !names.is_empty() {
        let wanted = |suite: &SupportedCipherSuite| match suite {
            SupportedCipherSuite::Tls13(_) => true,
            SupportedCipherSuite::Tls12(suite) => {
                let own = suite.common.suite.as_str().unwrap_or_default();
                names.iter().any(|name| is_named(own, name))
            }
        };
        provider.cipher_suites.retain(wanted);
    }
    provider
}

/// Two suites have an older name in Go, without the hash.
fn is_named(suite: &str, name: &str) -> bool {
    suite == name
        || name.ends_with("CHACHA20_POLY1305") && suite.strip_suffix("_SHA256") == Some(name)
}

impl ServingTlsError {
    fn content(what: &'static str, path: &Path, why: &pem::Error) -> Self {
        let why = match why {
            pem::Error::NoItemsFound => "there is none in it".to_owned(),
            other => other.to_string(),
        };
        Self::Content {
            what,
            path: path.to_owned(),
            why,
        }
    }
}

/// The certificates of the PEM file at `path`, of which there is at least one.
pub(super) fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ServingTlsError> {
    chain_of(what, path, &read(what, path)?)
}

/// The certificates of a PEM from `path`, of which there is at least one.
fn chain_of(
    what: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ServingTlsError> {
    let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|why| ServingTlsError::content(what, path, &why))?;
    if all.is_empty() {
        return Err(ServingTlsError::content(
            what,
            path,
            &pem::Error::NoItemsFound,
        ));
    }
    Ok(all)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, ServingTlsError> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = std::fs::File::open(path);
    let done = file.and_then(|file| file.take(MOST_BYTES).read_to_end(&mut text));
    done.map_err(|source| ServingTlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })?;
    Ok(text)
}

/// Asks clients for a certificate of one of these authorities, insists on none, and takes any of which the client has
/// the key.
#[derive(Debug)]
struct AskedNotJudged {
    authorities: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AskedNotJudged {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<tokio_rustls::rustls::client::danger::HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<tokio_rustls::rustls::client::danger::HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(names: &[&str]) -> Vec<&'static str> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let suites = provider(&names).cipher_suites;
        let names = suites.iter().filter_map(|suite| suite.suite().as_str());
        names.collect()
    }

    #[test]
    fn suites_by_the_names_go_has() {
        assert_eq!(spoken(&[]).len(), 9);
        let tls13 = 3;
        assert_eq!(spoken(&["TLS_RSA_WITH_AES_128_CBC_SHA"]).len(), tls13);
        let one = spoken(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert_eq!(one.len(), tls13 + 1);
        assert!(one.contains(&"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"));
        for old in [
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        ] {
            assert_eq!(spoken(&[old]).len(), tls13 + 1, "{old}");
        }
    }
}
