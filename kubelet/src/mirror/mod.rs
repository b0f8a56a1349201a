//! Mirror pods: what stands at the API server for a static pod, so that others can see it.
//!
//! Owns: the mirror pods of this node. Inputs: the static pods there should be, the pods whose workers live, what the API
//! server has ([`crate::sources::ApiPods`]), the own [`crate::node::NodeObject`]. Outputs: requests to the API server; an event on a static pod whose
//! mirror is refused. Tasks: one ([`run_mirrors`]).
//!
//! Strictly beside the lives of the pods: nothing waits for what happens here, and nothing here touches a pod. What to do
//! is decided by `plan`, which is pure, from what is there: a mirror that should be there and is not is created; one that
//! was made of another version, or is being deleted, is deleted under its UID and made anew; one whose static pod is gone
//! is deleted, once every source has said what it has and the static pod has ended.
//!
//! Deliberately not here: a mirror's status (the publisher writes it), and its deletion by others, which nobody but this
//! room answers: the pod runs on, and gets another mirror.

mod attempts;
mod memory;
mod plan;
mod request;
mod task;

#[cfg(test)]
mod tests;

pub use task::{MirrorInputs, run_mirrors};
