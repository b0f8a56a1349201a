//! The ConfigMap `kube-public/cluster-info`: whether its signature is by the token, and its authority one of the pins. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kube::config::{Cluster, Kubeconfig};
use ring::hmac;
use serde::Deserialize;
use serde_json::Value;
use x509_parser::pem::Pem;

use super::failure::Failure;
use super::token::{Pins, Token};

/// The key of the kubeconfig in it, and what the keys of its signatures begin with (k8s.io/cluster-bootstrap).
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// Where a cluster is, and whom to believe there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `https://…`.
    pub(super) server: String,
    /// Certificates, PEM; empty where a file for discovery has none.
    pub(super) authority: Vec<u8>,
}

/// The kubeconfig of a ConfigMap, once its signature has been verified with the token.
///
/// # Errors
/// When there is none, or it is not signed by this token.
pub(super) fn verified(map: &Value, token: &Token) -> Result<String, Failure> {
    let data = |key: &str| map["data"][key].as_str().filter(|text| !text.is_empty());
    let Some(kubeconfig) = data(KUBECONFIG) else {
        let why = "there is no kubeconfig in the cluster-info ConfigMap";
        return Err(Failure::NotSetUp(why.to_owned()));
    };
    let Some(signature) = data(&format!("{SIGNATURE}{}", token.id())) else {
        let keys = map["data"].as_object().into_iter().flatten();
        let mut signatures = keys.filter(|(key, _)| key.starts_with(SIGNATURE));
        return Err(match signatures.next() {
            Some(_) => Failure::UnknownToken(token.id().to_owned()),
            None => Failure::Unsigned,
        });
    };
    match is_signed(kubeconfig, signature, token) {
        true => Ok(kubeconfig.to_owned()),
        false => Err(Failure::Signature(token.id().to_owned())),
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// Whether `signature` is a JWS of `content`, in compact form and detached (RFC 7515, appendix F), by HS256 under the
/// token's secret, which its header names.
fn is_signed(content: &str, signature: &str, token: &Token) -> bool {
    let mut parts = signature.split('.');
    let (Some(header), Some(""), Some(mac), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let (Ok(text), Ok(mac)) = (URL_SAFE_NO_PAD.decode(header), URL_SAFE_NO_PAD.decode(mac)) else {
        return false;
    };
    let Ok(Header { alg, kid }) = serde_json::from_slice(&text) else {
        return false;
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret().as_bytes());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    // In constant time.
    alg == "HS256" && kid == token.id() && hmac::verify(&key, signed.as_bytes(), &mac).is_ok()
}

/// What the kubeconfig of a cluster-info, or of a file for discovery, says of the cluster: the one of the current context
/// where there is one, else the first.
///
/// # Errors
/// When it cannot be read, or names no server.
pub(super) fn cluster(kubeconfig: &Kubeconfig) -> Result<Found, Failure> {
    let none = |why: &str| Failure::NotSetUp(why.to_owned());
    let context = kubeconfig.current_context.as_deref().unwrap_or_default();
    let context = kubeconfig.contexts.iter().find(|one| one.name == context);
    let named = context.and_then(|one| Some(&one.context.as_ref()?.cluster));
    let mut clusters = kubeconfig.clusters.iter();
    let cluster: Option<&Cluster> = match named {
        Some(name) => clusters.find(|one| one.name == *name),
        None => clusters.next(),
    }
    .and_then(|one| one.cluster.as_ref());
    let cluster = cluster.ok_or_else(|| none("the kubeconfig has no cluster"))?;
    let server = cluster.server.clone().unwrap_or_default();
    if !server.starts_with("https://") {
        return Err(none("the kubeconfig's server is no https:// address"));
    }
    let authority = match (
        &cluster.certificate_authority_data,
        &cluster.certificate_authority,
    ) {
        (Some(data), _) if !data.is_empty() => STANDARD
            .decode(data)
            .map_err(|_| none("its certificate-authority-data is no base64"))?,
        (_, Some(file)) if !file.is_empty() => {
            std::fs::read(file).map_err(Failure::file("read", file.as_ref()))?
        }
        _ => Vec::new(),
    };
    Ok(Found { server, authority })
}

/// As [`cluster`], of a text.
///
/// # Errors
/// As [`cluster`], when it is no kubeconfig, and when it has no authority.
pub(super) fn cluster_of(text: &str) -> Result<Found, Failure> {
    let read = Kubeconfig::from_yaml(text);
    let read = read.map_err(|error| Failure::NotSetUp(format!("its kubeconfig: {error}")))?;
    let found = cluster(&read)?;
    if found.authority.is_empty() {
        let why = "the kubeconfig has no certificate authority";
        return Err(Failure::NotSetUp(why.to_owned()));
    }
    Ok(found)
}

/// The cluster of a ConfigMap whose server is believed already; none where it has no kubeconfig that can be used.
pub(super) fn trusted(map: &Value) -> Option<Found> {
    cluster_of(map["data"][KUBECONFIG].as_str()?).ok()
}

/// Whether one of the authority's certificates has a public key that is pinned.
///
/// # Errors
/// When none has, or there is none.
pub(super) fn check_pins(authority: &[u8], pins: &Pins) -> Result<(), Failure> {
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(authority).filter_map(Result::ok) {
        let Ok(certificate) = block.parse_x509() else {
            continue;
        };
        let pin = crate::join::pin_of(&certificate);
        if pins.has(&pin) {
            return Ok(());
        }
        found.push(pin);
    }
    match found.is_empty() {
        true => Err(Failure::NotSetUp(
            "its certificate authority is no certificate".to_owned(),
        )),
        false => Err(Failure::Pin {
            found: found.join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use ring::digest;
    use secrecy::SecretString;
    use serde_json::json;

    use super::*;

    fn token(text: &str) -> Token {
        Token::parse("--token", &SecretString::from(text.to_owned())).unwrap()
    }

    fn sign(header: &Value, content: &str, secret: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
        let mac = hmac::sign(&key, signed.as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(mac.as_ref()))
    }

    fn info(signature: &str) -> Value {
        json!({"data": {"kubeconfig": "the text", "jws-kubeconfig-abcdef": signature}})
    }

    #[test]
    fn a_signature_counts_by_token_algorithm_and_content() {
        let own = token("abcdef.0123456789abcdef");
        let header = json!({"alg": "HS256", "kid": "abcdef"});
        let good = sign(&header, "the text", own.secret());
        assert_eq!(verified(&info(&good), &own).unwrap(), "the text");
        let wrong = [
            sign(&header, "another text", own.secret()),
            sign(&header, "the text", "fedcba9876543210"),
            sign(
                &json!({"alg": "HS256", "kid": "other0"}),
                "the text",
                own.secret(),
            ),
            sign(
                &json!({"alg": "none", "kid": "abcdef"}),
                "the text",
                own.secret(),
            ),
            good.replace("..", ".dGhlIHRleHQ."),
            format!("{good}.x"),
            "..".to_owned(),
            "nonsense".to_owned(),
        ];
        for wrong in wrong {
            let error = verified(&info(&wrong), &own).unwrap_err();
            assert_eq!(error.exit_code(), 15, "{wrong}");
        }
    }

    #[test]
    fn another_token_no_signature_and_no_kubeconfig_are_told_apart() {
        let own = token("abcdef.0123456789abcdef");
        let code = |map: Value| verified(&map, &own).unwrap_err().exit_code();
        let other = json!({"data": {"kubeconfig": "k", "jws-kubeconfig-other0": "x"}});
        assert_eq!(code(other), 14);
        assert_eq!(code(json!({"data": {"kubeconfig": "k"}})), 13);
        assert_eq!(code(json!({"data": {"jws-kubeconfig-abcdef": "x"}})), 12);
        assert_eq!(code(json!({})), 12);
    }

    #[test]
    fn the_cluster_is_read_as_kubeadm_writes_it() {
        let authority = STANDARD.encode("CA");
        let text = format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    \
             server: https://10.0.0.1:6443\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\nusers: null\n"
        );
        let found = cluster_of(&text).unwrap();
        assert_eq!(found.server, "https://10.0.0.1:6443");
        assert_eq!(found.authority, b"CA");
        assert_eq!(cluster_of("clusters: []").unwrap_err().exit_code(), 12);
        assert_eq!(cluster_of("[").unwrap_err().exit_code(), 12);
    }

    #[test]
    fn a_pin_is_the_digest_of_the_public_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::default();
        let pem = params.self_signed(&key).unwrap().pem();
        use rcgen::PublicKeyData as _;
        let digest = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let pins = Pins::parse(&[format!("sha256:{hex}")]).unwrap();
        check_pins(pem.as_bytes(), &pins).unwrap();
        let other = Pins::parse(&[format!("sha256:{}", "0".repeat(64))]).unwrap();
        let error = check_pins(pem.as_bytes(), &other).unwrap_err();
        assert!(error.to_string().contains(&hex), "{error}");
        assert_eq!(error.exit_code(), 16);
        assert_eq!(check_pins(b"", &pins).unwrap_err().exit_code(), 12);
    }
}
