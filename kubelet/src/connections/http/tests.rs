//! Servers of a few lines, and what is heard of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::connections::{Dialer, Manner};

const MANNER: Manner = Manner {
    user_agent: "me/1",
    gzip: true,
    close: false,
    dialer: Dialer {
        linger: None,
        patience: None,
    },
};
const LIMIT: usize = 10 << 10;
const TEAPOT: &str = "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nhm";

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
    // A client that has read enough hangs up.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn to(address: SocketAddr, scheme: &str) -> HttpRequest {
    let action = HTTPGetAction {
        scheme: Some(scheme.into()),
        path: Some("/hook".into()),
        port: IntOrString::Int(address.port().into()),
        ..HTTPGetAction::default()
    };
    HttpRequest::new(&action, &Container::default(), "127.0.0.1", &MANNER).unwrap()
}

async fn asked(request: &HttpRequest) -> Result<HttpAnswer, HttpError> {
    get(request, Some(Instant::now() + Duration::from_secs(5))).await
}

async fn refused(request: &HttpRequest) -> HttpError {
    match asked(request).await {
        Ok(answer) => panic!("answered with {}", answer.status()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn an_answer_has_a_status_and_a_body() {
    let (address, mut requests) = server(None, vec![TEAPOT.to_owned()]).await;
    let answer = asked(&to(address, "HTTP")).await.unwrap();
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.body(LIMIT).await.unwrap(), b"hm");
    let request = requests.recv().await.unwrap();
    let expected = format!(
        "GET /hook HTTP/1.1\r\nHost: {address}\r\nUser-Agent: me/1\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"
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
    let answer = asked(&to(address, "HTTP")).await.unwrap();
    assert_eq!(answer.body(LIMIT).await.unwrap(), b"hm");
    assert!(heard.await.unwrap() > 0);
}

#[tokio::test]
async fn nobody_listening_is_an_error_in_gos_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(
        refused(&to(address, "HTTP")).await.to_string(),
        format!("Get \"http://{address}/hook\": dial tcp {address}: connect: connection refused")
    );
}

#[tokio::test]
async fn redirects_are_followed_and_not_for_ever() {
    let away = "HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n".to_owned();
    let (address, mut requests) = server(None, vec![away.clone(), TEAPOT.to_owned()]).await;
    assert_eq!(asked(&to(address, "HTTP")).await.unwrap().status(), 418);
    requests.recv().await.unwrap();
    let second = requests.recv().await.unwrap();
    assert!(second.starts_with("GET /next HTTP/1.1\r\n"), "{second}");
    let (address, _requests) = server(None, vec![away; 20]).await;
    assert_eq!(
        refused(&to(address, "HTTP")).await.to_string(),
        "Get \"/next\": stopped after 10 redirects"
    );
}

#[tokio::test]
async fn an_answer_that_leads_to_another_host_is_the_last() {
    let away =
        "HTTP/1.1 307 Go\r\nLocation: http://127.0.0.2/\r\nContent-Length: 0\r\n\r\n".to_owned();
    let (address, _requests) = server(None, vec![away]).await;
    assert_eq!(asked(&to(address, "HTTP")).await.unwrap().status(), 307);
}

#[tokio::test]
async fn a_deadline_names_whom_it_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent
        .local_addr()
        .map(|address| (silent, address))
        .unwrap();
    let away = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{}/slow\r\nContent-Length: 0\r\n\r\n",
        silent.1
    );
    let (address, _requests) = server(None, vec![away]).await;
    let deadline = Instant::now() + Duration::from_millis(300);
    let late = get(&to(address, "HTTP"), Some(deadline)).await.err();
    assert_eq!(
        late.map(|error| error.to_string()),
        Some(format!(
            "Get \"http://{}/slow\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            silent.1
        ))
    );
}

fn acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from(include_bytes!("certificate.der").as_slice());
    let key = PrivateKeyDer::try_from(include_bytes!("key.der").as_slice()).unwrap();
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
    let answer = asked(&to(address, "HTTPS")).await.unwrap();
    assert_eq!(answer.body(LIMIT).await.unwrap(), b"hm");
    assert!(requests.recv().await.unwrap().starts_with("GET /hook"));
}

#[tokio::test]
async fn a_plain_server_asked_over_tls_is_recognised() {
    let refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_owned();
    let (address, _requests) =
        server(None, vec![refusal, "nonsense, and more of it".to_owned()]).await;
    let error = refused(&to(address, "HTTPS")).await;
    assert!(error.is_plain_http_answer(), "{error}");
    let url = format!("Get \"https://{address}/hook\": ");
    assert_eq!(
        error.to_string(),
        format!("{url}http: server gave HTTP response to HTTPS client")
    );
    let error = refused(&to(address, "HTTPS")).await;
    assert!(!error.is_plain_http_answer(), "{error}");
    assert_eq!(
        error.to_string(),
        format!("{url}tls: first record does not look like a TLS handshake")
    );
}

#[tokio::test]
async fn a_large_or_endless_body_is_not_read_to_its_end() {
    let chunk = "400\r\n".to_owned() + &"x".repeat(0x400) + "\r\n";
    let endless = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        chunk.repeat(40)
    );
    let large = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(100)
    );
    let (address, _requests) = server(None, vec![endless, large]).await;
    let answer = asked(&to(address, "HTTP")).await.unwrap();
    assert!(!answer.says_more_than(LIMIT), "it does not say");
    assert_eq!(answer.body(LIMIT).await.unwrap().len(), LIMIT);
    let answer = asked(&to(address, "HTTP")).await.unwrap();
    assert!(answer.says_more_than(LIMIT));
    assert_eq!(
        answer.body(LIMIT).await.unwrap_err().to_string(),
        "unexpected EOF"
    );
}
