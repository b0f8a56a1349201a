//! Takes the steps of a plan, one after the other.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::CriError;
use k8s_openapi::api::core::v1::Container;

use super::Worker;
use super::hold::Hold;
use super::permits::StartPermit;
use super::start::StartError;
use super::told::container_type;
use crate::events::About;
use crate::metrics::kubelet;
use crate::plan::{ContainerStart, PodPlan, Step};
use crate::pod::{self, ContainerKind, Pod};
use crate::record::BackoffKey;
use crate::runtime::{ContainerId, ObservedPod, SandboxId};
use crate::status::{StatusWriter, StepAtWork};

/// What came of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Applied {
    /// Something was done, or at least tried: the runtime has to be looked at again.
    pub(super) acted: bool,
    /// Something could not be done, and is tried again after its hold.
    pub(super) failed: bool,
}

/// What the worker is at, for whoever asks why a pod does not go on. Nothing once it is dropped, in whichever way.
struct ShownStep(Option<Arc<StatusWriter>>);

impl ShownStep {
    fn at(&self, step: &Step, since: Duration) {
        if let Some(board) = &self.0 {
            let what = words(step).into();
            board.at(Some(StepAtWork { what, since }));
        }
    }
}

impl Drop for ShownStep {
    fn drop(&mut self) {
        if let Some(board) = &self.0 {
            board.at(None);
        }
    }
}

/// What a worker that takes `step` is at, as an end to "the agent".
fn words(step: &Step) -> String {
    match step {
        Step::Stop(_) => "ends containers".to_owned(),
        Step::StopSandbox(_) => "ends the sandbox (StopPodSandbox)".to_owned(),
        Step::CreateSandbox { .. } => "makes the sandbox".to_owned(),
        Step::Start(start) => format!("starts container {}", start.name),
        Step::RemoveContainer(_) | Step::ResetContainer(_) => {
            "removes a container (RemoveContainer)".to_owned()
        }
        Step::RemoveSandbox(_) => "removes a sandbox (RemovePodSandbox)".to_owned(),
    }
}

/// Whether the steps that follow still make sense.
#[derive(PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Halt,
}

impl Worker {
    /// Takes the steps of `plan` in order. One that fails puts off itself and whatever depends on it; the rest goes on.
    pub(super) async fn apply(
        &mut self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
        plan: &PodPlan,
    ) -> Applied {
        self.kills.begin_pass();
        let makes_sandbox = |step: &Step| matches!(step, Step::CreateSandbox { .. });
        if !plan.steps.iter().any(makes_sandbox) {
            // The runtime may have made one whose answer was lost; or none is wanted any more.
            self.say_set_back(None);
        }
        let own_users = pod::has_own_users(pod) && plan.steps.iter().any(makes_sandbox);
        let shown = ShownStep(self.board.clone());
        let mut applied = Applied::default();
        let mut permit: Option<StartPermit> = None;
        let mut sandbox = observed
            .sandboxes
            .first()
            .filter(|s| s.ready)
            .map(|s| s.id.clone());
        for step in &plan.steps {
            if permit.is_none() && matches!(step, Step::CreateSandbox { .. } | Step::Start(_)) {
                permit = Some(self.tools.starts.acquire().await);
            }
            // What was made or started is looked at by itself, right away.
            self.memory.stale |= !matches!(step, Step::CreateSandbox { .. } | Step::Start(_));
            shown.at(step, self.tools.clock.monotonic());
            let next = match step {
                Step::Stop(stops) => self.stop(pod, stops, &mut applied).await,
                Step::StopSandbox(id) => self.stop_sandbox(pod, id, &mut applied).await,
                Step::CreateSandbox { attempt } => {
                    let created = self
                        .make_sandbox(pod, *attempt, permit.as_mut(), &mut applied)
                        .await;
                    sandbox = created;
                    if sandbox.is_some() {
                        Next::GoOn
                    } else {
                        Next::Halt
                    }
                }
                Step::Start(start) => match &sandbox {
                    Some(sandbox) => {
                        let started =
                            self.start(pod, sandbox, start, permit.as_mut(), &mut applied);
                        match started.await {
                            Ok(Some(id)) => {
                                // It may take for ever, and others want to start.
                                permit = None;
                                self.post_start(pod, start, &id, &mut applied).await
                            }
                            Ok(None) => Next::GoOn,
                            Err(next) => next,
                        }
                    }
                    None => Next::Halt,
                },
                Step::RemoveContainer(_) | Step::ResetContainer(_) | Step::RemoveSandbox(_) => {
                    self.remove(observed, step, &mut applied).await;
                    Next::GoOn
                }
            };
            if next == Next::Halt {
                break;
            }
        }
        if own_users && applied.acted && applied.failed {
            kubelet().user_namespaces.errors.inc();
        }
        applied
    }

    /// Says, within a step, what of it begins now: what waits for the runtime has the name of the call behind it.
    pub(super) fn say_at(&self, what: &str) {
        if let Some(board) = &self.board {
            let since = self.tools.clock.monotonic();
            let what = what.into();
            board.at(Some(StepAtWork { what, since }));
        }
    }

    /// Says what keeps the pod as a whole from starting; none once it goes on.
    fn say_set_back(&self, reason: Option<&'static str>) {
        if let Some(board) = &self.board {
            board.set_back(reason);
        }
    }

