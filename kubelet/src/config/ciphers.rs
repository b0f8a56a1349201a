//! `tlsCipherSuites` and `tlsMinVersion`: what upstream takes, and what of it is spoken here.

use super::issue::Issue;
use super::settings::Settings;

/// Suites that Go knows (`crypto/tls`, the insecure ones too, and two older names).
const KNOWN: [&str; 27] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// What is wrong with `name`.
pub(super) fn refusal(name: &str) -> Option<String> {
    let unknown = !KNOWN.contains(&name);
    unknown.then(|| format!("Cipher suite {name} not supported or doesn't exist"))
}

/// Whether a suite of this name is spoken here: those with forward secrecy and authenticated encryption.
fn is_spoken(name: &str) -> bool {
    let is_aead = name.contains("GCM") || name.contains("POLY1305");
    is_aead && !name.starts_with("TLS_RSA")
}

/// What is worth knowing of settings that are allowed.
pub(super) fn warnings(settings: &Settings) -> Vec<Issue> {
    let mut warnings = Vec::new();
    if !settings.bool("enableServer") {
        return warnings;
    }
    let path = "tlsCipherSuites";
    let suites = settings.texts(path);
    let silent: Vec<&str> = suites
        .iter()
        .map(String::as_str)
        .filter(|name| !is_spoken(name))
        .collect();
    let none_left = !suites
        .iter()
        .any(|name| name.contains("_WITH_") && is_spoken(name));
    if !silent.is_empty() {
        let then = match none_left {
            true => "; TLS 1.3 is spoken alone",
            false => "",
        };
        let names = silent.join(", ");
        let said = format!(
            "{} not spoken by this agent: {names}{then}",
            Settings::name(path)
        );
        warnings.push(Issue::new(settings.origin(path), said));
    }
    let path = "tlsMinVersion";
    let version = settings.text(path);
    if ["VersionTLS10", "VersionTLS11"].contains(&version) {
        let said = format!(
            "{} {version} means TLS 1.2: nothing older is spoken",
            Settings::name(path)
        );
        warnings.push(Issue::new(settings.origin(path), said));
    }
    warnings
}
