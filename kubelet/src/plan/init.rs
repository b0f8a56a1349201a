//! Init containers in order, and sidecars beside all that follows them.

use k8s_openapi::api::core::v1::Container;

use super::{PlanInput, PodPlan, StopReason};
use crate::pod::{self, ContainerKind};
use crate::probes::FailedProbe;
use crate::runtime::{ContainerState, ObservedContainer, ObservedSandbox};

/// How far the init containers of a sandbox have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InitProgress {
    /// One of them runs, is about to, or waits for its back-off.
    Pending,
    /// One of them failed, and may not be started again.
    Failed,
    /// All are through: plain ones have ended with 0, sidecars have started (postStart done, startup probe passed).
    Through,
}

/// Plans the init containers and sidecars of `sandbox`.
pub(super) fn plan_init(
    input: &PlanInput<'_>,
    sandbox: &ObservedSandbox,
    plan: &mut PodPlan,
) -> InitProgress {
    let inits: Vec<(ContainerKind, &Container)> = pod::containers(input.pod)
        .filter(|(kind, _)| *kind != ContainerKind::Regular)
        .collect();
    let here = |name: &str| newest_in(input, sandbox, name);
    // What has begun after an init container shows that the container is through, even when its record is gone.
    let regular_began = pod::containers(input.pod)
        .filter(|(kind, _)| *kind == ContainerKind::Regular)
        .any(|(_, c)| here(&c.name).is_some());
    let reached = match inits.iter().rposition(|(_, c)| here(&c.name).is_some()) {
        _ if regular_began => inits.len(),
        Some(last) => last,
        None => 0,
    };
    for (index, (kind, container)) in inits.iter().enumerate() {
        let last = here(&container.name);
        let progress = match kind {
            ContainerKind::Sidecar => plan_sidecar(input, container, last, plan),
            _ if index < reached => InitProgress::Through,
            _ => plan_plain(input, container, last, plan),
        };
        // Behind what has been reached, a sidecar that is down is started beside the rest and holds nothing up.
        if progress != InitProgress::Through && index >= reached {
            return progress;
        }
    }
    InitProgress::Through
}

fn newest_in<'a>(
    input: &PlanInput<'a>,
    sandbox: &ObservedSandbox,
    name: &str,
) -> Option<&'a ObservedContainer> {
    let containers = &input.observed.containers;
    containers
        .iter()
        .find(|c| c.sandbox == sandbox.id && *c.name == *name)
}

fn plan_plain(
    input: &PlanInput<'_>,
    container: &Container,
    last: Option<&ObservedContainer>,
    plan: &mut PodPlan,
) -> InitProgress {
    let kind = ContainerKind::Init;
    match last.map(|c| (c, c.state)) {
        None | Some((_, ContainerState::Created)) => plan.start(input, kind, container, last),
        Some((_, ContainerState::Running)) => {}
        Some((c, ContainerState::Unknown)) => {
            // It may have ended, with what exit code nobody knows: the policy alone counts, as after a probe.
            if !pod::restarts_after_probe(input.pod, kind, container) {
                return InitProgress::Failed;
            }
            plan.stop_one(input, c, StopReason::UnknownState);
            plan.start(input, kind, container, last);
        }
        Some((c, ContainerState::Exited)) if c.exit_code == 0 => return InitProgress::Through,
        Some((c, ContainerState::Exited)) => {
            if !pod::should_restart(input.pod, kind, container, c.exit_code) {
                return InitProgress::Failed;
            }
            plan.start(input, kind, container, last);
        }
    }
    InitProgress::Pending
}

fn plan_sidecar(
    input: &PlanInput<'_>,
    container: &Container,
    last: Option<&ObservedContainer>,
    plan: &mut PodPlan,
) -> InitProgress {
    let kind = ContainerKind::Sidecar;
    match last.map(|c| (c, c.state)) {
        Some((c, ContainerState::Running)) => {
            let known = input.probe_of(&container.name);
            let reason = match known.failed {
                // What follows does not wait for a sidecar that has started once, though it has to be replaced.
                _ if known.started && input.is_outdated(c, container) => {
                    Some(StopReason::DefinitionChanged)
                }
                Some(probe) if known.started || probe == FailedProbe::Startup => {
                    let restarts = true;
                    Some(StopReason::FailedProbe { probe, restarts })
                }
                _ if input.resized.contains(&c.name) => Some(StopReason::Resized),
                _ => None,
            };
            if let Some(reason) = reason {
                plan.stop_one(input, c, reason);
                plan.start(input, kind, container, last);
            }
            match known.started && known.failed != Some(FailedProbe::Startup) {
                true => InitProgress::Through,
                false => InitProgress::Pending,
            }
        }
        Some((c, ContainerState::Unknown)) => {
            plan.stop_one(input, c, StopReason::UnknownState);
            plan.start(input, kind, container, last);
            InitProgress::Pending
        }
        None | Some(_) => {
            plan.start(input, kind, container, last);
            InitProgress::Pending
        }
    }
}
