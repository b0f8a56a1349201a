//! Watches: from a version on, with bookmarks, until their time is over or the version has expired.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::Response;

use super::answer::{Refusal, answer};
use super::events;
use super::resource::{Resource, Target};
use super::selector::Selector;
use super::state::State;
use super::store::{Change, Pulse};

/// From one bookmark to the next (about that in the real server).
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How long a watch lasts that does not say (the real server's least).
const LASTS: Duration = Duration::from_secs(1800);

/// One watch.
struct Watch {
    resource: &'static Resource,
    index: usize,
    selector: Selector,
    bookmarks: bool,
    new_events: bool,
    /// The newest version that the client has heard of.
    seen: u64,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
}

/// The client has gone, or the watch is over.
struct Over;

/// Begins the watch that a URL asks for.
pub(super) fn start(
    state: &Arc<State>,
    target: &Target,
    selector: Selector,
) -> Result<Response<Body>, Refusal> {
    let (index, resource) = target.stored()?;
    let (sender, receiver) = mpsc::channel(64);
    let pulse = state.lock().store.pulse();
    let seconds = target.param("timeoutSeconds").parse().ok();
    let until = Instant::now() + seconds.map_or(LASTS, Duration::from_secs);
    let asked = target.param("resourceVersion");
    let from = match asked {
        "" | "0" => None,
        other => Some(other.parse().map_err(|_| {
            Refusal::bad_request(format!("Invalid value: {other:?}: resourceVersion"))
        })?),
    };
    let initial = target.flag("sendInitialEvents");
    if initial && target.param("resourceVersionMatch") != "NotOlderThan" {
        let why = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(Refusal::new(422, "Invalid", why));
    }
    let watch = Watch {
        resource,
        index,
        selector,
        bookmarks: target.flag("allowWatchBookmarks"),
        new_events: target.new_events,
        seen: from.unwrap_or_default(),
        sender,
    };
    let begin = match from {
        Some(_) if !initial => None,
        _ => Some(initial),
    };
    tokio::spawn(watch.run(Arc::clone(state), pulse, until, begin));
    let body = Body::from_stream(ReceiverStream::new(receiver));
    Ok(answer(200, "application/json", body))
}

impl Watch {
    async fn run(
        mut self,
        state: Arc<State>,
        mut pulse: watch::Receiver<Pulse>,
        until: Instant,
        begin: Option<bool>,
    ) {
        // Whoever has gone needs nothing more.
        let _ = self.serve(&state, &mut pulse, until, begin).await;
    }

    /// `begin`: first everything there is, and whether a bookmark says when that was all.
    async fn serve(
        &mut self,
        state: &State,
        pulse: &mut watch::Receiver<Pulse>,
        until: Instant,
        begin: Option<bool>,
    ) -> Result<(), Over> {
        let at_first = *pulse.borrow();
        if let Some(marked) = begin {
            self.initial(state).await?;
            if marked {
                self.bookmark(true).await?;
            }
        }
        let mut bookmarked = Some(at_first.bookmarks);
        let mut next = Instant::now() + BOOKMARKS;
        loop {
            self.catch_up(state).await?;
            tokio::select! {
                // Cancel-safe: the value stays in the channel.
                changed = pulse.changed() => changed.map_err(|_| Over)?,
                () = sleep_until(next) => {
                    next = Instant::now() + BOOKMARKS;
                    bookmarked = None;
                }
                () = sleep_until(until) => {
                    self.catch_up(state).await?;
                    return self.bookmark(false).await;
                }
                () = self.sender.closed() => return Err(Over),
            }
            let now = *pulse.borrow_and_update();
            if now.ended != at_first.ended {
                return Ok(());
            }
            if bookmarked != Some(now.bookmarks) {
                bookmarked = Some(now.bookmarks);
                self.catch_up(state).await?;
                self.bookmark(false).await?;
            }
        }
    }

    async fn initial(&mut self, state: &State) -> Result<(), Over> {
        let (objects, revision) = {
            let inside = state.lock();
            let all = inside.store.of(self.index);
            let fitting = all.filter(|(_, object)| self.selector.matches(object));
            let objects: Vec<Arc<Value>> = fitting.map(|(_, o)| Arc::clone(o)).collect();
            (objects, inside.store.revision())
        };
        for object in objects {
            self.event("ADDED", &object).await?;
        }
        self.seen = revision;
        Ok(())
    }

    async fn catch_up(&mut self, state: &State) -> Result<(), Over> {
        let (changes, revision) = {
            let inside = state.lock();
            (inside.store.since(self.seen), inside.store.revision())
        };
        let changes = match changes {
            Ok(changes) => changes,
            Err(oldest) => {
                let status = Refusal::too_old(self.seen, oldest).body();
                self.line("ERROR", &status).await?;
                return Err(Over);
            }
        };
        for change in changes.iter().filter(|change| change.key.0 == self.index) {
            if let Some((kind, object)) = self.shown(change) {
                self.event(kind, &object).await?;
            }
        }
        self.seen = self.seen.max(revision);
        Ok(())
    }

    /// What a change is to somebody who sees only what fits the selector.
    fn shown(&self, change: &Change) -> Option<(&'static str, Arc<Value>)> {
        let fits = |object: &Option<Arc<Value>>| {
            let fitting = object.as_ref().filter(|o| self.selector.matches(o));
            fitting.cloned()
        };
        match (fits(&change.was), fits(&change.is)) {
            (None, Some(is)) => Some(("ADDED", is)),
            (Some(_), Some(is)) => Some(("MODIFIED", is)),
            (Some(was), None) => {
                // As it was, with the version of its going.
                let mut last = Value::clone(change.last.as_ref().unwrap_or(&was));
                last["metadata"]["resourceVersion"] = json!(change.revision.to_string());
                Some(("DELETED", Arc::new(last)))
            }
            (None, None) => None,
        }
    }

    async fn bookmark(&self, initial_end: bool) -> Result<(), Over> {
        if !self.bookmarks {
            return Ok(());
        }
        let mut object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": { "resourceVersion": self.seen.to_string() },
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        // The empty object of the type, as Go writes it.
        if self.resource.is("pods") {
            object["spec"] = json!({ "containers": null });
            object["status"] = json!({});
        }
        self.line("BOOKMARK", &object).await
    }

    async fn event(&self, kind: &str, object: &Value) -> Result<(), Over> {
        if self.new_events {
            return self.line(kind, &events::to_new(object.clone())).await;
        }
        self.line(kind, object).await
    }

    async fn line(&self, kind: &str, object: &Value) -> Result<(), Over> {
        let mut line = json!({ "type": kind, "object": object }).to_string();
        line.push('\n');
        let sent = self.sender.send(Ok(Bytes::from(line))).await;
        sent.map_err(|_| Over)
    }
}
