//! Containers in a sandbox that is ready, and the first ones in a sandbox yet to be made.

use k8s_openapi::api::core::v1::Container;

use super::init::{self, InitProgress};
use super::{PlanInput, PodPlan, StopReason, reset};
use crate::pod::{self, ContainerKind, RestartPolicy};
use crate::runtime::{ContainerState, ObservedContainer, ObservedSandbox};

/// Whether nothing of the pod is to run any more: every regular container has ended for good, or an init container has
/// failed for good. The pod is not begun anew in another sandbox then.
pub(super) fn is_over(input: &PlanInput<'_>) -> bool {
    let for_good = |(kind, container): (ContainerKind, &Container)| {
        let last = input.observed.newest(&container.name);
        last.is_some_and(|c| {
            c.state == ContainerState::Exited
                && !pod::should_restart(input.pod, kind, container, c.exit_code)
        })
    };
    let failed = |container: &Container| {
        let last = input.observed.newest(&container.name);
        last.is_some_and(|c| c.state == ContainerState::Exited && c.exit_code != 0)
    };
    let mut inits = pod::containers(input.pod).filter(|(kind, _)| *kind == ContainerKind::Init);
    inits.any(|(kind, c)| failed(c) && for_good((kind, c)))
        || pod::containers(input.pod)
            .filter(|(kind, _)| *kind == ContainerKind::Regular)
            .all(for_good)
}

/// Ephemeral containers whenever there is a sandbox; init containers one after the other; once they are through, the
/// regular containers.
pub(super) fn plan_in_sandbox(
    input: &PlanInput<'_>,
    sandbox: &ObservedSandbox,
    plan: &mut PodPlan,
) {
    if reset::plan_reset(input, sandbox, plan) {
        return;
    }
    plan_strays(input, sandbox, plan);
    plan_ephemeral(input, plan);
    match init::plan_init(input, sandbox, plan) {
        InitProgress::Pending => {}
        InitProgress::Failed => return plan.end_pod(input),
        // Sidecars do not outlive the containers they stand beside.
        InitProgress::Through if plan_regular(input, plan) == Life::Over => {
            return plan.end_pod(input);
        }
        InitProgress::Through => {}
    }
    plan.stop_side_by_side();
}

/// An ephemeral container is started once.
fn plan_ephemeral(input: &PlanInput<'_>, plan: &mut PodPlan) {
    for container in pod::ephemeral_containers(input.pod) {
        let last = input.observed.newest(&container.name);
        if last.is_none_or(|c| c.state == ContainerState::Created) {
            plan.start(input, ContainerKind::Ephemeral, &container, last);
        }
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
            && (pod::containers(input.pod).any(|(_, spec)| *spec.name == *c.name)
                || pod::ephemeral_containers(input.pod).any(|spec| *spec.name == *c.name));
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

/// Whether a regular container runs in a new sandbox too: as upstream has it, all do but one that is to run until it
/// succeeds, and has.
fn starts_again(input: &PlanInput<'_>, kind: ContainerKind, container: &Container) -> bool {
    let until_success =
        RestartPolicy::of_container(input.pod, kind, container) == RestartPolicy::OnFailure;
    let succeeded = |c: &ObservedContainer| c.state == ContainerState::Exited && c.exit_code == 0;
    let last = input.observed.newest(&container.name);
    !(until_success && last.is_some_and(succeeded))
}

#[derive(PartialEq, Eq)]
enum Life {
    GoesOn,
    Over,
}

fn plan_regular(input: &PlanInput<'_>, plan: &mut PodPlan) -> Life {
    let mut life = Life::Over;
    for (kind, container) in
        pod::containers(input.pod).filter(|(kind, _)| *kind == ContainerKind::Regular)
    {
        let last = input.observed.newest(&container.name);
        let goes_on = match last.map(|c| (c, c.state)) {
            None | Some((_, ContainerState::Created)) => {
                plan.start(input, kind, container, last);
                true
            }
            Some((c, ContainerState::Running)) => plan_running(input, container, c, plan),
            Some((c, ContainerState::Unknown)) => {
                plan.stop_one(input, c, StopReason::UnknownState);
                plan.start(input, kind, container, last);
                true
            }
            Some((c, ContainerState::Exited)) => {
                let again = pod::should_restart(input.pod, kind, container, c.exit_code);
                if again {
                    plan.start(input, kind, container, last);
                }
                again
            }
        };
        if goes_on {
            life = Life::GoesOn;
        }
    }
    life
}

/// A regular container that runs is left alone, replaced, or stopped; false when it does not go on.
fn plan_running(
    input: &PlanInput<'_>,
    container: &Container,
    running: &ObservedContainer,
    plan: &mut PodPlan,
) -> bool {
    let kind = ContainerKind::Regular;
    let (reason, restarts) = if input.is_outdated(running, container) {
        // Whatever the policy: it is the spec that has changed.
        (StopReason::DefinitionChanged, true)
    } else if let Some(probe) = input.probe_of(&container.name).failed {
        let restarts = pod::restarts_after_probe(input.pod, kind, container);
        (StopReason::FailedProbe { probe, restarts }, restarts)
    } else if input.resized.contains(&running.name) {
        (StopReason::Resized, true)
    } else {
        return true;
    };
    plan.stop_one(input, running, reason);
    if restarts {
        plan.start(input, kind, container, Some(running));
    }
    restarts
}
