//! The certificate of a node that nobody has given one: `kubelet.crt` and `kubelet.key` in `--cert-dir`, made by the
//! agent itself, as upstream's `InitializeTLS` has it. Nobody can judge it; it keeps what is said from being overheard.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::clock::Clock;
use crate::whole_file;

/// How long it counts (upstream's `maxAge`).
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// It counts from before it is made: clocks differ.
const BEFORE: Duration = Duration::from_secs(3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    /// It could not be made.
    #[error("cannot make a certificate for the node's API")]
    Make(#[from] rcgen::Error),
    /// It could not be kept.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The paths of a certificate for the node `name` and of its key, in `directory`. What is there and has not expired is
/// kept.
///
/// # Errors
/// When there is none and none can be made or written.
pub fn self_signed(
    directory: &Path,
    name: &str,
    clock: &Clock,
) -> Result<(PathBuf, PathBuf), SelfSignedError> {
    let (certificate, key) = (directory.join("kubelet.crt"), directory.join("kubelet.key"));
    let now = u64::try_from(clock.wall().as_second()).unwrap_or_default();
    if key.exists() && counts(&certificate, now) {
        return Ok((certificate, key));
    }
    let made = make(name, now)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SelfSignedError::Write { path, source }
    };
    let write = |path: &Path, text: &str, mode: u32| {
        whole_file::replace(path, text.as_bytes(), mode).map_err(failed(path))
    };
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    // A certificate without its key would be kept.
    write(&key, &made.key, 0o600)?;
    write(&certificate, &made.chain, 0o644)?;
    tracing::info!(path = %certificate.display(), "a certificate for the node's API was made: it is signed by nobody else");
    Ok((certificate, key))
}

/// Whether there is a certificate that has not expired. One that cannot be understood is the administrator's to replace.
fn counts(path: &Path, now: u64) -> bool {
    let Ok(text) = std::fs::read(path) else {
        return false;
    };
    let Ok(der) = CertificateDer::from_pem_slice(&text) else {
        return true;
    };
    let parsed = X509Certificate::from_der(&der);
    parsed.is_ok_and(|(_, certificate)| {
        let until = certificate.validity().not_after.timestamp();
        u64::try_from(until).unwrap_or_default() > now
    })
}

struct Pair {
    /// The certificate, then that of its authority.
    chain: String,
    key: String,
}

fn make(name: &str, now: u64) -> Result<Pair, rcgen::Error> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let made = Duration::from_secs(now);
    let valid = |names: Vec<String>, common: String| {
        let mut params = CertificateParams::new(names)?;
        params.not_before = epoch + made.saturating_sub(BEFORE);
        params.not_after = epoch + made + LIFE;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        Ok::<_, rcgen::Error>(params)
    };
    // Upstream's names: a host that is made anew under the same name has another.
    let mut authority = valid(Vec::new(), format!("{name}-ca@{now}"))?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    let authority_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let root = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);
    let mut own = valid(vec![name.to_owned()], format!("{name}@{now}"))?;
    own.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = own.signed_by(&key, &issuer)?;
    Ok(Pair {
        chain: format!("{}{}", certificate.pem(), root.pem()),
        key: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;

    use super::*;
    use crate::server::{CertificateSource, ServingTls, TlsOptions};

    #[test]
    fn a_pair_is_made_once_and_again_when_it_has_expired() {
        let room = tempfile::tempdir().unwrap();
        let directory = room.path().join("a/pki");
        let (clock, step) = Clock::manual("2026-11-21T00:00:00Z".parse::<Timestamp>().unwrap());
        let (certificate, key) = self_signed(&directory, "node-1", &clock).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&certificate) & 0o700, mode(&key)), (0o600, 0o600));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
        let source = CertificateSource::files(certificate.clone(), key.clone());
        ServingTls::new(source, None, TlsOptions::default()).unwrap();

        let first = std::fs::read_to_string(&certificate).unwrap();
        let der = CertificateDer::pem_slice_iter(first.as_bytes());
        let der: Vec<_> = der.collect::<Result<_, _>>().unwrap();
        assert_eq!(der.len(), 2);
        let (_, own) = X509Certificate::from_der(&der[0]).unwrap();
        let (_, root) = X509Certificate::from_der(&der[1]).unwrap();
        assert_eq!(own.issuer(), root.subject());
        let names = own.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            format!("{:?}", names.value.general_names),
            r#"[DNSName("node-1")]"#
        );

        self_signed(&directory, "node-1", &clock).unwrap();
        assert_eq!(std::fs::read_to_string(&certificate).unwrap(), first);
        let day = 24 * 3600 * 1_000_000_000;
        step.step(366 * day);
        self_signed(&directory, "node-1", &clock).unwrap();
        assert_ne!(std::fs::read_to_string(&certificate).unwrap(), first);

        // What is not understood is not thrown away.
        std::fs::write(&certificate, "precious").unwrap();
        self_signed(&directory, "node-1", &clock).unwrap();
        assert_eq!(std::fs::read_to_string(&certificate).unwrap(), "precious");
    }

    #[test]
    fn a_node_that_is_named_by_its_address_has_it_in_the_certificate() {
        let pair = make("10.1.2.3", 1_800_000_000).unwrap();
        let der = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
        let (_, own) = X509Certificate::from_der(&der).unwrap();
        let names = own.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            format!("{:?}", names.value.general_names),
            "[IPAddress([10, 1, 2, 3])]"
        );
    }
}
