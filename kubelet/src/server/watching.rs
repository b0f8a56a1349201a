//! `/watch/pods` and `/watch/events` of the agent's own socket: what there is, and from then on each change as it comes.
//!
//! The answer is a line of JSON a change, `{"type": …, "object": …}` with the API server's types: `ADDED`, `MODIFIED`,
//! `DELETED`; `BOOKMARK` once, when what was there at the beginning has been told; `ERROR` where something had to be left
//! out. One task a client makes a line when the one before has been taken, and ends when the client goes: who reads slowly
//! is told of a pod's latest state and of none between, and holds up nobody. Events wait in an outbox of its own, which is
//! bounded as the recorder is.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::events::Wanted;
use super::{pods, text};
use crate::events::{Event, Recorder};
use crate::pod::PodUid;
use crate::status::{PodStatus, PodView, RUNTIME, StatusBoard, serialise};

/// What a line says of its object.
const ADDED: &str = "ADDED";
const MODIFIED: &str = "MODIFIED";
const DELETED: &str = "DELETED";
/// All that was there at the beginning has been told, in the words of the Kubernetes API (KEP 3157).
const BEGUN: &[u8] =
    br#"{"type":"BOOKMARK","object":{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"}}}}
"#;

/// The pods, and what becomes of them.
pub(super) async fn pods(board: StatusBoard) -> Response {
    let (lines, response) = answer();
    tokio::spawn(async move {
        // Its end is the client's.
        let _ = tell_pods(&board, &lines).await;
    });
    response
}

/// The events kept, and those to come; with the parameters of `/events`.
pub(super) async fn events(recorder: &'static Recorder, RawQuery(query): RawQuery) -> Response {
    let wanted = match Wanted::parse(query.as_deref().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let (lines, response) = answer();
    tokio::spawn(async move {
        let _ = tell_events(recorder, &wanted, &lines).await;
    });
    response
}

fn answer() -> (Lines, Response) {
    let (sender, chunks) = mpsc::channel(1);
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(chunks)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    (Lines(sender), response)
}

/// To one client, a line at a time.
struct Lines(mpsc::Sender<Result<Bytes, Infallible>>);

/// The client has gone.
struct Gone;

impl Lines {
    /// Waits until there is room, and has `object` written then.
    async fn tell(
        &self,
        kind: &str,
        object: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> Result<(), Gone> {
        let Ok(room) = self.0.reserve().await else {
            return Err(Gone);
        };
        let mut line = format!(r#"{{"type":"{kind}","object":"#).into_bytes();
        match object() {
            Ok(object) => line.extend(object),
            Err(error) => {
                tracing::debug!(%error, "an object cannot be written");
                return Ok(());
            }
        }
        line.extend_from_slice(b"}\n");
        room.send(Ok(line.into()));
        Ok(())
    }

    async fn begun(&self) -> Result<(), Gone> {
        let line = Bytes::from_static(BEGUN);
        self.0.send(Ok(line)).await.map_err(|_| Gone)
    }
}

/// What was told of a pod last.
struct Told {
    pod: Arc<Pod>,
    status: Arc<PodStatus>,
}

impl Told {
    fn of(view: &PodView) -> Self {
        Self {
            pod: view.pod.clone(),
            status: view.status.clone(),
        }
    }

    fn is(&self, view: &PodView) -> bool {
        Arc::ptr_eq(&self.pod, &view.pod) && Arc::ptr_eq(&self.status, &view.status)
    }

    fn write(&self) -> io::Result<Vec<u8>> {
        let status = serialise(&self.pod, &self.status, RUNTIME);
        pods::item(&self.pod, Some(&status))
    }
}

async fn tell_pods(board: &StatusBoard, lines: &Lines) -> Result<(), Gone> {
    let mut changes = board.changes();
    let mut told: BTreeMap<PodUid, Told> = BTreeMap::new();
    let mut begun = false;
    loop {
        // Before the board is looked at: no change is missed.
        changes.mark_unchanged();
        let views = board.snapshot().into_iter();
        let there: BTreeSet<PodUid> = views.filter_map(|v| PodUid::of(&v.pod).ok()).collect();
        let gone: Vec<PodUid> = told
            .keys()
            .filter(|uid| !there.contains(*uid))
            .cloned()
            .collect();
        for gone in gone {
            if let Some(last) = told.remove(&gone) {
                lines.tell(DELETED, || last.write()).await?;
            }
        }
        for uid in there {
            // As it is when its turn comes.
            let Some(view) = board.get(&uid) else {
                continue;
            };
            let before = told.get(&uid);
            if before.is_some_and(|before| before.is(&view)) {
                continue;
            }
            let kind = if before.is_some() { MODIFIED } else { ADDED };
            let now = Told::of(&view);
            lines.tell(kind, || now.write()).await?;
            told.insert(uid, now);
        }
        if !begun {
            lines.begun().await?;
            begun = true;
        }
        // Cancel-safe: what has changed stays so until it is looked at.
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return Ok(());
            },
            () = lines.0.closed() => return Err(Gone),
        }
    }
}

async fn tell_events(recorder: &Recorder, wanted: &Wanted, lines: &Lines) -> Result<(), Gone> {
    let written = |event: &Event| {
        let mut item = Vec::with_capacity(1024);
        event.write_json(&mut item)?;
        Ok(item)
    };
    let (kept, outbox) = recorder.follow();
    for event in kept.into_iter().filter(|event| wanted.is(event)) {
        lines.tell(ADDED, || written(&event)).await?;
    }
    lines.begun().await?;
    loop {
        // Cancel-safe: an event is taken in the same step as it is given.
        let (event, new, dropped) = tokio::select! {
            next = outbox.next_event() => next,
            () = lines.0.closed() => return Err(Gone),
        };
        if dropped > 0 {
            let why = format!("{dropped} events were left out: they are read too slowly");
            lines
                .tell("ERROR", || Ok(serde_json::to_vec(&why)?))
                .await?;
        }
        if wanted.is(&event) {
            let kind = if new { ADDED } else { MODIFIED };
            lines.tell(kind, || written(&event)).await?;
        }
    }
}

#[cfg(test)]
mod tests;
