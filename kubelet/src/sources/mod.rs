//! Where pods come from, merged into one set of desired pods.
//!
//! Owns: the desired pods. Inputs: the manifest directory (`static-pods`), the API server's pods of this node; before it
//! has been heard, those that `checkpoint/` has kept. Outputs: a `watch<Arc<Desired>>`, a `watch<Arc<LocalObjects>>` of
//! what static pods may refer to, and a `watch<Arc<ApiPods>>` for those who write to the API server.
//! Tasks: one for the file source; on a node of a cluster one for the API server's pods and one that merges both.
//! Does not: start, stop or judge a pod; write to the API server.

mod apiserver;
mod file;
mod last_good;
mod merge;
mod object_notes;
mod server_status;
mod startup;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::node::NodeObject;
use crate::pod::{Pod, PodName, PodUid};

pub use apiserver::{ApiPodStore, is_safe, run_api_source};
pub use file::run_file_source;
pub use last_good::Copies;
pub use merge::{merge, run_merge};
pub use object_notes::{ObjectNotes, ObjectRules};
pub use server_status::ServerStatus;

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
    /// What the API server shows of each of them, mirrors too, by the UID that it has there.
    pub statuses: BTreeMap<PodUid, Arc<ServerStatus>>,
    /// Whether a whole list has arrived since the agent began.
    pub synced: bool,
}

/// The API server's pods as an earlier life of the agent knew them: they go on until the API server has been heard.
#[derive(Clone, Debug, Default)]
pub struct StalePods {
    /// By UID.
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
    /// As much of the node's object as pods are admitted by.
    pub node: Option<Arc<NodeObject>>,
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
