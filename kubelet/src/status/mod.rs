//! What a pod's status is, and who may read it.
//!
//! Owns: the small status types, the pure derivation of a status from what the runtime shows, its Kubernetes form, and
//! the board on which each pod's latest status hangs.
//! Inputs: the pod, what was observed of it, the worker's reasons for containers that do not run, probe results, the
//! previous status, the time.
//! Outputs: [`PodStatus`] values; on the board, pairs of pod and status for whoever serves or reports them.
//! Tasks: none.
//! Does not: read a clock, talk to the runtime or the API server, decide what to start or stop (that is the plan's),
//! remember anything across restarts (that is the record's), compute a QoS class, or write a log line for a change.

mod conditions;
mod containers;
mod derive;
mod owned;
mod phase;
mod publish;
mod resources;
mod restore;
mod serialise;
mod types;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use derive::{PodFailure, Rejected, StatusInput, derive_status};
pub use owned::{fingerprint, is_written_by_node};
pub use publish::{PodView, StatusBoard, StatusWriter, StepAtWork, Word, WriterTaken};
pub use restore::restore;
pub use serialise::{RUNTIME, serialise};
pub use types::{
    Condition, ConditionKind, ContainerStatus, Phase, PodStatus, ResourceHealth, State, Terminated,
    Waiting,
};
