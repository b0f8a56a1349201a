//! A node's API on loopback, its clients, and the API server that it asks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::routing::any;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, SupportedProtocolVersion};

use crate::connections::believe_anybody;
use crate::scripted_api::{Answer, Log, scripted};
use crate::server::auth::*;
use crate::server::{CertificateSource, Server, ServingTls, TlsOptions, self_signed};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const WEBHOOK: Authorization = Authorization::Webhook {
    authorized_for: MINUTE,
    unauthorized_for: MINUTE,
};

pub(super) struct Authority(pub(super) CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key of a client, changed by `with`.
    pub(super) fn client(
        &self,
        name: &str,
        groups: &[&str],
        with: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // The library has each type once; by its number it is another to it.
        let number = DnType::CustomDnType(vec![2, 5, 4, 10]);
        assert!(groups.len() <= 2);
        for (kind, group) in [DnType::OrganizationName, number].into_iter().zip(groups) {
            params.distinguished_name.push(kind, *group);
        }
        if !name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        with(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

pub(super) type Pair = (String, String);

/// A node's API on loopback.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    room: tempfile::TempDir,
    asked: Log,
    /// Sets or takes away the API server.
    pub(super) api: watch::Sender<Option<Client>>,
    pub(super) client: Client,
}

/// What the API server says, by the review's `spec`.
pub(super) type Say = Box<dyn FnMut(&Value) -> Answer + Send>;

pub(super) fn of(fields: Value) -> Answer {
    Answer::Json(201, json!({ "status": fields }))
}

pub(super) fn nobody() -> Say {
    Box::new(|_| of(json!({})))
}

impl Node {
    /// `set` changes what is configured: no way in, and everybody who is in may do everything.
    pub(super) async fn start(
        authority: Option<&Authority>,
        say: Say,
        set: impl FnOnce(&mut AccessSettings),
    ) -> Self {
        let room = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let file = room.path().join("ca.crt");
        let authority = authority.map(|authority| {
            std::fs::write(&file, authority.0.pem()).unwrap();
            Arc::new(ClientAuthority::new(file, clock.clone()).unwrap())
        });
        let say = Mutex::new(say);
        let (client, asked) = scripted(move |request| (say.lock().unwrap())(&request.body["spec"]));
        let (api, heard) = watch::channel(Some(client.clone()));
        let mut settings = AccessSettings {
            node: "node-1".to_owned(),
            anonymous: false,
            authority: authority.clone(),
            tokens: None,
            authorization: Some(Authorization::AlwaysAllow),
            exec_verb: ExecVerb::Create,
        };
        set(&mut settings);
        let access = Arc::new(Access::new(settings, heard, &clock));
        let shown = async |request: Request| {
            let header = |name: &str| {
                let value = request
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().unwrap());
                value.unwrap_or("-").to_owned()
            };
            let (token, protocols) = (header("authorization"), header("sec-websocket-protocol"));
            format!("{} {token} {protocols}", request.uri().path())
        };
        let routes = Router::new().route("/{*path}", any(shown));
        let (certificate, key) = self_signed(&room.path().join("pki"), "node-1", &clock).unwrap();
        let source = CertificateSource::files(certificate, key);
        let tls = ServingTls::new(source, authority, TlsOptions::default()).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let routes = guarded(routes, access);
        let server = Server::bind_tls(any, "tests", Arc::new(tls), routes);
        let server = server.await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(server.run());
        Self {
            address,
            room,
            asked,
            api,
            client,
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// Status and body of the answer to a request with these headers.
    pub(super) async fn ask(
        &self,
        pair: Option<&Pair>,
        line: &str,
        headers: &str,
    ) -> (u16, String) {
        let mut stream = connect(self.address, pair, &[&TLS13, &TLS12])
            .await
            .unwrap();
        exchange(&mut stream, line, headers).await
    }

    /// The specs of the reviews since the last call.
    pub(super) fn reviews(&self) -> Vec<Value> {
        let asked = self.asked.take().into_iter();
        asked.map(|asked| asked.body["spec"].clone()).collect()
    }
}

pub(super) async fn connect(
    address: SocketAddr,
    pair: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(believe_anybody(&provider));
    let config = match pair {
        Some((certificate, key)) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("node-1").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

pub(super) async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    line: &str,
    headers: &str,
) -> (u16, String) {
    let request = format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if body.len() >= length {
                return (head[9..12].parse().unwrap(), body.to_owned());
            }
        }
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{text}");
    }
}
