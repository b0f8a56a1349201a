//! What the agent takes for its machine: clocks and boots.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::SignedDuration;
use kubelet::clock::Clock;

use super::FakeNode;

/// Has the monotonic time of this thread's tokio runtime jump ahead.
pub(super) async fn jump(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

impl FakeNode {
    /// The clocks of an agent that is started now.
    pub(super) fn clocks(&self) -> Clock {
        let boot = self.boot.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = Clock::system_with(self.clock.clone());
        match &*boot {
            Some(boot) => clock.in_boot(boot),
            None => clock,
        }
    }

    /// The machine restarts, for agents started from now on: everything that runs is gone, and the kernel has another name
    /// for its boot.
    ///
    /// # Errors
    /// When the runtime's socket cannot be bound again.
    pub async fn reboot(&self, name: &str) -> Result<()> {
        *self.boot.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
        self.runtime.reboot().await.context("reboot")
    }

    /// Steps the wall clock of the machine, as the runtime and the agents see it.
    pub fn step_clock(&self, step: SignedDuration) {
        let nanos = i64::try_from(step.as_nanos()).unwrap_or(i64::MAX);
        self.clock.step(nanos);
        self.runtime.step_clock(nanos);
    }
}
