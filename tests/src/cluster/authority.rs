//! The certificate authority of a cluster: for the server, for clients, and for what they request.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

/// How long certificates are valid that nobody wants otherwise.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates are valid this long before they are made, those of a short life a tenth of it: clocks are stepped in tests.
const BEFORE: Duration = Duration::from_secs(3600);

/// An authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Pair {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Pair {
    /// The certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// The key, PEM (PKCS#8).
    #[must_use]
    pub fn key(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }

    /// Certificate and key as rustls wants them.
    #[must_use]
    pub fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        (vec![self.certificate.clone()], key.into())
    }
}

/// What a certificate request is for, as far as a signer looks.
#[derive(Debug)]
pub struct Requested {
    /// The subject's common name.
    pub name: String,
    /// The subject's organization.
    pub organization: String,
    /// Alternative names: DNS names and addresses.
    pub names: Vec<String>,
    request: CertificateSigningRequestParams,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate().context("the authority's key")?;
        let mut params = valid(YEAR);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = subject("kubernetes", "");
        let certificate = params.self_signed(&key).context("the authority")?;
        Ok(Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A certificate for a server with these names and addresses.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn server(&self, names: &[&str]) -> Result<Pair> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = valid(YEAR);
        params.distinguished_name = subject("kube-apiserver", "");
        params.subject_alt_names = CertificateParams::new(names)
            .context("names of a server")?
            .subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.pair(params)
    }

    /// As [`Authority::server`], valid from a year ahead on.
    ///
    /// # Errors
    /// As [`Authority::server`].
    pub fn server_later(&self, names: &[&str]) -> Result<Pair> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).context("names of a server")?;
        params.not_before = valid(YEAR).not_after;
        params.not_after = valid(2 * YEAR).not_after;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.pair(params)
    }

    /// A certificate for a client that is this user, of this group, for so long.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn client(&self, user: &str, group: &str, life: Duration) -> Result<Pair> {
        let mut params = valid(life);
        params.distinguished_name = subject(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.pair(params)
    }

    fn pair(&self, mut params: CertificateParams) -> Result<Pair> {
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        let key = KeyPair::generate().context("a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign")?;
        Ok(Pair {
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        })
    }

    /// Signs a request for so long; PEM.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign(&self, mut request: Requested, life: Duration) -> Result<String> {
        let valid = valid(life);
        request.request.params.not_before = valid.not_before;
        request.request.params.not_after = valid.not_after;
        let signed = request.request.signed_by(&self.issuer);
        Ok(pem("CERTIFICATE", signed.context("sign a request")?.der()))
    }

    /// TLS of a server that asks for client certificates and does not insist.
    ///
    /// # Errors
    /// When rustls does not want the certificates.
    pub fn server_tls(&self, pair: &Pair) -> Result<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()?;
        let (chain, key) = pair.der();
        let mut tls = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(tls)
    }

    /// TLS of a client that trusts this authority, with a certificate of its own or without.
    ///
    /// # Errors
    /// When rustls does not want the certificates.
    pub fn client_tls(&self, pair: Option<&Pair>) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match pair.map(Pair::der) {
            Some((chain, key)) => tls.with_client_auth_cert(chain, key)?,
            None => tls.with_no_client_auth(),
        })
    }
}

impl Requested {
    /// Reads a request (PEM) and checks that whoever wrote it has the key.
    ///
    /// # Errors
    /// When it is none, or its signature is wrong.
    pub fn read(request: &[u8]) -> Result<Self> {
        let der = CertificateSigningRequestDer::from_pem_slice(request)
            .ok()
            .context("no PEM of a certificate request")?;
        let request = CertificateSigningRequestParams::from_der(&der).context("read a request")?;
        let part = |kind: DnType| {
            let value = request.params.distinguished_name.get(&kind)?;
            match value {
                rcgen::DnValue::Utf8String(text) => Some(text.clone()),
                rcgen::DnValue::PrintableString(text) => Some(text.to_string()),
                _ => None,
            }
        };
        let names = request.params.subject_alt_names.iter();
        let names = names.map(|name| match name {
            SanType::DnsName(name) => name.to_string(),
            SanType::IpAddress(address) => address.to_string(),
            other => format!("{other:?}"),
        });
        Ok(Self {
            name: part(DnType::CommonName).unwrap_or_default(),
            organization: part(DnType::OrganizationName).unwrap_or_default(),
            names: names.collect(),
            request,
        })
    }
}

/// A certificate request of a client, and the key; PEM.
///
/// # Errors
/// When no key can be made.
pub fn request_certificate(user: &str, group: &str) -> Result<(String, String)> {
    let key = KeyPair::generate().context("a key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(user, group);
    let request = params.serialize_request(&key).context("a request")?;
    Ok((
        pem("CERTIFICATE REQUEST", request.der()),
        pem("PRIVATE KEY", &key.serialize_der()),
    ))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn valid(life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let now = Duration::from_secs(now);
    params.not_before = epoch + now.saturating_sub(BEFORE.min(life / 10));
    params.not_after = epoch + now + life;
    params.distinguished_name = DistinguishedName::new();
    params
}

fn subject(name: &str, organization: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if !organization.is_empty() {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, name);
    subject
}

/// PEM with lines of 64 (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
