//! The end of a pod: what runs is stopped in order; later, what is left of it is removed.

use std::time::Duration;

use super::{ContainerStop, PodPlan, Step, StopReason};
use crate::pod::{self, ContainerKind, Pod};
use crate::runtime::{ContainerState, ObservedContainer, ObservedPod};

/// Plans a pod that is to stop with `left` of its grace period to go, hooks included.
#[must_use]
pub fn plan_termination(pod: &Pod, observed: &ObservedPod, left: Duration) -> PodPlan {
    let mut plan = PodPlan::default();
    push_end(&mut plan.steps, pod, observed, left);
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

/// All containers in one step: their hooks run side by side, whoever stops them knows whose turn comes when.
///
/// `Created` and `Unknown` count as running: a start may be on its way that we did not see end.
fn push_stops(steps: &mut Vec<Step>, pod: &Pod, observed: &ObservedPod, grace: Duration) {
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
    let live = observed.containers.iter();
    let mut stops: Vec<ContainerStop> = live
        .filter(|c| c.state != ContainerState::Exited)
        .map(stop)
        .collect();
    let sidecars: Vec<&str> = pod::containers(pod)
        .filter(|(kind, _)| *kind == ContainerKind::Sidecar)
        .map(|(_, c)| c.name.as_str())
        .collect();
    // In the order in which they end: sidecars behind all others, the one that started last first.
    stops.sort_by_key(|stop| {
        let place = sidecars.iter().position(|name| *name == &*stop.name);
        place.map_or(0, |place| sidecars.len() - place)
    });
    if !stops.is_empty() {
        steps.push(Step::Stop(stops));
    }
}
