//! May this pod run here, as far as its own spec and the node's abilities tell; and if not, why.
//!
//! Owns: the table of every field a pod can set, with what this version does about it (`fields`); the sysctl
//! allow list; node selectors and affinity; the AppArmor check.
//! Inputs: the pod, [`NodeFeatures`]. Outputs: [`Rejection`] with upstream's reason and message, or nothing;
//! [`warnings`], one line for each field that is accepted and does nothing yet.
//! Spawns no task. Pure: no clock, no I/O.
//! Does not: count resources or ports against those of other pods, look at pressure or shutdown, or repeat the
//! API validation that the sources did.
//!
//! A field that changes isolation, resources or placement and is not built refuses the pod by its path. So does a
//! field that is in no table: a newer API crate cannot add one that is ignored unseen.

pub mod apparmor;
mod fields;
mod placement;
pub mod sysctls;
mod walk;

use std::collections::BTreeMap;

use crate::pod::{self, Pod};
use sysctls::SysctlAllowlist;

pub use walk::{refusals, warnings};

/// The only operating system whose pods this agent runs, as `spec.os.name` and the node label spell it.
const NODE_OS: &str = "linux";
/// Label of nodes, and of pods that insist on an operating system.
const OS_LABEL: &str = "kubernetes.io/os";

/// What the node can do for a pod, and how it is called and labelled.
#[derive(Clone, Debug, Default)]
pub struct NodeFeatures {
    /// The node's name.
    pub node_name: String,
    /// The node's labels: the agent's own where no API server has others.
    pub labels: BTreeMap<String, String>,
    /// Sysctls a pod may set.
    pub sysctls: SysctlAllowlist,
    /// The runtime honours `supplementalGroupsPolicy` (CRI `Status`, `features.supplemental_groups_policy`).
    pub supplemental_groups_policy: bool,
    /// The kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// `spec.resources` is applied to the pod's cgroup.
    pub pod_level_resources: bool,
    /// `hugepages-<size>` limits reach the pod's and the containers' cgroups.
    pub hugepages: bool,
    /// Limits of `ephemeral-storage`, and `sizeLimit` of an `emptyDir` on disk, are enforced.
    pub local_storage_limits: bool,
}

/// A pod that may not run here. The pod's status becomes `Failed` with this reason, and the message behind
/// `Pod was rejected: `; it is not tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Upstream's reason, such as `SysctlForbidden` or `PodFeatureUnsupported`.
    pub reason: &'static str,
    /// What is wrong, with the field where one is.
    pub message: String,
}

impl Rejection {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Whether the node offers all that `pod` asks of it, other pods left aside.
///
/// # Errors
/// The first thing the node does not offer, in upstream's order of admission handlers.
pub fn admit_features(pod: &Pod, node: &NodeFeatures) -> Result<(), Rejection> {
    sysctls::admit(pod, &node.sysctls)?;
    admit_os(pod)?;
    walk::admit(pod, node)?;
    placement::admit(pod, node)?;
    apparmor::admit(pod, node.app_armor)
}

fn admit_os(pod: &Pod) -> Result<(), Rejection> {
    let labels = pod.metadata.labels.as_ref();
    if labels
        .and_then(|labels| labels.get(OS_LABEL))
        .is_some_and(|os| os != NODE_OS)
    {
        return Err(Rejection::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if pod::spec(pod)
        .os
        .as_ref()
        .is_some_and(|os| os.name != NODE_OS)
    {
        return Err(Rejection::new(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
