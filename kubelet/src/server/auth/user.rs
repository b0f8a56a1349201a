//! Who asks.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_rustls::rustls::SupportedCipherSuite;
use tokio_rustls::rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

/// Who has shown nothing (upstream's `user.Anonymous`).
const ANONYMOUS: &str = "system:anonymous";
/// The group of these.
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of everybody else.
const AUTHENTICATED: &str = "system:authenticated";
/// What `extra` has the credential under that a user has shown.
pub(super) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// A user, in the form that a SubjectAccessReview has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its name.
    #[serde(rename = "user")]
    pub name: String,
    /// Its UID; empty where nobody has said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Its groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What else the authenticator says.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Who has shown nothing.
    pub(super) fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// With the group of all who are known.
    pub(super) fn authenticated(mut self) -> Self {
        let has = |group: &str| self.groups.iter().any(|own| own == group);
        if self.name != ANONYMOUS && !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    match TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => {
            suite.common.hash_provider.hash(bytes).as_ref().to_vec()
        }
        // A suite of TLS 1.3 is none of TLS 1.2; and what stands for itself is mistaken for nothing else.
        SupportedCipherSuite::Tls12(_) => bytes.to_vec(),
    }
}
