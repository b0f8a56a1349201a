//! Where pods come from, merged into one set of desired pods.
//!
//! Owns: the desired pods. Inputs: the manifest directory (`static-pods`). Outputs: a `watch<Arc<Desired>>`.
//! Tasks: one for the file source. Does not: start, stop or judge a pod.

mod file;
mod last_good;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pod::{Pod, PodName, PodUid};

pub use file::run_file_source;
pub use last_good::Copies;

/// The pods that should run.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// By UID.
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
    /// Whether every configured source has reported once. Until then nothing may be ended.
    pub ready: bool,
}

/// What the API server has bound to this node.
#[derive(Clone, Debug, Default)]
pub struct ApiPods {
    /// The pods to run, by UID; those being deleted too, for as long as the API server has them.
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
    /// What stands there for static pods, and is never run.
    pub mirrors: BTreeMap<PodName, MirrorPod>,
    /// Whether a whole list has arrived since the agent began.
    pub synced: bool,
}

/// What stands at the API server for a static pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorPod {
    /// Its own UID; the static pod has another.
    pub uid: PodUid,
    /// `kubernetes.io/config.mirror`: the `kubernetes.io/config.hash` of the static pod that it was made of.
    pub hash: String,
    /// Whether it has a `metadata.deletionTimestamp`.
    pub deleting: bool,
}
