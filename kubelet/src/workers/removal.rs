//! Removes ended containers and stopped sandboxes, beside all else that a worker does.
//!
//! What is removed does not run, so nobody has to wait for it: a removal that takes longer than [`PATIENCE`] goes on by
//! itself, up to the deadline of its call, and one that failed is tried again with back-off.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{CriError, RuntimeClient};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::Worker;
use super::apply::{Applied, gone_is_done};
use super::hold::Hold;
use crate::errors::error_chain;
use crate::plan::Step;
use crate::runtime::{ContainerId, ObservedPod, SandboxId};

/// How long the steps that follow a removal wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is being removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Removed {
    /// An ended container, and its name.
    Container(ContainerId, Arc<str>),
    /// A container that makes room for a new one of its name, which counts on from there. Its log stays.
    Reset(ContainerId),
    /// A stopped sandbox.
    Sandbox(SandboxId),
}

impl Removed {
    async fn remove(&self, runtime: &RuntimeClient) -> Result<(), CriError> {
        gone_is_done(match self {
            Self::Container(id, _) | Self::Reset(id) => runtime.remove_container(id.as_str()).await,
            Self::Sandbox(id) => runtime.remove_pod_sandbox(id.as_str()).await,
        })
    }

    fn id(&self) -> &str {
        match self {
            Self::Container(id, _) | Self::Reset(id) => id.as_str(),
            Self::Sandbox(id) => id.as_str(),
        }
    }
}

/// The removals of one pod. Dropped, it ends the calls that are under way.
#[derive(Default)]
pub(super) struct Removals {
    calls: JoinSet<Result<(), CriError>>,
    under_way: HashMap<Id, Removed>,
    /// What could not be removed, and is not tried again yet.
    holds: BTreeMap<Removed, Hold>,
    /// Removed, with its log still there.
    forgotten: Vec<(ContainerId, Arc<str>)>,
}

impl Removals {
    fn is_under_way(&self, what: &Removed) -> bool {
        self.under_way.values().any(|other| other == what)
    }

    /// Waits for the next call that is done, with its result. Never resolves while there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(Removed, Result<(), String>)> {
        let Some(joined) = self.calls.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, result) = match joined {
            Ok((id, result)) => (id, result.map_err(|error| error_chain(&error))),
            Err(error) => (error.id(), Err(error.to_string())),
        };
        self.under_way.remove(&id).map(|what| (what, result))
    }

    /// How long until something that could not be removed may be tried again, by whoever last looked at `since`.
    pub(super) fn next_try(&self, since: Duration, now: Duration) -> Option<Duration> {
        let due = self.holds.values().filter_map(|hold| hold.due(since, now));
        due.min()
    }

    /// Everything may be tried again at once.
    pub(super) fn forgive(&mut self) {
        self.holds.clear();
    }
}

impl Worker {
    /// Takes a step that removes something; any other step is none of its business.
    pub(super) async fn remove(
        &mut self,
        observed: &ObservedPod,
        step: &Step,
        applied: &mut Applied,
    ) {
        let what = match step {
            Step::RemoveContainer(id) => {
                let seen = observed.containers.iter().find(|c| c.id == *id);
                Removed::Container(id.clone(), seen.map_or("".into(), |c| c.name.clone()))
            }
            Step::ResetContainer(id) => {
                self.count_on_from(observed, id);
                Removed::Reset(id.clone())
            }
            Step::RemoveSandbox(id) => Removed::Sandbox(id.clone()),
            _ => return,
        };
        if self.removals.is_under_way(&what) {
            return;
        }
        let now = self.tools.clock.now().monotonic;
        let hold = self.removals.holds.get(&what);
        if hold.is_some_and(|hold| hold.left(now).is_some()) {
            applied.failed = true;
            return;
        }
        applied.acted = true;
        let (runtime, target) = (self.tools.runtime.clone(), what.clone());
        let call = async move { target.remove(&runtime).await };
        let task = self.removals.calls.spawn(call).id();
        self.removals.under_way.insert(task, what.clone());
        let until = Instant::now() + PATIENCE;
        while self.removals.is_under_way(&what) {
            // Cancel-safe, as `next` is.
            match tokio::time::timeout_at(until, self.removals.next()).await {
                Ok(done) => applied.failed |= !self.removal_done(done),
                Err(_) => {
                    tracing::warn!(pod = %self.name, uid = %self.uid, id = what.id(), "the runtime takes its time to remove what has ended; nothing waits for it");
                    break;
                }
            }
        }
    }

    /// Remembers the restart count of a container that the runtime is about to forget, and drops the logs of the
    /// instances before it: its own is the last one that is kept.
    fn count_on_from(&mut self, observed: &ObservedPod, id: &ContainerId) {
        let Some(instance) = observed.containers.iter().find(|c| c.id == *id) else {
            return;
        };
        let name = &instance.name;
        let next = self
            .memory
            .attempts_on_disk
            .entry(name.clone())
            .or_default();
        *next = (*next).max(instance.attempt + 1);
        let newest = observed.newest(name).map_or(0, |c| c.attempt);
        let logs = &self.tools.logs;
        if let Err(error) = logs.prune_instances(&self.name, &self.uid, name, &[newest]) {
            tracing::warn!(pod = %self.name, error = error_chain(&error), "could not remove an old log");
        }
    }

    /// Takes note of a call that is done; says whether it went well.
    pub(super) fn removal_done(&mut self, done: Option<(Removed, Result<(), String>)>) -> bool {
        let Some((what, result)) = done else {
            return true;
        };
        let holds = &mut self.removals.holds;
        let Err(error) = result else {
            holds.remove(&what);
            if let Removed::Container(id, name) = what {
                self.removals.forgotten.push((id, name));
            }
            return true;
        };
        tracing::warn!(pod = %self.name, uid = %self.uid, id = what.id(), error, "could not remove what has ended");
        let now = self.tools.clock.now().monotonic;
        let hold = Hold::after(holds.get(&what), now, None);
        holds.insert(what, hold);
        false
    }

    /// After a look at the runtime: removes the logs of instances that it has forgotten, and the holds of what is gone.
    pub(super) fn tidy(&mut self, observed: &ObservedPod) {
        self.removals.holds.retain(|what, _| match what {
            Removed::Container(id, _) | Removed::Reset(id) => {
                observed.containers.iter().any(|c| c.id == *id)
            }
            Removed::Sandbox(id) => observed.sandboxes.iter().any(|s| s.id == *id),
        });
        for (id, name) in std::mem::take(&mut self.removals.forgotten) {
            // Those that run now too: one may have been started after the other was removed.
            let keep: Vec<u32> = observed.instances(&name).map(|c| c.attempt).collect();
            let logs = &self.tools.logs;
            if let Err(error) =
                logs.remove_instance(&self.name, &self.uid, &name, id.as_str(), &keep)
            {
                tracing::warn!(pod = %self.name, error = error_chain(&error), "could not remove an old log");
            }
        }
    }
}
