//! The node's API over real TLS on loopback: who gets in, and what is said to who does not.

mod silence;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
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

use super::*;
use crate::connections::believe_anybody;
use crate::scripted_api::{Answer, Log, scripted};
use crate::server::{Server, ServingTls, TlsOptions, self_signed};

const MINUTE: Duration = Duration::from_secs(60);
const WEBHOOK: Authorization = Authorization::Webhook {
    authorized_for: MINUTE,
    unauthorized_for: MINUTE,
};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key of a client, changed by `with`.
    fn client(
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

type Pair = (String, String);

/// A node's API on loopback.
struct Node {
    address: SocketAddr,
    room: tempfile::TempDir,
    asked: Log,
    /// Sets or takes away the API server.
    api: watch::Sender<Option<Client>>,
    client: Client,
}

/// What the API server says, by the review's `spec`.
type Say = Box<dyn FnMut(&Value) -> Answer + Send>;

fn of(fields: Value) -> Answer {
    Answer::Json(201, json!({ "status": fields }))
}

fn nobody() -> Say {
    Box::new(|_| of(json!({})))
}

impl Node {
    /// `set` changes what is configured: no way in, and everybody who is in may do everything.
    async fn start(
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
        let tls = ServingTls::new(certificate, key, authority, TlsOptions::default()).unwrap();
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

    fn file(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// Status and body of the answer to a request with these headers.
    async fn ask(&self, pair: Option<&Pair>, line: &str, headers: &str) -> (u16, String) {
        let mut stream = connect(self.address, pair, &[&TLS13, &TLS12])
            .await
            .unwrap();
        exchange(&mut stream, line, headers).await
    }

    /// The specs of the reviews since the last call.
    fn reviews(&self) -> Vec<Value> {
        let asked = self.asked.take().into_iter();
        asked.map(|asked| asked.body["spec"].clone()).collect()
    }
}

async fn connect(
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

async fn exchange(stream: &mut TlsStream<TcpStream>, line: &str, headers: &str) -> (u16, String) {
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

fn unauthorized() -> (u16, String) {
    (401, "Unauthorized".to_owned())
}

#[tokio::test]
async fn who_shows_nothing_is_nobody_or_anonymous() {
    let closed = Node::start(None, nobody(), |_| {}).await;
    assert_eq!(closed.ask(None, "GET /pods", "").await, unauthorized());
    assert_eq!(closed.ask(None, "GET /not/there", "").await, unauthorized());
    let token = "Authorization: Bearer abc\r\n";
    assert_eq!(closed.ask(None, "GET /pods", token).await, unauthorized());

    let open = Node::start(None, nobody(), |set| set.anonymous = true).await;
    let (status, body) = open.ask(None, "GET /pods", "").await;
    assert_eq!((status, &*body), (200, "/pods - -"));

    let judged = Node::start(None, nobody(), |set| {
        set.anonymous = true;
        set.authorization = Some(WEBHOOK);
    })
    .await;
    let (status, body) = judged.ask(None, "GET /stats/summary", "").await;
    let said =
        "Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource(s)=[stats])\n";
    assert_eq!((status, &*body), (403, said));
    assert_eq!(
        judged.reviews(),
        [json!({
            "resourceAttributes": {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "stats", "name": "node-1"},
            "user": "system:anonymous",
            "groups": ["system:unauthenticated"],
        })]
    );
}

#[tokio::test]
async fn a_certificate_says_who_its_client_is() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let node = Node::start(Some(&ours), nobody(), |set| {
        set.authorization = Some(WEBHOOK)
    })
    .await;
    let good = ours.client("jane", &["devs", "ops"], |_| {});
    let (status, _) = node.ask(Some(&good), "POST /run/a/b/c", "").await;
    assert_eq!(status, 403);
    let reviews = node.reviews();
    assert_eq!(reviews[0]["user"], "jane");
    let groups = json!(["devs", "ops", "system:authenticated"]);
    assert_eq!(reviews[0]["groups"], groups);
    let id = reviews[0]["extra"]["authentication.kubernetes.io/credential-id"][0].clone();
    let id = id.as_str().unwrap();
    assert_eq!(id.len(), "X509SHA256=".len() + 64, "{id}");

    let uid = ours.client("jane", &[], |params| {
        let oid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        params.distinguished_name.push(oid, "1234");
    });
    node.ask(Some(&uid), "GET /pods", "").await;
    assert_eq!(node.reviews()[0]["uid"], "1234");

    let day = 24 * 3600;
    let expired = ours.client("jane", &["system:masters"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = params.not_before + Duration::from_secs(day);
    });
    let early = ours.client("jane", &["system:masters"], |params| {
        params.not_before = rcgen::date_time_ymd(2999, 1, 1);
        params.not_after = params.not_before + Duration::from_secs(day);
    });
    let server = ours.client("jane", &["system:masters"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (why, pair) in [
        (
            "another authority",
            theirs.client("jane", &["system:masters"], |_| {}),
        ),
        (
            "without a name",
            ours.client("", &["system:masters"], |_| {}),
        ),
        ("expired", expired),
        ("not yet", early),
        ("of a server", server),
    ] {
        let answer = node.ask(Some(&pair), "GET /pods", "").await;
        assert_eq!(answer, unauthorized(), "{why}");
    }
    assert!(node.reviews().is_empty());
}

#[tokio::test]
async fn a_wrong_credential_is_worse_than_none_but_not_beside_a_good_one() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let say: Say = Box::new(|spec| match spec["token"].as_str() {
        Some("good") => of(json!({"authenticated": true, "user": {"username": "bot"}})),
        Some(_) => of(json!({"error": "invalid bearer token"})),
        None => of(json!({"allowed": true})),
    });
    let node = Node::start(Some(&ours), say, |set| {
        set.anonymous = true;
        set.tokens = Some(MINUTE);
    })
    .await;
    let bad = theirs.client("jane", &[], |_| {});
    let good_token = "Authorization: Bearer good\r\n";
    let bad_token = "Authorization: Bearer bad\r\n";
    for (pair, headers, status) in [
        (None, "", 200),
        (None, "Authorization: Basic eDp5\r\n", 200),
        (None, bad_token, 401),
        (Some(&bad), "", 401),
        (Some(&bad), bad_token, 401),
        (Some(&bad), good_token, 200),
        (Some(&ours.client("jane", &[], |_| {})), bad_token, 200),
        // It says nothing of anybody.
        (Some(&ours.client("", &[], |_| {})), "", 200),
    ] {
        let answer = node.ask(pair, "GET /pods", headers).await;
        assert_eq!(answer.0, status, "{headers:?} {answer:?}");
    }
}

#[tokio::test]
async fn tokens_are_asked_about_once_and_go_no_further() {
    let reviewed = Arc::new(AtomicUsize::new(0));
    let counted = reviewed.clone();
    let say: Say = Box::new(move |spec| {
        let Some(token) = spec["token"].as_str() else {
            return of(json!({"allowed": spec["user"] == "system:serviceaccount:a:b"}));
        };
        counted.fetch_add(1, Ordering::Relaxed);
        match token {
            "good" => of(json!({"authenticated": true, "user": {
                "username": "system:serviceaccount:a:b", "uid": "7", "groups": ["system:serviceaccounts"], "extra": {"k": ["v"]},
            }})),
            _ => of(json!({"authenticated": false})),
        }
    });
    let node = Node::start(None, say, |set| {
        set.tokens = Some(MINUTE);
        set.authorization = Some(WEBHOOK);
    })
    .await;
    let headers = "Authorization: Bearer good\r\n";
    for _ in 0..3 {
        let (status, body) = node.ask(None, "GET /metrics/resource", headers).await;
        assert_eq!((status, &*body), (200, "/metrics/resource - -"));
    }
    assert_eq!(
        node.reviews(),
        [
            json!({"token": "good"}),
            json!({
                "resourceAttributes": {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "metrics", "name": "node-1"},
                "user": "system:serviceaccount:a:b", "uid": "7",
                "groups": ["system:serviceaccounts", "system:authenticated"], "extra": {"k": ["v"]},
            }),
        ]
    );
    // "good" in base64.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.Z29vZA\r\n";
    let (status, body) = node.ask(None, "GET /exec/a/b/c", upgrade).await;
    assert_eq!((status, &*body), (200, "/exec/a/b/c - v4.channel.k8s.io"));
    for _ in 0..2 {
        let bad = "Authorization: Bearer bad\r\n";
        assert_eq!(node.ask(None, "GET /pods", bad).await, unauthorized());
    }
    assert_eq!(reviewed.load(Ordering::Relaxed), 2, "a no holds, too");
}

#[tokio::test]
async fn fine_subresources_come_first_and_entering_takes_create() {
    let ours = Authority::new("ours");
    let say: Say = Box::new(|spec| {
        let asked = &spec["resourceAttributes"];
        let on = format!(
            "{} {} {}",
            spec["user"].as_str().unwrap(),
            asked["verb"].as_str().unwrap(),
            asked["subresource"].as_str().unwrap()
        );
        let rules = [
            "reader get pods",
            "reader get proxy",
            "admin create proxy",
            "old get proxy",
        ];
        match &*on {
            "odd get stats" => of(json!({"allowed": true, "denied": true})),
            on => of(json!({"allowed": rules.contains(&on)})),
        }
    });
    let node = Node::start(Some(&ours), say, |set| set.authorization = Some(WEBHOOK)).await;
    let pair = |name: &str| ours.client(name, &[], |_| {});
    let (reader, admin, old, odd) = (pair("reader"), pair("admin"), pair("old"), pair("odd"));
    let tried = |node: &Node| {
        let reviews = node.reviews().into_iter();
        let tried = reviews.map(|spec| {
            spec["resourceAttributes"]["subresource"]
                .as_str()
                .unwrap()
                .to_owned()
        });
        tried.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(node.ask(Some(&reader), "GET /pods", "").await.0, 200);
    assert_eq!(tried(&node), "pods");
    assert_eq!(node.ask(Some(&old), "GET /pods", "").await.0, 200);
    assert_eq!(tried(&node), "pods proxy");
    let (status, body) = node.ask(Some(&admin), "GET /pods", "").await;
    let said = "Forbidden (user=admin, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_eq!((status, &*body), (403, said));
    tried(&node);
    assert_eq!(node.ask(Some(&odd), "GET /stats/summary", "").await.0, 403);
    assert_eq!(tried(&node), "stats", "both yes and no is no");

    // Who may read everything enters nothing.
    assert_eq!(
        node.ask(Some(&reader), "GET /containerLogs/a/b/c", "")
            .await
            .0,
        200
    );
    for root in ["exec", "attach", "run", "portForward"] {
        for method in ["GET", "POST"] {
            let line = format!("{method} /{root}/a/b/c");
            let (status, body) = node.ask(Some(&reader), &line, "").await;
            assert_eq!(status, 403, "{line}");
            assert!(body.contains("verb=create"), "{body}");
            assert_eq!(node.ask(Some(&admin), &line, "").await.0, 200, "{line}");
        }
    }

    let say: Say =
        Box::new(|spec| of(json!({"allowed": spec["resourceAttributes"]["verb"] == "get"})));
    let upstream = Node::start(Some(&ours), say, |set| {
        set.authorization = Some(WEBHOOK);
        set.exec_verb = ExecVerb::Method;
    })
    .await;
    assert_eq!(
        upstream.ask(Some(&reader), "GET /exec/a/b/c", "").await.0,
        200
    );
    assert_eq!(
        upstream.ask(Some(&reader), "POST /exec/a/b/c", "").await.0,
        403
    );
}
