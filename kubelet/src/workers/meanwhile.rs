//! While a worker is at steps that take long (an image that is pulled, a container that is given time to stop), what
//! probes find reaches the pod's status all the same, as upstream has it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use super::Worker;
use super::apply::Applied;
use crate::cgroups::resources::qos_class;
use crate::clock::Clock;
use crate::plan::PodPlan;
use crate::pod::Pod;
use crate::probes::ProbeNews;
use crate::runtime::{ContainerId, ObservedPod};
use crate::status::derive_status;
use crate::status::{PodFailure, PodStatus, Rejected, StatusInput, StatusWriter, Waiting};

/// What the status is made of: a container whose postStart hook runs is not there yet, as upstream has it.
pub(super) fn to_show<'a>(
    observed: &'a ObservedPod,
    starting: Option<&ContainerId>,
) -> Cow<'a, ObservedPod> {
    let Some(starting) = starting else {
        return Cow::Borrowed(observed);
    };
    let mut shown = observed.clone();
    shown.containers.retain(|c| c.id != *starting);
    Cow::Owned(shown)
}

/// The status that was shown without the worker, until the worker takes it over.
pub(super) type Shown = Arc<Mutex<Option<PodStatus>>>;

/// What the status of a pod depends on while its worker is busy: all that does not change by itself.
struct Meanwhile {
    pod: Arc<Pod>,
    observed: watch::Receiver<Arc<ObservedPod>>,
    starting: watch::Receiver<Option<ContainerId>>,
    waiting: BTreeMap<Arc<str>, Waiting>,
    previous: Option<PodStatus>,
    start_time: Timestamp,
    over: bool,
    rejected: Option<Rejected>,
    failure: Option<PodFailure>,
    clock: Clock,
    board: Option<Arc<StatusWriter>>,
    shown: Shown,
}

impl Worker {
    /// [`Worker::apply`], with the status kept up to what probes find.
    pub(super) async fn apply_in_view(
        &mut self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
        plan: &PodPlan,
    ) -> Applied {
        if plan.steps.is_empty() {
            return self.apply(pod, observed, plan).await;
        }
        let mut news = self.probes.news();
        let meanwhile = Box::new(self.meanwhile(pod, plan));
        // Cancel-safe: what is shown is on the board and in `shown`, and the worker takes it over from there.
        let applied = tokio::select! {
            biased;
            applied = self.apply(pod, observed, plan) => applied,
            never = meanwhile.show(&mut news) => match never {},
        };
        self.take_shown();
        applied
    }

    fn meanwhile(&self, pod: &Arc<Pod>, plan: &PodPlan) -> Meanwhile {
        let now = self.tools.clock.now().monotonic;
        Meanwhile {
            pod: pod.clone(),
            observed: self.observed.clone(),
            starting: self.memory.starting.subscribe(),
            waiting: self.waiting(plan, now),
            previous: self.memory.status.clone(),
            start_time: self.memory.start_time,
            over: self.memory.is_over(),
            rejected: self.memory.rejected.clone(),
            failure: self.memory.failure.clone(),
            clock: self.tools.clock.clone(),
            board: self.board.clone(),
            shown: self.shown.clone(),
        }
    }

    /// What was shown meanwhile is the status before the next one: a condition has flipped once.
    pub(super) fn take_shown(&mut self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = shown.take() {
            self.memory.status = Some(status);
        }
    }
}

impl Meanwhile {
    async fn show(&self, news: &mut ProbeNews) -> Infallible {
        loop {
            news.changed().await;
            let observed = self.observed.borrow().clone();
            let observed = to_show(&observed, self.starting.borrow().as_ref());
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let status = derive_status(&StatusInput {
                pod: &self.pod,
                qos: qos_class(&self.pod),
                observed: &observed,
                waiting: &self.waiting,
                probes: &news.views(&self.pod, &observed),
                previous: shown.as_ref().or(self.previous.as_ref()),
                start_time: self.start_time,
                terminating: false,
                finished: self.over,
                rejected: self.rejected.as_ref(),
                failure: self.failure.as_ref(),
                host_ips: &[],
                now: self.clock.wall(),
            });
            if let Some(board) = &self.board {
                board.set(&self.pod, status.clone());
            }
            *shown = Some(status);
        }
    }
}
