//! The agent: it makes a node's pods be what their manifests say.
//!
//! Data flows one way; the only back edge is an observation that wakes the worker of its pod.
//!
//!
//!

pub mod admission;
pub mod cgroups;
pub mod clock;
pub mod config;
pub mod dir;
pub mod errors;
pub mod events;
pub mod images;
pub mod logging;
pub mod mounts;
pub mod node;
pub mod plan;
pub mod pod;
pub mod poddir;
pub mod process;
pub mod record;
pub mod runtime;
pub mod status;
pub mod volumes;
