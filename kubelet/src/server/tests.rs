use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::clock::Clock;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

struct Pods(Vec<Arc<Pod>>);

impl PodsView for Pods {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.0.clone()
    }

    fn status(&self, pod: &Pod) -> Option<PodStatus> {
        (pod.metadata.name.as_deref() == Some("a")).then(|| PodStatus {
            phase: Some("Running".to_owned()),
            ..PodStatus::default()
        })
    }
}

fn pod(name: &str) -> Arc<Pod> {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.status = Some(PodStatus {
        phase: Some("Pending".to_owned()),
        ..PodStatus::default()
    });
    Arc::new(pod)
}

fn checks() -> HealthChecks {
    HealthChecks::new(Heartbeat::new(Clock::system()), Duration::from_secs(60))
}

fn api(pods: Vec<Arc<Pod>>) -> NodeApi {
    NodeApi {
        checks: checks(),
        pods: Arc::new(Pods(pods)),
        reading: Router::new(),
        debugging: None,
    }
}

async fn start(routes: Router) -> SocketAddr {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(any, "tests", routes).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.run());
    address
}

/// Sends one request; the status line with the headers, and the body with its chunks joined.
async fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        unchunk(body)
    } else {
        body.to_owned()
    };
    (head.to_ascii_lowercase(), body)
}

