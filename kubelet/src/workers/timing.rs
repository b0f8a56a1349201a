//! What is measured of a pod's way to running, and of its worker's work.

use std::time::Duration;

use crate::metrics::kubelet;
use crate::status::Phase;

/// What upstream calls the first pass over a pod, and those that follow.
const CREATE: &str = "create";
const SYNC: &str = "sync";

/// One worker's times. All are monotonic.
#[derive(Debug)]
pub(super) struct Timing {
    seen: Duration,
    /// Whether it has been looked at.
    looked: bool,
    /// Whether the pod is on its way to running: not one that ran before the agent did.
    on_its_way: bool,
}

impl Timing {
    /// Of a pod that is known from `now` on.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            seen: now,
            looked: false,
            on_its_way: false,
        }
    }

    /// A pass over the pod, of so many containers, begins; `nothing`: the runtime holds nothing of it.
    pub(super) fn begin_pass(&mut self, containers: usize, nothing: bool, now: Duration) -> Pass {
        let first = !std::mem::replace(&mut self.looked, true);
        if first {
            self.on_its_way = nothing;
            let waited = now.saturating_sub(self.seen);
            kubelet().worker_start.observe(waited);
            kubelet().containers_per_pod.observe_number(containers);
        }
        Pass { first, begun: now }
    }

    /// The pod is shown in this phase.
    pub(super) fn shown(&mut self, phase: Phase, now: Duration) {
        if phase != Phase::Pending
            && std::mem::take(&mut self.on_its_way)
            && phase == Phase::Running
        {
            let took = now.saturating_sub(self.seen);
            kubelet().pod_start.observe(took);
        }
    }
}

/// One pass.
#[derive(Debug)]
pub(super) struct Pass {
    first: bool,
    begun: Duration,
}

impl Pass {
    /// It is over.
    pub(super) fn end(self, now: Duration) {
        let operation = if self.first { CREATE } else { SYNC };
        let took = now.saturating_sub(self.begun);
        kubelet().worker_duration.observe(&[operation], took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Other tests of the process count too: only what is sure to rise is looked at.
    #[test]
    fn a_pod_that_ran_before_has_no_way_to_running() {
        let second = Duration::from_secs(1);
        let mut timing = Timing::new(Duration::ZERO);
        timing.begin_pass(1, false, second).end(second);
        assert!(!timing.on_its_way);

        let mut timing = Timing::new(Duration::ZERO);
        let before = kubelet().pod_start.count();
        timing.begin_pass(2, true, second).end(second);
        timing.shown(Phase::Pending, second);
        assert!(timing.on_its_way);
        timing.shown(Phase::Running, second * 2);
        assert!(!timing.on_its_way);
        assert!(kubelet().pod_start.count() > before);
        assert!(kubelet().worker_duration.count(&[CREATE]) > 0);
    }
}
