//! Decides what to do next with one pod. Pure: no I/O, no clock, no await.
//!
//! Owns: the rules of upstream's pod sync (which sandbox, which containers to stop, to start, to leave, to wait for).
//! Inputs: the spec, what the runtime shows, the intent, back-off and `now`, all in [`PlanInput`].
//! Outputs: a [`PodPlan`], an ordered list of [`Step`]s that `workers/` applies, and what waits for what.
//! Tasks: none.
//! Does not: touch the runtime, read a clock, or know why it was asked.

mod containers;
mod init;
mod reset;
mod stops;
mod termination;

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use crate::pod::{self, ContainerKind, Pod, RestartPolicy};
use crate::probes::ProbeView;
use crate::record::{BackoffKey, Backoffs, Exit};
use crate::runtime::convert;
use crate::runtime::{
    ContainerId, ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, SandboxId,
};
use crate::status::Waiting;

pub use stops::{ContainerStop, StopReason};
pub use termination::{plan_removal, plan_termination};

/// The least time a container is given to stop once it is told to (upstream's `minimumGracePeriodInSeconds`).
pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// All that a plan is made from.
#[derive(Clone, Copy)]
pub struct PlanInput<'a> {
    /// The pod as its source has it, defaulted.
    pub pod: &'a Pod,
    /// What the runtime holds of it.
    pub observed: &'a ObservedPod,
    /// The restart back-off of its containers.
    pub backoff: &'a Backoffs,
    /// When each ended container ended. One that is missing ended just now.
    pub exits: &'a BTreeMap<ContainerId, Exit>,
    /// The attempt that follows the highest one with a log on disk, for containers the runtime has forgotten.
    pub attempts_on_disk: &'a BTreeMap<Arc<str>, u32>,
    /// By container: what its probes and hooks say. One without an entry has started and is to be left alone.
    pub probes: &'a BTreeMap<Arc<str>, ProbeView>,
    /// Running containers that have to be made anew for the resources they were given.
    pub resized: &'a BTreeSet<Arc<str>>,
    /// The agent's monotonic clock.
    pub now: Duration,
}

/// What to do with a pod, in order, and what it waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodPlan {
    /// Steps in the order in which they are to be taken; a stop always comes before the start that replaces it.
    pub steps: Vec<Step>,
    /// Containers that do not run, and why.
    pub waiting: BTreeMap<Arc<str>, Waiting>,
    /// How long until time alone changes the plan.
    pub wake_in: Option<Duration>,
    /// Nothing of the pod runs and nothing of it will: its phase may become terminal.
    pub finished: bool,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stop these containers at the same time, and wait for all of them.
    Stop(Vec<ContainerStop>),
    /// Stop a sandbox, with whatever still runs in it.
    StopSandbox(SandboxId),
    /// Make the pod's sandbox.
    CreateSandbox {
        /// Counts the sandboxes of the pod, from 0.
        attempt: u32,
    },
    /// Start a container in the newest sandbox.
    Start(ContainerStart),
    /// Forget an ended container, with its log.
    RemoveContainer(ContainerId),
    /// Forget a container that has ended or was never started, and keep its log: every container of the pod is about
    /// to start anew in the sandbox there is, and counts on from there.
    ResetContainer(ContainerId),
    /// Forget a stopped sandbox.
    RemoveSandbox(SandboxId),
}

/// A container to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStart {
    /// Init, sidecar or regular.
    pub kind: ContainerKind,
    /// Its name in the spec.
    pub name: Arc<str>,
    /// The restart count it is made with.
    pub attempt: u32,
    /// An instance that was made and never started: start that one.
    pub adopt: Option<ContainerId>,
    /// When the instance it replaces ended; none where nothing ran before.
    pub replaces: Option<Exit>,
}

/// Plans a pod that is wanted.
#[must_use]
pub fn plan_pod(input: &PlanInput<'_>) -> PodPlan {
    let mut plan = PodPlan::default();
    if containers::is_over(input) {
        plan.end_pod(input);
    } else {
        match usable_sandbox(input) {
            Some(sandbox) => containers::plan_in_sandbox(input, sandbox, &mut plan),
            None => plan_new_sandbox(input, &mut plan),
        }
    }
    plan.collect_garbage(input.observed);
    plan
}

