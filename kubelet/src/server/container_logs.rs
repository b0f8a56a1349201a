//! `/containerLogs/<namespace>/<pod>/<container>`: what a container has written, as `kubectl logs` asks for it.
//!
//! Which instance's log it is, and every error before the log is opened, is upstream's. From then on the answer is 200, and
//! what goes wrong stands at its end, as upstream's does. Reading is `logs/`'s; one task a request carries chunks from there
//! to the connection, one at a time, and ends when the client goes.

mod options;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use k8s_openapi::api::core::v1 as api;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use self::options::{BadQuery, LogQuery};
use super::pods::by_name;
use super::query::Query;
use super::{PodsView, StreamRuntime, plain};
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::logs::{LogReading, PodLogs, Streams};
use crate::pod::{self, PodUid};
use crate::runtime::ContainerId;

/// What answers are made of.
pub struct ContainerLogs<R> {
    /// The pods.
    pub pods: Arc<dyn PodsView>,
    /// The logs.
    pub logs: PodLogs,
    /// The runtime: it knows where a log is, and when a container ends.
    pub runtime: R,
    /// What `sinceSeconds` counts from.
    pub clock: Clock,
    /// The gate `PodLogsQuerySplitStreams`: one stream alone may be asked for.
    pub split_streams: bool,
    /// Whether `rotated=true` has rotated files read too. It is not upstream's: only the agent's own socket has it.
    pub rotated: bool,
}

/// The route.
pub fn routes<R: StreamRuntime>(logs: ContainerLogs<R>) -> Router {
    let path = "/containerLogs/{namespace}/{pod}/{container}";
    Router::new()
        .route(path, get(read::<R>))
        .with_state(Arc::new(logs))
}

async fn read<R: StreamRuntime>(
    State(logs): State<Arc<ContainerLogs<R>>>,
    Path([namespace, name, container]): Path<[String; 3]>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = Query::parse(query.as_deref());
    let query = match LogQuery::parse(&query, logs.clock.now().wall) {
        Ok(mut query) => {
            query.options.rotated &= logs.rotated;
            query
        }
        Err(BadQuery::Undecodable) => {
            let message = r#"{"message": "Unable to decode query."}"#;
            return plain(StatusCode::BAD_REQUEST, message);
        }
        Err(BadQuery::Invalid) => {
            let message = r#"{"message": "Invalid request."}"#;
            return plain(StatusCode::UNPROCESSABLE_ENTITY, message);
        }
    };
    let missing = |what: String| plain(StatusCode::NOT_FOUND, what);
    let pod = by_name(&*logs.pods, &namespace, &name);
    let known = pod.and_then(|pod| Some((PodUid::of(&pod).ok()?, pod)));
    let Some((uid, pod)) = known else {
        return missing(format!("pod \"{name}\" does not exist"));
    };
    if pod::container(&pod, &container).is_none() {
        let what = format!("container \"{container}\" not found in pod \"{name}\"");
        return missing(what);
    }
    let streams = query.options.streams;
    if streams != Streams::All && !logs.split_streams {
        let message = format!(
            "unable to return the given log stream: \"{streams:?}\". Please enable PodLogsQuerySplitStreams feature gate in kubelet"
        );
        return plain(StatusCode::BAD_REQUEST, message);
    }
    let status = logs.pods.status(&pod).or_else(|| pod.status.clone());
    let shown = match instance(
        &status.unwrap_or_default(),
        &name,
        &container,
        query.previous,
    ) {
        Ok(id) => id,
        Err(why) => return plain(StatusCode::BAD_REQUEST, why),
    };
    // The runtime's name for itself, and the id.
    let id = shown.split_once("://").map_or(&*shown, |(_, id)| id);
    match open(&logs, &uid, &ContainerId::from(id), &query, &shown).await {
        Ok(reading) => {
            let (sender, chunks) = mpsc::channel(1);
            tokio::spawn(send(reading, sender));
            Response::new(Body::from_stream(ReceiverStream::new(chunks)))
        }
        // Upstream has begun to answer by now, unless nothing goes to standard output.
        Err(why) => {
            let mut response = Response::new(Body::from(why));
            if streams == Streams::Stderr {
                *response.status_mut() = StatusCode::BAD_REQUEST;
            }
            response
        }
    }
}

async fn open<R: StreamRuntime>(
    logs: &ContainerLogs<R>,
    uid: &PodUid,
    id: &ContainerId,
    query: &LogQuery,
    shown: &str,
) -> Result<LogReading, String> {
    let path = logs.runtime.log_path(id).await.map_err(|error| {
        tracing::debug!(%error, container = %id, "the runtime does not tell of a container whose log is asked for");
        format!("unable to retrieve container logs for {shown}")
    })?;
    let ended = logs.runtime.ended(uid, id);
    let reading = logs.logs.read(path.as_ref(), query.options, ended).await;
    reading.map_err(|error| error_chain(&error))
}

/// Sends a log chunk by chunk for as long as somebody listens.
async fn send(mut reading: LogReading, to: mpsc::Sender<Result<Bytes, Infallible>>) {
    loop {
        // Nothing is read again after one of them was dropped: the client has gone.
        let next = tokio::select! {
            next = reading.next() => next,
            () = to.closed() => return,
        };
        let (chunk, last) = match next {
            Ok(Some(chunk)) => (chunk, false),
            Ok(None) => return,
            Err(error) => (error_chain(&error).into_bytes(), true),
        };
        if to.send(Ok(Bytes::from(chunk))).await.is_err() || last {
            return;
        }
    }
}

/// The instance, `<runtime>://<id>`, whose log shows what is asked for: the one that runs, else the last that did; with
/// `previous`, the one before.
fn instance(
    status: &api::PodStatus,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<String, String> {
    let kinds = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let mut statuses = kinds.into_iter().flatten().flatten();
    let status = statuses.find(|status| status.name == container);
    let Some(status) = status else {
        return Err(format!(
            "container \"{container}\" in pod \"{pod}\" is not available"
        ));
    };
    let of = |end: &api::ContainerStateTerminated| {
        let id = end.container_id.clone();
        id.filter(|id| !id.is_empty())
    };
    let last = status.last_state.as_ref();
    let last = last.and_then(|state| state.terminated.as_ref());
    let state = status.state.as_ref();
    let terminated = || format!("container \"{container}\" in pod \"{pod}\" is terminated");
    if previous {
        return last.and_then(of).ok_or_else(|| {
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        });
    }
    if state.is_some_and(|state| state.running.is_some()) {
        return Ok(status.container_id.clone().unwrap_or_default());
    }
    if let Some(end) = state.and_then(|state| state.terminated.as_ref()) {
        // One that never started shows the one before it.
        return of(end).or_else(|| of(last?)).ok_or_else(terminated);
    }
    if let Some(last) = last {
        return of(last).ok_or_else(terminated);
    }
    let waits = format!("container \"{container}\" in pod \"{pod}\" is waiting to start");
    let waiting = state.and_then(|state| state.waiting.as_ref());
    Err(match waiting.map(|waiting| waiting.reason.as_deref()) {
        Some(Some("ErrImagePull")) => format!("{waits}: image can't be pulled"),
        Some(Some("ImagePullBackOff")) => format!("{waits}: trying and failing to pull image"),
        Some(reason) => format!("{waits}: {}", reason.unwrap_or_default()),
        None => format!("{waits} - no logs yet"),
    })
}
