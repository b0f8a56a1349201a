//! Carries pods' statuses to the API server, and takes the objects of deleted pods that have ended away.
//!
//! Owns: what was sent of each object, and when what is next. Inputs: the board of statuses (`status/`), the API server's
//! pods and what it shows of them (`sources/`). Outputs: one PATCH of `pods/status` for each change, one DELETE for each
//! deleted pod that has ended.
//! Tasks: one, and one for each call in flight.
//! Does not: decide what a status says (that is `status/`), make or remove mirror pods (their statuses are written where
//! they stand), or hold anybody up: workers never wait for it.
//!
//! A patch says all that the node writes and nothing that others do, so that it needs no look at the object first. What
//! the server shows then is compared with what it showed when the last patch was answered: what somebody else has changed
//! is put right, and at rest nothing is sent. (Upstream gets the object before each patch.)

mod call;
mod outbox;
mod patch;
mod transitions;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api;
use crate::clock::Clock;
use crate::sources::ApiPods;
use crate::status::StatusBoard;
use outbox::Outbox;

/// Publishes for as long as the agent lives; ends with the watch of the API server's pods.
pub async fn run_status_publisher(
    client: Client,
    board: StatusBoard,
    mut pods: watch::Receiver<Arc<ApiPods>>,
    clock: Clock,
) {
    let mut changes = board.changes();
    let mut outbox = Outbox::default();
    let mut calls = JoinSet::new();
    loop {
        changes.mark_unchanged();
        let known = pods.borrow_and_update().clone();
        let now = clock.monotonic();
        outbox.follow(&known, &board.snapshot(), now);
        while let Some(job) = outbox.next(now) {
            calls.spawn(call::carry_out(client.clone(), job));
        }
        let wake = outbox.wake_in(now);
        let alarm = async {
            match wake {
                Some(delay) if outbox.is_waiting_for_server() => api::pause(delay).await,
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: a channel keeps its news, a task set its tasks.
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = pods.changed() => if changed.is_err() { return },
            Some(done) = calls.join_next() => match done {
                Ok(done) => outbox.done(done, clock.monotonic(), random()),
                Err(error) => {
                    tracing::error!(%error, "a call to the API server failed in itself");
                    return;
                }
            },
            () = alarm => outbox.try_now(clock.monotonic()),
        }
    }
}

/// A number that differs from node to node, for pauses.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
