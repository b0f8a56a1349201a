//! The status of each container, from its spec, its two newest instances, and what was known of it before.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::derive::StatusInput;
use super::types::{ConditionKind, ContainerStatus, PodStatus, State, Terminated, Waiting};
use crate::pod::{self, ContainerKind};
use crate::runtime::{ContainerState, ObservedContainer};

/// Bytes that the termination messages of a pod's containers share in its status (`MaxPodTerminationMessageLogLength`
/// of the Kubernetes node contract: 12 KiB).
const TERMINATION_MESSAGE_BYTES: usize = 12 * 1024;

/// What the status says of an end that nobody saw.
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
/// The exit code of an end that nobody saw: as if killed.
const UNKNOWN_EXIT: i32 = 137;
const LOST: &str = "The container could not be located when the pod was terminated";
const LOST_WHILE_RUNNING: &str = "The container could not be located when the pod was deleted.  The container used to be Running";
const INIT_RECORD_GONE: &str = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";

/// Reason of a container that was stopped and forgotten because all containers of its pod start anew.
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";
const REMOVED: &str = "The container is removed because RestartAllContainers in place";

/// One of the two lists of containers in a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// `spec.initContainers`: init containers and sidecars.
    Init,
    /// `spec.containers`.
    Regular,
}

impl Side {
    fn holds(self, kind: ContainerKind) -> bool {
        (kind == ContainerKind::Regular) == (self == Self::Regular)
    }
}

/// The statuses of the containers on one side, in the spec's order.
pub(super) fn derive(input: &StatusInput<'_>, side: Side) -> Vec<ContainerStatus> {
    let scene = Scene::of(input);
    pod::containers(input.pod)
        .filter(|(kind, _)| side.holds(*kind))
        .map(|(kind, container)| scene.status(kind, container))
        .collect()
}

/// The statuses of the ephemeral containers, in the spec's order.
pub(super) fn derive_ephemeral(input: &StatusInput<'_>) -> Vec<ContainerStatus> {
    let scene = Scene::of(input);
    pod::ephemeral_containers(input.pod)
        .map(|container| scene.status(ContainerKind::Ephemeral, &container))
        .collect()
}

/// Whether a container has ended, in the sandbox there is, for which all of them start anew.
pub(super) fn asks_for_restart_of_all(input: &StatusInput<'_>) -> bool {
    let sandbox = input.observed.sandboxes.first();
    let Some(sandbox) = sandbox.filter(|s| s.ready && !input.terminating && !input.finished) else {
        return false;
    };
    pod::containers(input.pod).any(|(_, container)| {
        let newest = input.observed.newest(&container.name);
        newest.is_some_and(|c| {
            c.sandbox == sandbox.id
                && c.state == ContainerState::Exited
                && pod::restarts_all(container, c.exit_code)
        })
    })
}

/// Whether what is missing now was removed so that all containers start anew: going by what the runtime shows, or by
/// what it showed before.
fn all_restarting(input: &StatusInput<'_>) -> bool {
    let said = |p: &PodStatus| {
        p.condition(ConditionKind::AllContainersRestarting)
            .is_some_and(|c| c.status)
    };
    asks_for_restart_of_all(input) || input.previous.is_some_and(said)
}

/// Marks what has no end on record as lost, once the pod is wound up. A container that never had its turn keeps
/// waiting: regular ones of a pod that was never initialised, and init containers behind the last one that started.
///
/// A static pod has no end to account for to anybody: only what ran is marked. A mark on what never ran would read as a
/// failure the next time the phase is derived, and a static pod is not failed for being stopped.
pub(super) fn close(
    input: &StatusInput<'_>,
    init_containers: &mut [ContainerStatus],
    containers: &mut [ContainerStatus],
) {
    if input.is_static() {
        containers
            .iter_mut()
            .filter(|c| has_run(c))
            .for_each(mark_lost);
        return;
    }
    if was_initialised(init_containers, containers) {
        containers.iter_mut().for_each(mark_lost);
    }
    let turns = init_containers.iter().rposition(has_run).unwrap_or(0) + 1;
    init_containers.iter_mut().take(turns).for_each(mark_lost);
}

