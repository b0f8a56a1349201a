//! Who a client is by its certificate.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{DistinguishedName, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::user::{CREDENTIAL_ID, User, sha256};
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::server::tls::{self, ServingTlsError};
use crate::stamp::{Stamp, stamp};

/// What a subject has a user's UID under: the OID 1.3.6.1.4.1.57683.2 (Kubernetes' number at IANA).
const UID: &str = "1.3.6.1.4.1.57683.2";

/// What the client has shown in the handshake, its own certificate first. In a request's extensions.
#[derive(Clone, Debug)]
pub struct ShownCertificates(pub(in crate::server) Arc<[CertificateDer<'static>]>);

/// The authorities of `authentication.x509.clientCAFile`, read again when the file changes.
pub struct ClientAuthority {
    file: PathBuf,
    clock: Clock,
    read: Mutex<Read>,
}

struct Read {
    stamp: Stamp,
    generation: u64,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl std::fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientAuthority")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl ClientAuthority {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or has no authority that can be used.
    pub fn new(file: PathBuf, clock: Clock) -> Result<Self, ServingTlsError> {
        let stamp = stamp(&file);
        let verifier = verifier(&file)?;
        Ok(Self {
            read: Mutex::new(Read {
                stamp,
                generation: 1,
                verifier,
            }),
            file,
            clock,
        })
    }

    /// What judges now. A file that cannot be used leaves it as it was.
    fn current(&self) -> (u64, Arc<dyn ClientCertVerifier>) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.file);
        if now != read.stamp {
            read.stamp = now;
            match verifier(&self.file) {
                Ok(verifier) => {
                    read.verifier = verifier;
                    read.generation += 1;
                    tracing::info!("the authorities of clients have changed");
                }
                Err(error) => tracing::warn!(
                    "{}; clients are judged by the authorities before",
                    error_chain(&error)
                ),
            }
        }
        (read.generation, read.verifier.clone())
    }

    /// Changes when the file has.
    pub(in crate::server) fn generation(&self) -> u64 {
        self.current().0
    }

    /// The authorities' names, for clients with several certificates.
    pub(in crate::server) fn names(&self) -> Vec<DistinguishedName> {
        self.current().1.root_hint_subjects().to_vec()
    }

    /// Who the client is: the common name of its certificate, of the groups that its organizations are. None for a
    /// certificate without a name.
    ///
    /// # Errors
    /// With why the certificate is not to be believed.
    pub(super) fn user(&self, shown: &ShownCertificates) -> Result<Option<User>, String> {
        let Some((own, between)) = shown.0.split_first() else {
            return Ok(None);
        };
        let now = u64::try_from(self.clock.wall().as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        let (_, verifier) = self.current();
        let judged = verifier.verify_client_cert(own, between, now);
        judged.map_err(|why| format!("the client's certificate: {why}"))?;
        named(own)
    }
}

fn verifier(file: &std::path::Path) -> Result<Arc<dyn ClientCertVerifier>, ServingTlsError> {
    const WHAT: &str = "certificate authority";
    let unusable = |why: String| ServingTlsError::Content {
        what: WHAT,
        path: file.to_owned(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for certificate in tls::certificates(WHAT, file)? {
        roots
            .add(certificate)
            .map_err(|why| unusable(why.to_string()))?;
    }
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|why| unusable(why.to_string()))
}

fn named(certificate: &CertificateDer<'_>) -> Result<Option<User>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|why| format!("the client's certificate: {why}"))?;
    let subject = parsed.subject();
    // Where there are several, Go has the last.
    let name = subject.iter_common_name().last();
    let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let groups = subject.iter_organization();
    let groups = groups.filter_map(|group| group.as_str().ok().map(str::to_owned));
    let uids = subject
        .iter_attributes()
        .filter(|attribute| attribute.attr_type().to_id_string() == UID);
    let mut uids = uids.map(|uid| uid.as_str().unwrap_or_default());
    let uid = match (uids.next(), uids.next()) {
        (None, _) => "",
        (Some(""), None) => return Err("the client's certificate: the UID is empty".to_owned()),
        (Some(uid), None) => uid,
        (Some(_), Some(_)) => {
            return Err("the client's certificate: there are several UIDs".to_owned());
        }
    };
    let id = sha256(certificate)
        .iter()
        .fold("X509SHA256=".to_owned(), |text, byte| {
            format!("{text}{byte:02x}")
        });
    Ok(Some(User {
        name: name.to_owned(),
        uid: uid.to_owned(),
        groups: groups.collect(),
        extra: [(CREDENTIAL_ID.to_owned(), vec![id])].into(),
    }))
}
