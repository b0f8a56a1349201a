//! Certificates, keys and requests for certificates, as PEM.

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use x509_parser::pem::Pem;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It is no certificate.
    #[error("the client certificate cannot be read: {0}")]
    Certificate(String),
    /// Keys are not to be had, or a kept one cannot be read.
    #[error("cannot make a key and a request for a certificate")]
    Key(#[from] rcgen::Error),
}

/// When a certificate may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Of the first certificate of a PEM.
pub(super) fn validity(pem: &[u8]) -> Result<Validity, CertificateError> {
    let unreadable = |why: &dyn std::fmt::Display| CertificateError::Certificate(why.to_string());
    let mut blocks = Pem::iter_from_buffer(pem).filter_map(Result::ok);
    let block = blocks.find(|block| block.label == "CERTIFICATE");
    let block = block.ok_or_else(|| unreadable(&"there is none"))?;
    let certificate = block.parse_x509().map_err(|error| unreadable(&error))?;
    let time = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| unreadable(&error))
    };
    let validity = certificate.validity();
    Ok(Validity {
        not_before: time(validity.not_before)?,
        not_after: time(validity.not_after)?,
    })
}

/// Until when the first certificate of a PEM may be used.
///
/// # Errors
/// When there is none.
pub(crate) fn valid_until(pem: &[u8]) -> Result<Timestamp, CertificateError> {
    Ok(validity(pem)?.not_after)
}

/// A key of ECDSA over P-256, as upstream's.
pub(super) fn new_key() -> Result<KeyPair, CertificateError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

/// A request, in PEM, for a certificate of the node `name`: its group and its user, nothing else. The signer refuses what
/// has more.
pub(super) fn request(name: &str, key: &KeyPair) -> Result<String, CertificateError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{name}"));
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    Ok(params.serialize_request(key)?.pem()?)
}
