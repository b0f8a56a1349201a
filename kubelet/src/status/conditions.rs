//! The conditions of a pod that the node writes.

use std::sync::Arc;

use jiff::Timestamp;

use super::containers;
use super::derive::StatusInput;
use super::types::{Condition, ConditionKind, ContainerStatus, Phase};
use crate::pod::{self, ContainerKind};
use crate::resize::Progress;

/// What the conditions are drawn from.
pub(super) struct Facts<'a> {
    /// All that the status depends on.
    pub(super) input: &'a StatusInput<'a>,
    /// The phase that will be published.
    pub(super) phase: Phase,
    /// Init containers and sidecars in the spec's order.
    pub(super) init_containers: &'a [ContainerStatus],
    /// Regular containers in the spec's order.
    pub(super) containers: &'a [ContainerStatus],
}

/// A condition's status with its reason and message.
#[derive(Clone)]
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<Arc<str>>,
}

impl Verdict {
    const TRUE: Self = Self {
        status: true,
        reason: None,
        message: None,
    };

    fn bare(status: bool, reason: Option<&'static str>) -> Self {
        Self {
            status,
            reason,
            message: None,
        }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self {
            status: false,
            reason: Some(reason),
            message: Some(message.into()),
        }
    }
}

/// The conditions in the order in which they are written.
pub(super) fn derive(facts: &Facts<'_>) -> Vec<Condition> {
    let containers_ready = facts.containers_ready();
    let verdicts = [
        (
            ConditionKind::PodReadyToStartContainers,
            Verdict::bare(facts.has_sandbox(), None),
        ),
        (ConditionKind::Initialized, facts.initialized()),
        (ConditionKind::Ready, facts.ready(&containers_ready)),
        (ConditionKind::ContainersReady, containers_ready),
        (ConditionKind::PodScheduled, Verdict::TRUE),
    ];
    let all_restarting = pod::may_restart_all(facts.input.pod).then(|| {
        (
            ConditionKind::AllContainersRestarting,
            facts.all_restarting(),
        )
    });
    let previous = facts.input.previous;
    // A disruption is an event, not a state: once noted it stays.
    let disruption = previous
        .and_then(|p| p.condition(ConditionKind::DisruptionTarget))
        .cloned()
        .or_else(|| facts.disruption());
    let verdicts = verdicts.into_iter().chain(all_restarting);
    let own = verdicts.map(|(kind, verdict)| Condition {
        kind,
        last_transition: facts.last_transition(kind, verdict.status),
        status: verdict.status,
        reason: verdict.reason,
        message: verdict.message,
    });
    let resize = facts.resize().into_iter();
    disruption.into_iter().chain(own).chain(resize).collect()
}

