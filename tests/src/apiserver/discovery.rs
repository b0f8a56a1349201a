//! The `cluster-info` configMap, from which a node with a bootstrap token learns whom to trust.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// SHA-256's block, by which HMAC pads its key (RFC 2104).
const BLOCK: usize = 64;

/// `kube-public/cluster-info` of a server at `url` with this authority (PEM), signed for each bootstrap token
/// (`id.secret`): the signature of `data.kubeconfig` is in `data.jws-kubeconfig-ID`, detached.
#[must_use]
pub fn cluster_info(url: &str, authority: &str, tokens: &[&str]) -> Value {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "", "cluster": {
            "server": url,
            "certificate-authority-data": STANDARD.encode(authority),
        } }],
        "contexts": null,
        "current-context": "",
        "users": null,
    })
    .to_string();
    let mut data = json!({ "kubeconfig": kubeconfig });
    for token in tokens {
        if let Some((id, secret)) = token.split_once('.') {
            data[format!("jws-kubeconfig-{id}")] = json!(signature(&kubeconfig, id, secret));
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "cluster-info", "namespace": "kube-public" },
        "data": data,
    })
}

/// The secret in `kube-system` that makes `id.secret` a bootstrap token.
#[must_use]
pub fn bootstrap_secret(token: &str) -> Value {
    let (id, secret) = token.split_once('.').unwrap_or((token, ""));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": format!("bootstrap-token-{id}"), "namespace": "kube-system" },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    })
}

/// A JWS in compact form without its content (RFC 7515, appendix F), HS256 under the token's secret.
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "kid": id }).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let mac = hmac(secret.as_bytes(), signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(mac))
}

/// HMAC with SHA-256 under a key no longer than a block.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; BLOCK];
        for (place, key) in block.iter_mut().zip(key) {
            *place ^= key;
        }
        block
    };
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn hmac_is_the_one_of_the_rfc() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn the_signature_is_detached() {
        let info = cluster_info("https://x", "ca", &["abcdef.0123456789abcdef"]);
        let jws = info["data"]["jws-kubeconfig-abcdef"].as_str().unwrap();
        let parts: Vec<&str> = jws.split('.').collect();
        assert!(parts.len() == 3 && parts[1].is_empty(), "{jws}");
    }
}
