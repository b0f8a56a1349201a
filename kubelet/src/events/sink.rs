//! Tells the API server what happens, as client-go's recorder does (`tools/record/event.go`).
//!
//! One event after the other: a new one is created, one that was told before is patched, and created again when it is gone.
//! While there is no answer everything waits, for two minutes an event; what the API server refuses is given up. How many
//! requests a second are made is the client's to limit (`eventRecordQPS`, `eventBurst`).

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use kube::core::Status;
use serde::de::IgnoredAny;

use super::event::Event;
use super::outbox::{Outbox, Pending};
use crate::api::{pause, random};
use crate::errors::error_chain;

/// After so many tries an event is given up (`maxTriesPerEvent`).
const MOST_TRIES: u32 = 12;
/// Between two tries (`defaultSleepDuration`), or until the API server is back; after the first a part of it by chance, so
/// that not all nodes come back at once.
const PAUSE: Duration = Duration::from_secs(10);
/// A request without an answer after this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The cause in a status that says that a namespace goes (`NamespaceTerminatingCause`).
const TERMINATING: &str = "NamespaceTerminating";

/// Tells what `outbox` has, for as long as the agent lives.
pub async fn run_sink(client: kube::Client, outbox: Arc<Outbox>) {
    let mut sink = Sink {
        client,
        host: outbox.host().into(),
        refused: String::new(),
    };
    loop {
        let pending = outbox.next().await;
        sink.tell(&pending).await;
        let dropped = outbox.take_dropped();
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "events were not told to the API server: too many were waiting"
            );
        }
    }
}

struct Sink {
    client: kube::Client,
    host: Box<str>,
    /// The reason of the last refusal, which is told once.
    refused: String,
}

/// What became of one try.
enum Told {
    Done,
    /// The API server will not have it.
    Refused(Status),
    /// There is none of this name.
    Missing(Status),
    /// There was no answer, or one that another try may change.
    Away(String),
}

impl Sink {
    async fn tell(&mut self, pending: &Pending) {
        let event = &*pending.event;
        for tries in 1..=MOST_TRIES {
            let told = match pending.new {
                true => self.create(event).await,
                false => match self.patch(event).await {
                    Told::Missing(_) => self.create(event).await,
                    told => told,
                },
            };
            match told {
                Told::Done => return self.refused.clear(),
                Told::Refused(status) | Told::Missing(status) => {
                    return self.refuse(event, &status);
                }
                Told::Away(error) if tries == 1 => tracing::warn!(
                    error,
                    event = event.name(),
                    "Unable to write event (may retry after sleeping)"
                ),
                Told::Away(_) => {}
            }
            if tries < MOST_TRIES {
                let part = if tries == 1 { random() } else { 1.0 };
                pause(PAUSE.mul_f64(part)).await;
            }
        }
        tracing::error!(
            event = event.name(),
            reason = &*event.reason,
            "Unable to write event (retry limit exceeded!)"
        );
    }

    fn refuse(&mut self, event: &Event, status: &Status) {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let is_expected = status.reason == "AlreadyExists"
            || causes.into_iter().any(|cause| cause.reason == TERMINATING);
        let (name, error) = (event.name(), &status.message);
        if is_expected || self.refused == status.reason {
            tracing::debug!(
                error,
                event = name,
                "Server rejected event (will not retry!)"
            );
            return;
        }
        tracing::error!(
            error,
            event = name,
            "Server rejected event (will not retry!)"
        );
        self.refused.clone_from(&status.reason);
    }

    async fn create(&self, event: &Event) -> Told {
        let body = event.body(&self.host);
        self.ask(Method::POST, collection(event), "application/json", body)
            .await
    }

    async fn patch(&self, event: &Event) -> Told {
        let path = format!("{}/{}", collection(event), event.name());
        let kind = "application/strategic-merge-patch+json";
        self.ask(Method::PATCH, path, kind, event.patch()).await
    }

    async fn ask(
        &self,
        method: Method,
        path: String,
        content_type: &str,
        body: Result<Vec<u8>, serde_json::Error>,
    ) -> Told {
        let unusable = |error: &dyn std::error::Error| {
            Told::Refused(Status::failure(&error_chain(error), "BadRequest"))
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => return unusable(&error),
        };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::CONTENT_TYPE, content_type)
            .body(body);
        let request = match request {
            Ok(request) => request,
            Err(error) => return unusable(&error),
        };
        let answer = self.client.request::<IgnoredAny>(request);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(_)) => Told::Done,
            Ok(Err(kube::Error::Api(status))) => match (status.code, status.reason.as_str()) {
                (404, "NotFound") => Told::Missing(*status),
                (408 | 429 | 500.., _) => Told::Away(status.message),
                _ => Told::Refused(*status),
            },
            Ok(Err(error)) => Told::Away(error_chain(&error)),
            Err(_) => Told::Away(format!("no answer in {PATIENCE:?}")),
        }
    }
}

fn collection(event: &Event) -> String {
    format!("/api/v1/namespaces/{}/events", event.namespace())
}

#[cfg(test)]
mod tests;
