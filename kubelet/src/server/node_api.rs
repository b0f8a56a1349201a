//! The routes of the node's API on 10250, and of its read-only part on 10255.
//!
//! Paths and answers are those of upstream's `pkg/kubelet/server/server.go`. Who may ask is decided before a path is
//! looked at (`auth/`): nothing here knows of users.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};

use super::debug::{self, SetVerbosity};
use super::pods::{self, PodsView};
use super::{HealthChecks, method_not_allowed, system_logs, text, with_health, zpages};
use crate::clock::Clock;
use crate::config::FlagValues;

/// Where upstream has a handler for a whole subtree: what is not there is told in its words.
const SUBTREES: [&str; 10] = [
    "/checkpoint",
    "/pods",
    "/runningpods",
    "/stats",
    "/run",
    "/exec",
    "/attach",
    "/portForward",
    "/containerLogs",
    "/logs",
];

/// What the node's API is made of. The routers of other rooms have no fallbacks of their own.
#[derive(Clone)]
pub struct NodeApi {
    /// The checks behind `/healthz`.
    pub checks: HealthChecks,
    /// The pods behind `/pods`.
    pub pods: Arc<dyn PodsView>,
    /// What both ports serve: stats and metrics.
    pub reading: Router,
    /// What the authenticated port serves besides; none where `enableDebuggingHandlers` is off.
    pub debugging: Option<Debugging>,
}

/// What goes with `enableDebuggingHandlers`.
#[derive(Clone)]
pub struct Debugging {
    /// Logs of containers, exec, attach, port-forward, what runs.
    pub handlers: Router,
    /// Behind `/configz`.
    pub configz: Arc<str>,
    /// Behind `/logs`; none where `enableSystemLogHandler` is off.
    pub system_logs: Option<PathBuf>,
    /// Behind `/debug/flags/v`; none where `enableDebugFlagsHandler` is off.
    pub set_verbosity: Option<SetVerbosity>,
    /// Whether `enableProfilingHandler` is on.
    pub profiling: bool,
    /// Behind `/flagz` and `/statusz`.
    pub pages: Pages,
}

/// Pages about the process.
#[derive(Clone)]
pub struct Pages {
    /// Behind `/flagz`; none where its gate is off.
    pub flags: Option<FlagValues>,
    /// The time that `/statusz` goes by; none where its gate is off.
    pub status: Option<Clock>,
}

/// The routes of the authenticated port, before anybody is asked who he is.
pub fn node_api_routes(api: NodeApi) -> Router {
    let reading = reading(api.checks, api.pods, api.reading);
    finished(reading.merge(match api.debugging {
        Some(debugging) => debugging.routes(),
        None => debug::all_disabled(),
    }))
}

impl Debugging {
    fn routes(self) -> Router {
        let configz = self.configz;
        let shown = move || async move { json(&configz) };
        let logs = match self.system_logs {
            Some(root) => system_logs::routes(root),
            None => debug::disabled("/logs/", "logs endpoint is disabled.\n"),
        };
        let flags = match self.set_verbosity {
            Some(set) => debug::flags(set),
            None => debug::disabled("/debug/flags/v", "flags endpoint is disabled.\n"),
        };
        let routes = Router::new().route("/configz", any(shown));
        let routes = routes.merge(self.handlers).merge(logs).merge(flags);
        let routes = routes.merge(self.pages.routes());
        match self.profiling {
            true => routes,
            false => routes.merge(debug::disabled(
                "/debug/pprof/",
                "profiling endpoint is disabled.\n",
            )),
        }
    }
}

impl Pages {
    fn routes(self) -> Router {
        // First parts of the paths that upstream has listed by then, whichever of them are switched off.
        let mut paths = vec!["/configz", "/debug", "/healthz", "/metrics"];
        let mut routes = Router::new();
        if let Some(flags) = self.flags {
            paths.insert(2, "/flagz");
            routes = routes.merge(zpages::flagz(flags));
        }
        match self.status {
            Some(clock) => routes.merge(zpages::statusz(clock, paths)),
            None => routes,
        }
    }
}

fn json(document: &str) -> Response {
    let mut response = document.to_owned().into_response();
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// The routes of the read-only port: no authentication, nothing that changes anything.
pub fn read_only_routes(api: NodeApi) -> Router {
    finished(reading(api.checks, api.pods, api.reading))
}

/// What upstream serves on either port.
pub(super) fn reading(checks: HealthChecks, pods: Arc<dyn PodsView>, more: Router) -> Router {
    let list = move || pods::list(Arc::clone(&pods));
    with_health(checks)
        .route("/pods", get(list.clone()))
        .route("/pods/", get(list))
        .merge(more)
}

pub(super) fn finished(routes: Router) -> Router {
    routes
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
}

/// Go's mux and its handlers of subtrees have words of their own.
async fn not_found(uri: Uri) -> Response {
    let path = uri.path();
    let within = SUBTREES.iter().any(|root| {
        let rest = path.strip_prefix(root);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    match within {
        true => text(StatusCode::NOT_FOUND, "404: Page Not Found"),
        false => super::not_found().await,
    }
}
