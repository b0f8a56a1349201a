//! What the runtime holds of each pod, kept up to date by its events.
//!
//! Owns: the last observation of each pod; which container belongs to which pod; whether the runtime is there.
//! Inputs: the runtime's event stream (a hint, never a fact), its lists and statuses.
//! Outputs: per pod a `watch<Arc<ObservedPod>>`; [`RuntimeState`]; the pods found by each relist.
//! Tasks: `events` (one, for the life of the agent), `settle` (one for each exit, at most 80 seconds), `look` (one for
//! each pod that a relist finds changed).
//! Does not: change anything in the runtime, or decide what should run.
//!
//! An event may outrun what the runtime says of the container, so an exit is looked at again until the runtime
//! agrees, and only then does the worker hear of it. A lost event costs latency: the relist repairs it.

mod events;
mod inspect;
mod relist;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri_proto::{CriError, RuntimeClient};
use tokio::sync::watch;

use self::inspect::PodFiles;
use crate::logs::PodLogs;
use crate::pod::PodUid;
use crate::poddir::PodDirs;
use crate::runtime::{ContainerId, ContainerState, ObservedPod, SandboxId};

pub use events::run_events;
pub use relist::FoundPod;

/// Whether the runtime answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeState {
    /// Not once since the agent started.
    NeverSeen,
    /// It answers. The number goes up each time it comes back, after everything has been looked at anew.
    Up(u64),
    /// It answered once, and does not now.
    Away,
}

/// The observations of all pods, and the means to renew them. Shared by reference.
pub struct Observer {
    runtime: RuntimeClient,
    files: PodFiles,
    pods: Mutex<HashMap<PodUid, Slot>>,
    /// Sandboxes and containers by id, to tell whose event it is.
    owners: Mutex<HashMap<Box<str>, PodUid>>,
    state: watch::Sender<RuntimeState>,
    away: watch::Sender<Option<Arc<str>>>,
    found: watch::Sender<Arc<Vec<FoundPod>>>,
    changes: watch::Sender<()>,
    /// Pods that a relist looks at.
    looking: Mutex<HashSet<PodUid>>,
    /// When the last relist began.
    relisted: Mutex<Option<tokio::time::Instant>>,
}

#[derive(Clone)]
struct Slot {
    observed: watch::Sender<Arc<ObservedPod>>,
    /// One look at a time, so that an older answer never replaces a newer one.
    look: Arc<tokio::sync::Mutex<()>>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            observed: watch::Sender::new(Arc::default()),
            look: Arc::default(),
        }
    }
}

/// How long an exit ordinarily takes to show in the runtime's own state, at the most.
const SETTLE_QUICKLY: Duration = Duration::from_secs(10);
/// How long an exit is followed that does not show. By then the relist has looked too.
const SETTLE_LIMIT: Duration = Duration::from_secs(80);
/// The longest pause between two looks while the exit may show any moment, and after that.
const SETTLE_FAST_MOST: Duration = Duration::from_secs(1);
const SETTLE_SLOWLY: Duration = Duration::from_secs(8);
/// The shortest pause between two looks at a container that is said to have ended.
const SETTLE_FIRST: Duration = Duration::from_millis(5);
/// A look comes late by at most this part of what the runtime took itself: pauses grow with the time that has passed.
/// Doubling them made 300 ms of the runtime's 600 ms of ours.
const SETTLE_LATENESS: u32 = 4;

