//! Every container of a pod starts anew in the sandbox there is, because a rule of one of them says so (KEP-5532).
//!
//! All instances are stopped and forgotten first. Those whose end asks for it go last: until then each look at the
//! runtime shows what has been begun, whoever looks.

use std::time::Duration;

use super::{ContainerStop, PlanInput, PodPlan, Step, StopReason};
use crate::pod::{self, ContainerKind};
use crate::runtime::{ContainerState, ObservedContainer, ObservedSandbox};

/// There is no back-off between such restarts, and containers may end as soon as they start. Upstream's loop is held by
/// its relist, each second; here a container that ran for less than [`SHORT`] is followed by as long a pause.
const PAUSE: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_secs(10);

/// Plans what is left to do before all containers start anew; false where nothing asks for it.
pub(super) fn plan_reset(
    input: &PlanInput<'_>,
    sandbox: &ObservedSandbox,
    plan: &mut PodPlan,
) -> bool {
    let asks = |c: &ObservedContainer| {
        let spec = pod::containers(input.pod).find(|(_, spec)| *spec.name == *c.name);
        c.state == ContainerState::Exited
            && spec.is_some_and(|(_, spec)| pod::restarts_all(spec, c.exit_code))
    };
    let newest_here = pod::containers(input.pod)
        .filter_map(|(_, c)| input.observed.newest(&c.name))
        .filter(|c| c.sandbox == sandbox.id);
    let Some(last) = newest_here
        .filter(|c| asks(c))
        .min_by_key(|c| input.exit_of(c).age(input.now))
    else {
        return false;
    };
    let age = input.exit_of(last).age(input.now);
    if ran(last) < SHORT && age < PAUSE {
        plan.wake_after(PAUSE.saturating_sub(age));
        return true;
    }
    let (asking, others): (Vec<_>, Vec<_>) = in_order_of_end(input).partition(|(_, c)| asks(c));
    push_stops(&others, plan);
    let first = if others.is_empty() { asking } else { others };
    let forgotten = first
        .iter()
        .map(|(_, c)| Step::ResetContainer(c.id.clone()));
    plan.steps.extend(forgotten);
    true
}

fn ran(c: &ObservedContainer) -> Duration {
    Duration::from_nanos(u64::try_from(c.finished_at.saturating_sub(c.started_at)).unwrap_or(0))
}

/// Regular containers, then init containers and sidecars from the last to the first.
fn in_order_of_end<'a>(
    input: &PlanInput<'a>,
) -> impl Iterator<Item = (ContainerKind, &'a ObservedContainer)> + use<'a> {
    let observed = input.observed;
    let (regular, init): (Vec<_>, Vec<_>) =
        pod::containers(input.pod).partition(|(kind, _)| *kind == ContainerKind::Regular);
    let order = regular.into_iter().chain(init.into_iter().rev());
    order.flat_map(move |(kind, c)| observed.instances(&c.name).map(move |i| (kind, i)))
}

/// What runs is told to stop, without a hook: the regular containers side by side, then the others one by one.
fn push_stops(others: &[(ContainerKind, &ObservedContainer)], plan: &mut PodPlan) {
    let live = |c: &ObservedContainer| {
        matches!(c.state, ContainerState::Running | ContainerState::Unknown)
    };
    let mut side_by_side = Vec::new();
    let mut one_by_one = Vec::new();
    for (kind, c) in others.iter().filter(|(_, c)| live(c)) {
        let init = *kind != ContainerKind::Regular;
        let stop = ContainerStop {
            id: c.id.clone(),
            name: c.name.clone(),
            init,
            grace: Duration::ZERO,
            reason: StopReason::AllRestart,
        };
        match init {
            false => side_by_side.push(stop),
            true => one_by_one.push(Step::Stop(vec![stop])),
        }
    }
    if !side_by_side.is_empty() {
        plan.steps.push(Step::Stop(side_by_side));
    }
    plan.steps.append(&mut one_by_one);
}