/// Whether an instance of the container was ever started.
pub(super) fn has_run(status: &ContainerStatus) -> bool {
    !status.state.is_waiting() || status.last.is_some()
}

fn mark_lost(status: &mut ContainerStatus) {
    if status.state.terminated().is_none() {
        status.state = State::Terminated(Box::new(lost(LOST)));
        status.started = false;
        status.ready = false;
    }
}

fn was_initialised(init_containers: &[ContainerStatus], containers: &[ContainerStatus]) -> bool {
    let Some(last_init) = init_containers.last() else {
        return true;
    };
    if containers.iter().any(has_run) {
        return true;
    }
    match last_init.kind {
        ContainerKind::Sidecar => last_init.state.is_running() && last_init.started,
        _ => [last_init.state.terminated(), last_init.last.as_deref()]
            .into_iter()
            .flatten()
            .any(|end| end.exit_code == 0),
    }
}

fn lost(message: &str) -> Terminated {
    Terminated {
        exit_code: UNKNOWN_EXIT,
        reason: STATUS_UNKNOWN.into(),
        message: message.into(),
        started_at: None,
        finished_at: None,
        id: None,
    }
}

/// What the statuses of all containers of one pod have in common.
struct Scene<'a> {
    input: &'a StatusInput<'a>,
    default_waiting: Waiting,
    regular_created: bool,
    all_restarting: bool,
    message_bytes: usize,
}

impl<'a> Scene<'a> {
    fn of(input: &'a StatusInput<'a>) -> Self {
        let spec = pod::spec(input.pod);
        let inits = spec.init_containers.as_ref().map_or(0, Vec::len);
        let ephemeral = spec.ephemeral_containers.as_ref().map_or(0, Vec::len);
        let sharers = spec.containers.len() + inits + ephemeral;
        let made = |c: &Container| {
            let newest = input.observed.newest(&c.name);
            newest.is_some_and(|n| n.state != ContainerState::Unknown)
        };
        Self {
            input,
            default_waiting: Waiting {
                reason: if inits > 0 {
                    "PodInitializing"
                } else {
                    "ContainerCreating"
                }
                .into(),
                message: "".into(),
            },
            regular_created: spec.containers.iter().any(made),
            all_restarting: all_restarting(input),
            message_bytes: TERMINATION_MESSAGE_BYTES / sharers.max(1),
        }
    }

    fn status(&self, kind: ContainerKind, container: &Container) -> ContainerStatus {
        let before = self
            .input
            .previous
            .and_then(|p| p.container(&container.name));
        let mut instances = self.input.observed.instances(&container.name);
        let newest = instances.next();
        let mut status = match newest {
            Some(newest) => self.of_instance(kind, newest, instances.next(), before),
            None => self.without_instance(kind, container, before),
        };
        self.wait(&mut status, container, newest);
        self.probe(&mut status);
        status
    }

