//! What is shown of a pod: its status, made of what its worker knows and of what changes beside it.
//!
//! While the worker is at steps that take long (an image that is pulled, a hook, a container that is given time to stop),
//! what the runtime shows and what probes find reaches the status all the same.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::apply::Applied;
use super::queue::Wanted;
use super::told::tell_ends;
use super::{Worker, memory::StatusCell};
use crate::cgroups::resources::qos_class;
use crate::clock::Clock;
use crate::managers::devices::Devices;
use crate::plan::PodPlan;
use crate::pod::{Pod, PodName, PodUid};
use crate::probes::ProbeNews;
use crate::resize::Progress;
use crate::runtime::ObservedPod;
use crate::status::{
    PodFailure, PodStatus, Rejected, ResourceHealth, StatusInput, StatusWriter, Waiting,
    derive_status,
};

/// All that a pod's status is made of but the observation, as it is when the worker takes up a plan.
pub(super) struct View {
    pod: Arc<Pod>,
    probes: ProbeNews,
    waiting: BTreeMap<Arc<str>, Waiting>,
    start_time: Timestamp,
    terminating: bool,
    finished: bool,
    rejected: Option<Rejected>,
    failure: Option<PodFailure>,
    stop_signals: bool,
    resize: Progress,
    host_ips: Arc<[IpAddr]>,
    /// Who says whether devices work; none where the status does not have it.
    devices: Option<Devices>,
    clock: Clock,
    board: Option<Arc<StatusWriter>>,
    /// The last status. It is the worker's: so a condition flips once, whoever shows it.
    status: StatusCell,
}

impl Worker {
    /// [`Worker::apply`], with the status kept up to what is observed and what probes find.
    pub(super) async fn apply_in_view(
        &mut self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
        plan: &PodPlan,
    ) -> Applied {
        if plan.steps.is_empty() {
            return self.apply(pod, observed, plan).await;
        }
        let view = Box::new(self.view(pod, plan));
        let observations = self.observed.clone();
        // Cancel-safe: what is shown is on the board and in the worker's memory.
        tokio::select! {
            biased;
            applied = self.apply(pod, observed, plan) => applied,
            never = view.follow(observations) => match never {},
        }
    }

    pub(super) fn view(&self, pod: &Arc<Pod>, plan: &PodPlan) -> View {
        let now = self.tools.clock.now().monotonic;
        // Read once: who reads a second time while holding the first waits for the registry, which waits for the first.
        let (wanted, pending) = {
            let orders = self.orders.borrow();
            (orders.wanted, orders.resize.clone())
        };
        View {
            pod: pod.clone(),
            probes: self.probes.news(),
            waiting: self.waiting(plan, now),
            start_time: self.memory.start_time,
            terminating: wanted == Wanted::Stop,
            finished: plan.finished || self.memory.is_over(),
            rejected: self.memory.rejected.clone(),
            failure: self.memory.failure.clone(),
            stop_signals: self.tools.node.settings.stop_signals,
            resize: Progress {
                pending,
                actuating: self.memory.resizing.clone(),
            },
            host_ips: self.tools.node.status_ips.clone(),
            devices: Some(self.tools.devices.clone()).filter(|_| self.tools.node.device_health),
            clock: self.tools.clock.clone(),
            board: self.board.clone(),
            status: self.memory.status.clone(),
        }
    }

    fn waiting(&self, plan: &PodPlan, now: Duration) -> BTreeMap<Arc<str>, Waiting> {
        let mut waiting = plan.waiting.clone();
        for (name, hold) in &self.memory.holds {
            if let (Some(name), Some(why)) = (name, &hold.waiting)
                && hold.left(now).is_some()
            {
                waiting.insert(name.clone(), why.clone());
            }
        }
        waiting
    }

    /// Derives the status, puts it on the board, and keeps in the record what the runtime does not hold.
    pub(super) fn publish(&mut self, pod: &Arc<Pod>, observed: &ObservedPod, plan: &PodPlan) {
        self.view(pod, plan).show(observed);
        let phase = self.memory.status.borrow().as_ref().map(|s| s.phase);
        if let Some(phase) = phase {
            self.timing.shown(phase, self.tools.clock.monotonic());
        }
        self.keep_shown(pod);
    }

    /// Keeps in the record what was shown of the pod.
    pub(super) fn keep_shown(&mut self, pod: &Pod) {
        self.memory.store(pod, &self.tools.clock);
    }
}

impl View {
    /// The status of the pod as it is `observed`.
    pub(super) fn derive(&self, observed: &ObservedPod) -> PodStatus {
        let observed = &*self.probes.shown(observed);
        let mut status = derive_status(&StatusInput {
            pod: &self.pod,
            qos: qos_class(&self.pod),
            observed,
            waiting: &self.waiting,
            probes: &self.probes.views(&self.pod, observed),
            previous: self.status.borrow().as_ref(),
            start_time: self.start_time,
            terminating: self.terminating,
            finished: self.finished,
            rejected: self.rejected.as_ref(),
            failure: self.failure.as_ref(),
            host_ips: &self.host_ips,
            stop_signals: self.stop_signals,
            resize: &self.resize,
            now: self.clock.wall(),
        });
        self.add_device_health(&mut status);
        status
    }

    /// As upstream, of regular containers alone.
    fn add_device_health(&self, status: &mut PodStatus) {
        let (Some(devices), Ok(uid)) = (&self.devices, PodUid::of(&self.pod)) else {
            return;
        };
        for container in &mut status.containers {
            let health = devices.health(&uid, &container.name).into_iter();
            let health = health.map(|(resource, devices)| ResourceHealth { resource, devices });
            container.devices = health.collect();
        }
    }

    /// Puts the status on the board.
    fn show(&self, observed: &ObservedPod) {
        let status = self.derive(observed);
        let before = self.status.borrow().as_ref().map(|before| {
            tell_ends(&self.pod, before, &status);
            before.phase
        });
        if status.phase.is_terminal() && before != Some(status.phase) {
            let (pod, uid) = (PodName::of(&self.pod), self.pod.metadata.uid.as_deref());
            tracing::info!(%pod, uid, phase = status.phase.as_str(), "pod has finished");
        }
        if let Some(board) = &self.board {
            board.set(&self.pod, status.clone());
        }
        self.status.send_replace(Some(status));
    }

    /// Shows what is new, for as long as it is polled.
    async fn follow(&self, mut observed: watch::Receiver<Arc<ObservedPod>>) -> Infallible {
        let mut probes = self.probes.clone();
        loop {
            // Cancel-safe: news stay in their channels.
            tokio::select! {
                () = probes.changed() => {}
                changed = observed.changed() => if changed.is_err() {
                    // The observer is gone, which ends the process.
                    std::future::pending::<()>().await;
                }
            }
            let seen = observed.borrow_and_update().clone();
            self.show(&seen);
        }
    }
}