impl Facts<'_> {
    /// A resize that is not done, or not to be had.
    fn resize(&self) -> Vec<Condition> {
        let condition = |kind, reason, message| Condition {
            kind,
            status: true,
            reason,
            message,
            last_transition: self.last_transition(kind, true),
        };
        let Progress { pending, actuating } = self.input.resize;
        let pending = pending.as_ref().map(|pending| {
            let message = Some(pending.message.clone());
            let reason = Some(pending.reason.as_str());
            condition(ConditionKind::PodResizePending, reason, message)
        });
        let actuating = actuating.as_ref().map(|error| {
            let reason = error.as_ref().map(|_| "Error");
            condition(ConditionKind::PodResizeInProgress, reason, error.clone())
        });
        pending.into_iter().chain(actuating).collect()
    }

    /// Noted with the phase it explains: once nothing of the pod runs any more.
    fn disruption(&self) -> Option<Condition> {
        let message = self.input.failure?.disruption.as_ref()?;
        (self.phase == Phase::Failed).then(|| Condition {
            kind: ConditionKind::DisruptionTarget,
            status: true,
            reason: Some("TerminationByKubelet"),
            message: Some(message.clone()),
            last_transition: self.input.now,
        })
    }

    /// The time of the last flip: kept from the previous status, or from the API server's copy, while nothing flips.
    fn last_transition(&self, kind: ConditionKind, status: bool) -> Timestamp {
        if let Some(before) = self.input.previous.and_then(|p| p.condition(kind)) {
            return if before.status == status {
                before.last_transition
            } else {
                self.input.now
            };
        }
        let text = if status { "True" } else { "False" };
        let api = self.input.api_status().and_then(|s| s.conditions.as_ref());
        api.into_iter()
            .flatten()
            .find(|c| c.type_ == kind.as_str() && c.status == text)
            .and_then(|c| c.last_transition_time.as_ref())
            .map_or(self.input.now, |t| t.0)
    }

    /// A sandbox that can take containers: the newest one ready and the only one, on the network the spec asks for, and
    /// with an address where it needs one.
    fn has_sandbox(&self) -> bool {
        let on_host = pod::host_network(self.input.pod);
        let sandboxes = &self.input.observed.sandboxes;
        let one_ready = sandboxes.iter().filter(|s| s.ready).count() == 1;
        sandboxes.first().is_some_and(|newest| {
            one_ready
                && newest.ready
                && newest.host_network == on_host
                && (on_host || !newest.ips.is_empty())
        })
    }

    fn initialized(&self) -> Verdict {
        if self.phase == Phase::Succeeded {
            return Verdict::bare(true, Some("PodCompleted"));
        }
        let started = |c: &ContainerStatus| !c.state.is_waiting();
        if self.containers.iter().any(started) {
            return Verdict::TRUE;
        }
        let incomplete = names(self.init_containers, |c| match c.kind {
            ContainerKind::Sidecar => !c.started,
            _ => !c.ready,
        });
        if incomplete.is_empty() {
            return Verdict::TRUE;
        }
        // A pod that was initialised stays so, whatever its init containers do when they run once more.
        let before = self.input.previous;
        if before.is_some_and(|p| {
            p.condition(ConditionKind::Initialized)
                .is_some_and(|c| c.status)
        }) {
            return Verdict::TRUE;
        }
        Verdict::no(
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{incomplete}]"),
        )
    }

    fn containers_ready(&self) -> Verdict {
        match self.phase {
            Phase::Succeeded => return Verdict::bare(false, Some("PodCompleted")),
            Phase::Failed => return Verdict::bare(false, Some("PodFailed")),
            Phase::Pending | Phase::Running => {}
        }
        let all = self.init_containers.iter().chain(self.containers);
        let unready = names(all, |c| c.kind != ContainerKind::Init && !c.ready);
        if unready.is_empty() {
            return Verdict::TRUE;
        }
        Verdict::no(
            "ContainersNotReady",
            format!("containers with unready status: [{unready}]"),
        )
    }

    /// The container for whose end all start anew is the last to be forgotten.
    fn all_restarting(&self) -> Verdict {
        match self.phase {
            Phase::Succeeded => return Verdict::bare(false, Some("PodCompleted")),
            Phase::Failed => return Verdict::bare(false, Some("PodFailed")),
            Phase::Pending | Phase::Running => {}
        }
        match containers::asks_for_restart_of_all(self.input) {
            false => Verdict::bare(false, None),
            true => Verdict {
                status: true,
                reason: Some("RestartAllContainersStarted"),
                message: Some("container exited with restart policy rule".into()),
            },
        }
    }

    fn ready(&self, containers_ready: &Verdict) -> Verdict {
        if !containers_ready.status {
            return containers_ready.clone();
        }
        let api = self.input.api_status().and_then(|s| s.conditions.as_ref());
        let mut shut = Vec::new();
        for gate in pod::spec(self.input.pod).readiness_gates.iter().flatten() {
            let name = &gate.condition_type;
            match api.into_iter().flatten().find(|c| c.type_ == *name) {
                None => shut.push(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
                Some(c) if c.status != "True" => shut.push(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => {}
            }
        }
        if shut.is_empty() {
            Verdict::TRUE
        } else {
            Verdict::no("ReadinessGatesNotReady", shut.join(", "))
        }
    }
}

/// The names of the containers that `counts`, with spaces between.
fn names<'a>(
    statuses: impl IntoIterator<Item = &'a ContainerStatus>,
    counts: impl Fn(&ContainerStatus) -> bool,
) -> String {
    let mut list = String::new();
    for status in statuses.into_iter().filter(|c| counts(c)) {
        if !list.is_empty() {
            list.push(' ');
        }
        list.push_str(&status.name);
    }
    list
}