fn unchunk(mut body: &str) -> String {
    let mut joined = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        joined.push_str(&rest[..size]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    joined
}

#[tokio::test]
async fn healthz_says_ok_to_every_method() {
    let address = start(healthz_routes(checks())).await;
    for path in [
        "/healthz",
        "/healthz/ping",
        "/healthz/log",
        "/healthz/syncloop",
    ] {
        for method in ["GET", "POST"] {
            let (head, body) = ask(address, method, path).await;
            assert!(
                head.starts_with("http/1.1 200 ok"),
                "{method} {path}: {head}"
            );
            assert_eq!(body, "ok", "{method} {path}");
        }
    }
    let (head, body) = ask(address, "HEAD", "/healthz").await;
    assert!(head.starts_with("http/1.1 200 ok"), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn healthz_tells_more_when_asked() {
    let address = start(healthz_routes(checks())).await;
    let (head, body) = ask(address, "GET", "/healthz?verbose").await;
    assert!(
        head.contains("content-type: text/plain; charset=utf-8"),
        "{head}"
    );
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert_eq!(
        body,
        "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n"
    );
    let (_, body) = ask(
        address,
        "GET",
        "/healthz?verbose=1&exclude=log&exclude=etcd",
    )
    .await;
    assert_eq!(
        body,
        "[+]ping ok\n[+]log excluded: ok\n[+]syncloop ok\nwarn: some health checks cannot be excluded: no matches for \"etcd\"\nhealthz check passed\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_stands_still_is_unhealthy() {
    let heart = Heartbeat::new(Clock::system());
    let checks = HealthChecks::new(heart.clone(), Duration::from_secs(200));
    tokio::time::advance(Duration::from_secs(1000)).await;
    assert_eq!(
        checks.all(),
        Ok(()),
        "before the first beat there is nothing to be late"
    );
    heart.beat();
    tokio::time::advance(Duration::from_secs(400)).await;
    assert_eq!(checks.all(), Ok(()));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(
        checks.all(),
        Err("syncloop: sync Loop took longer than expected".to_owned())
    );
    heart.beat();
    assert_eq!(checks.all(), Ok(()));

    let short = HealthChecks::new(heart.clone(), Duration::from_secs(1));
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(short.all(), Ok(()), "never sooner than after five minutes");
}

#[tokio::test]
async fn a_failing_check_is_named() {
    let (clock, _) = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
    let heart = Heartbeat::new(clock);
    heart.beat();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
    let address = start(healthz_routes(HealthChecks::new(
        heart,
        Duration::from_secs(60),
    )))
    .await;
    let (head, body) = ask(address, "GET", "/healthz").await;
    assert!(head.starts_with("http/1.1 500 "), "{head}");
    assert_eq!(
        body,
        "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n"
    );
    let (head, body) = ask(address, "GET", "/healthz/syncloop").await;
    assert!(head.starts_with("http/1.1 500 "), "{head}");
    assert_eq!(
        body,
        "internal server error: sync Loop took longer than expected\n"
    );
    assert_eq!(ask(address, "GET", "/healthz/ping").await.1, "ok");
    assert_eq!(
        ask(address, "GET", "/healthz?exclude=syncloop").await.1,
        "ok"
    );
}

#[tokio::test]
async fn the_read_only_port_lists_pods() {
    let address = start(read_only_routes(api(vec![pod("a"), pod("b")]))).await;
    let (head, body) = ask(address, "GET", "/pods").await;
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(
        body,
        concat!(
            r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#,
            r#"{"metadata":{"name":"a"},"status":{"phase":"Running"}},"#,
            r#"{"metadata":{"name":"b"},"status":{"phase":"Pending"}}]}"#,
            "\n"
        )
    );
    assert_eq!(ask(address, "GET", "/healthz").await.1, "ok");
    let (head, body) = ask(address, "POST", "/pods").await;
    assert!(head.starts_with("http/1.1 405 "), "{head}");
    assert_eq!(body, "405: Method Not Allowed");
}

#[tokio::test]
async fn no_pods_are_null_as_upstream_writes_them() {
    let address = start(read_only_routes(api(Vec::new()))).await;
    let (_, body) = ask(address, "GET", "/pods").await;
    assert_eq!(
        body,
        "{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":null}\n"
    );
}

#[tokio::test]
async fn other_paths_are_not_found() {
    let address = start(healthz_routes(checks())).await;
    for path in ["/", "/pods", "/healthz/nothing", "/metrics"] {
        let (head, body) = ask(address, "GET", path).await;
        assert!(head.starts_with("http/1.1 404 "), "{path}: {head}");
        assert_eq!(body, "404 page not found\n");
    }
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let address = start(healthz_routes(checks())).await;
    let error = Server::bind(address, "healthz", Router::new())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {address} for healthz; stop what listens there (another kubelet?), or choose another port"
        )
    );
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let address = start(healthz_routes(checks())).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        idle.push(stream);
    }
    let waiting = tokio::spawn(ask(address, "GET", "/healthz"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished(), "the 65th is not served yet");
    idle.pop();
    let answer = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert_eq!(answer.expect("a slot is free").unwrap().1, "ok");
}

/// The status and the body of the answer to GET `path` at a unix socket.
async fn ask_socket(socket: &Path, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok((head.lines().next().unwrap().to_owned(), body.to_owned()))
}

fn overview() -> OverviewInputs {
    OverviewInputs {
        node: "n1".to_owned(),
        clock: Clock::system(),
        checks: checks(),
        runtime: "/run/runtime.sock".into(),
        away: tokio::sync::watch::channel(Some("refused".into())).1,
        manifest_path: None,
        manifests: None,
        objects: static_pods::object::Objects::On,
        desired: tokio::sync::watch::channel(Arc::default()).1,
        kubeconfig: None,
        troubles: crate::join::Complaints::default().heard(),
        stale: tokio::sync::watch::channel(Arc::default()).1,
        board: crate::status::StatusBoard::new(),
        stuck: crate::workers::StuckPods::default(),
        admission: Arc::default(),
    }
}

#[tokio::test]
async fn the_overview_is_what_kubelet_status_reads() {
    use crate::status::StepAtWork;
    let inputs = overview();
    let writer = |uid: &str| {
        let uid = crate::pod::PodUid::parse(uid).unwrap();
        inputs.board.writer(&uid).unwrap()
    };
    let (at_it, just_begun) = (writer("a"), writer("b"));
    let step = |since: Duration| {
        Some(StepAtWork {
            what: "makes the sandbox".into(),
            since,
        })
    };
    at_it.at(step(Duration::ZERO));
    just_begun.at(step(Duration::from_secs(4)));
    let shown = inputs.at(Duration::from_secs(8));
    assert_eq!(shown.up_seconds, 8);
    assert_eq!(shown.runtime_away.as_deref(), Some("refused"));
    assert!(!shown.sources_read && shown.manifests.is_none());
    let steps: Vec<_> = shown
        .steps
        .iter()
        .map(|step| (step.uid.as_str(), step.seconds))
        .collect();
    assert_eq!(
        steps,
        [("a", 8)],
        "the other is at it for four seconds only"
    );
}

fn serve_at(socket: &Path) -> Result<SocketFile, SocketError> {
    let recorder = crate::events::recorder();
    let pods = Arc::new(Pods(vec![pod("a")]));
    let routes = socket_routes(pods, recorder, overview(), axum::Router::new());
    let (server, file) = Server::bind_socket(socket, routes)?;
    tokio::spawn(server.run());
    Ok(file)
}

#[tokio::test]
async fn the_socket_is_its_owners_replaces_a_stale_one_and_goes_with_its_agent() {
    let room = tempfile::tempdir().unwrap();
    // Longer than a socket's address may be.
    let deep = room.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let socket = deep.join("agent.sock");
    let first = serve_at(&socket).unwrap();
    let mode = std::fs::symlink_metadata(&socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);

    // As after a kill: the file stays, and the next agent takes its place.
    std::mem::forget(first);
    let second = serve_at(&socket).unwrap();
    let through = format!(
        "/proc/self/fd/{}",
        std::fs::File::open(&deep).unwrap().into_raw_fd()
    );
    let short = Path::new(&through).join("agent.sock");
    let (status, body) = ask_socket(&short, "/healthz").await.unwrap();
    assert_eq!((&*status, &*body), ("HTTP/1.0 200 OK", "ok"));
    let (_, body) = ask_socket(&short, "/pods").await.unwrap();
    assert!(body.contains("\"name\":\"a\""), "{body}");

    let third = serve_at(&socket).unwrap();
    drop(second);
    assert!(socket.exists(), "another agent's is left alone");
    drop(third);
    let left: Vec<_> = std::fs::read_dir(&deep).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    std::fs::write(&socket, "precious").unwrap();
    let error = serve_at(&socket).unwrap_err();
    assert!(
        error.to_string().contains("agent.sock is no socket"),
        "{error}"
    );
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
}

#[tokio::test]
async fn events_are_told_by_pod_and_namespace() {
    let room = tempfile::tempdir().unwrap();
    let socket = room.path().join("s");
    let _file = serve_at(&socket).unwrap();
    let mut told = Pod::default();
    told.metadata.name = Some("told-here-node".to_owned());
    told.metadata.namespace = Some("told".to_owned());
    told.spec = Some(k8s_openapi::api::core::v1::PodSpec {
        node_name: Some("node".to_owned()),
        ..k8s_openapi::api::core::v1::PodSpec::default()
    });
    crate::events::About::pod(&told).normal("One", "first");
    crate::events::About::pod(&told).warning("Two", "second");
    let list = async |query: &str| {
        let (status, body) = ask_socket(&socket, &format!("/events?{query}"))
            .await
            .unwrap();
        assert_eq!(status, "HTTP/1.0 200 OK", "{query}");
        let list: k8s_openapi::List<k8s_openapi::api::core::v1::Event> =
            serde_json::from_str(&body.replace("\"items\":null", "\"items\":[]")).unwrap();
        let reasons = list.items.into_iter().filter_map(|event| event.reason);
        reasons.collect::<Vec<_>>().join(" ")
    };
    // Either name does: that of the manifest, and the pod's own.
    for query in [
        "pod=told-here",
        "pod=told-here-node&namespace=told",
        "namespace=told",
    ] {
        assert_eq!(list(query).await, "One Two", "{query}");
    }
    for query in [
        "pod=told",
        "pod=told-here&namespace=default",
        "pod=here-node",
    ] {
        assert_eq!(list(query).await, "", "{query}");
    }
    let (status, body) = ask_socket(&socket, "/events?name=a").await.unwrap();
    assert_eq!(status, "HTTP/1.0 400 Bad Request");
    assert_eq!(
        body,
        "unknown parameter \"name\": there are namespace and pod\n"
    );
}

#[tokio::test]
async fn the_verbosity_of_the_log_is_put() {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tower::ServiceExt as _;

    let set = Arc::new(AtomicU32::new(0));
    let own = set.clone();
    let routes = debug::flags(Arc::new(move |verbosity| {
        own.store(verbosity, Ordering::Relaxed);
        verbosity < 10
    }));
    for (method, body, status, said) in [
        (
            "PUT",
            "4",
            200,
            "successfully set klog.logging.verbosity to 4",
        ),
        (
            "PUT",
            "99",
            400,
            "failed set klog.logging.verbosity 99: there is no log",
        ),
        (
            "PUT",
            "x",
            400,
            "failed set klog.logging.verbosity x: invalid digit found in string",
        ),
        ("GET", "", 406, "unsupported http method"),
    ] {
        let request = Request::builder().method(method).uri("/debug/flags/v");
        let request = request.body(Body::from(body)).unwrap();
        let response = routes.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{method} {body}");
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!(body, said);
    }
    assert_eq!(set.load(Ordering::Relaxed), 99);
    let request = Request::put("/debug/flags/v").body(Body::from("1".repeat(100)));
    let response = routes.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn what_is_not_there_is_told_in_the_words_of_its_subtree() {
    let address = start(node_api_routes(api(Vec::new()))).await;
    for (path, said) in [
        ("/pods/x", "404: Page Not Found"),
        ("/stats", "404: Page Not Found"),
        ("/podsx", "404 page not found\n"),
        ("/", "404 page not found\n"),
        ("/configz", "404 page not found\n"),
    ] {
        let (head, body) = ask(address, "GET", path).await;
        assert!(head.starts_with("http/1.1 404 "), "{path}: {head}");
        assert_eq!(body, said, "{path}");
    }
    let (head, body) = ask(address, "GET", "/exec/a/b/c").await;
    assert!(head.starts_with("http/1.1 405 "), "{head}");
    assert_eq!(body, "Debug endpoints are disabled.\n");
}
