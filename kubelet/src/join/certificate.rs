//! Certificates, keys and requests for certificates, as PEM.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use ring::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It is no certificate.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// Keys are not to be had, a kept one cannot be read, or a name can be in no certificate.
    #[error("cannot make a key and a request for a certificate")]
    Key(#[from] rcgen::Error),
}

fn unreadable(why: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::Certificate(why.to_string())
}

/// When a certificate may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// The names and addresses that a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) dns: BTreeSet<String>,
    pub(super) ips: BTreeSet<IpAddr>,
}

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ips = self.ips.iter().map(ToString::to_string);
        let all: Vec<String> = self.dns.iter().cloned().chain(ips).collect();
        f.write_str(&all.join(", "))
    }
}

/// What a certificate says of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) validity: Validity,
    common_name: String,
    organizations: BTreeSet<String>,
    names: Names,
}

impl Leaf {
    /// The first certificate of a PEM.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn read(pem: &[u8]) -> Result<Self, CertificateError> {
        of_first(pem, |certificate| {
            let subject = certificate.subject();
            let mut common = subject.iter_common_name();
            let organizations = subject.iter_organization();
            let mut names = Names::default();
            let alternative = certificate.subject_alternative_name();
            let alternative = alternative.map_err(|error| unreadable(&error))?;
            for name in alternative.iter().flat_map(|all| &all.value.general_names) {
                match name {
                    GeneralName::DNSName(name) => {
                        names.dns.insert((*name).to_owned());
                    }
                    GeneralName::IPAddress(bytes) => names.ips.extend(address(bytes)),
                    _ => {}
                }
            }
            Ok(Self {
                validity: validity_of(certificate)?,
                common_name: common
                    .next()
                    .and_then(|name| name.as_str().ok())
                    .unwrap_or_default()
                    .to_owned(),
                organizations: organizations
                    .filter_map(|name| name.as_str().ok())
                    .map(str::to_owned)
                    .collect(),
                names,
            })
        })
    }

    /// Whether it is the node `name`'s, and for all of these names and addresses; it may be for more.
    pub(super) fn is_for(&self, name: &str, wanted: &Names) -> bool {
        self.common_name == user(name)
            && self.organizations.contains(GROUP)
            && wanted.dns.is_subset(&self.names.dns)
            && wanted.ips.is_subset(&self.names.ips)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Something of the first certificate of a PEM.
fn of_first<T>(
    pem: &[u8],
    of: impl FnOnce(&X509Certificate<'_>) -> Result<T, CertificateError>,
) -> Result<T, CertificateError> {
    let mut blocks = Pem::iter_from_buffer(pem).filter_map(Result::ok);
    let block = blocks.find(|block| block.label == "CERTIFICATE");
    let block = block.ok_or_else(|| unreadable(&"there is none"))?;
    let certificate = block.parse_x509().map_err(|error| unreadable(&error))?;
    of(&certificate)
}

fn validity_of(certificate: &X509Certificate<'_>) -> Result<Validity, CertificateError> {
    let time = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| unreadable(&error))
    };
    let validity = certificate.validity();
    Ok(Validity {
        not_before: time(validity.not_before)?,
        not_after: time(validity.not_after)?,
    })
}

/// Of the first certificate of a PEM.
pub(super) fn validity(pem: &[u8]) -> Result<Validity, CertificateError> {
    of_first(pem, validity_of)
}

/// Until when the first certificate of a PEM may be used.
///
/// # Errors
/// When there is none.
pub(crate) fn valid_until(pem: &[u8]) -> Result<Timestamp, CertificateError> {
    Ok(validity(pem)?.not_after)
}

/// What the first certificate of a PEM is pinned by: `sha256:` and the digest of its public key (RFC 7469's SPKI).
pub(super) fn pin(pem: &[u8]) -> Result<String, CertificateError> {
    of_first(pem, |certificate| Ok(pin_of(certificate)))
}

/// What a certificate is pinned by.
pub(crate) fn pin_of(certificate: &X509Certificate<'_>) -> String {
    let digest = digest::digest(&digest::SHA256, certificate.public_key().raw);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// A key of ECDSA over P-256, as upstream's.
pub(super) fn new_key() -> Result<KeyPair, CertificateError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

/// The group of all nodes.
const GROUP: &str = "system:nodes";

/// The user that the node `name` is.
fn user(name: &str) -> String {
    format!("system:node:{name}")
}

/// A request, in PEM, for a certificate of the node `name`: its group, its user, and the names and addresses it is to be
/// reached by; none of those for a client. The signer refuses what has more.
pub(super) fn request(
    name: &str,
    names: &Names,
    key: &KeyPair,
) -> Result<String, CertificateError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, GROUP);
    subject.push(DnType::CommonName, user(name));
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    for dns in &names.dns {
        let dns = SanType::DnsName(dns.as_str().try_into()?);
        params.subject_alt_names.push(dns);
    }
    let ips = names.ips.iter().copied().map(SanType::IpAddress);
    params.subject_alt_names.extend(ips);
    Ok(params.serialize_request(key)?.pem()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_was_asked_for_is_for_the_names_of_its_request() {
        let names = |dns: &[&str], ips: &[&str]| Names {
            dns: dns.iter().map(|&name| name.to_owned()).collect(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let wanted = names(&["a", "a.example"], &["10.0.0.5", "fd00::5"]);
        let key = new_key().unwrap();
        let text = request("a", &wanted, &key).unwrap();
        let request = rcgen::CertificateSigningRequestParams::from_pem(&text).unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(authority, new_key().unwrap());
        let pem = request.signed_by(&issuer).unwrap().pem();
        let leaf = Leaf::read(pem.as_bytes()).unwrap();
        assert_eq!(leaf.names, wanted);
        assert!(leaf.is_for("a", &wanted));
        assert!(leaf.is_for("a", &names(&["a"], &["10.0.0.5"])));
        assert!(!leaf.is_for("b", &wanted));
        assert!(!leaf.is_for("a", &names(&["b"], &["10.0.0.5"])));
        assert!(!leaf.is_for("a", &names(&["a"], &["10.0.0.6"])));
        assert_eq!(wanted.to_string(), "a, a.example, 10.0.0.5, fd00::5");
    }
}
