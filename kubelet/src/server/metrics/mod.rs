//! `/metrics` and what lies below it, and `/stats/summary`: the same on both ports, as upstream.
//!
//! Names, labels, types and help texts are upstream's; what it tells in families that never say anything (always zero, or
//! of things that are not here) is left out. Text is made when it is asked for, a family at a time, and compressed where
//! the client takes gzip.

mod agent;
mod cadvisor;
mod process;
mod reply;
mod resource;

#[cfg(test)]
#[path = "../../../../tests/src/prometheus.rs"]
#[expect(
    unreachable_pub,
    reason = "one reader of the format, which is public in the crate of tests"
)]
mod prometheus;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

use super::text;
use crate::config::FeatureGates;
use crate::errors::error_chain;
use crate::metrics::{Exposition, kubelet};
use crate::stats::{Depth, Stats};

pub use cadvisor::MachineFacts;
pub(super) use process::started_at;

/// What the endpoints tell of.
pub struct MetricsApi {
    /// What is used on the node.
    pub stats: Arc<Stats>,
    /// The machine.
    pub machine: MachineFacts,
    /// The feature gates of this run.
    pub gates: FeatureGates,
    /// Whether the node is one of a cluster.
    pub joined: bool,
}

/// The routes. They have no fallbacks of their own.
pub fn routes(api: MetricsApi) -> Router {
    let api = Arc::new(api);
    // Upstream's handlers of metrics ask for no method.
    Router::new()
        .route("/metrics", any(of_agent))
        .route("/metrics/cadvisor", any(of_containers))
        .route("/metrics/resource", any(of_resources))
        .route("/metrics/probes", any(of_probes))
        .route("/metrics/slis", any(of_slis))
        .route("/stats", any(moved))
        .route("/stats/summary", get(summary).post(summary))
        .route("/stats/summary/", get(summary).post(summary))
        .with_state(api)
}

async fn of_agent(State(api): State<Arc<MetricsApi>>, headers: HeaderMap) -> Response {
    match agent::write(&api).await {
        Ok(text) => reply::metrics(&headers, text),
        Err(error) => failed(&error),
    }
}

async fn of_containers(State(api): State<Arc<MetricsApi>>, headers: HeaderMap) -> Response {
    let sandbox_image = api.stats.sandbox_image().await;
    match api.stats.read(Depth::Everything).await {
        Ok(readings) => {
            let families = cadvisor::families(api, readings, sandbox_image);
            reply::streamed(&headers, families)
        }
        Err(error) => failed(&error),
    }
}

async fn of_resources(State(api): State<Arc<MetricsApi>>, headers: HeaderMap) -> Response {
    match api.stats.read(Depth::Usage).await {
        Ok(readings) => reply::metrics(&headers, resource::write(&readings)),
        Err(error) => failed(&error),
    }
}

async fn of_probes(headers: HeaderMap) -> Response {
    let mut out = Exposition::new();
    kubelet().write_probes(&mut out);
    process::write_start(&mut out);
    reply::metrics(&headers, out.into_text())
}

async fn of_slis(headers: HeaderMap) -> Response {
    let mut out = Exposition::new();
    process::write_start(&mut out);
    reply::metrics(&headers, out.into_text())
}

/// `/stats/summary`; with `only_cpu_and_memory=true`, and no other value, the brief one.
async fn summary(State(api): State<Arc<MetricsApi>>, query: RawQuery) -> Response {
    let brief = only_cpu_and_memory(query.0.as_deref().unwrap_or_default());
    match api.stats.summary(brief).await {
        Ok(summary) => reply::json(&summary),
        Err(error) => failed(&error),
    }
}

fn only_cpu_and_memory(query: &str) -> bool {
    let value = query
        .split('&')
        .find_map(|pair| match pair.split_once('=') {
            Some(("only_cpu_and_memory", value)) => Some(value),
            _ => None,
        });
    value == Some("true")
}

/// Go's mux redirects to the path it has.
async fn moved() -> Response {
    let body = "<a href=\"/stats/\">Temporary Redirect</a>.\n\n";
    let mut response = (StatusCode::TEMPORARY_REDIRECT, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static("/stats/"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    response
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Response {
    let why = error_chain(error);
    tracing::error!("{why}");
    text(StatusCode::INTERNAL_SERVER_ERROR, why)
}
