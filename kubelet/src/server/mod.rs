//! What the agent serves over HTTP.
//!
//! Owns: the listeners of healthz (10248), of the read-only API (10255) and of the agent's own socket, and their routes.
//! Inputs: [`HealthChecks`], a [`PodsView`], a [`Recorder`]. Outputs: HTTP/1.1 responses. Each [`Server`] runs in the
//! task that calls [`Server::run`] and spawns one task a connection, which end with it.
//!
//! Deliberately not here: the authenticated API (10250), metrics, exec and logs; deciding what a pod's status is.

pub mod container_logs;
mod events;
mod health;
mod list;
mod listen;
mod pods;
mod query;
mod runtime;
mod socket;
pub mod streaming;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub use health::{HealthChecks, Heartbeat, Silence};
pub use listen::{BindError, Server};
pub use pods::PodsView;
pub use runtime::{ObservedRuntime, StreamRuntime};
pub use socket::{SocketError, SocketFile};

use crate::events::Recorder;

/// The routes of the healthz port.
pub fn healthz_routes(checks: HealthChecks) -> Router {
    with_health(checks).fallback(not_found)
}

/// The routes of the read-only port: no authentication, nothing that changes anything.
pub fn read_only_routes(checks: HealthChecks, pods: Arc<dyn PodsView>) -> Router {
    let list = move || pods::list(Arc::clone(&pods));
    with_health(checks)
        .route("/pods", get(list.clone()))
        .route("/pods/", get(list))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
}

/// The routes of the agent's own socket: those of the read-only port, and what has happened.
pub fn socket_routes(
    checks: HealthChecks,
    pods: Arc<dyn PodsView>,
    recorder: &'static Recorder,
) -> Router {
    let events = move |query: RawQuery| events::list(recorder, query);
    read_only_routes(checks, pods)
        .route("/events", get(events))
        .method_not_allowed_fallback(method_not_allowed)
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
