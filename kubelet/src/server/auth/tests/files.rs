//! Certificates and keys that change while the node's API is served, and what of TLS is configured.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use super::node::*;
use crate::join::ServingPair;
use crate::server::auth::*;
use crate::server::{CertificateSource, Server, ServingTls, TlsOptions, self_signed};

#[tokio::test]
async fn new_authorities_and_certificates_count_without_a_restart() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let node = Node::start(Some(&first), nobody(), |_| {}).await;
    let (of_first, of_second) = (
        first.client("a", &[], |_| {}),
        second.client("b", &[], |_| {}),
    );
    // One that goes on while the files change.
    let mut long = connect(node.address, Some(&of_first), &[&TLS13])
        .await
        .unwrap();
    assert_eq!(exchange(&mut long, "GET /pods", "").await.0, 200);
    assert_eq!(node.ask(Some(&of_second), "GET /pods", "").await.0, 401);

    let replace = |name: &str, text: &str| {
        let beside = node.file("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, node.file(name)).unwrap();
    };
    replace("ca.crt", "half a fi");
    assert_eq!(node.ask(Some(&of_first), "GET /pods", "").await.0, 200);
    replace("ca.crt", &second.0.pem());
    assert_eq!(node.ask(Some(&of_second), "GET /pods", "").await.0, 200);
    assert_eq!(
        exchange(&mut long, "GET /pods", "").await.0,
        401,
        "an open connection is judged anew"
    );

    let shown = async || {
        let stream = connect(node.address, None, &[&TLS13]).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        chain[0].as_ref().to_vec()
    };
    let before = shown().await;
    let other = node.file("other");
    let (certificate, key) = self_signed(&other, "node-1", &Clock::system()).unwrap();
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    replace("pki/kubelet.crt", &text(&certificate));
    assert_eq!(shown().await, before, "the key is not there yet");
    replace("pki/kubelet.key", &text(&key));
    let new = CertificateDer::from_pem_slice(text(&certificate).as_bytes()).unwrap();
    assert_eq!(shown().await, new.as_ref());
}

#[tokio::test]
async fn tls_is_as_configured() {
    let room = tempfile::tempdir().unwrap();
    let (certificate, key) = self_signed(room.path(), "node-1", &Clock::system()).unwrap();
    let start = async |options: TlsOptions| {
        let source = CertificateSource::files(certificate.clone(), key.clone());
        let tls = ServingTls::new(source, None, options).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind_tls(any, "tests", Arc::new(tls), Router::new());
        let server = server.await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(server.run());
        address
    };
    let both = start(TlsOptions::default()).await;
    connect(both, None, &[&TLS12]).await.unwrap();
    connect(both, None, &[&TLS13]).await.unwrap();
    let new = start(TlsOptions {
        only_13: true,
        cipher_suites: Vec::new(),
    })
    .await;
    connect(new, None, &[&TLS12]).await.unwrap_err();
    connect(new, None, &[&TLS13]).await.unwrap();
    let suite = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    let one = start(TlsOptions {
        only_13: false,
        cipher_suites: vec![suite.to_owned()],
    })
    .await;
    let stream = connect(one, None, &[&TLS12]).await.unwrap();
    let spoken = stream.get_ref().1.negotiated_cipher_suite().unwrap();
    assert_eq!(spoken.suite().as_str(), Some(suite));

    let wrong = CertificateSource::files(certificate.clone(), certificate);
    let wrong = ServingTls::new(wrong, None, TlsOptions::default());
    let said = wrong.unwrap_err().to_string();
    assert!(
        said.ends_with("kubelet.crt has no private key that can be used: there is none in it"),
        "{said}"
    );
    let missing = CertificateSource::files(room.path().join("none"), key);
    let missing = ServingTls::new(missing, None, TlsOptions::default());
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .starts_with("cannot read certificate ")
    );
}

#[tokio::test]
async fn without_an_issued_certificate_the_handshake_ends_with_upstreams_alert() {
    let room = tempfile::tempdir().unwrap();
    let (clock, step) = Clock::manual("2026-11-21T00:00:00Z".parse().unwrap());
    let (certificate, key) = self_signed(room.path(), "node-1", &clock).unwrap();
    let issued = ServingPair::of_files(&certificate, &key).unwrap();
    let (pair, serving) = tokio::sync::watch::channel(None);
    let source = CertificateSource::Issued(serving, clock.clone());
    let tls = ServingTls::new(source, None, TlsOptions::default()).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind_tls(any, "tests", Arc::new(tls), Router::new());
    let server = server.await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.run());
    let refused = async |version| {
        let error = connect(address, None, &[version]).await.unwrap_err();
        assert!(error.to_string().contains("InternalError"), "{error}");
    };
    refused(&TLS12).await;
    refused(&TLS13).await;
    pair.send_replace(Some(Arc::new(issued)));
    connect(address, None, &[&TLS12]).await.unwrap();
    let open = connect(address, None, &[&TLS13]).await.unwrap();
    step.step(400 * 24 * 3600 * 1_000_000_000);
    refused(&TLS13).await;
    drop(open);
}

#[test]
fn files_that_change_count_where_they_are_to_be_read_again() {
    let room = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let make = |name: &str| self_signed(&room.path().join(name), name, &clock).unwrap();
    for reload in [true, false] {
        let (certificate, key) = make("used");
        let tls = |reload| {
            let source = CertificateSource::Files {
                certificate: certificate.clone(),
                key: key.clone(),
                reload,
            };
            ServingTls::new(source, None, TlsOptions::default()).unwrap()
        };
        let tls = tls(reload);
        let before = tls.config().unwrap();
        assert!(Arc::ptr_eq(&before, &tls.config().unwrap()));
        let other = make("other");
        std::fs::rename(other.0, &certificate).unwrap();
        std::fs::rename(other.1, &key).unwrap();
        assert_eq!(Arc::ptr_eq(&before, &tls.config().unwrap()), !reload);
    }
}
