use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

fn container() -> Container {
    Container {
        name: "main".into(),
        ports: Some(vec![ContainerPort {
            name: Some("web".into()),
            container_port: 8080,
            ..ContainerPort::default()
        }]),
        ..Container::default()
    }
}

fn action(path: &str) -> HTTPGetAction {
    HTTPGetAction {
        path: Some(path.into()),
        port: IntOrString::String("web".into()),
        ..HTTPGetAction::default()
    }
}

fn request(action: &HTTPGetAction) -> HttpRequest {
    HttpRequest::new(action, &container(), "10.0.0.1").unwrap()
}

#[test]
fn ports_go_by_name_or_number() {
    let port = |port: IntOrString| {
        let action = HTTPGetAction {
            port,
            ..HTTPGetAction::default()
        };
        HttpRequest::new(&action, &container(), "h")
            .map(|request| request.port)
            .map_err(|error| error.to_string())
    };
    let text = |text: &str| IntOrString::String(text.into());
    assert_eq!(port(text("web")), Ok(8080));
    assert_eq!(port(text("81")), Ok(81));
    assert_eq!(port(IntOrString::Int(65_535)), Ok(65_535));
    for (bad, expected) in [
        (IntOrString::Int(0), "invalid port number: 0"),
        (IntOrString::Int(65_536), "invalid port number: 65536"),
        (text("-1"), "invalid port number: -1"),
        (
            text("none"),
            "strconv.Atoi: parsing \"none\": invalid syntax",
        ),
    ] {
        assert_eq!(port(bad), Err(expected.to_owned()));
    }
}

#[test]
fn paths_become_targets() {
    for (path, target) in [
        ("", "/"),
        ("/", "/"),
        ("healthz", "/healthz"),
        ("/a b", "/a%20b"),
        ("/a%20b", "/a%20b"),
        ("/100%", "/100%25"),
        ("/q?a=b&c=d%20e f", "/q?a=b&c=d%20e%20f"),
        ("/x#there", "/x"),
        ("/é", "/%C3%A9"),
        ("/a\r\nHost: b", "/a%0D%0AHost:%20b"),
    ] {
        assert_eq!(request(&action(path)).target, target, "{path:?}");
    }
}

#[test]
fn hosts_are_bracketed_where_they_have_to_be() {
    let six = HttpRequest::new(&action("/x"), &container(), "fd00::1").unwrap();
    assert_eq!(six.url(), "http://[fd00::1]:8080/x");
    let tls = HTTPGetAction {
        scheme: Some("HTTPS".into()),
        ..action("/x")
    };
    assert_eq!(request(&tls).url(), "https://10.0.0.1:8080/x");
}

#[test]
fn headers_have_defaults_and_may_be_taken_away() {
    let with = |headers: &[(&str, &str)]| {
        let http_headers = headers.iter().map(|(name, value)| HTTPHeader {
            name: (*name).into(),
            value: (*value).into(),
        });
        let action = HTTPGetAction {
            http_headers: Some(http_headers.collect()),
            ..action("/")
        };
        let headers = request(&action).headers.into_iter();
        headers
            .map(|(name, value)| format!("{name}: {value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        with(&[]),
        [
            "Host: 10.0.0.1:8080",
            "User-Agent: kube-lifecycle/1.36",
            "Accept: */*",
            "Accept-Encoding: gzip"
        ]
    );
    assert_eq!(
        with(&[("x", "1"), ("X", "2"), ("accept", ""), ("User-Agent", "")]),
        [
            "Host: 10.0.0.1:8080",
            "x: 1",
            "X: 2",
            "Accept-Encoding: gzip"
        ]
    );
    let own = with(&[
        ("host", "example.test"),
        ("User-Agent", "me"),
        ("Accept", "a"),
    ]);
    assert_eq!(
        own,
        [
            "Host: example.test",
            "User-Agent: me",
            "Accept: a",
            "Accept-Encoding: gzip"
        ]
    );
}

#[test]
fn redirects_stay_on_their_host() {
    let base = request(&action("/dir/page?q=1"));
    let to = |location: &str| base.redirected(location).map(|next| next.url());
    let url = |text: &str| Some(text.to_owned());
    assert_eq!(to("/other?x"), url("http://10.0.0.1:8080/other?x"));
    assert_eq!(to("next"), url("http://10.0.0.1:8080/dir/next"));
    assert_eq!(to("?q=2"), url("http://10.0.0.1:8080/dir/page?q=2"));
    assert_eq!(to("https://10.0.0.1/x#y"), url("https://10.0.0.1:443/x"));
    assert_eq!(to("//10.0.0.1:9/x"), url("http://10.0.0.1:9/x"));
    assert_eq!(to("http://10.0.0.2:8080/x"), None);
    assert_eq!(to("http://10.0.0.1:nonsense/x"), None);
}

#[test]
fn plain_http_carries_no_authorization() {
    let action = HTTPGetAction {
        scheme: Some("HTTPS".into()),
        http_headers: Some(vec![HTTPHeader {
            name: "authorization".into(),
            value: "secret".into(),
        }]),
        ..action("/")
    };
    let plain = request(&action).over_plain_http();
    assert!(!plain.tls && !plain.headers.iter().any(|(_, value)| value == "secret"));
}

#[test]
fn text_is_quoted_as_go_does() {
    let text = "no\n\"x\" \\ \t\r\u{1}\u{7f} é";
    assert_eq!(quoted(text), r#""no\n\"x\" \\ \t\r\x01\x7f é""#);
}

#[test]
fn messages_are_upstreams() {
    let what = "Exec lifecycle hook ([a b]) for Container \"c\" in Pod \"p_ns(u)\"".to_owned();
    let error = HookError {
        what,
        cause: HookFailure::ExitCode {
            command: "a b".into(),
            code: 9,
            stderr: "oh".into(),
            output: "no\noh".into(),
        },
    };
    assert_eq!(
        error.to_string(),
        "Exec lifecycle hook ([a b]) for Container \"c\" in Pod \"p_ns(u)\" failed - error: command 'a b' exited with 9: oh, \
         message: \"no\\noh\""
    );
}

/// Answers each connection with the next of `answers`; what was asked comes through the channel.
async fn server(
    tls: Option<TlsAcceptor>,
    answers: Vec<String>,
) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.unwrap();
            match &tls {
                None => serve(stream, &answer, &asked).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &answer, &asked).await,
                    Err(_) => continue,
                },
            }
        }
    });
    (address, requests)
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
    asked: &mpsc::UnboundedSender<String>,
) {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&request[..length]).into_owned();
    let _ = asked.send(text);
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn to(address: SocketAddr, tls: bool) -> HttpRequest {
    let scheme = if tls { "HTTPS" } else { "HTTP" };
    let action = HTTPGetAction {
        scheme: Some(scheme.into()),
        path: Some("/hook".into()),
        port: IntOrString::Int(address.port().into()),
        ..HTTPGetAction::default()
    };
    HttpRequest::new(&action, &container(), "127.0.0.1").unwrap()
}

