//! Who may run: puts the pods that ask into one order, and keeps the ledger of who has a place.
//!
//! The registry alone holds this, so that two pods never get one place. A pod asks when it is told to run, and again,
//! where it was refused or had to make room, each time a place becomes free: nothing else of the node changes while the
//! agent runs, but for its labels and taints. Pods that run in the runtime already are not asked about.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::Place;
use super::queue::{Stage, Wanted};
use crate::admission::{self, Decision, Ledger, Rejection};
use crate::cgroups::resources::qos_class;
use crate::managers::Managers;
use crate::observe::FoundPod;
use crate::pod::{self, CONFIG_SEEN_ANNOTATION, Pod, PodName, PodUid, QosClass};
use crate::resize;
use crate::runtime::{ContainerState, ObservedPod};

/// The places of the node.
pub(super) struct Places {
    ledger: Ledger,
    /// Who gives containers CPUs, memory and devices of their own, for as long as their pod has its place.
    managers: Arc<Managers>,
    /// What the runtime held when it was first seen, and nobody has asked for since. None before that.
    from_before: Option<BTreeSet<PodUid>>,
}

/// What decides who is asked first: pods that run, then static ones, then those that came first, then by name.
pub(super) type Rank = (bool, bool, Timestamp, PodName, PodUid);

/// A worker's pod, as far as its place is concerned.
#[derive(Clone, Copy)]
pub(super) struct Seat<'a> {
    /// What the worker was told to do with it.
    pub(super) wanted: Wanted,
    /// How far the worker has come.
    pub(super) stage: Stage,
    /// What the worker was told of its place.
    pub(super) place: &'a Place,
}

impl Seat<'_> {
    /// Whether nothing of the pod runs, nor will before somebody asks for a place again.
    pub(super) fn is_left(self) -> bool {
        match self.stage {
            Stage::Live | Stage::Terminating => false,
            Stage::Over => true,
            // Told to come back, it is on its way.
            Stage::GivenWay => matches!(self.place, Place::Preempted | Place::Leaving(_)),
            Stage::Terminated => self.wanted != Wanted::Run,
        }
    }

    /// Whether the pod is kept running, so that it has to have a place, however it came by it.
    fn is_taken(self) -> bool {
        self.wanted == Wanted::Run && self.stage == Stage::Live && *self.place == Place::Granted
    }

    /// Whether a worker that has only just begun asks for its pod.
    fn is_fresh(self) -> bool {
        self.wanted == Wanted::Wait && self.stage == Stage::Live
    }
}

impl Places {
    pub(super) fn new(node: Arc<admission::Node>, managers: Arc<Managers>) -> Self {
        Self {
            ledger: Ledger::new(node),
            managers,
            from_before: None,
        }
    }

    /// The node is another one than before, as admission sees it.
    pub(super) fn set_node(&mut self, node: Arc<admission::Node>) {
        self.ledger.set_node(node);
    }

    /// Notes what ran before this life of the agent, the first time the runtime has been seen.
    pub(super) fn runtime_seen(&mut self, found: &[FoundPod]) {
        self.from_before
            .get_or_insert_with(|| found.iter().map(|pod| pod.uid.clone()).collect());
    }

    /// Has the ledger follow what became of one worker's pod. True when a place became free.
    pub(super) fn follow(&mut self, uid: &PodUid, pod: &Pod, seat: Seat<'_>) -> bool {
        if seat.is_left() {
            // One that an earlier life of the agent began, and this one only ended, never had a place of its own.
            let freed = self.ledger.release(uid) || self.managers.has(uid);
            if freed {
                self.managers.release(uid);
            }
            return freed;
        }
        if seat.is_taken() && !self.ledger.has(uid) {
            self.ledger.adopt(uid, pod);
        }
        false
    }

    /// Whether the pod has no place and wants one. What another component has put on the node and was refused, that one
    /// puts anew: it is never asked for again.
    pub(super) fn waits(&self, uid: &PodUid, pod: &Pod, seat: Seat<'_>) -> bool {
        let refused = seat.wanted == Wanted::Run && *seat.place != Place::Granted;
        refused && pod::is_static(pod) && !self.ledger.has(uid)
    }

    /// Why the pod, which was given something else, can never be given what it asks for; none where there is no such reason.
    pub(super) fn refuses_resize(&self, pod: &Pod, given: &Pod) -> Option<String> {
        if qos_class(pod) != QosClass::Guaranteed {
            return None;
        }
        let (cpu, memory) = resize::changed_requests(pod, given);
        self.managers.refuses_resize(cpu, memory)
    }

    /// Gives a running pod what it asks for now, or says why not.
    pub(super) fn resize(&mut self, uid: &PodUid, pod: &Pod) -> Result<(), String> {
        self.ledger.resize(uid, pod)
    }

