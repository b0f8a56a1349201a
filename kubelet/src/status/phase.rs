//! The phase of a pod, from the statuses of its containers.

use super::containers::RESTARTING_ALL;
use super::derive::StatusInput;
use super::types::{ContainerStatus, Phase, State, Terminated};
use crate::pod::{self, ContainerKind};

/// How the containers of a pod are doing, counted.
#[derive(Default)]
struct Tally {
    inits_pending: bool,
    sidecars_pending: bool,
    init_failed_for_good: bool,
    waiting: usize,
    running: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// The phase that the containers' statuses amount to, before any rule about when it may be published.
pub(super) fn derive(
    input: &StatusInput<'_>,
    init_containers: &[ContainerStatus],
    containers: &[ContainerStatus],
) -> Phase {
    let mut tally = Tally::default();
    let statuses = init_containers.iter().chain(containers);
    for ((kind, container), status) in pod::containers(input.pod).zip(statuses) {
        debug_assert_eq!(
            container.name, *status.name,
            "statuses are in the spec's order"
        );
        let for_good = |end: &Terminated| {
            // Ended for the sake of another container: all of them start anew.
            *end.reason != *RESTARTING_ALL
                && !pod::should_restart(input.pod, kind, container, end.exit_code)
        };
        match status.kind {
            ContainerKind::Init => tally.count_init(status, for_good),
            ContainerKind::Sidecar => tally.count_sidecar(status),
            ContainerKind::Regular => tally.count_regular(status, for_good),
            // Nothing of a pod's life hangs on them, and they are not among these.
            ContainerKind::Ephemeral => {}
        }
    }
    tally.phase(input)
}

impl Tally {
    fn count_init(&mut self, status: &ContainerStatus, for_good: impl Fn(&Terminated) -> bool) {
        let end = match &status.state {
            State::Running { .. } => None,
            State::Terminated(end) => Some(end),
            State::Waiting(_) => status.last.as_ref(),
        };
        match end {
            None => self.inits_pending = true,
            Some(end) if end.exit_code != 0 && for_good(end) => {
                self.init_failed_for_good = true;
            }
            Some(_) => {}
        }
    }

    fn count_sidecar(&mut self, status: &ContainerStatus) {
        match &status.state {
            State::Running { .. } => {
                self.sidecars_pending |= !status.started;
                self.running += 1;
            }
            State::Waiting(_) if status.last.is_none() => {
                self.sidecars_pending = true;
                self.waiting += 1;
            }
            // A sidecar that ended says nothing about the pod: it is started again, or the pod is done.
            State::Waiting(_) | State::Terminated(_) => {}
        }
    }

    fn count_regular(&mut self, status: &ContainerStatus, for_good: impl Fn(&Terminated) -> bool) {
        match &status.state {
            State::Running { .. } => self.running += 1,
            State::Terminated(end) => {
                self.stopped += 1;
                self.stopped_for_good += usize::from(for_good(end));
                self.succeeded += usize::from(end.exit_code == 0);
            }
            State::Waiting(_) => match &status.last {
                // Waiting for another run: stopped, and never a success.
                Some(end) => {
                    self.stopped += 1;
                    self.stopped_for_good += usize::from(for_good(end));
                }
                None => self.waiting += 1,
            },
        }
    }

    fn phase(&self, input: &StatusInput<'_>) -> Phase {
        if self.init_failed_for_good {
            return Phase::Failed;
        }
        // Sidecars that restart do not take an initialised pod back to Pending.
        let sidecars_pending = self.sidecars_pending && !initialised(input);
        if self.inits_pending || sidecars_pending || self.waiting > 0 {
            return Phase::Pending;
        }
        if self.running > 0 {
            return Phase::Running;
        }
        if self.stopped == 0 {
            return Phase::Pending;
        }
        let ends_now = input.finished && input.terminating && !input.is_static();
        if !ends_now && self.stopped != self.stopped_for_good {
            Phase::Running
        } else if self.stopped == self.succeeded {
            Phase::Succeeded
        } else {
            Phase::Failed
        }
    }
}

/// Whether the sandbox at hand has seen a regular container.
fn initialised(input: &StatusInput<'_>) -> bool {
    let Some(sandbox) = input.observed.sandboxes.first().filter(|s| s.ready) else {
        return false;
    };
    let spec = pod::spec(input.pod);
    let here = input
        .observed
        .containers
        .iter()
        .filter(|c| c.sandbox == sandbox.id);
    here.into_iter()
        .any(|c| spec.containers.iter().any(|r| r.name == *c.name))
}
