//! Containers in a sandbox that is ready, and the first ones in a sandbox yet to be made.

use super::init::{self, InitProgress};
use super::{PlanInput, PodPlan, StopReason};
use crate::pod::{self, ContainerKind};
use crate::runtime::{ContainerState, ObservedSandbox};

/// Init containers first; once they are through, the sidecars and the regular containers.
pub(super) fn plan_in_sandbox(
    input: &PlanInput<'_>,
    sandbox: &ObservedSandbox,
    plan: &mut PodPlan,
) {
    plan_strays(input, sandbox, plan);
    match init::plan_init(input, sandbox, plan) {
        InitProgress::Pending => return,
        InitProgress::Failed => return end_pod(input, plan),
        InitProgress::Through => {}
    }
    if plan_regular(input, plan) == Life::Over {
        // Sidecars do not outlive the containers they stand beside.
        end_pod(input, plan);
    }
}

/// Stops every instance that runs where none should: beside a newer one, in another sandbox, or out of the spec.
fn plan_strays(input: &PlanInput<'_>, sandbox: &ObservedSandbox, plan: &mut PodPlan) {
    for c in &input.observed.containers {
        let live = matches!(c.state, ContainerState::Running | ContainerState::Unknown);
        let counts = c.sandbox == sandbox.id
            && input
                .observed
                .newest(&c.name)
                .is_some_and(|newest| newest.id == c.id)
            && pod::containers(input.pod).any(|(_, spec)| *spec.name == *c.name);
        if live && !counts {
            plan.stop_one(input, c, StopReason::Stray);
        }
    }
}

/// What would be started first in a sandbox that is yet to be made.
pub(super) fn plan_first_starts(input: &PlanInput<'_>, plan: &mut PodPlan) {
    let first_init = pod::containers(input.pod)
        .next()
        .filter(|(kind, _)| *kind != ContainerKind::Regular);
    let any_regular = pod::containers(input.pod)
        .filter(|(kind, _)| *kind == ContainerKind::Regular)
        .any(|(kind, c)| starts_again(input, kind, c));
    if !any_regular {
        return;
    }
    match first_init {
        Some((kind, container)) => plan.start(
            input,
            kind,
            container,
            input.observed.newest(&container.name),
        ),
        None => {
            for (kind, container) in
                pod::containers(input.pod).filter(|(kind, c)| starts_again(input, *kind, c))
            {
                plan.start(
                    input,
                    kind,
                    container,
                    input.observed.newest(&container.name),
                );
            }
        }
    }
}

/// Whether a regular container would run in a new sandbox, going by how it ended in the ones before.
fn starts_again(
    input: &PlanInput<'_>,
    kind: ContainerKind,
    container: &k8s_openapi::api::core::v1::Container,
) -> bool {
    match input.observed.newest(&container.name) {
        Some(last) if last.state == ContainerState::Exited => {
            pod::should_restart(input.pod, kind, container, last.exit_code)
        }
        _ => true,
    }
}

#[derive(PartialEq, Eq)]
enum Life {
    GoesOn,
    Over,
}

fn plan_regular(input: &PlanInput<'_>, plan: &mut PodPlan) -> Life {
    let mut life = Life::Over;
    let hash_matters = |hash: &str| !hash.is_empty();
    for (kind, container) in
        pod::containers(input.pod).filter(|(kind, _)| *kind == ContainerKind::Regular)
    {
        let last = input.observed.newest(&container.name);
        match last.map(|c| (c, c.state)) {
            None | Some((_, ContainerState::Created)) => {
                plan.start(input, kind, container, last);
                life = Life::GoesOn;
            }
            Some((c, ContainerState::Running)) => {
                life = Life::GoesOn;
                if hash_matters(&c.hash) && *c.hash != *input.hash_of(container) {
                    plan.stop_one(input, c, StopReason::DefinitionChanged);
                    plan.start(input, kind, container, last);
                }
            }
            Some((c, ContainerState::Unknown)) => {
                life = Life::GoesOn;
                plan.stop_one(input, c, StopReason::UnknownState);
                plan.start(input, kind, container, last);
            }
            Some((c, ContainerState::Exited)) => {
                if pod::should_restart(input.pod, kind, container, c.exit_code) {
                    life = Life::GoesOn;
                    plan.start(input, kind, container, last);
                }
            }
        }
    }
    life
}

/// Nothing of the pod is to run any more: what is left is stopped, and then the pod has finished.
fn end_pod(input: &PlanInput<'_>, plan: &mut PodPlan) {
    *plan = PodPlan::default();
    plan.stop_everything(input, pod::grace_seconds(input.pod));
    plan.finished = plan.steps.is_empty();
}