impl Observer {
    /// An observer that has seen nothing yet.
    #[must_use]
    pub fn new(runtime: RuntimeClient, dirs: PodDirs, logs: PodLogs) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            files: PodFiles { dirs, logs },
            pods: Mutex::default(),
            owners: Mutex::default(),
            state: watch::Sender::new(RuntimeState::NeverSeen),
            away: watch::Sender::new(None),
            found: watch::Sender::new(Arc::default()),
            changes: watch::Sender::new(()),
            looking: Mutex::default(),
            relisted: Mutex::default(),
        })
    }

    /// Whether the runtime answers, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<RuntimeState> {
        self.state.subscribe()
    }

    /// Why the runtime does not answer, for people; none while it does, and before it was asked.
    #[must_use]
    pub fn away(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.away.subscribe()
    }

    /// The pods that the last relist found in the runtime.
    #[must_use]
    pub fn found(&self) -> watch::Receiver<Arc<Vec<FoundPod>>> {
        self.found.subscribe()
    }

    /// The observation of one pod, now and from now on. Empty until something is seen.
    #[must_use]
    pub fn subscribe(&self, uid: &PodUid) -> watch::Receiver<Arc<ObservedPod>> {
        self.slot(uid).observed.subscribe()
    }

    /// The last observation of one pod; none where nothing of it is known.
    #[must_use]
    pub fn observed(&self, uid: &PodUid) -> Option<Arc<ObservedPod>> {
        let pods = self.lock_pods();
        let observed = pods.get(uid)?.observed.borrow().clone();
        Some(observed)
    }

    /// The last observations of all pods that something is known of.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ObservedPod>> {
        let pods = self.lock_pods();
        let all = pods.values().map(|slot| slot.observed.borrow().clone());
        all.collect()
    }

    /// The pods of which nothing runs, and something is still there.
    #[must_use]
    pub fn ended(&self) -> Vec<PodUid> {
        let ended = |observed: &ObservedPod| {
            let runs = observed.sandboxes.iter().any(|s| s.ready)
                || (observed.containers.iter()).any(|c| c.state != ContainerState::Exited);
            !observed.is_empty() && !runs
        };
        let pods = self.lock_pods();
        let all = pods
            .iter()
            .filter(|(_, slot)| ended(&slot.observed.borrow()));
        all.map(|(uid, _)| uid.clone()).collect()
    }

    /// News whenever the observation of any pod changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Id and path of the log of every container that runs and has one.
    #[must_use]
    pub fn running_logs(&self) -> Vec<(String, String)> {
        let mut running = Vec::new();
        for slot in self.lock_pods().values() {
            let observed = slot.observed.borrow();
            let logs = observed
                .containers
                .iter()
                .filter(|c| c.state == ContainerState::Running && !c.log_path.is_empty());
            running.extend(logs.map(|c| (c.id.to_string(), c.log_path.to_string())));
        }
        running
    }

    /// Notes that `id`, just made, belongs to the pod: its end may be reported before anybody has looked at it.
    pub fn claim(&self, uid: &PodUid, id: &str) {
        self.lock_owners().insert(id.into(), uid.clone());
    }

    /// Forgets a pod that is gone for good.
    pub fn forget(&self, uid: &PodUid) {
        self.lock_pods().remove(uid);
        self.lock_owners().retain(|_, owner| owner != uid);
        // The last relist may be older than the end of the pod.
        self.found.send_if_modified(|found| {
            let known = found.iter().any(|pod| pod.uid == *uid);
            if known {
                Arc::make_mut(found).retain(|pod| pod.uid != *uid);
            }
            known
        });
    }

    /// Forgets the pod where nothing is known of it and nobody listens: looking at it made a place for it again.
    fn forget_if_idle(&self, uid: &PodUid) {
        let mut pods = self.lock_pods();
        let idle = pods.get(uid).is_some_and(|slot| {
            let looked_at = Arc::strong_count(&slot.look) > 1;
            !looked_at && slot.observed.receiver_count() == 0 && slot.observed.borrow().is_empty()
        });
        if idle {
            pods.remove(uid);
        }
    }

    /// Looks at one pod, and tells its worker when something is new.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn refresh(&self, uid: &PodUid) -> Result<Arc<ObservedPod>, CriError> {
        let looked = self.look_now(uid).await;
        self.forget_if_idle(uid);
        looked
    }

    async fn look_now(&self, uid: &PodUid) -> Result<Arc<ObservedPod>, CriError> {
        let slot = self.slot(uid);
        let _one_at_a_time = slot.look.lock().await;
        let before = slot.observed.borrow().clone();
        let seen = Arc::new(inspect::inspect_pod(&self.runtime, &self.files, uid, &before).await?);
        self.note_owners(uid, &before, &seen);
        self.publish(&slot, seen.clone());
        Ok(seen)
    }

    /// Looks at a sandbox that was just made for the pod, and at nothing else: what else the runtime holds of the pod has
    /// been seen before, or its events tell of it.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn refresh_sandbox(&self, uid: &PodUid, id: &SandboxId) -> Result<(), CriError> {
        let slot = self.slot(uid);
        let _one_at_a_time = slot.look.lock().await;
        let before = slot.observed.borrow().clone();
        let seen = inspect::inspect_sandbox(&self.runtime, &before, id).await?;
        self.note_owners(uid, &before, &seen);
        self.publish(&slot, Arc::new(seen));
        Ok(())
    }

    /// Looks at a container that was just started in `sandbox`, and at nothing else.
    ///
    /// # Errors
    /// What the runtime answers.
    pub async fn refresh_container(
        &self,
        uid: &PodUid,
        sandbox: &SandboxId,
        id: &ContainerId,
    ) -> Result<(), CriError> {
        let slot = self.slot(uid);
        let _one_at_a_time = slot.look.lock().await;
        let before = slot.observed.borrow().clone();
        let one = (sandbox, id);
        let seen =
            inspect::inspect_container(&self.runtime, &self.files, uid, &before, one).await?;
        self.note_owners(uid, &before, &seen);
        self.publish(&slot, Arc::new(seen));
        Ok(())
    }

    fn publish(&self, slot: &Slot, seen: Arc<ObservedPod>) {
        let changed = slot.observed.send_if_modified(|current| {
            let news = *current != seen;
            if news {
                *current = seen;
            }
            news
        });
        if changed {
            self.changes.send_replace(());
        }
    }

    /// Follows the exit of a container or sandbox until the runtime's own state shows it.
    async fn settle(self: Arc<Self>, uid: PodUid, id: Box<str>) {
        let mut most = SETTLE_FAST_MOST;
        let mut said = false;
        let started = tokio::time::Instant::now();
        loop {
            match self.refresh(&uid).await {
                Ok(observed) if !seems_alive(&observed, &id) => return,
                Ok(_) if started.elapsed() < SETTLE_QUICKLY => {}
                Ok(_) if started.elapsed() < SETTLE_LIMIT => {
                    if !said {
                        said = true;
                        tracing::warn!(%uid, %id, "the runtime reported an exit, and still shows it running");
                    }
                    most = SETTLE_SLOWLY;
                }
                Ok(_) => return,
                Err(error) => {
                    // The stream breaks too when the runtime goes, and then everything is looked at anew.
                    tracing::debug!(%uid, %id, %error, "could not look at a pod after an exit");
                    return;
                }
            }
            let pause = started.elapsed() / SETTLE_LATENESS;
            tokio::time::sleep(pause.clamp(SETTLE_FIRST, most)).await;
        }
    }

    fn slot(&self, uid: &PodUid) -> Slot {
        self.lock_pods().entry(uid.clone()).or_default().clone()
    }

    /// Notes what the pod holds now. What was claimed and has not been seen yet stays.
    fn note_owners(&self, uid: &PodUid, before: &ObservedPod, observed: &ObservedPod) {
        let mut owners = self.lock_owners();
        owners.retain(|id, owner| owner != uid || observed.holds(id) || !before.holds(id));
        for id in observed
            .sandboxes
            .iter()
            .map(|s| s.id.as_str())
            .chain(observed.containers.iter().map(|c| c.id.as_str()))
        {
            if !owners.contains_key(id) {
                owners.insert(id.into(), uid.clone());
            }
        }
    }

    fn owner(&self, id: &str) -> Option<PodUid> {
        self.lock_owners().get(id).cloned()
    }

    // A panic while one of these is held leaves the map whole, so poisoning carries no news.
    fn lock_pods(&self) -> std::sync::MutexGuard<'_, HashMap<PodUid, Slot>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_looking(&self) -> std::sync::MutexGuard<'_, HashSet<PodUid>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_relisted(&self) -> std::sync::MutexGuard<'_, Option<tokio::time::Instant>> {
        self.relisted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_owners(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, PodUid>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Observer {
    /// As if this had been seen of the pod.
    pub(crate) fn show(&self, uid: &PodUid, observed: ObservedPod) {
        self.publish(&self.slot(uid), Arc::new(observed));
    }
}

fn seems_alive(observed: &ObservedPod, id: &str) -> bool {
    let container = observed.containers.iter().find(|c| c.id.as_str() == id);
    let sandbox = observed.sandboxes.iter().find(|s| s.id.as_str() == id);
    // One that is being started may end before the runtime says that it runs: it will say so yet, and then that it ended.
    container.is_some_and(|c| c.state != ContainerState::Exited) || sandbox.is_some_and(|s| s.ready)
}

impl ObservedPod {
    fn holds(&self, id: &str) -> bool {
        self.containers.iter().any(|c| c.id.as_str() == id)
            || self.sandboxes.iter().any(|s| s.id.as_str() == id)
    }

    fn container(&self, id: &ContainerId) -> Option<&crate::runtime::ObservedContainer> {
        self.containers.iter().find(|c| c.id == *id)
    }
}
