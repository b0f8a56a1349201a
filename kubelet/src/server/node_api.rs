//! The routes of the node's API on 10250, and of its read-only part on 10255.
//!
//! Paths and answers are those of upstream's `pkg/kubelet/server/server.go`. Who may ask is decided before a path is
//! looked at (`auth/`): nothing here knows of users.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use super::pods::{self, PodsView};
use super::{HealthChecks, method_not_allowed, not_found, with_health};

/// What the node's API is made of. The routers of other rooms have no fallbacks of their own.
#[derive(Clone)]
pub struct NodeApi {
    /// The checks behind `/healthz`.
    pub checks: HealthChecks,
    /// The pods behind `/pods`.
    pub pods: Arc<dyn PodsView>,
    /// What both ports serve: stats and metrics.
    pub reading: Router,
    /// What the authenticated port serves besides, where `enableDebuggingHandlers` is not off: logs, exec, attach,
    /// port-forward.
    pub debugging: Router,
}

/// The routes of the authenticated port, before anybody is asked who he is.
pub fn node_api_routes(api: NodeApi) -> Router {
    finished(reading(api.checks, api.pods, api.reading).merge(api.debugging))
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
