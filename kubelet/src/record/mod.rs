//! What the agent has to remember of a pod and the runtime does not hold.
//!
//! Owns: the record of a pod, its file `record.json` in a directory that the caller names, and the crash back-off of
//! its containers.
//! Inputs: statuses the worker publishes, exits it sees, the two clocks' readings, all as arguments.
//! Outputs: the file; after a restart of the agent, the seed of the first status and the back-offs still running.
//! Tasks: none. File calls block for as long as one small file takes; they are made by the pod's worker alone.
//! Does not: read a clock, decide anything, keep what the runtime keeps, or make or remove the directory.
//!
//! A record that is missing or bad costs what it held and nothing else: the worker goes by what the runtime shows.

mod backoff;
mod file;
mod stamp;
mod types;

#[cfg(test)]
mod tests;

pub use backoff::{BackoffKey, Backoffs, Exit};
pub use file::{
    BAD_PREFIX, FILE_NAME, Loaded, MAX_BYTES, RecordError, RecordFault, RecordFile, RecordWriter,
    Stored,
};
pub use stamp::Stamp;
pub use types::{
    BackoffRecord, ConditionRecord, ContainerRecord, ExitRecord, Record, Terminal, Termination,
};
