//! A server of a few lines, and what is made of its answers.

use std::sync::Arc;

use k8s_openapi::api::core::v1::HTTPHeader;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Answers each request by what `answer` says to its path, and notes the requests.
async fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let noted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut part = [0; 4096];
                match stream.read(&mut part).await {
                    Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
                    _ => break,
                }
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            noted.lock().await.push(request);
            // A client that has read enough hangs up.
            let _ = stream.write_all(answer(&path).as_bytes()).await;
        }
    });
    (port, requests)
}

fn status(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

fn action(port: u16, path: &str, headers: &[(&str, &str)]) -> HTTPGetAction {
    let header = |(name, value): &(&str, &str)| HTTPHeader {
        name: (*name).into(),
        value: (*value).into(),
    };
    HTTPGetAction {
        port: IntOrString::Int(port.into()),
        path: Some(path.into()),
        http_headers: Some(headers.iter().map(header).collect()),
        ..HTTPGetAction::default()
    }
}

async fn asked(action: &HTTPGetAction) -> Result<Answer, Unasked> {
    get(action, &Container::default(), "127.0.0.1", 5 * SECOND).await
}

#[tokio::test]
async fn the_status_decides() {
    let (port, _) = serve(|path| status(&format!("{} X", &path[1..]), "", "body")).await;
    for code in [200, 204, 299] {
        assert_eq!(
            asked(&action(port, &format!("/{code}"), &[])).await,
            Ok(Answer::Success)
        );
    }
    // A redirect that leads nowhere.
    let warning = "Probe terminated redirects, Response body: body".to_owned();
    for code in [300, 302, 399] {
        let answer = asked(&action(port, &format!("/{code}"), &[])).await;
        assert_eq!(answer, Ok(Answer::Warning(warning.clone())), "{code}");
    }
    for code in [400, 404, 500, 503, 599] {
        let text = format!("HTTP probe failed with statuscode: {code}");
        let answer = asked(&action(port, &format!("/{code}"), &[])).await;
        assert_eq!(answer, Ok(Answer::Failure(text)));
    }
}

#[tokio::test]
async fn headers_are_as_the_manifest_wants_them() {
    let (port, requests) = serve(|_| status("200 OK", "", "")).await;
    let default = format!(
        "GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    asked(&action(port, "/a?b", &[])).await.unwrap();
    assert_eq!(requests.lock().await.pop().unwrap(), default);

    let headers = [
        ("Host", "example.test"),
        ("user-agent", ""),
        ("Accept", ""),
        ("X-Twice", "1"),
        ("x-twice", "2"),
        ("X-Empty", ""),
    ];
    asked(&action(port, "/", &headers)).await.unwrap();
    let request = requests.lock().await.pop().unwrap();
    let mut lines: Vec<&str> = request.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "GET / HTTP/1.1",
            "Connection: close",
            "Host: example.test",
            "X-Empty: ",
            "X-Twice: 1",
            "X-Twice: 2"
        ]
    );

    let answer = asked(&action(port, "/", &[("X-Bad", "a\nb")])).await;
    let text = format!(
        "Get \"http://127.0.0.1:{port}/\": net/http: invalid header field value for \"X-Bad\""
    );
    assert_eq!(answer, Ok(Answer::Failure(text)));
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host() {
    let (port, requests) = serve(|path| match path {
        "/start" => status("302 Found", "Location: /next?x\r\n", ""),
        "/next?x" => status("307 Go", "Location: end\r\n", ""),
        "/end" => status("200 OK", "", ""),
        "/away" => status("301 Moved", "Location: http://example.test/\r\n", "moved"),
        "/bad" => status("302 Found", "Location: http://h:x/\r\n", ""),
        "/loop" => status("302 Found", "Location: /loop\r\n", ""),
        _ => status("404 Not Found", "", ""),
    })
    .await;
    let start = action(port, "/start", &[("Host", "example.test"), ("X", "y")]);
    assert_eq!(asked(&start).await, Ok(Answer::Success));
    let seen = std::mem::take(&mut *requests.lock().await);
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter()
            .all(|r| r.contains("\r\nHost: example.test\r\n") && r.contains("\r\nX: y\r\n"))
    );
    assert!(!seen[0].contains("Referer"));
    assert!(seen[1].contains(&format!("\r\nReferer: http://127.0.0.1:{port}/start\r\n")));

    let away = Answer::Warning("Probe terminated redirects, Response body: moved".into());
    assert_eq!(asked(&action(port, "/away", &[])).await, Ok(away));

    let failure = |text: &str| Ok(Answer::Failure(text.to_owned()));
    let text = format!(
        "Get \"http://127.0.0.1:{port}/bad\": failed to parse Location header \"http://h:x/\""
    );
    assert_eq!(asked(&action(port, "/bad", &[])).await, failure(&text));
    requests.lock().await.clear();
    let text = "Get \"/loop\": stopped after 10 redirects";
    assert_eq!(asked(&action(port, "/loop", &[])).await, failure(text));
    assert_eq!(requests.lock().await.len(), 10);
}

