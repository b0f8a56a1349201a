//! Bootstrap against an API server in the same process; requests as the signer wants them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use x509_parser::prelude::FromDer as _;

use super::*;

type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// A client of a server that answers in turn, and hangs when it has no more answers.
fn scripted(answers: Vec<(u16, Value)>) -> (kube::Client, Seen) {
    let answers: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(answers.into()));
    let seen = Seen::default();
    let record = seen.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answers, record) = (answers.clone(), record.clone());
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            record.lock().unwrap().push((line, body));
            let answer = answers.lock().unwrap().pop_front();
            let Some((status, body)) = answer else {
                return std::future::pending().await;
            };
            let mut response = Response::new(Body::from(body.to_string().into_bytes()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    (kube::Client::new(service, "default"), seen)
}

fn object(status: &Value) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "csr-x", "uid": "u", "resourceVersion": "5"}, "spec": {}, "status": status})
}

fn list(status: &Value) -> (u16, Value) {
    let list = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequestList",
        "metadata": {"resourceVersion": "7"}, "items": [object(status)]});
    (200, list)
}

fn wanted<'a>(directory: &'a Path, kubeconfig: &'a Path) -> bootstrap::Wanted<'a> {
    bootstrap::Wanted {
        node: "a",
        directory,
        kubeconfig,
    }
}

#[tokio::test]
async fn a_bootstrap_ends_with_a_pair_and_a_kubeconfig_that_only_root_reads() {
    let directory = tempfile::tempdir().unwrap();
    let (pki, kubeconfig) = (
        directory.path().join("pki"),
        directory.path().join("etc/kubelet.conf"),
    );
    let condition = json!([{"type": "Approved", "status": "True"}]);
    let signed = json!({"conditions": condition, "certificate": STANDARD.encode("SIGNED\n")});
    let (client, seen) = scripted(vec![(201, object(&json!({}))), list(&signed)]);
    let wanted = wanted(&pki, &kubeconfig);
    wanted
        .get(&client, "the kubeconfig", &Clock::system())
        .await
        .unwrap();

    let (line, body) = seen.lock().unwrap()[0].clone();
    assert!(
        line.starts_with("POST /apis/certificates.k8s.io/v1/certificatesigningrequests"),
        "{line}"
    );
    assert_eq!(body["metadata"], json!({"generateName": "csr-"}));
    assert_eq!(
        body["spec"]["signerName"],
        "kubernetes.io/kube-apiserver-client-kubelet"
    );
    assert_eq!(
        body["spec"]["usages"],
        json!(["digital signature", "client auth"])
    );
    assert!(body["spec"].get("expirationSeconds").is_none());
    let (line, _) = seen.lock().unwrap()[1].clone();
    assert!(
        line.contains("fieldSelector=metadata.name%3Dcsr-x"),
        "{line}"
    );
    let request = STANDARD
        .decode(body["spec"]["request"].as_str().unwrap())
        .unwrap();
    let (_, request) = x509_parser::pem::parse_x509_pem(&request).unwrap();
    assert_eq!(request.label, "CERTIFICATE REQUEST");
    let (_, parsed) =
        x509_parser::certification_request::X509CertificationRequest::from_der(&request.contents)
            .unwrap();
    let info = parsed.certification_request_info;
    assert_eq!(info.subject.to_string(), "O=system:nodes, CN=system:node:a");
    assert!(info.attributes().is_empty(), "no names beside the subject");

    let pair = Store::of_clients(&pki).read().unwrap();
    let pair = String::from_utf8(pair).unwrap();
    assert!(
        pair.starts_with("SIGNED\n-----BEGIN PRIVATE KEY-----"),
        "{pair}"
    );
    assert_eq!(
        std::fs::read_to_string(&kubeconfig).unwrap(),
        "the kubeconfig"
    );
    let mode = std::fs::metadata(&kubeconfig).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!pki.join("kubelet-client.key.tmp").exists());
}

#[tokio::test]
async fn a_request_that_is_denied_says_so_and_its_key_is_kept_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubelet.conf");
    let denied = json!({"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "not this one"}]});
    let answers = || vec![(201, object(&json!({}))), list(&denied)];
    let wanted = wanted(directory.path(), &kubeconfig);
    let mut requests = Vec::new();
    for _ in 0..2 {
        let (client, _) = scripted(answers());
        let error = wanted.get(&client, "", &Clock::system()).await.unwrap_err();
        let text = "the certificate signing request csr-x is Denied: No: not this one";
        assert_eq!(error.to_string(), text);
        let key = directory.path().join("kubelet-client.key.tmp");
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        requests.push(std::fs::read_to_string(&key).unwrap());
    }
    assert_eq!(requests[0], requests[1]);
    assert!(!kubeconfig.exists());
}

#[tokio::test]
async fn the_kubeconfig_is_the_bootstrap_ones_with_the_pair() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bootstrap.conf");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {cluster: c, user: u}\n\
        clusters:\n- name: c\n  cluster:\n    server: https://10.0.0.1:6443\n    tls-server-name: kubernetes\n    certificate-authority: ca.crt\n\
        users:\n- name: u\n  user:\n    token: abcdef.0123456789abcdef\n";
    std::fs::write(&path, text).unwrap();
    std::fs::write(directory.path().join("ca.crt"), "").unwrap();
    let endpoint = Endpoint::read(&path).await.unwrap();
    let pair = directory.path().join("pki/kubelet-client-current.pem");
    let written = bootstrap::kubeconfig(&endpoint, &pair);
    let kubeconfig = directory.path().join("kubelet.conf");
    std::fs::write(&kubeconfig, &written).unwrap();
    let read = Endpoint::read(&kubeconfig).await.unwrap();
    assert_eq!(read.config.cluster_url, endpoint.config.cluster_url);
    assert_eq!(read.config.tls_server_name, endpoint.config.tls_server_name);
    assert_eq!(
        read.authority,
        Some(Pem::File(directory.path().join("ca.crt")))
    );
    let pair = Pem::File(pair);
    let identity = Identity::Certificate {
        certificate: pair.clone(),
        key: pair,
    };
    assert_eq!(read.identity, identity);
    for name in [
        "default-cluster",
        "default-auth",
        "current-context: default-context",
    ] {
        assert!(written.contains(name), "{written}");
    }
    assert!(
        !written.contains("0123456789abcdef") && !written.contains(":6443/"),
        "{written}"
    );
}

#[test]
fn the_validity_of_a_certificate_is_read_to_the_second() {
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2026, 1, 2);
    params.not_after = rcgen::date_time_ymd(2027, 1, 2);
    let key = certificate::new_key().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let both = key.serialize_pem() + &pem;
    let validity = certificate::validity(both.as_bytes()).unwrap();
    assert_eq!(validity.not_before.to_string(), "2026-01-02T00:00:00Z");
    assert_eq!(validity.not_after.to_string(), "2027-01-02T00:00:00Z");
    let none = certificate::validity(b"").unwrap_err();
    assert_eq!(
        none.to_string(),
        "the certificate cannot be read: there is none"
    );
}