/// The newest sandbox, where the pod can go on living in it.
fn usable_sandbox<'a>(input: &PlanInput<'a>) -> Option<&'a ObservedSandbox> {
    let newest = input.observed.sandboxes.first()?;
    let ready = input.observed.sandboxes.iter().filter(|s| s.ready).count();
    let host_network = pod::host_network(input.pod);
    let usable = newest.ready
        && ready == 1
        && newest.host_network == host_network
        && (host_network || !newest.ips.is_empty());
    usable.then_some(newest)
}

/// No sandbox is there, or none that will do: what still runs is stopped, then the pod begins anew.
fn plan_new_sandbox(input: &PlanInput<'_>, plan: &mut PodPlan) {
    let newest = input.observed.sandboxes.first();
    plan.stop_everything(input);
    let attempt = newest.map_or(0, |s| s.attempt + 1);
    let began_before = attempt > 0 && !input.observed.containers.is_empty();
    let may_begin = !(began_before && RestartPolicy::of_pod(input.pod) == RestartPolicy::Never);
    let mut starts = PodPlan::default();
    if may_begin {
        containers::plan_first_starts(input, &mut starts);
    }
    if may_begin && (!starts.steps.is_empty() || !starts.waiting.is_empty()) {
        if !starts.steps.is_empty() {
            plan.steps.push(Step::CreateSandbox { attempt });
        }
        plan.steps.append(&mut starts.steps);
        plan.waiting = starts.waiting;
        plan.wake_in = starts.wake_in;
    } else {
        plan.finished = plan.steps.is_empty();
    }
}

impl PlanInput<'_> {
    fn exit_of(&self, container: &ObservedContainer) -> Exit {
        self.exits
            .get(&container.id)
            .copied()
            .unwrap_or(Exit::at(self.now))
    }

    /// What is known of the container besides that it runs. One of which nothing is known has started and is well.
    fn probe_of(&self, name: &str) -> ProbeView {
        self.probes.get(name).copied().unwrap_or(ProbeView {
            started: true,
            ready: true,
            failed: None,
        })
    }

    /// Whether the running `instance` was made from another name or image than `container` has.
    fn is_outdated(&self, instance: &ObservedContainer, container: &Container) -> bool {
        !instance.hash.is_empty() && *instance.hash != *self.hash_of(container)
    }

    /// What the annotation of a container made from `container` says.
    fn hash_of(&self, container: &Container) -> String {
        convert::container_hash(
            &container.name,
            container.image.as_deref().unwrap_or_default(),
        )
    }

    fn next_attempt(&self, name: &str) -> u32 {
        let seen = self
            .observed
            .instances(name)
            .map(|c| c.attempt + 1)
            .max()
            .unwrap_or(0);
        let on_disk = self.attempts_on_disk.get(name).copied().unwrap_or(0);
        seen.max(on_disk)
    }
}