    fn of_instance(
        &self,
        kind: ContainerKind,
        newest: &ObservedContainer,
        second: Option<&ObservedContainer>,
        before: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let mut restart_count = newest.attempt;
        if let Some(before) = before {
            restart_count = restart_count.max(before.restart_count);
        }
        let state = match newest.state {
            ContainerState::Running => State::Running {
                started_at: timestamp(newest.started_at),
            },
            ContainerState::Exited => State::Terminated(Box::new(self.end_of(newest))),
            ContainerState::Created => State::Waiting(unexplained()),
            ContainerState::Unknown => match before {
                Some(before) if before.state.is_running() => {
                    restart_count = restart_count.max(before.restart_count.saturating_add(1));
                    give_up(
                        newest,
                        if self.all_restarting {
                            RESTARTING_ALL
                        } else {
                            STATUS_UNKNOWN
                        },
                    )
                }
                _ => match before.and_then(|before| given_up(before, newest)) {
                    Some(reason) => give_up(newest, &reason),
                    None => State::Waiting(unexplained()),
                },
            },
        };
        let second_end = second
            .filter(|c| c.state == ContainerState::Exited)
            .map(|c| Box::new(self.end_of(c)));
        ContainerStatus {
            name: newest.name.clone(),
            kind,
            state,
            last: second_end.or_else(|| earlier_end(newest, before)),
            started: false,
            ready: false,
            restart_count,
            image: newest.image.clone(),
            image_id: Some(newest.image_ref.clone()),
            id: Some(newest.id.clone()),
            user: newest.user.clone(),
            stop_signal: newest
                .stop_signal
                .clone()
                .filter(|_| self.input.stop_signals),
            recursive_read_only: newest.recursive_read_only.clone(),
            devices: Vec::new(),
        }
    }

    /// The runtime holds nothing of the container: it was never made, or its records were removed, or it was lost.
    fn without_instance(
        &self,
        kind: ContainerKind,
        container: &Container,
        before: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let mut status = ContainerStatus {
            name: before.map_or_else(|| container.name.as_str().into(), |b| b.name.clone()),
            kind,
            state: State::Waiting(self.default_waiting.clone()),
            last: None,
            started: false,
            ready: false,
            restart_count: 0,
            image: container.image.as_deref().unwrap_or_default().into(),
            image_id: None,
            id: None,
            user: None,
            stop_signal: None,
            recursive_read_only: None,
            devices: Vec::new(),
        };
        let Some(before) = before else {
            return status;
        };
        let spared = kind == ContainerKind::Ephemeral || before.state.is_waiting();
        if self.all_restarting && !spared {
            let removed = Terminated {
                reason: RESTARTING_ALL.into(),
                ..lost(REMOVED)
            };
            return ContainerStatus {
                state: State::Waiting(Waiting {
                    reason: RESTARTING_ALL.into(),
                    message: REMOVED.into(),
                }),
                last: Some(Box::new(removed)),
                restart_count: before.restart_count.saturating_add(1),
                ..status
            };
        }
        if before.state.terminated().is_some() {
            return before.clone();
        }
        status.restart_count = before.restart_count;
        status.last = before.last.clone();
        if before.id.is_some() {
            status.id = before.id.clone();
            status.image = before.image.clone();
            status.image_id = before.image_id.clone();
        }
        if before.state.is_running() && status.last.is_none() {
            // An end on record keeps the pod from going back to Pending, which is for containers that never ran.
            status.last = Some(Box::new(lost(LOST_WHILE_RUNNING)));
            if !self.input.terminating {
                status.restart_count = status.restart_count.saturating_add(1);
            }
        }
        status
    }

    /// Puts the worker's reason in place for a container that is to be started, and closes init containers whose
    /// records are gone from a pod that has been initialised.
    fn wait(
        &self,
        status: &mut ContainerStatus,
        container: &Container,
        newest: Option<&ObservedContainer>,
    ) {
        if status.kind == ContainerKind::Init {
            if newest.is_some_and(|n| n.state == ContainerState::Exited && n.exit_code == 0) {
                return;
            }
            // Once a regular container was made, no init container of the pod is run again for want of a record; save
            // where the record was removed so that all are.
            if newest.is_none() && self.regular_created && !self.all_restarting {
                if status.state.is_waiting() {
                    status.state = State::Terminated(Box::new(Terminated {
                        exit_code: 0,
                        reason: "Completed".into(),
                        message: INIT_RECORD_GONE.into(),
                        started_at: None,
                        finished_at: None,
                        id: None,
                    }));
                }
                return;
            }
        }
        if !self.is_to_start(status.kind, container, newest) {
            return;
        }
        let Some(reason) = self.input.waiting.get(&status.name) else {
            return;
        };
        let ended = std::mem::replace(&mut status.state, State::Waiting(reason.clone()));
        if let State::Terminated(end) = ended {
            status.last = Some(end);
        }
    }