    async fn make_sandbox(
        &mut self,
        pod: &Arc<Pod>,
        attempt: u32,
        mut permit: Option<&mut StartPermit>,
        applied: &mut Applied,
    ) -> Option<SandboxId> {
        if self.held(None) {
            applied.failed = true;
            return None;
        }
        applied.acted = true;
        if attempt > 0 {
            About::pod(pod).normal(
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
        }
        let attempt = attempt.max(self.memory.sandbox_attempt);
        let made = patiently(
            permit.as_deref_mut(),
            Box::pin(self.create_sandbox(pod, attempt)),
        )
        .await;
        match made {
            Ok(id) => {
                self.settle_hold(None, true, applied);
                self.say_set_back(None);
                // Its address goes into the containers; and the status shows it before any image is pulled.
                patiently(permit, Box::pin(self.look_at_sandbox(pod, &id))).await;
                let observed = self.observed.borrow().clone();
                self.publish(pod, &observed, &PodPlan::default());
                Some(id)
            }
            Err(error) => {
                error.tell(pod, None);
                self.say_set_back(Some(error.pod_reason()));
                self.memory.stale = true;
                self.settle_hold(None, false, applied);
                if error.waits_for_objects() {
                    let now = self.tools.clock.now().monotonic;
                    self.hold_for_object(None, None, now);
                }
                None
            }
        }
    }

    /// Starts a container. Ok with its id where a postStart hook has to follow; an error says how to go on.
    async fn start(
        &mut self,
        pod: &Arc<Pod>,
        sandbox: &SandboxId,
        start: &ContainerStart,
        permit: Option<&mut StartPermit>,
        applied: &mut Applied,
    ) -> Result<Option<ContainerId>, Next> {
        let key = Some(start.name.clone());
        // A plain init container that cannot be started holds up all that follows it; the others only themselves.
        let failed = if start.kind == ContainerKind::Init {
            Next::Halt
        } else {
            Next::GoOn
        };
        if self.held(key.as_ref()) {
            applied.failed = true;
            return Err(failed);
        }
        applied.acted = true;
        let container_type = container_type(start.kind);
        kubelet().started_containers.inc(&[container_type]);
        let started = patiently(permit, Box::pin(self.start_container(pod, sandbox, start))).await;
        if let Err(error) = &started {
            let errors = &kubelet().started_containers_errors;
            errors.inc(&[&error.waiting().reason, container_type]);
        }
        let now = self.tools.clock.now();
        // A restart that fails counts as much as one that succeeds.
        if let Some((ended, container)) = start.replaces.zip(pod::container(pod, &start.name)) {
            self.memory
                .backoffs
                .advance(BackoffKey::of(&container), ended, now.monotonic);
        }
        match started {
            Ok(id) => {
                let spec = pod::container(pod, &start.name);
                let has_hook = spec.is_some_and(|spec| has_post_start(&spec));
                if !has_hook {
                    self.memory.holds.remove(&key);
                }
                Ok(has_hook.then_some(id))
            }
            Err(error) => {
                applied.failed = true;
                self.memory.stale = true;
                self.hold_container(pod, start, &error, now.monotonic);
                Err(failed)
            }
        }
    }

    /// Says why a container did not start, and puts it off.
    pub(super) fn hold_container(
        &mut self,
        pod: &Pod,
        start: &ContainerStart,
        error: &StartError,
        now: Duration,
    ) {
        let waiting = error.waiting();
        let key = Some(start.name.clone());
        error.tell(pod, Some(&start.name));
        if error.waits_for_objects() {
            self.hold_for_object(key, Some(waiting), now);
            return;
        }
        let hold = match error.retry_at() {
            Some(until) => Hold::until(until, Some(waiting)),
            None => Hold::after(self.memory.holds.get(&key), now, Some(waiting)),
        };
        self.memory.holds.insert(key, hold);
    }

    pub(super) fn held(&self, key: Option<&Arc<str>>) -> bool {
        let now = self.tools.clock.now().monotonic;
        self.memory
            .holds
            .get(&key.cloned())
            .is_some_and(|hold| hold.left(now).is_some())
    }

    pub(super) fn settle_hold(&mut self, key: Option<Arc<str>>, done: bool, applied: &mut Applied) {
        if done {
            self.memory.holds.remove(&key);
            return;
        }
        applied.failed = true;
        let now = self.tools.clock.now().monotonic;
        let hold = Hold::after(self.memory.holds.get(&key), now, None);
        self.memory.holds.insert(key, hold);
    }
}

/// Whether something is to be run once the container has started.
pub(super) fn has_post_start(spec: &Container) -> bool {
    let lifecycle = spec.lifecycle.as_ref();
    lifecycle.is_some_and(|l| l.post_start.is_some())
}

/// What is no longer there need not be stopped or removed.
pub(super) fn gone_is_done(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Awaits a start with its place held. Boxed, because a pod that only runs must not carry the room a start needs.
async fn patiently<T>(
    permit: Option<&mut StartPermit>,
    work: Pin<Box<impl Future<Output = T>>>,
) -> T {
    match permit {
        Some(permit) => permit.during(work).await,
        None => work.await,
    }
}
