//! Follows what becomes of the node: the labels and taints of its object, and its shutdown: has pods end when it is their turn, refuses those that come, and says who is left.

use std::sync::Arc;

use super::Registry;
use crate::admission::{Rejection, admit_under};
use crate::node::NodeObject;
use crate::pod::{Pod, PodUid};
use crate::shutdown::{self, NodeState, Remaining, priority_of};
use crate::workers::places::Seat;
use crate::workers::queue::{Stage, Wanted};
use crate::workers::{Orders, Place};

impl Registry {
    /// Takes over what becomes of the node. Pods that have no place ask again once it stays up.
    pub(super) fn follow_node(&mut self, state: &NodeState) {
        let was = std::mem::replace(&mut self.node, state.clone());
        let stays = !matches!(state, NodeState::ShuttingDown(_));
        self.freed |= stays && matches!(was, NodeState::ShuttingDown(_));
    }

    /// Takes over the node's object. Pods that were refused ask again where it has other labels or taints; an object that
    /// is gone changes nothing.
    pub(super) fn follow_object(&mut self, object: Option<Arc<NodeObject>>) {
        let Some(object) = object else {
            return;
        };
        let same = self
            .object
            .as_ref()
            .is_some_and(|before| before.labels == object.labels && before.taints == object.taints);
        if !same {
            let node = self.tools.node.admission.with_object(&object);
            self.places.set_node(Arc::new(node));
            self.freed = true;
        }
        self.object = Some(object);
    }

    /// Why a pod gets no place whatever there is room for: the node is short of something, or shutting down. One that
    /// runs already has to be ended by its worker, be it that the worker was lost, and one that has ended is shown as it
    /// ended.
    pub(super) fn node_refuses(
        &self,
        uid: &PodUid,
        pod: &Pod,
        seat: Seat<'_>,
        runs: bool,
    ) -> Option<Rejection> {
        if runs || self.places.may_run(uid) || seat.stage == Stage::Over {
            return None;
        }
        let shuts_down = matches!(self.node, NodeState::ShuttingDown(_));
        let shut_down = || Rejection {
            reason: shutdown::REFUSED.into(),
            message: shutdown::REFUSED_MESSAGE.to_owned(),
        };
        let short = admit_under(self.pressure, pod).err();
        short.or_else(|| shuts_down.then(shut_down))
    }

    /// Refuses a pod.
    pub(super) fn refuse(&self, uid: &PodUid, rejection: Rejection) {
        let rejection = Arc::new(rejection);
        self.order(uid, |orders| {
            orders.wanted = Wanted::Run;
            orders.place = Place::Refused(rejection);
        });
    }

    /// What a worker is told whose pod was about to leave its place when the worker before it was lost.
    pub(super) fn why_it_leaves(&self, pod: &Pod) -> Place {
        match &self.node {
            NodeState::ShuttingDown(leaving) => leaving
                .time_of(pod)
                .map_or(Place::Preempted, Place::Leaving),
            NodeState::Unknown | NodeState::Up => Place::Preempted,
        }
    }

    /// Tells the pods whose turn it is that they have to end.
    pub(super) fn have_pods_leave(&mut self) {
        let NodeState::ShuttingDown(leaving) = &self.node else {
            return;
        };
        for (uid, handle) in &self.handles {
            let (stage, orders) = (*handle.stage.borrow(), handle.orders.borrow().clone());
            // What waits for its turn is refused when that comes.
            let told = orders.wanted == Wanted::Wait || matches!(orders.place, Place::Leaving(_));
            if told || !orders.may_run(stage) {
                continue;
            }
            if let Some(time) = leaving.time_of(&orders.pod) {
                tracing::info!(pod = %handle.name, %uid, "the node is shutting down; the pod ends within {time:?}");
                self.places.ends(uid);
                handle
                    .orders
                    .send_modify(|orders| orders.place = Place::Leaving(time));
            }
        }
    }

    /// Who is there still.
    pub(super) fn remaining(&self, runtime_seen: bool) -> Remaining {
        let remains = |orders: &Orders, stage| {
            // What waits for its turn may run already, where nobody could look.
            let waits = orders.wanted == Wanted::Wait && runtime_seen;
            !waits && orders.may_run(stage)
        };
        let live = self.handles.values().filter_map(|handle| {
            let orders = handle.orders.borrow();
            let priority = priority_of(&orders.pod);
            remains(&orders, *handle.stage.borrow()).then(|| (priority, handle.name.clone()))
        });
        // Nobody knows what of these runs before they have a worker again.
        let resting = self.panicked.values().map(|lost| (0, lost.pod.pod_name()));
        let pods = match &self.node {
            NodeState::ShuttingDown(_) => live.chain(resting).collect(),
            NodeState::Unknown | NodeState::Up => Vec::new(),
        };
        Remaining {
            heard: self.node.clone(),
            pods,
        }
    }
}

impl Orders {
    /// Whether something of the pod runs, or may be begun.
    fn may_run(&self, stage: Stage) -> bool {
        let refused = matches!(self.place, Place::Refused(_));
        match stage {
            Stage::Live => !refused,
            Stage::Terminating => true,
            Stage::Over => false,
            // Told to come back, it is on its way.
            Stage::GivenWay => self.place == Place::Granted,
            Stage::Terminated => self.wanted == Wanted::Run && !refused,
        }
    }
}