#[tokio::test]
async fn of_a_body_only_the_beginning_is_read() {
    let (port, _) = serve(|path| match path {
        "/long" => status("302 Found", "", &"x".repeat(1 << 20)),
        // It says more than it has.
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_owned(),
    })
    .await;
    let Ok(Answer::Warning(text)) = asked(&action(port, "/long", &[])).await else {
        panic!("no warning");
    };
    assert_eq!(
        text.len(),
        "Probe terminated redirects, Response body: ".len() + MAX_OUTPUT
    );
    let broken = asked(&action(port, "/short", &[])).await.unwrap_err();
    assert_eq!(
        (broken.state, broken.text.as_str()),
        ("failure", "unexpected EOF")
    );
}

#[tokio::test]
async fn a_connection_that_fails_reads_as_in_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        // One is hung up on at once, one is answered in no known tongue, one not at all.
        drop(listener.accept().await.unwrap());
        let (mut second, _) = listener.accept().await.unwrap();
        second.write_all(b"SSH-2.0-x\r\n\r\n").await.unwrap();
        let _third = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
    });
    let url = format!("Get \"http://127.0.0.1:{port}/\": ");
    let failed = async |why: &str| {
        let answer = get(
            &action(port, "/", &[]),
            &Container::default(),
            "127.0.0.1",
            SECOND,
        )
        .await;
        let Ok(Answer::Failure(text)) = answer else {
            panic!("{answer:?}");
        };
        assert!(text.starts_with(&format!("{url}{why}")), "{text}");
    };
    let hung_up = get(
        &action(port, "/", &[]),
        &Container::default(),
        "127.0.0.1",
        SECOND,
    )
    .await;
    let reset = format!("{url}read tcp 127.0.0.1:{port}: read: connection reset by peer");
    let ends = [Answer::Failure(format!("{url}EOF")), Answer::Failure(reset)];
    assert!(ends.contains(&hung_up.clone().unwrap()), "{hung_up:?}");
    failed("net/http: HTTP/1.x transport connection broken: malformed HTTP response").await;
    failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)").await;
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let answer = asked(&action(refused, "/x", &[])).await;
    let text = format!(
        "Get \"http://127.0.0.1:{refused}/x\": dial tcp 127.0.0.1:{refused}: connect: connection refused"
    );
    assert_eq!(answer, Ok(Answer::Failure(text)));
}

#[tokio::test]
async fn a_server_that_answers_before_it_reads_passes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = status("200 OK", "", "ready");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.unwrap();
    });
    assert_eq!(asked(&action(port, "/", &[])).await, Ok(Answer::Success));
}

#[tokio::test]
async fn https_to_a_plain_server_says_so() {
    let (port, _) = serve(|_| status("200 OK", "", "")).await;
    let action = HTTPGetAction {
        scheme: Some("HTTPS".into()),
        ..action(port, "/", &[])
    };
    // The server waits for the end of a request, and the client for the server: either the end of the time, or of words.
    let answer = get(&action, &Container::default(), "127.0.0.1", SECOND).await;
    let Ok(Answer::Failure(text)) = answer else {
        panic!("{answer:?}");
    };
    assert!(
        text.starts_with(&format!("Get \"https://127.0.0.1:{port}/\": ")),
        "{text}"
    );
}
