//! Ends all pods, one window after the other, and then lets the machine go.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Leaving, NodeState, Remaining, Windows, state_file};
use crate::clock::Clock;

/// One shutdown of the node. Dropped, it lets the machine go and leaves the pods as they are.
pub(super) struct Drain {
    pub(super) windows: Windows,
    /// Says `ShuttingDown` already, with no window begun.
    pub(super) state: watch::Sender<NodeState>,
    pub(super) remaining: watch::Receiver<Remaining>,
    pub(super) clock: Clock,
    /// Where the state file is.
    pub(super) root: PathBuf,
    /// logind waits for as long as this is open; none where logind could not be asked in time.
    pub(super) lock: Option<OwnedFd>,
}

impl Drain {
    /// Gives each window with pods in it its time, but goes on as soon as they have ended. When nothing is left, or the
    /// time of all windows is over, the lock is closed.
    pub(super) async fn run(mut self) {
        let start = self.clock.wall();
        self.note(start, None);
        let total = self.windows.total();
        tracing::info!("the node is shutting down: its pods end within {total:?}");
        let end = Instant::now() + total;
        // Who is there the registry says once it begins no more pods.
        self.wait(end, |_| true).await;
        for index in 0..self.windows.count() {
            self.end_window(index).await;
        }
        // What has turned up since then, in a window that was empty, ends too.
        self.begin(self.windows.count());
        match self.wait(end, |left| left.pods.is_empty()).await {
            true => tracing::info!("all pods have ended; the node may shut down"),
            false => tracing::warn!(
                left = self.names(|_| true),
                "not all pods have ended in time; the node may shut down"
            ),
        }
        self.note(start, Some(self.clock.wall()));
        drop(self.lock.take());
    }

    async fn end_window(&mut self, index: usize) {
        let windows = self.windows.clone();
        let in_window = |priority: i32| windows.of_priority(priority) == index;
        let pods = self.names(in_window);
        let Some(window) = windows.get(index).filter(|_| !pods.is_empty()) else {
            return;
        };
        let (priority, period) = (window.priority, window.period);
        tracing::info!(
            priority,
            pods,
            "pods of this priority and above end within {period:?}"
        );
        self.begin(index + 1);
        let none_left = |left: &Remaining| !left.pods.iter().any(|(p, _)| in_window(*p));
        if !self.wait(Instant::now() + period, none_left).await {
            let left = self.names(in_window);
            tracing::warn!(
                priority,
                left,
                "pods have not ended within {period:?}; those of higher priority end now"
            );
        }
    }

    fn begin(&self, begun: usize) {
        self.state.send_if_modified(|state| {
            let next = NodeState::ShuttingDown(Leaving {
                windows: self.windows.clone(),
                begun,
            });
            let news = *state != next;
            *state = next;
            news
        });
    }

    /// Waits until the registry has heard of the present state and `done` is true of what is left; until `end` at most.
    async fn wait(&mut self, end: Instant, done: impl Fn(&Remaining) -> bool) -> bool {
        let state = self.state.borrow().clone();
        let heard = |left: &Remaining| left.heard == state && done(left);
        let waited = timeout_at(end, self.remaining.wait_for(heard)).await;
        // A registry that is gone ends the process.
        matches!(waited, Ok(Ok(_)))
    }

    fn names(&self, wanted: impl Fn(i32) -> bool) -> String {
        let remaining = self.remaining.borrow();
        let pods = remaining.pods.iter().filter(|(p, _)| wanted(*p));
        let names: Vec<String> = pods.map(|(_, name)| name.to_string()).collect();
        names.join(" ")
    }

    fn note(&self, start: Timestamp, end: Option<Timestamp>) {
        if let Err(error) = state_file::write(&self.root, start, end) {
            let file = state_file::NAME;
            tracing::warn!(%error, "cannot write {file} in the root directory");
        }
    }
}

/// Between attempts to reach logind.
pub(super) struct Pause(Duration);

impl Pause {
    const FIRST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(30);

    pub(super) fn new() -> Self {
        Self(Self::FIRST)
    }

    /// The next one; each is twice as long as the one before.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::MOST);
        pause
    }
}

#[cfg(test)]
mod tests;
