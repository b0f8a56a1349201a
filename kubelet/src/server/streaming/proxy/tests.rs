use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::server::runtime::fake::{Fake, head, pods, request, serve};
use crate::server::streaming::{Streaming, routes};

const LIMIT: Duration = Duration::from_secs(20);
const LINE: &str = "POST /exec/ns/web/c?command=cat&input=1&output=1";
const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v5.channel.k8s.io\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\nAuthorization: Bearer secret\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";

/// The runtime's streaming server: answers each request with `answer`, and goes on with `then`.
async fn streaming_server<F: Future<Output = ()> + Send + 'static>(
    answer: &'static str,
    then: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = sender.send(head(&mut stream).await);
            stream.write_all(answer.as_bytes()).await.unwrap();
            tokio::spawn(then(stream));
        }
    });
    (address, heads)
}

async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn node(streaming_server: SocketAddr, idle: Duration) -> SocketAddr {
    let runtime = Fake::at(format!("http://{streaming_server}/exec/token"));
    serve(routes(Streaming {
        pods: pods(),
        runtime,
        idle,
    }))
    .await
}

async fn exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = stream.read_exact(&mut bytes);
    tokio::time::timeout(LIMIT, read).await.unwrap().unwrap();
    bytes
}

async fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    tokio::time::timeout(LIMIT, read).await.unwrap().unwrap();
    bytes
}

#[tokio::test]
async fn the_upgrade_and_its_bytes_go_through_as_they_are() {
    let (server, mut heads) = streaming_server(SWITCH, echo).await;
    let node = node(server, Duration::ZERO).await;
    for method in ["POST", "GET"] {
        let line = LINE.replace("POST", method);
        let (mut client, answer) = request(node, &line, SPDY).await;
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        for header in [
            "connection: upgrade\r\n",
            "upgrade: spdy/3.1\r\n",
            "x-stream-protocol-version: v4.channel.k8s.io\r\n",
        ] {
            assert!(answer.contains(header), "{header:?} is not in {answer}");
        }
        let sent = heads.recv().await.unwrap();
        let line = format!("{} /exec/token http/1.1\r\n", method.to_ascii_lowercase());
        assert!(sent.starts_with(&line), "{sent}");
        for version in ["v5", "v4"] {
            let header = format!("x-stream-protocol-version: {version}.channel.k8s.io\r\n");
            assert!(sent.contains(&header), "{sent}");
        }
        assert!(sent.contains("upgrade: spdy/3.1\r\n"), "{sent}");
        assert!(!sent.contains("authorization"), "{sent}");
        for text in ["a", "two\0\x01", "three"] {
            client.write_all(text.as_bytes()).await.unwrap();
            assert_eq!(exactly(&mut client, text.len()).await, text.as_bytes());
        }
    }
}

