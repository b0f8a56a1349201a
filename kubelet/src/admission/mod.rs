//! May this pod run here, by its own spec, the node's abilities, and the pods that are there already; and if not, why.
//!
//! Owns: the table of every field a pod can set, with what this version does about it (`fields`); the sysctl
//! allow list; node selectors, affinity and taints; the AppArmor check; what of the machine is for pods
//! ([`allocatable()`]); the [`Ledger`] of who has a place, and who has to leave for a critical pod.
//! Inputs: the pod, [`Node`], the pods with a place, what the node is short of ([`admit_under`]). Outputs: [`Rejection`] with upstream's reason and message, or a
//! place; [`warnings`], one line for each field that is accepted and does nothing yet.
//! Spawns no task. Pure: no clock, no I/O.
//! Does not: look at a shutdown, ask in which order pods come (that is the registry's), or repeat the API
//! validation that the sources did.
//!
//! A field that changes isolation, resources or placement and is not built refuses the pod by its path. So does a
//! field that is in no table: a newer API crate cannot add one that is ignored unseen.

mod allocatable;
pub mod apparmor;
mod claim;
mod fields;
mod ledger;
mod placement;
mod predicates;
mod preempt;
mod pressure;
pub mod sysctls;
mod walk;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::node::NodeObject;
use crate::pod::{self, Pod, PodUid};
use sysctls::SysctlAllowlist;

pub use allocatable::{Capacity, Reserved, allocatable, reserved_beyond, reserved_memory};
pub use claim::{Amounts, Claim, HostPort, is_critical};
pub use ledger::{Decision, Ledger, Other, Standing};
pub(crate) use placement::selects;
pub use pressure::admit_under;
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
    /// Resources that device plugins of the node offer, or offered.
    pub devices: BTreeSet<String>,
    /// The node is one of a cluster: objects of its API server can be read.
    pub api_server: bool,
}

/// A taint of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// The node as admission sees it. While the agent runs, only its labels and taints change, with its object at the API
/// server.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// What it can do, and how it is called and labelled.
    pub features: NodeFeatures,
    /// What pods may ask for in sum, `pods` among it. A resource in somebody's domain (`example.com/gpu`) that is not
    /// here is not counted at all.
    pub allocatable: Amounts,
    /// Its taints.
    pub taints: Vec<Taint>,
}

impl Node {
    /// The same node with the labels and taints that its `object` has at the API server.
    #[must_use]
    pub fn with_object(&self, object: &NodeObject) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let taints = object.taints.iter().map(|taint| Taint {
            key: taint.key.clone(),
            value: text(&taint.value),
            effect: taint.effect.clone(),
        });
        Self {
            features: NodeFeatures {
                labels: object.labels.clone(),
                ..self.features.clone()
            },
            allocatable: self.allocatable.clone(),
            taints: taints.collect(),
        }
    }
}

/// What a pod gets that may run.
#[derive(Clone, Debug)]
pub struct Admission {
    /// What it takes of the node.
    pub claim: Claim,
    /// The pods that have to be ended for it, which only a critical pod can ask for.
    pub victims: Vec<PodUid>,
    /// The pods that have to be gone before it begins: the victims, and those that were ending anyway. Empty where
    /// there are no victims.
    pub after: Vec<PodUid>,
}

/// A pod that may not run here. The pod's status becomes `Failed` with this reason, and the message behind
/// `Pod was rejected: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Upstream's reason, such as `SysctlForbidden` or `OutOfcpu`.
    pub reason: Cow<'static, str>,
    /// What is wrong, with the field where one is.
    pub message: String,
}

impl Rejection {
    /// With upstream's reason.
    pub(crate) fn new(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Whether `pod` may run on `node` beside `others`, and who has to leave for it.
///
/// # Errors
/// The first thing that stands against it, in upstream's order: what nodes declare, sysctls, operating system, group policy; then, unless
/// the pod is critical, resources; placement, host ports, taints, for a critical pod resources; AppArmor, features.
/// Nobody has to leave for a pod that something else stands against.
pub fn admit(pod: &Pod, node: &Node, others: &[Other<'_>]) -> Result<Admission, Rejection> {
    admit_first(pod, &node.features)?;
    let admission = predicates::admit(pod, node, others)?;
    admit_last(pod, &node.features)?;
    Ok(admission)
}

/// Whether the node offers all that `pod` asks of it, other pods left aside.
///
/// # Errors
/// The first thing the node does not offer, in upstream's order of admission handlers.
pub fn admit_features(pod: &Pod, node: &NodeFeatures) -> Result<(), Rejection> {
    admit_first(pod, node)?;
    placement::admit(pod, node)?;
    admit_last(pod, node)
}

/// What upstream looks at before a pod's place, and before the resource managers.
pub(crate) fn admit_first(pod: &Pod, node: &NodeFeatures) -> Result<(), Rejection> {
    admit_declared(pod)?;
    sysctls::admit(pod, &node.sysctls)?;
    admit_os(pod)?;
    admit_groups_policy(pod, node)
}

/// What upstream looks at once a pod has a place, and what this version does not have.
fn admit_last(pod: &Pod, node: &NodeFeatures) -> Result<(), Rejection> {
    apparmor::admit(pod, node.app_armor)?;
    walk::admit(pod, node)
}

/// Users of its own on the node's network are for nodes that declare that they have them (alpha), which this one does not.
fn admit_declared(pod: &Pod) -> Result<(), Rejection> {
    if pod::has_own_users(pod) && pod::host_network(pod) {
        return Err(Rejection::new(
            fields::UNSUPPORTED,
            "Pod requires node features that are not available: UserNamespacesHostNetworkSupport",
        ));
    }
    Ok(())
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

fn admit_groups_policy(pod: &Pod, node: &NodeFeatures) -> Result<(), Rejection> {
    let context = pod::spec(pod).security_context.as_ref();
    let policy = context.and_then(|context| context.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !node.supplemental_groups_policy {
        return Err(Rejection::new(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
