//! What the agent sees of a container runtime, and what it asks of it.
pub mod convert;
pub mod observed;
mod types;

pub use types::*;
