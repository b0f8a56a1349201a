//! Gives running pods of the API server the resources that they ask for, as far as there is room.
//!
//! A worker never sees what its pod asks for, but what it was given. A pod that was not given what it asks for is asked
//! about again each time the registry goes round: whenever another pod has ended or shrunk, and each minute.

use std::cmp::Reverse;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Orders, Place, Places, Registry};
use crate::events::About;
use crate::pod::{self, Pod, PodUid};
use crate::record::{Loaded, RecordFile};
use crate::resize::{self, Allocation, Pending, PendingReason};
use crate::workers::queue::{Stage, Wanted};

/// Why resources of the whole pod are not changed.
const WHOLE_POD: &str = "In-place resize of pod-level resources is not supported in this version";

/// What a pod of the API server asks for, and what it was given.
pub(super) struct Asked {
    /// The pod as its source has it.
    pod: Arc<Pod>,
    given: Allocation,
    /// Why what it asks for was not given; none where it has, or nobody has looked yet.
    refused: Option<Arc<Pending>>,
}

impl Asked {
    /// The pod with what it was given.
    pub(super) fn given(&self) -> Arc<Pod> {
        self.given.laid_over(&self.pod)
    }

    /// Takes over what the source has now. Gives what the worker is to have, which is the same as before where nothing
    /// has changed.
    pub(super) fn follow(
        &mut self,
        pod: &Arc<Pod>,
        told: &Orders,
    ) -> (Option<Arc<Pod>>, Option<Arc<Pending>>) {
        if Arc::ptr_eq(&self.pod, pod) {
            return (Some(told.pod.clone()), told.resize.clone());
        }
        let asks_again = Allocation::of(pod) != Allocation::of(&self.pod);
        self.pod = pod.clone();
        if asks_again {
            self.refused = None;
        }
        (Some(self.given()), self.refused.clone())
    }

    /// Whether somebody has to look at what it asks for.
    fn waits(&self, orders: &Orders, stage: Stage) -> bool {
        let runs =
            orders.wanted == Wanted::Run && orders.place == Place::Granted && stage == Stage::Live;
        let final_word = self.refused.as_ref();
        let final_word = final_word.is_some_and(|why| why.reason == PendingReason::Infeasible);
        runs && !final_word && self.given.differs(&self.pod)
    }

    /// Whose turn it is: who asks for less than it was `given` comes first, then who is more important.
    fn turn(&self, given: &Pod) -> (bool, Reverse<i32>) {
        let priority = pod::spec(&self.pod).priority.unwrap_or(0);
        let more = resize::asks_for_more(&self.pod, given);
        (more, Reverse(priority))
    }

    /// Gives what is asked for where `places` has room for it, and tells the worker what it was given, or why not.
    fn resize(&mut self, uid: &PodUid, places: &mut Places, orders: &watch::Sender<Orders>) {
        let pod = &self.pod;
        let verdict = match self.given.differs_as_a_whole(pod) {
            true => Err((PendingReason::Infeasible, WHOLE_POD.to_owned())),
            false => match places.refuses_resize(pod, &self.given()) {
                Some(message) => Err((PendingReason::Infeasible, message)),
                None => {
                    let resized = places.resize(uid, pod);
                    resized.map_err(|message| (PendingReason::Deferred, message))
                }
            },
        };
        let refused = match verdict {
            Ok(()) => {
                self.given = Allocation::of(pod);
                About::pod(pod).normal("ResizeStarted", &resize::started(pod));
                None
            }
            Err((reason, message)) => {
                let message = message.into();
                let why = Arc::new(Pending { reason, message });
                let before = self.refused.as_ref();
                if before.is_none_or(|before| before.reason != reason) {
                    About::pod(pod).warning(reason.event(), &resize::pending(pod, &why));
                }
                Some(why)
            }
        };
        self.refused.clone_from(&refused);
        let given = self.given();
        orders.send_if_modified(|orders| {
            let same = Allocation::of(&orders.pod) == self.given && orders.resize == refused;
            if !same {
                orders.pod = given;
                orders.resize = refused;
            }
            !same
        });
    }
}

impl Registry {
    /// What a pod was given that begins: by its record, if it ran before. None for one that is not the API server's.
    pub(super) fn asked_at_start(&self, uid: &PodUid, pod: &Arc<Pod>) -> Option<Asked> {
        if !pod::is_from_api(pod) {
            return None;
        }
        let record = match RecordFile::load(&self.tools.dirs.path(uid)) {
            Loaded::Good(record) => record.allocated,
            Loaded::Missing | Loaded::Bad { .. } => None,
        };
        Some(Asked {
            given: record.unwrap_or_else(|| Allocation::of(pod)),
            pod: pod.clone(),
            refused: None,
        })
    }

    /// Gives what is asked for where there is room: first to those that ask for less, then by priority.
    pub(super) fn resize_pods(&mut self) {
        let waiting = self.handles.iter().filter(|(_, handle)| {
            let (orders, stage) = (handle.orders.borrow(), *handle.stage.borrow());
            let asked = handle.asked.as_ref();
            asked.is_some_and(|asked| asked.waits(&orders, stage))
        });
        let mut waiting: Vec<_> = waiting
            .filter_map(|(uid, handle)| {
                let turn = handle.asked.as_ref()?.turn(&handle.orders.borrow().pod);
                Some((turn, uid.clone()))
            })
            .collect();
        waiting.sort();
        for (_, uid) in waiting {
            self.resize_pod(&uid);
        }
    }

    fn resize_pod(&mut self, uid: &PodUid) {
        if let Some(handle) = self.handles.get_mut(uid)
            && let Some(asked) = &mut handle.asked
        {
            asked.resize(uid, &mut self.places, &handle.orders);
        }
    }
}

#[cfg(test)]
mod tests;
