//! What the agent keeps of its own Node object.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;

/// This node as the API server has it: what pods are admitted by, and what owns their mirrors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeObject {
    /// `metadata.uid`: the owner of mirror pods, and of the node's lease.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Whether it has a `metadata.deletionTimestamp`.
    pub deleting: bool,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<String>,
}
