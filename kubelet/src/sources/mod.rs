//! Where pods come from, merged into one set of desired pods.
//!
//! Owns: the desired pods. Inputs: the manifest directory (`static-pods`). Outputs: a `watch<Arc<Desired>>`.
//! Tasks: one for the file source. Does not: start, stop or judge a pod.

mod file;
mod last_good;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pod::{Pod, PodUid};

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
