//! Sources of projected volumes that feature gates turn on.

use super::written::{contents, snapshot, with};
use super::*;
use crate::objects::{CertificateWish, Credential, Found, PodSnapshot, TrustWish};

#[test]
fn trust_bundles_and_certificates_are_files_of_a_projected_volume() {
    let source = |name: &str, optional: bool| json!({"clusterTrustBundle": {"name": name, "path": "ca", "optional": optional}});
    let signed = json!({"podCertificate": {"signerName": "s", "keyType": "ED25519",
        "credentialBundlePath": "both", "keyPath": "key", "certificateChainPath": "chain"}});
    let wish = |name: &str| TrustWish::Named(name.into());
    let pod = with(
        json!([{"name": "v", "projected": {"sources": [source("roots", false), signed.clone()]}}]),
        json!({"securityContext": {"runAsUser": 1000}}),
    );
    let source_of = &pod::spec(&pod).volumes.as_ref().unwrap()[0];
    let source_of = source_of
        .projected
        .as_ref()
        .unwrap()
        .sources
        .as_ref()
        .unwrap();
    let certificate = CertificateWish::of("v", 1, source_of[1].pod_certificate.as_ref().unwrap());
    let credential = Credential {
        key: b"KEY".as_slice().into(),
        chain: b"CHAIN".as_slice().into(),
    };
    let objects = snapshot()
        .with_trust(wish("roots"), Found::There(b"CA".as_slice().into()))
        .with_certificate(&certificate, Found::There(credential));
    let payload = contents(&pod, &objects).take("v").unwrap();
    let shown: Vec<_> = payload
        .files()
        .map(|(path, file)| (path, &*file.data, file.mode, file.owner))
        .collect();
    let owner = Some(1000);
    let expected: [(&str, &[u8], u32, Option<u32>); 4] = [
        ("both", b"KEYCHAIN", 0o600, owner),
        ("ca", b"CA", 0o600, owner),
        ("chain", b"CHAIN", 0o600, owner),
        ("key", b"KEY", 0o600, owner),
    ];
    assert_eq!(shown, expected);

    let refused = |objects: &PodSnapshot, source: serde_json::Value| {
        let pod = with(
            json!([{"name": "v", "projected": {"sources": [source]}}]),
            json!({}),
        );
        contents(&pod, objects).take("v").unwrap_err().to_string()
    };
    let missing = snapshot().with_trust(wish("gone"), Found::Missing);
    assert_eq!(
        refused(&missing, source("gone", false)),
        "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"gone\" not found"
    );
    assert_eq!(
        refused(&snapshot(), source("any", false)),
        "ClusterTrustBundle projection is not supported in static kubelet mode"
    );
    let mut first = certificate;
    first.source = 0;
    let waiting = snapshot().with_certificate(&first, Found::Unknown(None));
    assert_eq!(
        refused(&waiting, signed),
        "credential bundle is not issued yet"
    );
    let pod = with(
        json!([{"name": "v", "projected": {"sources": [source("gone", true)]}}]),
        json!({}),
    );
    let payload = contents(&pod, &missing).take("v").unwrap();
    assert_eq!(
        payload
            .files()
            .map(|(_, file)| file.data.len())
            .collect::<Vec<_>>(),
        [0]
    );
}