#[tokio::test]
async fn what_comes_with_the_head_is_not_lost() {
    // Both sides say something before they know that the other listens.
    const EARLY: &str =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly";
    let (server, _heads) = streaming_server(EARLY, echo).await;
    let node = node(server, Duration::ZERO).await;
    let mut client = TcpStream::connect(node).await.unwrap();
    let bytes = format!("{LINE} HTTP/1.1\r\nHost: node\r\n{SPDY}\r\nme too");
    client.write_all(bytes.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert_eq!(exactly(&mut client, 11).await, b"earlyme too");
}

#[tokio::test]
async fn a_megabyte_comes_back_whole() {
    let (server, _heads) = streaming_server(SWITCH, echo).await;
    let node = node(server, Duration::ZERO).await;
    let (client, _) = request(node, LINE, SPDY).await;
    let sent: Vec<u8> = (0..1_048_576_u32).map(|n| (n % 251) as u8).collect();
    let (mut from, mut to) = client.into_split();
    let mut back = vec![0; sent.len()];
    let both = async { tokio::try_join!(to.write_all(&sent), from.read_exact(&mut back)) };
    tokio::time::timeout(LIMIT, both).await.unwrap().unwrap();
    assert!(back == sent);
}

#[tokio::test]
async fn the_end_of_one_side_is_the_end_of_the_other() {
    // The runtime has the last word, with much to say and much unread.
    let (server, _heads) = streaming_server(SWITCH, |mut stream| async move {
        stream.write_all(&[7; 300_000]).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let serving = node(server, Duration::ZERO).await;
    let (mut client, _) = request(serving, LINE, SPDY).await;
    client.write_all(b"unread").await.unwrap();
    let heard = until_end(&mut client).await;
    assert_eq!(heard.len(), 300_000);

    // The client goes.
    let (sender, mut ended) = mpsc::unbounded_channel();
    let (server, _heads) = streaming_server(SWITCH, move |mut stream| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(until_end(&mut stream).await);
        }
    })
    .await;
    let serving = node(server, Duration::ZERO).await;
    let (mut client, _) = request(serving, LINE, SPDY).await;
    client.write_all(b"goodbye").await.unwrap();
    drop(client);
    let heard = tokio::time::timeout(LIMIT, ended.recv()).await.unwrap();
    assert_eq!(heard.unwrap(), b"goodbye");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_itself_alone() {
    let written = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    let (server, _heads) = streaming_server(SWITCH, move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            let mut word = [0; 4];
            if stream.read_exact(&mut word).await.is_err() || word != *b"pour" {
                return;
            }
            while stream.write_all(&[0; 65_536]).await.is_ok() {
                counted.fetch_add(65_536, Ordering::Relaxed);
            }
        }
    })
    .await;
    let node = node(server, Duration::ZERO).await;
    let (mut slow, _) = request(node, LINE, SPDY).await;
    slow.write_all(b"pour").await.unwrap();
    // Until it is full: all that is between the two holds no more.
    let full = async {
        let mut before = usize::MAX;
        while before != written.load(Ordering::Relaxed) {
            before = written.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        before
    };
    let held = tokio::time::timeout(LIMIT, full).await.unwrap();
    assert!(held < 24 << 20, "{held} bytes are between them");

    let (mut quick, _) = request(node, LINE, SPDY).await;
    quick.write_all(b"pour").await.unwrap();
    exactly(&mut quick, 64 << 20).await;
}

#[tokio::test]
async fn a_refusal_of_the_runtime_is_passed_on() {
    const REFUSED: &str =
        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nnever";
    let (server, _heads) = streaming_server(REFUSED, echo).await;
    let node = node(server, Duration::ZERO).await;
    let (mut client, answer) = request(node, LINE, SPDY).await;
    assert!(answer.starts_with("http/1.1 403 "), "{answer}");
    assert!(answer.contains("content-type: text/x\r\n"), "{answer}");
    assert_eq!(exactly(&mut client, 5).await, b"never");
}

#[tokio::test]
async fn what_is_no_upgrade_is_an_error_that_keeps_the_address() {
    const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const ELSEWHERE: &str = "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n";
    let body = async |node| {
        let (mut client, answer) = request(node, LINE, SPDY).await;
        assert!(answer.starts_with("http/1.1 500 "), "{answer}");
        assert!(!answer.contains("location"), "{answer}");
        let length = answer.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        String::from_utf8(exactly(&mut client, length).await).unwrap()
    };
    for (answer, code) in [(FINE, 200), (ELSEWHERE, 302)] {
        let (server, _heads) = streaming_server(answer, echo).await;
        let text = body(node(server, Duration::ZERO).await).await;
        assert_eq!(
            text,
            format!("invalid upgrade response: status code {code}\n")
        );
    }
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    let text = body(node(nobody, Duration::ZERO).await).await;
    assert_eq!(
        text,
        format!("dial tcp {nobody}: connect: connection refused\n")
    );
}

#[tokio::test]
async fn a_stream_over_which_nothing_goes_is_ended() {
    let (server, _heads) = streaming_server(SWITCH, echo).await;
    let node = node(server, Duration::from_millis(100)).await;
    let (mut client, answer) = request(node, LINE, SPDY).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert_eq!(until_end(&mut client).await, b"");
}

#[tokio::test(start_paused = true)]
async fn idleness_counts_from_what_was_carried_last() {
    const IDLE: Duration = Duration::from_secs(10);
    let heard = Heard::new();
    let idle = heard.nothing_for(IDLE);
    tokio::pin!(idle);
    for _ in 0..5 {
        let early = tokio::time::timeout(Duration::from_secs(9), &mut idle);
        early.await.unwrap_err();
        heard.now();
    }
    let began = Instant::now();
    idle.await;
    let took = began.elapsed();
    assert!(
        took >= IDLE && took < IDLE + Duration::from_millis(10),
        "{took:?}"
    );
    let never = Heard::new();
    tokio::time::timeout(IDLE * 1000, never.nothing_for(Duration::ZERO))
        .await
        .unwrap_err();
}
