//! `exec`: a command in the container ends with 0.
//!
//! The runtime ends a command that takes too long, but not its children, and does not answer while one of them holds the
//! command's output open. So the agent keeps the time itself: it ends the command with all that it began, while it can
//! still tell them from the container's other processes, and the runtime's own limit, a second later, only stands
//! behind that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri_proto::{CriErrorKind, RuntimeClient};
use k8s_openapi::api::core::v1::EnvVar;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::leftovers::{self, Place, Session, Ticks};
use super::{Answer, Unasked, bounded_text, go_seconds, quoted};
use crate::clock::Clock;
use crate::runtime::ContainerId;

/// How much later than the agent the runtime ends a command.
const RUNTIME_LATER: Duration = Duration::from_secs(1);
/// How long the runtime may take to answer once a command was ended. Then the call is given up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// How long the runtime ordinarily takes from the call to the process, at the most.
const START_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks for that process.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same for a command that was given up before it had begun.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(250);
/// Containers whose place is remembered.
const MOST_PLACES: usize = 256;

/// The command with references to variables replaced, where the container's manifest has their values (upstream's rule:
/// one whose value comes from elsewhere is empty).
pub(super) fn expanded(command: &[String], env: &[EnvVar]) -> Vec<String> {
    let value_of = |name: &str| {
        let var = env.iter().rev().find(|var| var.name == name)?;
        Some(var.value.as_deref().unwrap_or_default())
    };
    let words = command.iter();
    words
        .map(|word| crate::runtime::convert::expand(word, value_of))
        .collect()
}

/// Runs commands, and knows which of them run. Cloning shares it.
#[derive(Clone)]
pub(super) struct Execs {
    runtime: RuntimeClient,
    clock: Clock,
    running: Arc<Running>,
}

/// The commands that run, by container.
#[derive(Default)]
struct Running {
    calls: Mutex<HashMap<ContainerId, Vec<Call>>>,
    /// Of containers in which a command was looked for.
    places: Mutex<HashMap<ContainerId, Arc<Place>>>,
    ended: Notify,
}

struct Call {
    ticket: u64,
    since: Ticks,
    began: Duration,
    /// The processes of the command, once somebody had to know.
    session: Option<Session>,
    /// It was ended and has not been answered.
    overdue: bool,
}

/// Why another call cannot be made yet.
enum Doubt {
    /// A command was ended, and the runtime is not done with it.
    Overdue,
    /// The command of this call has just been begun.
    Unknown(u64, Ticks),
}

/// A call's place in [`Running`], for as long as it is not answered.
struct Ticket {
    running: Arc<Running>,
    container: ContainerId,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.running.with(&self.container, |calls| {
            calls.retain(|call| call.ticket != self.number);
        });
        self.running.ended.notify_waiters();
    }
}

impl Running {
    fn with<T>(&self, container: &ContainerId, act: impl FnOnce(&mut Vec<Call>) -> T) -> T {
        // A panic while it is held leaves the map whole.
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let of_container = calls.entry(container.clone()).or_default();
        let done = act(of_container);
        if of_container.is_empty() {
            calls.remove(container);
        }
        done
    }
}

impl Running {
    fn place(&self, container: &ContainerId) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MOST_PLACES {
            places.clear();
        }
        let new = || Arc::new(Place::new(container.as_str()));
        places.entry(container.clone()).or_insert_with(new).clone()
    }
}

impl Execs {
    pub(super) fn new(runtime: RuntimeClient, clock: Clock) -> Self {
        Self {
            runtime,
            clock,
            running: Arc::default(),
        }
    }

