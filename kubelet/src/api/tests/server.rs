//! A small server over TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// What a request looked like to the server.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) query: String,
    pub(super) user_agent: String,
    pub(super) authorization: String,
    /// Bytes of the client's certificate.
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) http2: bool,
    pub(super) connection: usize,
}

/// What it answers.
pub(super) type Answer = Arc<dyn Fn(&Seen) -> (StatusCode, String) + Send + Sync>;

/// An authority.
pub(super) struct Ca(pub(super) CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "a test's authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key, in PEM.
    pub(super) fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A server over TLS that writes down what it is asked.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// What a request for the object `slow` waits for.
    pub(super) slow: Arc<tokio::sync::Notify>,
}

impl Server {
    pub(super) async fn start(ca: &Ca, name: &str, answer: Answer) -> Self {
        use tokio_rustls::rustls::pki_types::pem::PemObject as _;
        let (certificate, key) = ca.issue(name);
        let mut roots = RootCertStore::empty();
        roots.add(ca.0.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let record = seen.clone();
        let slow = Arc::<tokio::sync::Notify>::default();
        let waits = slow.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, record, answer) = (acceptor.clone(), record.clone(), answer.clone());
                let waits = waits.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    serve(stream, connection, (record, waits), answer).await;
                });
            }
        });
        Self {
            address,
            seen,
            slow,
        }
    }

    /// Waits for a request of this path.
    pub(super) async fn saw(&self, path: &str) {
        while !self.seen().iter().any(|seen| seen.path == path) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    connection: usize,
    (record, waits): (Arc<Mutex<Vec<Seen>>>, Arc<tokio::sync::Notify>),
    answer: Answer,
) {
    let tls = stream.get_ref().1;
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let certificates = tls.peer_certificates();
    let certificate = certificates.map(|chain| chain[0].to_vec());
    let service = service_fn(move |request: Request<Incoming>| {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        let seen = Seen {
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            user_agent: header("user-agent"),
            authorization: header("authorization"),
            certificate: certificate.clone(),
            http2,
            connection,
        };
        let (status, body) = answer(&seen);
        let waits = seen.path.ends_with("/slow").then(|| waits.clone());
        record.lock().unwrap().push(seen);
        async move {
            if let Some(waits) = waits {
                waits.notified().await;
            }
            let mut response = Response::new(kube::client::Body::from(body.into_bytes()));
            *response.status_mut() = status;
            if status == StatusCode::TOO_MANY_REQUESTS {
                response.headers_mut().insert("retry-after", 1.into());
            }
            Ok::<_, Infallible>(response)
        }
    });
    let stream = TokioIo::new(stream);
    // Ends with the client's connection.
    let _ = match http2 {
        true => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await
        }
        false => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(stream, service)
                .await
        }
    };
}
