//! The end of all pods before the machine is switched off or rebooted (graceful node shutdown, KEP-2000, KEP-2712).
//!
//! Owns: the inhibitor lock that has logind wait, logind's drop-in file that makes it wait long enough, the order in
//! which pods end, and `graceful_node_shutdown_state` in the root directory.
//! Inputs: `shutdownGracePeriod`, `shutdownGracePeriodCriticalPods`, `shutdownGracePeriodByPodPriority`; logind over
//! D-Bus; which pods are still there, from the registry of `workers/`.
//! Outputs: [`NodeState`], by which the registry has pods end and refuses others; the lock, given back as soon as
//! nothing runs.
//! Tasks: one that watches logind, for the life of the agent; while the node shuts down one more, which gives each
//! window its time.
//! Does not: end a pod itself (that is its worker's), or anything at all where no period is configured: then there is
//! no task, and no connection to D-Bus.
//!
//! A shutdown that is called off, and a connection to D-Bus or a logind that comes back, take everything up again.

mod drain;
mod dropin;
mod logind;
mod state_file;
mod task;
mod windows;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::pod::{Pod, PodName};

pub use task::{NodeShutdown, ShutdownPlan};
pub use windows::{CRITICAL_PRIORITY, Window, Windows, priority_of};

/// Reason of a pod that is refused because the node is shutting down.
pub const REFUSED: &str = "NodeShutdown";
/// The same in a sentence.
pub const REFUSED_MESSAGE: &str = "Pod was rejected as the node is shutting down.";
/// Reason of a pod that was ended because the node is shutting down.
pub const ENDED: &str = "Terminated";
/// The same in a sentence.
pub const ENDED_MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// A pod that ends by the node's shutdown has this much at least (upstream's `calculateEffectiveGracePeriod`).
const LEAST_GRACE: Duration = Duration::from_secs(1);

/// How D-Bus is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The machine's: `DBUS_SYSTEM_BUS_ADDRESS`, or where it listens by default.
    System,
    /// At this address, such as `unix:path=/run/bus`.
    At(String),
}

/// The machine's logind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogindHost {
    /// Where it is spoken to.
    pub bus: Bus,
    /// Where its drop-in files are.
    pub drop_ins: PathBuf,
}

impl LogindHost {
    /// That of a node.
    #[must_use]
    pub fn of_node() -> Self {
        Self {
            bus: Bus::System,
            drop_ins: "/etc/systemd/logind.conf.d".into(),
        }
    }
}

/// What becomes of the node, as far as pods are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    /// Nobody has asked logind yet.
    #[default]
    Unknown,
    /// Nothing does.
    Up,
    /// It is shutting down.
    ShuttingDown(Leaving),
}

/// Which pods have to end by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Who ends when.
    pub windows: Windows,
    /// How many of the windows have begun.
    pub begun: usize,
}

impl Leaving {
    /// How long `pod` has to end; none while it is not its turn.
    #[must_use]
    pub fn time_of(&self, pod: &Pod) -> Option<Duration> {
        let index = self.windows.of_priority(priority_of(pod));
        let window = self.windows.get(index).filter(|_| index < self.begun)?;
        let own = Duration::from_secs(crate::pod::grace_seconds(pod).unsigned_abs());
        Some(window.period.min(own).max(LEAST_GRACE))
    }
}

/// What the registry answers: the pods that are there, once it has heard of a [`NodeState`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// The state it has acted upon.
    pub heard: NodeState,
    /// The pods of which something runs or may run, by priority.
    pub pods: Vec<(i32, PodName)>,
}

/// The registry's end of the line.
#[derive(Debug)]
pub struct ShutdownLink {
    /// What becomes of the node.
    pub state: watch::Receiver<NodeState>,
    /// Where the registry says who is left.
    pub remaining: watch::Sender<Remaining>,
    /// Of a node whose shutdown nobody watches: keeps `state` open.
    _idle: Option<watch::Sender<NodeState>>,
}

impl ShutdownLink {
    /// Of a node whose shutdown nobody watches.
    #[must_use]
    pub fn idle() -> Self {
        let (sender, state) = watch::channel(NodeState::Up);
        Self {
            state,
            remaining: watch::Sender::default(),
            _idle: Some(sender),
        }
    }

    /// Waits until it is known whether the node is shutting down, for `patience` at most: pods that a shutdown has ended
    /// must not begin again because the agent did.
    pub async fn first_state(&mut self, patience: Duration) {
        let known = self.state.wait_for(|state| *state != NodeState::Unknown);
        // One that is not known in time is acted upon when it is. A sender that is gone ends the process.
        let _ = tokio::time::timeout(patience, known).await;
    }
}