    /// Runs `command` in the container for at most `limit`.
    pub(super) async fn run(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<Answer, Unasked> {
        let ticket = self.begin(id).await;
        let late = || {
            let command = quoted(&command.join(" "));
            let limit = go_seconds(limit);
            format!("command timed out: {command} timed out after {limit}")
        };
        let runtime = self.runtime.clone();
        let (container, words) = (id.clone(), command.clone());
        // On its own, for it may outlive the question; boxed, because it is large.
        let mut call = Box::pin(async move {
            let allowed = limit.saturating_add(RUNTIME_LATER);
            runtime.exec_sync(container.as_str(), words, allowed).await
        });
        let Ok(answer) = timeout(limit, &mut call).await else {
            self.end(&ticket, &command).await;
            // What it was about is settled. Until the runtime is done with it, no other command runs in the container.
            self.mark_overdue(&ticket);
            let execs = self.clone();
            let failure = late();
            tokio::spawn(async move {
                // Whatever it says comes too late; and a call that is dropped ends its command.
                let answered = async {
                    while timeout(LOOK_AGAIN_EVERY, &mut call).await.is_err() {
                        execs.end(&ticket, &command).await;
                    }
                };
                let _ = timeout(ANSWER_PATIENCE, answered).await;
            });
            return Ok(Answer::Failure(failure));
        };
        match answer {
            Ok(done) => {
                if done.exit_code == 0 {
                    return Ok(Answer::Success);
                }
                let mut output = done.stdout;
                output.extend_from_slice(&done.stderr);
                Ok(Answer::Failure(bounded_text(&output)))
            }
            Err(error) if *error.kind() == CriErrorKind::DeadlineExceeded => {
                Ok(Answer::Failure(late()))
            }
            Err(error) => Err(Unasked::unknown(error.rpc_text())),
        }
    }

    /// Notes a call that is about to be made. Waits until those before it can be told from it.
    async fn begin(&self, id: &ContainerId) -> Ticket {
        loop {
            let doubt = match self.note(id) {
                Ok(ticket) => return ticket,
                Err(doubt) => doubt,
            };
            if let Doubt::Unknown(number, since) = doubt
                && let Some(found) = self.session_since(id, since, Vec::new()).await
            {
                self.running.with(id, |calls| {
                    for call in calls.iter_mut().filter(|call| call.ticket == number) {
                        call.session = Some(found);
                    }
                });
                continue;
            }
            // Cancel-safe: only a wait.
            tokio::select! {
                () = self.running.ended.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Notes a call; or says which one before it could be taken for it.
    fn note(&self, id: &ContainerId) -> Result<Ticket, Doubt> {
        let (since, now) = (Ticks::of(&self.clock), self.clock.monotonic());
        let number = self.running.with(id, |calls| {
            if calls.iter().any(|call| call.overdue) {
                return Err(Doubt::Overdue);
            }
            let starting = |call: &&Call| {
                call.session.is_none() && now.saturating_sub(call.began) < START_PATIENCE
            };
            if let Some(call) = calls.iter().find(starting) {
                return Err(Doubt::Unknown(call.ticket, call.since));
            }
            let number = calls.iter().map(|call| call.ticket + 1).max().unwrap_or(0);
            calls.push(Call {
                ticket: number,
                since,
                began: now,
                session: None,
                overdue: false,
            });
            Ok(number)
        })?;
        Ok(Ticket {
            running: self.running.clone(),
            container: id.clone(),
            number,
        })
    }

    /// The first command since then that is no other call's, one with these words before all.
    async fn session_since(
        &self,
        id: &ContainerId,
        since: Ticks,
        words: Vec<String>,
    ) -> Option<Session> {
        let known: Vec<Session> = self.running.with(id, |calls| {
            calls.iter().filter_map(|call| call.session).collect()
        });
        let place = self.running.place(id);
        let found = tokio::task::spawn_blocking(move || {
            let mut found = leftovers::commands(&place, since);
            found.retain(|command| !known.contains(&command.session));
            let named = found.iter().find(|command| command.runs(&words));
            named.or(found.first()).map(|command| command.session)
        });
        // An error means that the agent is ending.
        found.await.ok().flatten()
    }

    /// Ends the call's command and all that it began.
    async fn end(&self, ticket: &Ticket, command: &[String]) {
        let noted = self.running.with(&ticket.container, |calls| {
            let call = calls.iter().find(|call| call.ticket == ticket.number)?;
            Some((call.since, call.session))
        });
        let Some((since, session)) = noted else {
            return;
        };
        let session = match session {
            Some(session) => Some(session),
            None => {
                let words = command.to_vec();
                self.session_since(&ticket.container, since, words).await
            }
        };
        let place = self.running.place(&ticket.container);
        let ended = tokio::task::spawn_blocking(move || match session {
            Some(session) => leftovers::end(&place, session),
            // It has ended, and left behind what holds its output; or it has not begun.
            None => leftovers::end_holders(&place, since),
        });
        match ended.await {
            Ok(0) => {}
            Ok(left) => {
                tracing::warn!(container = %ticket.container, left, "processes of a command that was ended are left");
            }
            // The agent is ending.
            Err(_) => {}
        }
    }

    fn mark_overdue(&self, ticket: &Ticket) {
        self.running.with(&ticket.container, |calls| {
            for call in calls.iter_mut().filter(|call| call.ticket == ticket.number) {
                call.overdue = true;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_manifest_says_is_expanded() {
        let var = |name: &str, value: Option<&str>| EnvVar {
            name: name.into(),
            value: value.map(Into::into),
            ..EnvVar::default()
        };
        let env = [
            var("A", Some("x")),
            var("FROM", None),
            var("A", Some("$(FROM)y")),
        ];
        let command = ["$(A)", "$$(A)", "$(FROM)|$(NONE)"].map(str::to_owned);
        assert_eq!(expanded(&command, &env), ["$(FROM)y", "$(A)", "|$(NONE)"]);
    }
}
