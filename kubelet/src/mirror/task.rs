//! The task: does what the plan says, one request after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::attempts::{Attempts, BUSY, REFUSED, Rest};
use super::memory::Memory;
use super::plan::{Action, Input, plan};
use super::request::{Mirrors, Present, RequestError, busy, refused};
use crate::api::{pause, random};
use crate::clock::Clock;
use crate::events::About;
use crate::node::NodeObject;
use crate::pod::{Pod, PodName};
use crate::sources::{ApiPods, Desired};
use crate::workers::Lives;

/// What [`run_mirrors`] follows.
pub struct MirrorInputs {
    /// The name of the node.
    pub node_name: String,
    /// The pods of the sources on this node. Those of the API server may be among them, and do not count.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// The pods that have not ended; none before the runtime has been seen.
    pub lives: watch::Receiver<Option<Arc<Lives>>>,
    /// What the API server has bound to this node.
    pub api: watch::Receiver<Arc<ApiPods>>,
    /// The own node object; none before it is known.
    pub node: watch::Receiver<Option<Arc<NodeObject>>>,
    /// Times the attempts.
    pub clock: Clock,
}

/// Keeps the mirror pods of the static ones. Ends when one of `inputs` does.
pub async fn run_mirrors(client: kube::Client, inputs: MirrorInputs) {
    let MirrorInputs {
        node_name,
        mut desired,
        mut lives,
        mut api,
        mut node,
        clock,
    } = inputs;
    let mut task = Task {
        mirrors: Mirrors::new(client, node_name),
        memory: Memory::default(),
        attempts: Attempts::default(),
        clock,
    };
    loop {
        let due = {
            let desired = desired.borrow_and_update().clone();
            let lives = lives.borrow_and_update().clone();
            let api = api.borrow_and_update().clone();
            let node = node.borrow_and_update().clone();
            task.next(&desired, lives.as_deref(), &api, node.as_deref())
        };
        let rest = match due {
            // One request, and then everything is looked at again: each takes its time.
            Due::Now(action) => {
                task.perform(&action).await;
                continue;
            }
            Due::In(rest) => rest,
        };
        let rested = async {
            match rest {
                // Or until the API server is back.
                Some(rest) => pause(rest).await,
                None => std::future::pending().await,
            }
        };
        let began = task.clock.now().monotonic;
        // Cancel-safe: channels keep their news, and the timer is made anew.
        let changed = tokio::select! {
            changed = desired.changed() => changed,
            changed = lives.changed() => changed,
            changed = api.changed() => {
                task.attempts.heard();
                changed
            }
            changed = node.changed() => {
                task.attempts.heard();
                changed
            }
            () = rested => {
                if rest.is_some_and(|rest| task.clock.now().monotonic < began + rest) {
                    task.attempts.back();
                }
                Ok(())
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What to do next.
enum Due {
    Now(Action),
    /// Nothing for this long, or until something changes.
    In(Option<Duration>),
}

struct Task {
    mirrors: Mirrors,
    memory: Memory,
    attempts: Attempts,
    clock: Clock,
}

impl Task {
    fn next(
        &mut self,
        desired: &Desired,
        lives: Option<&Lives>,
        api: &ApiPods,
        node: Option<&NodeObject>,
    ) -> Due {
        let now = self.clock.now().monotonic;
        self.memory.see(api, now);
        let actions = plan(&Input {
            desired,
            lives,
            api,
            node,
            memory: &self.memory,
            now,
        });
        self.attempts.keep(&actions);
        let mut soonest = self.memory.expires_in(now);
        for action in actions {
            let rest = self.attempts.rest(&action, now);
            if rest.is_zero() {
                return Due::Now(action);
            }
            soonest = Some(soonest.map_or(rest, |soonest| soonest.min(rest)));
        }
        Due::In(soonest)
    }

    async fn perform(&mut self, action: &Action) {
        let name = action.name();
        let result = match action {
            Action::Create { pod, node } => {
                tracing::info!(pod = %name, "Creating a mirror pod for static pod");
                self.create(&name, pod, node).await
            }
            Action::Delete { uid, .. } => {
                tracing::info!(pod = %name, mirror = %uid, "Deleting a mirror pod");
                match self.mirrors.delete(&name, uid).await {
                    // Gone already, or another one by now.
                    Ok(()) | Err(RequestError::Gone(_)) => {
                        let now = self.clock.now().monotonic;
                        self.memory.gone(name.clone(), uid.clone(), now);
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match result {
            Ok(()) => self.attempts.done(&name),
            Err(error) => self.failed(action, &name, &error),
        }
    }

    async fn create(
        &mut self,
        name: &PodName,
        pod: &Pod,
        node_uid: &str,
    ) -> Result<(), RequestError> {
        let created = match self.mirrors.create(pod, node_uid).await {
            Err(RequestError::Exists(message)) => match self.mirrors.get(name).await {
                Ok(Present::Mirror(mirror)) => mirror,
                // The pod's name is taken by another pod of this node, or by one that this node may not see.
                Ok(Present::Other) | Err(RequestError::Refused { .. }) => {
                    return Err(refused("AlreadyExists", message));
                }
                Err(RequestError::Gone(message)) => return Err(busy("Gone", message)),
                Err(error) => return Err(error),
            },
            created => created?,
        };
        let now = self.clock.now().monotonic;
        if self.memory.found(name.clone(), created, now) {
            return Ok(());
        }
        let message = "the one before it is deleted, and not gone yet";
        Err(busy("Finalizers", message.to_owned()))
    }

    fn failed(&mut self, action: &Action, name: &PodName, error: &RequestError) {
        let (news, refused) = match error {
            RequestError::Away(_) => {
                let now = self.clock.now().monotonic;
                (self.attempts.unanswered(now, random()), false)
            }
            RequestError::Busy { reason, .. } => (self.answered(action, reason, BUSY), false),
            RequestError::Refused { reason, .. } => (self.answered(action, reason, REFUSED), true),
            RequestError::Exists(_) | RequestError::Gone(_) => {
                (self.answered(action, "NotFound", REFUSED), true)
            }
        };
        match action {
            Action::Create { pod, .. } if refused && news => {
                let message = format!("Failed creating a mirror pod: {error}");
                About::pod(pod).warning("FailedCreateMirrorPod", &message);
            }
            Action::Create { .. } if news => {
                tracing::warn!(pod = %name, %error, "Failed creating a mirror pod; it is tried again");
            }
            Action::Delete { uid, .. } if news => {
                tracing::warn!(pod = %name, mirror = %uid, %error, "Failed deleting a mirror pod; it is tried again");
            }
            _ => tracing::debug!(pod = %name, %error, "still no mirror pod as it should be"),
        }
    }

    /// Notes what was answered; says whether that is news.
    fn answered(&mut self, action: &Action, why: &str, rest: Rest) -> bool {
        let now = self.clock.now().monotonic;
        self.attempts.failed(action, why, rest, now, random())
    }
}