    fn is_to_start(
        &self,
        kind: ContainerKind,
        container: &Container,
        newest: Option<&ObservedContainer>,
    ) -> bool {
        if self.input.terminating || self.input.finished {
            return false;
        }
        match newest {
            None => true,
            Some(newest) => match newest.state {
                ContainerState::Running => false,
                ContainerState::Created | ContainerState::Unknown => true,
                ContainerState::Exited => {
                    pod::should_restart(self.input.pod, kind, container, newest.exit_code)
                }
            },
        }
    }

    fn probe(&self, status: &mut ContainerStatus) {
        let running = status.state.is_running();
        let view = self.input.probes.get(&status.name);
        status.started = running && view.is_none_or(|v| v.started);
        status.ready = match status.kind {
            ContainerKind::Init => status
                .state
                .terminated()
                .is_some_and(|end| end.exit_code == 0),
            ContainerKind::Sidecar | ContainerKind::Regular => {
                status.started && view.is_none_or(|v| v.ready)
            }
            // Nobody asks whether an ephemeral container is ready.
            ContainerKind::Ephemeral => false,
        };
    }

    fn end_of(&self, instance: &ObservedContainer) -> Terminated {
        Terminated {
            exit_code: instance.exit_code,
            reason: instance.reason.clone(),
            message: bounded(&instance.message, self.message_bytes),
            started_at: Some(timestamp(instance.started_at)),
            finished_at: Some(timestamp(instance.finished_at)),
            id: Some(instance.id.clone()),
        }
    }
}

/// A container that was made and not started waits without a reason until the worker gives one.
fn unexplained() -> Waiting {
    Waiting {
        reason: "".into(),
        message: "".into(),
    }
}

/// The state of an instance that ran and that the runtime can say nothing of any more.
fn give_up(instance: &ObservedContainer, reason: &str) -> State {
    State::Terminated(Box::new(Terminated {
        id: Some(instance.id.clone()),
        reason: reason.into(),
        ..lost(LOST)
    }))
}

/// With what reason the instance was already given up: it does not come back to waiting.
fn given_up(before: &ContainerStatus, newest: &ObservedContainer) -> Option<Arc<str>> {
    let ends = [before.state.terminated(), before.last.as_deref()];
    let end = ends.into_iter().flatten().find(|end| {
        end.id.as_ref() == Some(&newest.id)
            && (*end.reason == *STATUS_UNKNOWN || *end.reason == *RESTARTING_ALL)
    });
    end.map(|end| end.reason.clone())
}

/// The end before the newest instance, as the status before this one knew it: its own end when a new instance has
/// taken its place, else the one it carried.
fn earlier_end(
    newest: &ObservedContainer,
    before: Option<&ContainerStatus>,
) -> Option<Box<Terminated>> {
    let before = before?;
    let replaced = before.id.as_ref() != Some(&newest.id);
    let end = match &before.state {
        State::Terminated(end) if replaced => Some(end),
        _ => before.last.as_ref(),
    };
    end.filter(|end| end.id.as_ref() != Some(&newest.id))
        .cloned()
}

/// `text`, cut to at most `bytes` bytes at a character's edge.
fn bounded(text: &Arc<str>, bytes: usize) -> Arc<str> {
    if text.len() <= bytes {
        return text.clone();
    }
    let edge = (0..=bytes).rev().find(|at| text.is_char_boundary(*at));
    text[..edge.unwrap_or(0)].into()
}

/// The runtime's nanoseconds since the epoch. Every `i64` of them is a time jiff can hold, so the fallback is out of
/// reach.
fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}
