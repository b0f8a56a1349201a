//! What the agent serves over HTTP.
//!
//! Owns: the listeners of healthz (10248), of the node's API (10250, over TLS), of its read-only part (10255) and of the
//! agent's own socket, and their routes; who may use the node's API ([`auth`]).
//! Inputs: [`HealthChecks`], a [`PodsView`], a [`Recorder`], routers of other rooms ([`NodeApi`]), files of certificates.
//! Outputs: HTTP/1.1 responses. Each [`Server`] runs in the task that calls [`Server::run`] and spawns one task a
//! connection, which end with it.
//!
//! Deliberately not here: deciding what a pod's status is.

pub mod auth;
pub mod checkpoint;
pub mod container_logs;
mod counted;
mod debug;
mod events;
mod health;
mod list;
mod listen;
pub mod metrics;
mod node_api;
pub(crate) mod overview;
mod pods;
mod query;
mod running_pods;
mod runtime;
mod self_signed;
mod socket;
pub mod streaming;
mod system_logs;
mod tls;
mod watching;
mod zpages;

#[cfg(test)]
mod socket_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub use counted::{ServerType, counted};
pub use debug::SetVerbosity;
pub use health::{HealthChecks, Heartbeat, Silence};
pub use listen::{BindError, Server};
pub use node_api::{Debugging, NodeApi, Pages, node_api_routes, read_only_routes};
pub use overview::OverviewInputs;
pub use pods::PodsView;
pub use running_pods::routes as running_pods_routes;
pub use runtime::{ObservedRuntime, StreamRuntime};
pub use self_signed::{SelfSignedError, self_signed};
pub(crate) use socket::bind_socket;
pub use socket::{SocketError, SocketFile};
pub use tls::{CertificateSource, ServingTls, ServingTlsError, TlsOptions};

use crate::events::Recorder;

/// The routes of the healthz port.
pub fn healthz_routes(checks: HealthChecks) -> Router {
    with_health(checks).fallback(not_found)
}

/// The routes of the agent's own socket: those of the read-only port, what has happened, how the agent is, and changes as
/// they come.
pub fn socket_routes(
    pods: Arc<dyn PodsView>,
    recorder: &'static Recorder,
    overview: OverviewInputs,
    more: Router,
) -> Router {
    let events = move |query: RawQuery| events::list(recorder, query);
    let board = overview.board.clone();
    let watch_events = move |query: RawQuery| watching::events(recorder, query);
    let routes = node_api::reading(overview.checks.clone(), pods, more);
    let routes = routes
        .route("/events", get(events))
        .route("/watch/events", get(watch_events))
        .route("/watch/pods", get(move || watching::pods(board.clone())))
        .route("/status", get(move || overview::show(overview.clone())));
    node_api::finished(routes)
}

/// Health is answered to every method, as Go's mux does for a handler without one.
fn with_health(checks: HealthChecks) -> Router {
    let checks = Arc::new(checks);
    let mut router = Router::new().route("/healthz", axum::routing::any(health::root));
    for name in HealthChecks::NAMES {
        router = router.route(
            &format!("/healthz/{name}"),
            axum::routing::any(move |state| health::single(name, state)),
        );
    }
    router.with_state(checks)
}

/// A plain text answer with the headers of Go's `http.Error`.
fn text(status: StatusCode, body: impl Into<String>) -> Response {
    let mut response = (status, body.into()).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A plain text answer as upstream's handlers give it, without the headers of [`text`].
fn plain(status: StatusCode, body: impl Into<String>) -> Response {
    let mut response = (status, body.into()).into_response();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

async fn method_not_allowed() -> Response {
    text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")
}
