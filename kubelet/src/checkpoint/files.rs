//! What the files hold. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use static_pods::fnv::Fnv128;

use crate::node::NodeObject;
use crate::objects::ObjectKey;
use crate::pod::{Pod, PodUid};
use crate::status;

/// The name of the node's file.
pub(super) const NODE: &str = "node";
/// The name of the file of services.
pub(super) const SERVICES: &str = "services";

/// The name of a pod's file; none for a UID that no API server gives out, and that would not do for one.
pub(super) fn name_of_pod(uid: &PodUid) -> Option<&str> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    let name = uid.as_str();
    name.bytes().all(plain).then_some(name)
}

/// The name of an object's file.
pub(super) fn name_of_object((kind, namespace, name): &ObjectKey) -> String {
    let key = format!("{kind}/{namespace}/{name}");
    format!("{:032x}", Fnv128::of(key.as_bytes()))
}

/// A pod as it is written: of its status only what others than the node have put there, for the rest is in its record.
#[derive(Serialize)]
struct Written<'a> {
    metadata: &'a ObjectMeta,
    spec: Option<&'a PodSpec>,
    status: PodStatus,
}

/// The bytes to keep of a pod.
pub(super) fn of_pod(pod: &Pod) -> Option<Vec<u8>> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let foreign = conditions.filter(|c| !status::is_written_by_node(&c.type_));
    let foreign: Vec<PodCondition> = foreign.cloned().collect();
    let written = Written {
        metadata: &pod.metadata,
        spec: pod.spec.as_ref(),
        status: PodStatus {
            conditions: (!foreign.is_empty()).then_some(foreign),
            ..PodStatus::default()
        },
    };
    serde_json::to_vec(&written).ok()
}

/// The pod that [`of_pod`] made `bytes` of.
pub(super) fn pod(bytes: &[u8]) -> Option<Pod> {
    // What is wrong with it is not said: an error of serde's quotes the text.
    serde_json::from_slice(bytes).ok()
}

/// What is known of the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeFile {
    /// The boot in which the API server was heard last, by the kernel's id of it.
    pub(super) boot: String,
    /// `metadata.labels` of the node's object.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// Its `spec.taints`.
    #[serde(default)]
    pub(super) taints: Vec<Taint>,
}

impl NodeFile {
    /// What is to be kept of `node` in this `boot`.
    pub(super) fn of(boot: &str, node: Option<&NodeObject>) -> Self {
        Self {
            boot: boot.to_owned(),
            labels: node.map(|node| node.labels.clone()).unwrap_or_default(),
            taints: node.map(|node| node.taints.clone()).unwrap_or_default(),
        }
    }

    /// As much of the node's object as pods are admitted by.
    pub(super) fn object(self) -> NodeObject {
        NodeObject {
            labels: self.labels,
            taints: self.taints,
            ..NodeObject::default()
        }
    }
}
