//! Requests to the ports, counted as upstream counts them (`pkg/kubelet/server/metrics`).

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::metrics::kubelet;

/// First parts of paths that have a value of their own; all else is `other`.
const KNOWN: [&str; 20] = [
    "attach",
    "checkpoint",
    "configz",
    "containerLogs",
    "debug",
    "exec",
    "flagz",
    "healthz",
    "logs",
    "metrics",
    "metrics/cadvisor",
    "metrics/probes",
    "metrics/resource",
    "pods",
    "portForward",
    "run",
    "runningpods",
    "stats",
    "statusz",
    "pprof",
];
/// Methods that have a value of their own.
const METHODS: [Method; 8] = [
    Method::OPTIONS,
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::TRACE,
    Method::CONNECT,
];
const OTHER: &str = "other";

/// Which port was asked, as upstream calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerType {
    /// 10250.
    ReadWrite,
    /// 10255.
    ReadOnly,
}

impl ServerType {
    fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "readwrite",
            Self::ReadOnly => "readonly",
        }
    }
}

/// `routes`, with each request counted.
pub fn counted(routes: Router, server: ServerType) -> Router {
    routes.layer(middleware::from_fn(move |request: Request, next: Next| {
        count(server, request, next)
    }))
}

async fn count(server: ServerType, request: Request, next: Next) -> Response {
    let known = METHODS.iter().find(|known| *known == request.method());
    let path = path_of(request.uri().path());
    let labels = [
        if is_long(path) { "true" } else { "false" },
        known.map_or(OTHER, Method::as_str),
        path,
        server.as_str(),
    ];
    kubelet().http_requests.inc(&labels);
    let _open = Open::new(labels);
    let began = tokio::time::Instant::now();
    let response = next.run(request).await;
    kubelet().http_duration.observe(&labels, began.elapsed());
    response
}

/// A request that is being answered; the client may go before it is.
struct Open([&'static str; 4]);

impl Open {
    fn new(labels: [&'static str; 4]) -> Self {
        kubelet().http_inflight.inc(&labels);
        Self(labels)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        kubelet().http_inflight.dec(&self.0);
    }
}

/// What is counted of a path: its first part, and the second one below `metrics`.
fn path_of(path: &str) -> &'static str {
    let path = path.trim_start_matches('/');
    let mut parts = path.splitn(3, '/');
    let first = parts.next().unwrap_or_default();
    let root = match parts.next() {
        Some(second) if first == "metrics" => &path[..first.len() + 1 + second.len()],
        _ => first,
    };
    let known = KNOWN.iter().find(|known| **known == root);
    known.copied().unwrap_or(OTHER)
}

/// What upstream takes for long. (It looks for `portforward` too, which no path is.)
fn is_long(path: &str) -> bool {
    matches!(path, "exec" | "attach" | "debug")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn paths_are_few_whatever_is_asked() {
        for (path, expected) in [
            ("/pods", "pods"),
            ("/pods/", "pods"),
            ("/metrics", "metrics"),
            ("/metrics/cadvisor", "metrics/cadvisor"),
            ("/metrics/cadvisor/x", "metrics/cadvisor"),
            ("/metrics/x", OTHER),
            ("/stats/summary", "stats"),
            ("/exec/ns/pod/c", "exec"),
            ("/", OTHER),
            ("", OTHER),
            ("/zzz", OTHER),
        ] {
            assert_eq!(path_of(path), expected, "{path}");
        }
        assert!(is_long("exec"));
        assert!(!is_long("containerLogs"));
    }

    #[tokio::test]
    async fn a_request_is_counted_and_no_more_open_once_it_is_answered() {
        let labels = ["false", "GET", "configz", "readwrite"];
        let before = kubelet().http_requests.get(&labels);
        let open = move || async move { kubelet().http_inflight.get(&labels).to_string() };
        let routes = counted(
            Router::new().route("/configz", get(open)),
            ServerType::ReadWrite,
        );
        let request = Request::builder()
            .uri("/configz")
            .body(Body::empty())
            .unwrap();
        let answer = routes.oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), 16).await.unwrap();
        assert_eq!(&body[..], b"1", "while it was answered");
        assert_eq!(kubelet().http_inflight.get(&labels), 0);
        assert_eq!(kubelet().http_requests.get(&labels), before + 1);
        assert!(kubelet().http_duration.count(&labels) > 0);
    }
}