impl PodPlan {
    /// Whether the plan forgets instances so that every container starts anew.
    #[must_use]
    pub fn resets(&self) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| matches!(step, Step::ResetContainer(_)))
    }

    /// Stops all that runs in any sandbox, then every sandbox that is ready.
    fn stop_everything(&mut self, input: &PlanInput<'_>) {
        let grace = stops::pod_grace(input.pod);
        termination::push_end(&mut self.steps, input.pod, input.observed, grace);
    }

    /// Nothing of the pod is to run any more: what is left is stopped, and then the pod has finished.
    fn end_pod(&mut self, input: &PlanInput<'_>) {
        *self = Self::default();
        self.stop_everything(input);
        self.finished = self.steps.is_empty();
    }

    /// Brings the stops of single containers together at the front: they wait for each other, not for any start.
    fn stop_side_by_side(&mut self) {
        let mut together = Vec::new();
        self.steps.retain_mut(|step| match step {
            Step::Stop(stops) => {
                together.append(stops);
                false
            }
            _ => true,
        });
        if !together.is_empty() {
            self.steps.insert(0, Step::Stop(together));
        }
    }

    /// Starts `container`, or waits for its back-off to pass. `last` is the instance that it would replace.
    fn start(
        &mut self,
        input: &PlanInput<'_>,
        kind: ContainerKind,
        container: &Container,
        last: Option<&ObservedContainer>,
    ) {
        let name: Arc<str> = container.name.as_str().into();
        let ended = last.filter(|c| c.state == ContainerState::Exited);
        let replaces = ended.map(|c| input.exit_of(c));
        let key = BackoffKey::of(container);
        if let Some(exit) = replaces
            && let Some(left) = input.backoff.remaining(key, exit, input.now)
        {
            let delay = input.backoff.delay(key).unwrap_or_default().as_secs();
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                GoSeconds(delay),
                pod::long_name(input.pod)
            );
            self.waiting.insert(
                name,
                Waiting {
                    reason: "CrashLoopBackOff".into(),
                    message: message.into(),
                },
            );
            self.wake_after(left);
            return;
        }
        // Nothing can be started any more in a sandbox that has stopped.
        let home = usable_sandbox(input).map(|sandbox| &sandbox.id);
        let adopt = last.filter(|c| c.state == ContainerState::Created && Some(&c.sandbox) == home);
        self.steps.push(Step::Start(ContainerStart {
            kind,
            attempt: adopt.map_or_else(|| input.next_attempt(&name), |c| c.attempt),
            name,
            adopt: adopt.map(|c| c.id.clone()),
            replaces,
        }));
    }

    fn wake_after(&mut self, delay: Duration) {
        self.wake_in = Some(self.wake_in.map_or(delay, |d| d.min(delay)));
    }

    /// Ended instances beyond the newest of each name, and stopped sandboxes that hold nothing, save the newest
    /// (upstream's container garbage collection with `maximum-dead-containers-per-container` 1).
    fn collect_garbage(&mut self, observed: &ObservedPod) {
        let mut kept: Vec<&str> = Vec::new();
        let mut removed: Vec<&ContainerId> = Vec::new();
        let is_newest = |c: &ObservedContainer| {
            observed
                .newest(&c.name)
                .is_some_and(|newest| newest.id == c.id)
        };
        let removed_already = |c: &ObservedContainer| {
            let removes = |step: &Step| match step {
                Step::RemoveContainer(id) | Step::ResetContainer(id) => *id == c.id,
                _ => false,
            };
            self.steps.iter().any(removes)
        };
        let never_started = |c: &ObservedContainer| {
            c.state == ContainerState::Created && !is_newest(c) && !removed_already(c)
        };
        removed.extend(
            observed
                .containers
                .iter()
                .filter(|c| never_started(c))
                .map(|c| &c.id),
        );
        for container in observed
            .containers
            .iter()
            .filter(|c| c.state == ContainerState::Exited)
        {
            if !kept.contains(&&*container.name) {
                kept.push(&container.name);
            } else if !removed_already(container) {
                removed.push(&container.id);
            }
        }
        let holds_some = |sandbox: &ObservedSandbox| {
            observed
                .containers
                .iter()
                .any(|c| c.sandbox == sandbox.id && !removed.contains(&&c.id))
        };
        let empty = observed
            .sandboxes
            .iter()
            .skip(1)
            .filter(|s| !s.ready && !holds_some(s));
        let sandboxes: Vec<Step> = empty.map(|s| Step::RemoveSandbox(s.id.clone())).collect();
        self.steps.extend(
            removed
                .into_iter()
                .map(|id| Step::RemoveContainer(id.clone())),
        );
        self.steps.extend(sandboxes);
    }
}

/// Whole seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
struct GoSeconds(u64);

impl fmt::Display for GoSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 60, self.0 % 60) {
            (0, seconds) => write!(f, "{seconds}s"),
            (minutes, seconds) => write!(f, "{minutes}m{seconds}s"),
        }
    }
}

impl fmt::Display for PodPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for (name, waiting) in &self.waiting {
            writeln!(f, "{name} waits: {}: {}", waiting.reason, waiting.message)?;
        }
        if let Some(delay) = self.wake_in {
            writeln!(f, "again in {delay:?}")?;
        }
        if self.finished {
            writeln!(f, "finished")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop(stops) => {
                f.write_str("stop")?;
                for stop in stops {
                    write!(f, " {stop}")?;
                }
                Ok(())
            }
            Self::StopSandbox(id) => write!(f, "stop sandbox {id}"),
            Self::CreateSandbox { attempt } => write!(f, "create sandbox attempt {attempt}"),
            Self::Start(start) => {
                write!(f, "start {} attempt {}", start.name, start.attempt)?;
                match &start.adopt {
                    Some(id) => write!(f, " as {id}"),
                    None => Ok(()),
                }
            }
            Self::RemoveContainer(id) => write!(f, "remove container {id}"),
            Self::ResetContainer(id) => write!(f, "reset container {id}"),
            Self::RemoveSandbox(id) => write!(f, "remove sandbox {id}"),
        }
    }
}
