//! The life of a pod that is wanted: plan, apply, publish, wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::CriError;

use super::hold::Hold;
use super::memory::{
    DEADLINE_EXCEEDED, Memory, PAST_DEADLINE, PREEMPTED, PREEMPTING, active_limit,
};
use super::queue::{Stage, Wanted};
use super::{Orders, Place, Worker, apply::Applied};
use crate::admission::{self, NodeFeatures};
use crate::events::About;
use crate::eviction::EVICTED;
use crate::observe::RuntimeState;
use crate::plan::{PlanInput, PodPlan, Step, plan_pod};
use crate::pod::{self, Pod};
use crate::record::Exit;
use crate::runtime::{ContainerId, ObservedPod, SandboxId};
use crate::status::PodStatus;

/// A pod that is not begun for this long shows why.
const SHOW_WAITING: Duration = Duration::from_secs(10);

impl Worker {
    /// Keeps the pod as its manifest has it, until it is told to stop.
    ///
    /// Cancel-safe: `live` keeps nothing across an await that `self` does not hold, and what a dropped call to the
    /// runtime leaves behind, the look at the start of the termination shows.
    pub(super) async fn live_until_stopped(&mut self) {
        self.publish_first();
        loop {
            let mut orders = self.orders.clone();
            let stays = !self.memory.has_no_place() && !self.memory.preempted;
            let leaving = self.memory.leaving;
            let evicted = self.memory.evicted.is_some();
            // A pod that has to make room, or has less time than it had, must not go on with a pull or a start that hangs.
            let cut_short = |o: &Orders| {
                o.wanted == Wanted::Stop
                    || match o.place {
                        Place::Preempted => stays,
                        Place::Leaving(time) => leaving != Some(time),
                        Place::Evicted(_) => !evicted,
                        Place::Granted | Place::Refused(_) => false,
                    }
            };
            let deadline = self.deadline();
            let told = tokio::select! {
                biased;
                told = orders.wait_for(cut_short) => told.map(|o| o.clone()),
                () = deadline => {
                    self.end_at_deadline();
                    continue;
                }
                () = self.live() => return,
            };
            match told {
                Ok(told) if told.wanted != Wanted::Stop => {
                    self.take_place(&told.pod, &told.place);
                    self.memory.stale = true;
                }
                // An error means that the registry is gone, which ends the process.
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Waits until the pod has been active for as long as it may; for ever where nothing limits it. A change of the
    /// limit counts at once.
    fn deadline(&self) -> impl Future<Output = ()> + use<> {
        let mut orders = self.orders.clone();
        let clock = self.tools.clock.clone();
        let mut active_since = self.memory.active_since();
        let over = self.memory.is_over();
        async move {
            loop {
                let told = orders.borrow_and_update().clone();
                let now = clock.now().monotonic;
                // One that has to wait for its predecessor is not active yet.
                let active = !over && told.wanted == Wanted::Run;
                let left = active_limit(&told.pod).filter(|_| active).map(|limit| {
                    let since = *active_since.get_or_insert(Exit::at(now));
                    limit.saturating_sub(since.age(now))
                });
                let alarm = async {
                    match left {
                        Some(left) => tokio::time::sleep(left).await,
                        None => std::future::pending().await,
                    }
                };
                // Cancel-safe: what has changed is looked at anew.
                tokio::select! {
                    () = alarm => return,
                    changed = orders.changed() => if changed.is_err() {
                        // The registry is gone, which ends the process.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    fn end_at_deadline(&mut self) {
        let pod = self.orders.borrow().pod.clone();
        let now = self.tools.clock.now().monotonic;
        if self.memory.exceed_deadline(&pod, now) {
            About::pod(&pod).normal(DEADLINE_EXCEEDED, PAST_DEADLINE);
        }
        self.memory.stale = true;
    }

    async fn live(&mut self) {
        self.told_to_run().await;
        self.memory.begin_life(self.tools.clock.now().monotonic);
        self.probes.hooks_over();
        // Nothing seen of the pod may mean that nobody could look at it yet.
        self.memory.stale |= self.observed.borrow().is_empty();
        let mut warned = false;
        loop {
            let since = self.tools.clock.monotonic();
            let Orders { pod, place, .. } = self.orders.borrow_and_update().clone();
            self.memory.follow_source(&pod);
            self.take_place(&pod, &place);
            if self.memory.stale && !self.look_again().await {
                let blind = Applied {
                    acted: false,
                    failed: true,
                };
                self.hold_pod();
                let observed = self.observed.borrow().clone();
                match observed.is_empty() {
                    true => self.publish_unseen(&pod),
                    false => self.publish(&pod, &observed, &PodPlan::default()),
                }
                self.wait(&PodPlan::default(), &blind, since).await;
                continue;
            }
            if place == Place::Granted && !std::mem::replace(&mut warned, true) {
                self.warn_of_unbuilt(&pod);
            }
            if place == Place::Granted && !self.memory.is_over() {
                self.objects.register(&pod, &self.uid);
                self.keep_volumes(&pod);
                self.keep_published(&pod);
            }
            match self.memory.is_over() {
                true => self.probes.pod_ends(),
                false => self.probes.sync(&pod),
            }
            let observed = self.observed.borrow_and_update().clone();
            let now = self.tools.clock.now();
            let containers = pod::spec(&pod).containers.len();
            let pass = (self.timing).begin_pass(containers, observed.is_empty(), now.monotonic);
            self.memory.note_exits(&observed, now);
            let plan = if self.memory.is_over() {
                end_of(&pod, &observed, self.memory.time_to_end())
            } else {
                self.pin(&observed).await;
                let resized = self.resize(&pod, &observed).await;
                self.plan(&pod, &observed, &resized)
            };
            let resets = plan.resets();
            if resets {
                // What is about to be forgotten is shown once, and how it was goes into the next status.
                self.publish(&pod, &observed, &plan);
            }
            self.tell_backoffs(&pod, &observed, &plan);
            let mut applied = self.apply_in_view(&pod, &observed, &plan).await;
            pass.end(self.tools.clock.monotonic());
            self.probes.hooks_over();
            if applied.acted {
                if self.memory.stale {
                    self.look_again().await;
                }
                if resets && !self.memory.stale {
                    let observed = self.observed.borrow().clone();
                    self.publish(&pod, &observed, &PodPlan::default());
                }
                let last = self.memory.last_plan.take();
                if !applied.failed {
                    // The same steps again, though each went well: whatever it is, hurrying will not help.
                    if last.as_ref() == Some(&plan) {
                        self.hold_pod();
                        applied.failed = true;
                    }
                    self.memory.last_plan = Some(plan.clone());
                }
            }
            if applied.acted && !applied.failed {
                continue;
            }
            let observed = self.observed.borrow().clone();
            self.publish(&pod, &observed, &plan);
            if self.memory.is_over() && plan.finished && !self.memory.released {
                self.memory.released = true;
                self.probes.clear();
                self.release().await;
                if self.memory.is_evicted() {
                    self.remove_traces(&pod).await;
                }
                if let Some(eviction) = &self.memory.evicted {
                    eviction.ended.notify_one();
                }
                if self.memory.rejected.is_none() {
                    let gave_way = self.memory.gave_way;
                    let stage = if gave_way {
                        Stage::GivenWay
                    } else {
                        Stage::Over
                    };
                    self.stage.send_replace(stage);
                }
            }
            self.wait(&plan, &applied, since).await;
        }
    }

    /// Waits for the order to run, and shows what it waits for where that takes long.
    async fn told_to_run(&mut self) {
        let mut orders = self.orders.clone();
        // Cancel-safe: the order stays in its channel. An error means that the registry is gone, which ends the process.
        tokio::select! {
            _ = orders.wait_for(|o| o.wanted == Wanted::Run) => return,
            () = tokio::time::sleep(SHOW_WAITING) => {}
        }
        let mut stuck = self.tools.stuck.changes();
        loop {
            stuck.mark_unchanged();
            let why = match *self.runtime.borrow() {
                RuntimeState::NeverSeen => "waiting for the container runtime to answer".to_owned(),
                _ if self.tools.devices.is_pending(&self.uid) => {
                    "waiting for the plugins of its devices to answer".to_owned()
                }
                _ => {
                    let waits = "waiting for the pod that had this name before to stop";
                    match self.tools.stuck.why(&self.name) {
                        Some(why) => format!("{waits}: {why}"),
                        None => waits.to_owned(),
                    }
                }
            };
            tracing::warn!(pod = %self.name, uid = %self.uid, why, "the pod is not begun yet");
            self.show_waiting(&why);
            // Cancel-safe, as above; what is stuck stays said.
            tokio::select! {
                _ = orders.wait_for(|o| o.wanted == Wanted::Run) => return,
                _ = stuck.changed() => {}
            }
        }
    }

    /// Puts `why` beside what the board shows of the pod.
    pub(super) fn show_waiting(&mut self, why: &str) {
        if let Some(writer) = &self.board
            && let Some(status) = writer.current()
        {
            let pod = self.orders.borrow().pod.clone();
            let message = Some(why.into());
            let status = PodStatus::clone(&status);
            writer.set_unseen(&pod, PodStatus { message, ..status });
        }
    }

    fn hold_pod(&mut self) {
        let now = self.tools.clock.now().monotonic;
        let hold = Hold::after(self.memory.holds.get(&None), now, None);
        self.memory.holds.insert(None, hold);
    }

    fn plan(&self, pod: &Pod, observed: &ObservedPod, resized: &BTreeSet<Arc<str>>) -> PodPlan {
        plan_pod(&PlanInput {
            pod,
            observed,
            backoff: &self.memory.backoffs,
            exits: &self.memory.exits,
            attempts_on_disk: &self.memory.attempts_on_disk,
            probes: &self.probes.views(pod, observed),
            resized,
            now: self.tools.clock.now().monotonic,
        })
    }

    /// Renews the observation after a change; says whether that went well. Nothing is planned from a stale one.
    pub(super) async fn look_again(&mut self) -> bool {
        let looked = self.tools.observer.refresh(&self.uid).await;
        if let Err(error) = &looked {
            self.tell_blind(error);
        }
        self.memory.stale = looked.is_err();
        if let Ok(observed) = &looked {
            self.tidy(observed);
            self.probes.forget_gone(observed);
        }
        looked.is_ok()
    }

    /// Looks at a sandbox that was just made.
    pub(super) async fn look_at_sandbox(&mut self, pod: &Pod, id: &SandboxId) {
        let looked = self.tools.observer.refresh_sandbox(&self.uid, id).await;
        if let Err(error) = &looked {
            let error = error.rpc_text();
            About::pod(pod).warning(
                "FailedPodSandBoxStatus",
                &format!("Unable to get pod sandbox status: {error}"),
            );
        }
        self.note_look(looked);
    }

    /// Looks at a container that was just started.
    pub(super) async fn look_at_container(&mut self, sandbox: &SandboxId, id: &ContainerId) {
        let observer = &self.tools.observer;
        let looked = observer.refresh_container(&self.uid, sandbox, id).await;
        self.note_look(looked);
    }

    /// A look at one thing that did not succeed is made up for by a look at all of the pod.
    fn note_look(&mut self, looked: Result<(), CriError>) {
        if let Err(error) = looked {
            tracing::debug!(pod = %self.name, uid = %self.uid, %error, "cannot look at what was just made");
            self.memory.stale = true;
        }
    }

    /// Does as the registry has decided: refuses the pod, has it end, or has it begin anew when there is room again.
    fn take_place(&mut self, pod: &Arc<Pod>, place: &Place) {
        match place {
            Place::Refused(rejection) => {
                if self.memory.reject(rejection) {
                    About::pod(pod).warning(&rejection.reason, &rejection.message);
                }
            }
            Place::Preempted => {
                if self.memory.give_way(pod) {
                    About::pod(pod).warning(PREEMPTING, PREEMPTED);
                }
            }
            Place::Leaving(time) => {
                if self.memory.leaving != Some(*time) {
                    let ran = !self.observed.borrow().containers.is_empty();
                    self.memory.leave(pod, *time, ran);
                }
            }
            Place::Evicted(eviction) => {
                if self.memory.evict(eviction) {
                    About::pod(pod).warning(EVICTED, &eviction.message);
                }
            }
            Place::Granted if self.memory.has_no_place() => {
                tracing::info!(pod = %self.name, uid = %self.uid, "there is a place for the pod now");
                self.memory = Memory::fresh(&self.tools, pod, &self.uid);
                self.memory.stale = true;
                self.stage.send_replace(Stage::Live);
                self.publish(pod, &ObservedPod::default(), &PodPlan::default());
            }
            Place::Granted => {}
        }
    }

    /// Says what of the pod has no effect; of one that already ran an earlier life of the agent has.
    fn warn_of_unbuilt(&self, pod: &Pod) {
        if self.memory.is_over() || !self.observed.borrow().is_empty() {
            return;
        }
        let node = NodeFeatures {
            devices: self.tools.devices.resources(),
            ..NodeFeatures::default()
        };
        for warning in admission::warnings(pod, &node) {
            About::pod(pod).warning("NotBuilt", &warning);
        }
    }

    /// Takes the pod's place on the board.
    pub(super) fn publish_first(&mut self) {
        // It may have shown what it waited for before it began again.
        self.board = None;
        self.board = match self.tools.board.writer(&self.uid) {
            Ok(writer) => Some(Arc::new(writer)),
            Err(error) => {
                tracing::error!(error = %error, "the pod's status cannot be shown");
                None
            }
        };
        let pod = self.orders.borrow().pod.clone();
        self.publish_unseen(&pod);
    }

    /// A pod that nobody has looked at yet is pending; or it is as an earlier life of the agent left it. Not having
    /// looked yet flips no condition.
    pub(super) fn publish_unseen(&mut self, pod: &Arc<Pod>) {
        let view = self.view(pod, &PodPlan::default());
        let unseen = view.derive(&ObservedPod::default());
        let status = match &*self.memory.status.borrow() {
            Some(before) if before.all_containers().next().is_some() => before.clone(),
            Some(before) => PodStatus {
                phase: before.phase,
                conditions: before.conditions.clone(),
                ..unseen
            },
            None => unseen,
        };
        if let Some(writer) = &self.board {
            writer.set_unseen(pod, status);
        }
    }

    /// Waits for whatever may change the plan: the spec, an observation, what probes say, the runtime's
    /// return, or time. The pass that it follows began at `since`: what was put off in it may be due already, because
    /// looking again took long.
    async fn wait(&mut self, plan: &PodPlan, applied: &Applied, since: Duration) {
        let now = self.tools.clock.now().monotonic;
        let due = |hold: &Hold| hold.due(since, now);
        let hold = self.memory.holds.values().filter_map(due).min();
        let flush = self.memory.next_flush(now);
        // What the status says of a hold goes with it, whether or not anything is tried again then.
        let said = self.memory.holds.values().filter(|h| h.waiting.is_some());
        let said = said.filter_map(due).min();
        let removal = self.removals.next_try(since, now);
        let resize = self.memory.resize_hold.as_ref().and_then(due);
        let pin = self.memory.pins.retry_in(now);
        let again = [hold, removal].into_iter().flatten().min();
        let again = again.filter(|_| applied.failed);
        let delay = [plan.wake_in, again, said, flush, resize, pin]
            .into_iter()
            .flatten()
            .min();
        let alarm = async {
            match delay {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        let pod = self.orders.borrow().pod.clone();
        let released = self.memory.released;
        let objects = self.objects_changed();
        // Cancel-safe: all that a dropped arm could lose is still in its channel or its task set.
        tokio::select! {
            count = objects => self.forgive_objects(count),
            _ = self.orders.changed() => {}
            _ = self.observed.changed() => {}
            () = self.probes.changed() => {}
            _ = self.runtime.changed() => {
                if matches!(*self.runtime.borrow_and_update(), RuntimeState::Up(_)) {
                    self.memory.holds.clear();
                    self.removals.forgive();
                }
            }
            done = self.removals.next() => {
                self.removal_done(done);
                self.memory.stale = true;
            }
            // Nobody counts on where the agent ends.
            Ok(()) = self.reclaim.changed(), if released => self.remove_ended(&pod).await,
            // What the pod needed may be there now.
            () = self.classes.changed_for(&pod) => {
                self.memory.holds.remove(&None);
            }
            // Whatever image was waited for: it is looked for anew. Without a sender nobody imports any.
            Ok(()) = self.imported.changed() => self.memory.holds.clear(),
            // Its sender lives as long as the tools do.
            Ok(()) = self.pins.changed() => {}
            () = self.drivers.changed_for(&pod) => self.forgive_drivers(),
            () = alarm => {}
        }
    }
}

/// A pod that is over starts nothing; what still runs of it is stopped, within `limit` where there is one.
fn end_of(pod: &Pod, observed: &ObservedPod, limit: Option<Duration>) -> PodPlan {
    let grace = Duration::from_secs(crate::pod::grace_seconds(pod).unsigned_abs());
    let grace = limit.map_or(grace, |limit| limit.min(grace));
    let mut plan = crate::plan::plan_termination(pod, observed, grace);
    plan.steps
        .retain(|step| matches!(step, Step::Stop(_) | Step::StopSandbox(_)));
    plan
}