    /// The pod is being stopped.
    pub(super) fn ends(&mut self, uid: &PodUid) {
        self.ledger.end(uid);
    }

    /// The worker has gone for good, and left nothing behind. True when a place became free.
    pub(super) fn gone(&mut self, uid: &PodUid) -> bool {
        self.managers.release(uid);
        self.ledger.release(uid)
    }

    /// Takes back what earlier lives of the agent gave to pods that are no more: all but those with these seats.
    pub(super) fn retain<'a>(&self, seats: impl Iterator<Item = (&'a PodUid, bool)>) {
        let living = seats.filter(|(_, left)| !left);
        let living = living.map(|(uid, _)| uid.clone()).collect();
        self.managers.retain(&living);
    }

    /// What ran of the pod before this life of the agent is dealt with.
    pub(super) fn dealt_with(&mut self, uid: &PodUid) {
        if let Some(from_before) = &mut self.from_before {
            from_before.remove(uid);
        }
    }

    /// Whether the pod already ran before this life of the agent. One that nobody could look at yet may.
    pub(super) fn runs_already(&self, uid: &PodUid, observed: &ObservedPod) -> bool {
        let runs = || {
            let containers = &observed.containers;
            observed.is_empty()
                || observed.sandboxes.iter().any(|s| s.ready)
                || containers
                    .iter()
                    .any(|c| c.state == ContainerState::Running)
        };
        let found = self.from_before.as_ref();
        found.is_some_and(|found| found.contains(uid)) && runs()
    }

    /// Whether something of the pod may run: it has a place that it need not wait for, be it that it is about to leave it.
    pub(super) fn may_run(&self, uid: &PodUid) -> bool {
        self.ledger.may_begin(uid) || self.ledger.ends(uid)
    }

    /// The pod gets no place, whatever there is room for.
    pub(super) fn refuse(&mut self, uid: &PodUid) {
        self.dealt_with(uid);
        self.managers.release(uid);
        self.ledger.release(uid);
    }

    /// Asks for a place. None for a pod that waits: until others have left, or until it has left its own place itself.
    pub(super) fn ask(
        &mut self,
        uid: &PodUid,
        pod: &Pod,
        seat: Seat<'_>,
        runs: bool,
    ) -> Option<Asked> {
        self.dealt_with(uid);
        // Ended for good: it needs no place, and is shown as it ended.
        if seat.stage == Stage::Over {
            return Some(Asked::Granted);
        }
        if self.ledger.ends(uid) {
            // Whoever was told to end it is gone, and it still has to.
            return seat.is_fresh().then_some(Asked::Leaves);
        }
        if runs || self.ledger.may_begin(uid) {
            if runs {
                self.managers.adopt(uid, pod);
            }
            self.ledger.adopt(uid, pod);
            return Some(Asked::Granted);
        }
        if self.ledger.has(uid) {
            return None;
        }
        if let Err(rejection) = self.allocate(uid, pod) {
            return Some(Asked::Refused(Arc::new(rejection)));
        }
        Some(match self.ledger.decide(uid, pod) {
            Decision::Admitted => Asked::Granted,
            Decision::Refused(rejection) => {
                self.managers.release(uid);
                Asked::Refused(Arc::new(rejection))
            }
            Decision::Preempts(victims) => Asked::Preempts(victims),
        })
    }

    /// What containers get for themselves comes before the pod's place, as upstream: nobody is pushed off the node for it.
    fn allocate(&self, uid: &PodUid, pod: &Pod) -> Result<(), Rejection> {
        if !self.managers.are_any() {
            return Ok(());
        }
        admission::admit_first(pod, &self.ledger.node().features)?;
        self.managers.allocate(uid, pod)
    }
}

/// What becomes of a pod that asks for a place.
pub(super) enum Asked {
    /// It may run.
    Granted,
    /// It may not.
    Refused(Arc<admission::Rejection>),
    /// What runs of it has to end first.
    Leaves,
    /// It may, when these have ended, which has to be told to them.
    Preempts(Vec<PodUid>),
}

/// Since when there is the pod: when the API server made it, or else its source first saw it; the end of time where
/// neither says.
pub(super) fn first_seen(pod: &Pod) -> Timestamp {
    if let Some(made) = made_at(pod) {
        return made;
    }
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get(CONFIG_SEEN_ANNOTATION)?.parse().ok())
        .unwrap_or(Timestamp::MAX)
}

/// When the API server made the pod; of a static pod nobody says.
pub(super) fn made_at(pod: &Pod) -> Option<Timestamp> {
    let made = pod.metadata.creation_timestamp.as_ref()?.0;
    (!pod::is_static(pod)).then_some(made)
}

#[cfg(test)]
mod tests;
