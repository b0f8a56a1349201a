//! The end of a pod: what runs is stopped in order; later, what is left of it is removed.

use std::time::Duration;

use super::{ContainerStop, MINIMUM_GRACE, PodPlan, Step, StopReason};
use crate::pod::{self, ContainerKind, Pod};
use crate::runtime::{ContainerState, ObservedContainer, ObservedPod};

/// Plans a pod that is to stop with `left` of its grace period to go.
#[must_use]
pub fn plan_termination(pod: &Pod, observed: &ObservedPod, left: Duration) -> PodPlan {
    let mut plan = PodPlan::default();
    push_end(&mut plan.steps, pod, observed, left.max(MINIMUM_GRACE));
    plan.finished = plan.steps.is_empty();
    plan
}

/// Plans the removal of all that the runtime still holds of a pod that has stopped.
#[must_use]
pub fn plan_removal(observed: &ObservedPod) -> Vec<Step> {
    let containers = observed
        .containers
        .iter()
        .map(|c| Step::RemoveContainer(c.id.clone()));
    let sandboxes = observed
        .sandboxes
        .iter()
        .map(|s| Step::RemoveSandbox(s.id.clone()));
    containers.chain(sandboxes).collect()
}

/// Stops what runs, then the sandboxes, and removes what was never started: the runtime leaves such a container as it
/// is when it is told to stop it.
pub(super) fn push_end(steps: &mut Vec<Step>, pod: &Pod, observed: &ObservedPod, grace: Duration) {
    push_stops(steps, pod, observed, grace);
    let sandboxes = observed.sandboxes.iter().filter(|s| s.ready);
    steps.extend(sandboxes.map(|s| Step::StopSandbox(s.id.clone())));
    let containers = observed.containers.iter();
    let never_started = containers.filter(|c| c.state == ContainerState::Created);
    steps.extend(never_started.map(|c| Step::RemoveContainer(c.id.clone())));
}

/// The regular containers (and plain init ones) at the same time, then the sidecars one by one, last started first.
///
/// `Created` and `Unknown` count as running: a start may be on its way that we did not see end.
fn push_stops(steps: &mut Vec<Step>, pod: &Pod, observed: &ObservedPod, grace: Duration) {
    let live = |c: &&ObservedContainer| c.state != ContainerState::Exited;
    let inits: Vec<&str> = pod::containers(pod)
        .filter(|(kind, _)| *kind != ContainerKind::Regular)
        .map(|(_, c)| c.name.as_str())
        .collect();
    let stop = |c: &ObservedContainer| ContainerStop {
        id: c.id.clone(),
        name: c.name.clone(),
        init: inits.contains(&&*c.name),
        grace,
        reason: StopReason::PodEnds,
    };
    let sidecars: Vec<&str> = pod::containers(pod)
        .filter(|(kind, _)| *kind == ContainerKind::Sidecar)
        .map(|(_, c)| c.name.as_str())
        .collect();
    let first: Vec<ContainerStop> = observed
        .containers
        .iter()
        .filter(live)
        .filter(|c| !sidecars.contains(&&*c.name))
        .map(stop)
        .collect();
    if !first.is_empty() {
        steps.push(Step::Stop(first));
    }
    for name in sidecars.iter().rev() {
        let group: Vec<ContainerStop> = observed.instances(name).filter(live).map(stop).collect();
        if !group.is_empty() {
            steps.push(Step::Stop(group));
        }
    }
}
