//! What a request is, to whoever authorizes it: a verb on subresources of the node.

use axum::http::Method;

use crate::config::ExecVerb;

/// Paths with a subresource of their own that is tried first, and `proxy` after it where that is so (KEP-2862; upstream's
/// `pkg/kubelet/server/auth.go`).
const FINE: [(&str, &[&str]); 10] = [
    ("/pods", &["pods", "proxy"]),
    ("/healthz", &["healthz", "proxy"]),
    ("/configz", &["configz", "proxy"]),
    ("/runningpods", &["pods", "proxy"]),
    ("/stats", &["stats"]),
    ("/metrics", &["metrics"]),
    ("/logs", &["log"]),
    ("/checkpoint", &["checkpoint"]),
    ("/statusz", &["statusz"]),
    ("/flagz", &["configz"]),
];
/// Of everything else.
const OTHER: &[&str] = &["proxy"];

/// Paths that have something run in a container, or reach into one.
const ENTERING: [&str; 4] = ["/exec", "/attach", "/run", "/portForward"];

/// The verb of a request; empty for a method that has none.
pub(super) fn verb(method: &Method, path: &str, exec: ExecVerb) -> &'static str {
    if exec == ExecVerb::Create && ENTERING.iter().any(|root| is_below(path, root)) {
        return "create";
    }
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The subresources of the node that a request is on; leave for one is enough.
pub(super) fn subresources(path: &str) -> &'static [&'static str] {
    let fine = FINE.iter().find(|(root, _)| is_below(path, root));
    fine.map_or(OTHER, |(_, subresources)| subresources)
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_as_upstream_has_them() {
        for (path, expected) in [
            ("/pods", "pods,proxy"),
            ("/pods/", "pods,proxy"),
            ("/podsx", "proxy"),
            ("/runningpods/", "pods,proxy"),
            ("/runningpods", "pods,proxy"),
            ("/healthz", "healthz,proxy"),
            ("/healthz/syncloop", "healthz,proxy"),
            ("/configz", "configz,proxy"),
            ("/flagz", "configz"),
            ("/statusz", "statusz"),
            ("/stats/summary", "stats"),
            ("/metrics", "metrics"),
            ("/metrics/cadvisor", "metrics"),
            ("/metricsx", "proxy"),
            ("/logs", "log"),
            ("/logs/syslog", "log"),
            ("/checkpoint/a/b/c", "checkpoint"),
            ("/containerLogs/a/b/c", "proxy"),
            ("/exec/a/b/c", "proxy"),
            ("/debug/pprof/heap", "proxy"),
            ("/", "proxy"),
            ("//pods", "proxy"),
            ("/stats/../exec/a/b/c", "stats"),
        ] {
            assert_eq!(subresources(path).join(","), expected, "{path}");
        }
    }

    #[test]
    fn what_enters_a_container_is_created_whatever_the_method() {
        for root in ENTERING {
            let path = format!("{root}/a/b/c");
            for method in [Method::GET, Method::POST, Method::HEAD, Method::PUT] {
                assert_eq!(verb(&method, &path, ExecVerb::Create), "create", "{path}");
            }
            assert_eq!(verb(&Method::GET, &path, ExecVerb::Method), "get");
            assert_eq!(verb(&Method::POST, &path, ExecVerb::Method), "create");
        }
        for (method, expected) in [
            (Method::GET, "get"),
            (Method::POST, "create"),
            (Method::PUT, "update"),
            (Method::PATCH, "patch"),
            (Method::DELETE, "delete"),
            (Method::HEAD, ""),
            (Method::OPTIONS, ""),
        ] {
            let logs = "/containerLogs/a/b/c";
            assert_eq!(verb(&method, logs, ExecVerb::Create), expected);
            assert_eq!(verb(&method, "/executed", ExecVerb::Create), expected);
        }
    }
}
