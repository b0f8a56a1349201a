use std::net::{Ipv4Addr, SocketAddr};

use cri_proto::CriErrorKind;
use tokio::net::TcpListener;

use super::*;
use crate::server::runtime::fake::{Fake, ask, pods, request, serve};

async fn node(runtime: &Fake) -> SocketAddr {
    serve(routes(streaming(runtime, Duration::ZERO))).await
}

fn streaming(runtime: &Fake, idle: Duration) -> Streaming<Fake> {
    Streaming {
        pods: pods(),
        runtime: runtime.clone(),
        idle,
    }
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

#[tokio::test]
async fn what_cannot_be_streamed_is_refused_in_upstreams_words() {
    let runtime = Fake::at("http://127.0.0.1:1/secret");
    let node = node(&runtime).await;
    for (line, status, body) in [
        ("GET /exec/ns/gone/c?output=1", 404, "pod does not exist"),
        ("GET /exec/other/web/c?output=1", 404, "pod does not exist"),
        (
            "POST /exec/ns/web/c",
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            "POST /exec/ns/web/d?output=1",
            500,
            r#"container not found ("d")"#,
        ),
        (
            "GET /exec/ns/web/u1/c?output=1",
            500,
            "Upgrade request required\n",
        ),
        (
            "GET /attach/ns/web/d?output=1",
            500,
            "container d not found in pod web_ns",
        ),
        (
            "GET /attach/ns/web/u9/c?output=1",
            500,
            "pod web_ns not found",
        ),
        ("GET /portForward/ns/gone", 404, "pod does not exist"),
        ("GET /portForward/ns/web/u9", 404, "pod not found"),
        (
            "POST /portForward/ns/idle",
            500,
            r#"pod not found ("idle_ns")"#,
        ),
        (
            "POST /portForward/ns/web/u1",
            500,
            "Upgrade request required\n",
        ),
        ("POST /run/ns/gone/c?cmd=x", 404, "pod does not exist"),
        (
            "POST /run/ns/web/d?cmd=x",
            500,
            r#"container not found ("d")"#,
        ),
    ] {
        let (head, answer) = ask(node, line).await;
        assert!(
            head.starts_with(&format!("http/1.1 {status} ")),
            "{line}: {head}"
        );
        assert_eq!(answer, body, "{line}");
    }
    assert!(runtime.asked().is_empty(), "{:?}", runtime.asked());
    let (head, _) = ask(node, "GET /run/ns/web/c?cmd=x").await;
    assert!(head.starts_with("http/1.1 405 "), "{head}");
}

#[tokio::test]
async fn the_runtime_is_asked_for_what_the_client_wants() {
    // It listens, and says nothing of use: what it was asked is looked at.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let runtime = Fake::at(format!("http://{}/secret", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let node = node(&runtime).await;
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (line, headers) in [
        (
            "POST /exec/ns/web/c?command=sh&command=-c&command=a%20b&output=1&input=1&error=1",
            UPGRADE,
        ),
        (
            "GET /exec/ns/web/whatever/c?command=sh&tty=1&output=1&error=1",
            UPGRADE,
        ),
        // The container has a terminal.
        ("GET /attach/ns/web/c?input=1&output=1&error=1", UPGRADE),
        ("GET /portForward/ns/web", UPGRADE),
        ("GET /portForward/ns/web?port=80,81", websocket),
    ] {
        let (_, head) = request(node, line, headers).await;
        assert!(head.starts_with("http/1.1 500 "), "{line}: {head}");
    }
    let exec = |cmd: &[&str], tty, stdin, stderr| v1::ExecRequest {
        container_id: "id1".into(),
        cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
        tty,
        stdin,
        stdout: true,
        stderr,
    };
    let attach = v1::AttachRequest {
        container_id: "id1".into(),
        stdin: true,
        tty: true,
        stdout: true,
        stderr: false,
    };
    let forward = |port| v1::PortForwardRequest {
        pod_sandbox_id: "sandbox1".into(),
        port,
    };
    let expected = [
        format!("{:?}", exec(&["sh", "-c", "a b"], false, true, true)),
        format!("{:?}", exec(&["sh"], true, false, false)),
        format!("{attach:?}"),
        format!("{:?}", forward(vec![])),
        format!("{:?}", forward(vec![80, 81])),
    ];
    assert_eq!(runtime.asked(), expected);
}

#[tokio::test]
async fn the_runtimes_refusals_keep_their_code() {
    for (kind, status) in [
        (CriErrorKind::NotFound, 404),
        (CriErrorKind::ResourceExhausted, 429),
        (CriErrorKind::Unavailable, 500),
        (CriErrorKind::Other, 500),
    ] {
        let mut runtime = Fake::at("");
        let error = CriError::new("Exec", kind, "no such thing");
        runtime.error = Some(error.clone());
        let node = node(&runtime).await;
        let (mut stream, head) = request(
            node,
            "GET /exec/ns/web/c?output=1",
            "Connection: Upgrade, close\r\nUpgrade: SPDY/3.1\r\n",
        )
        .await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert_eq!(head.contains("retry-after: 60"), status == 429, "{head}");
        let mut body = vec![0; error.rpc_text().len()];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body)
            .await
            .unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), error.rpc_text());
    }
}

#[tokio::test]
async fn a_command_is_run_to_its_end() {
    let mut runtime = Fake::at("");
    runtime.output.stdout = b"out ".to_vec();
    runtime.output.stderr = b"err".to_vec();
    let node = node(&runtime).await;
    let (head, body) = ask(node, "POST /run/ns/web/c?cmd=ls%20-l%20%2F").await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(body, "out err");
    assert_eq!(runtime.asked(), [r#"id1 ["ls", "-l", "/"]"#]);

    runtime.output.exit_code = 3;
    let node = self::node(&runtime).await;
    let (head, body) = ask(node, "POST /run/ns/web/u1/c?cmd=ls").await;
    assert!(head.starts_with("http/1.1 500 "), "{head}");
    assert_eq!(body, "command 'ls' exited with 3: err");

    let quiet = Fake::at("");
    let (head, body) = ask(self::node(&quiet).await, "POST /run/ns/web/c?cmd=true").await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn streams_are_counted_and_given_back() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let runtime = Fake::at(format!("http://{}/secret", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                use tokio::io::AsyncWriteExt as _;
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    let node = serve(at_most(streaming(&runtime, Duration::ZERO), 1)).await;
    let line = "GET /exec/ns/web/c?output=1";
    let (first, head) = request(node, line, UPGRADE).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let (_, head) = request(node, line, UPGRADE).await;
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    drop(first);
    let again = async {
        loop {
            let (_, head) = request(node, line, UPGRADE).await;
            if head.starts_with("http/1.1 101 ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again)
        .await
        .unwrap();
}