const TEAPOT: &str = "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nhm";

#[tokio::test]
async fn any_answer_will_do() {
    let (address, mut requests) = server(None, vec![TEAPOT.to_owned()]).await;
    HttpClient::default()
        .get(&to(address, false))
        .await
        .unwrap();
    let request = requests.recv().await.unwrap();
    let expected = format!(
        "GET /hook HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-lifecycle/1.36\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"
    );
    assert_eq!(request, expected);
}

#[tokio::test]
async fn a_server_may_answer_before_it_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (said, heard) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(TEAPOT.as_bytes()).await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        said.send(length).unwrap();
    });
    HttpClient::default()
        .get(&to(address, false))
        .await
        .unwrap();
    assert!(heard.await.unwrap() > 0);
}

#[tokio::test]
async fn nobody_listening_is_an_error_in_gos_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = HttpClient::default()
        .get(&to(address, false))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Get \"http://{address}/hook\": dial tcp {address}: connect: connection refused")
    );
}

#[tokio::test]
async fn redirects_are_followed_and_not_for_ever() {
    let away = "HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n".to_owned();
    let (address, mut requests) = server(None, vec![away.clone(), TEAPOT.to_owned()]).await;
    HttpClient::default()
        .get(&to(address, false))
        .await
        .unwrap();
    requests.recv().await.unwrap();
    assert!(
        requests
            .recv()
            .await
            .unwrap()
            .starts_with("GET /next HTTP/1.1\r\n")
    );
    let (address, _requests) = server(None, vec![away; 20]).await;
    let error = HttpClient::default()
        .get(&to(address, false))
        .await
        .unwrap_err();
    assert!(
        error.to_string().ends_with("stopped after 10 redirects"),
        "{error}"
    );
}

fn acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from(include_bytes!("tests/certificate.der").as_slice());
    let key = PrivateKeyDer::try_from(include_bytes!("tests/key.der").as_slice()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config).into()
}

#[tokio::test]
async fn certificates_are_not_looked_at() {
    let (address, mut requests) = server(Some(acceptor()), vec![TEAPOT.to_owned()]).await;
    HttpClient::default().get(&to(address, true)).await.unwrap();
    assert!(requests.recv().await.unwrap().starts_with("GET /hook"));
}

#[tokio::test]
async fn a_plain_server_asked_over_tls_is_recognised() {
    let refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_owned();
    let (address, _requests) =
        server(None, vec![refusal, "nonsense, and more of it".to_owned()]).await;
    let client = HttpClient::default();
    let error = client.get(&to(address, true)).await.unwrap_err();
    assert!(error.is_plain_http_answer(), "{error}");
    let expected = "http: server gave HTTP response to HTTPS client";
    assert!(error.to_string().ends_with(expected), "{error}");
    let error = client.get(&to(address, true)).await.unwrap_err();
    assert!(!error.is_plain_http_answer(), "{error}");
}

#[tokio::test]
async fn a_large_or_endless_answer_is_not_read_to_its_end() {
    let endless = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        "400\r\n".to_owned() + &"x".repeat(0x400) + "\r\n"
    );
    let many = format!(
        "{endless}{}",
        ("400\r\n".to_owned() + &"x".repeat(0x400) + "\r\n").repeat(40)
    );
    let large = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(100)
    );
    let (address, _requests) = server(None, vec![many, large]).await;
    let client = HttpClient::default();
    client.get(&to(address, false)).await.unwrap();
    client.get(&to(address, false)).await.unwrap();
}
