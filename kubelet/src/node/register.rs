//! The node's registration: a new object, or the old one put right.

use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::{Map, Value, json};

use super::gather::{ATTACH_DETACH, NodeSettings};
use super::status::is_extended;
use super::types::{Node, NodeStatus};

/// Where nodes are.
const NODES: &str = "/api/v1/nodes";

/// The labels that are put right on a node that is there already (upstream's `updateDefaultLabels`).
const DEFAULT_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// What became of a registration.
#[derive(Debug)]
pub(super) enum Registered {
    /// The node is new.
    New(Box<Node>),
    /// It was there; this is it, put right.
    Known(Box<Node>),
}

/// Tries once to have the node there. Where it is `new`, devices that the API server has of it are another's.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub(super) async fn register(
    client: &Client,
    settings: &NodeSettings,
    status: &NodeStatus,
    new: bool,
) -> Result<Registered, kube::Error> {
    let node = new_node(settings, status);
    let body = serde_json::to_vec(&node).map_err(kube::Error::SerdeError)?;
    let request = Request::new(NODES).create(&PostParams::default(), body);
    let request = request.map_err(kube::Error::BuildRequest)?;
    match client.request::<Node>(request).await {
        Ok(node) => return Ok(Registered::New(Box::new(node))),
        // Who may not create it may find that it is there.
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 403 => {}
        Err(error) => return Err(error),
    }
    let known = get(client, &settings.name).await?;
    match reconciled(&known, settings, status, new) {
        Some(patch) => {
            let node = patch_status(client, &settings.name, patch).await?;
            Ok(Registered::Known(Box::new(node)))
        }
        None => Ok(Registered::Known(Box::new(known))),
    }
}

/// The node as the API server has it now.
pub(super) async fn get(client: &Client, name: &str) -> Result<Node, kube::Error> {
    let request = Request::new(NODES).get(name, &kube::api::GetParams::default());
    client
        .request(request.map_err(kube::Error::BuildRequest)?)
        .await
}

/// Patches the node by way of its status, which takes labels and annotations as well.
pub(crate) async fn patch_status(
    client: &Client,
    name: &str,
    patch: Value,
) -> Result<Node, kube::Error> {
    let patch = Patch::Strategic(patch);
    let request =
        Request::new(NODES).patch_subresource("status", name, &PatchParams::default(), &patch);
    client
        .request(request.map_err(kube::Error::BuildRequest)?)
        .await
}

/// The object of a node that is new.
pub(super) fn new_node(settings: &NodeSettings, status: &NodeStatus) -> Value {
    let mut metadata = json!({"name": settings.name, "labels": settings.labels});
    if !settings.annotations.is_empty() {
        metadata["annotations"] = json!(settings.annotations);
    }
    let mut spec = json!({});
    if !settings.taints.is_empty() {
        spec["taints"] = json!(settings.taints);
    }
    if let Some(id) = &settings.provider_id {
        spec["providerID"] = json!(id);
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec, "status": status})
}

/// The patch that puts right a node that was there; none where nothing is wrong. `--node-labels` beyond the default ones, and
/// taints, are not set again, as in upstream.
pub(super) fn reconciled(
    known: &Node,
    settings: &NodeSettings,
    status: &NodeStatus,
    new: bool,
) -> Option<Value> {
    let mut patch = Map::new();
    let mut metadata = Map::new();
    let labels = known.metadata.labels.as_ref();
    let wrong = DEFAULT_LABELS.iter().filter_map(|key| {
        let value = settings.labels.get(*key)?;
        let has = labels.and_then(|labels| labels.get(*key));
        (has != Some(value)).then(|| ((*key).to_owned(), json!(value)))
    });
    let wrong: Map<String, Value> = wrong.collect();
    if !wrong.is_empty() {
        metadata.insert("labels".to_owned(), wrong.into());
    }
    let annotations = known.metadata.annotations.as_ref();
    let has = annotations.and_then(|all| all.get(ATTACH_DETACH));
    let wanted = settings.annotations.get(ATTACH_DETACH);
    if has != wanted {
        metadata.insert("annotations".to_owned(), json!({ ATTACH_DETACH: wanted }));
    }
    if !metadata.is_empty() {
        patch.insert("metadata".to_owned(), metadata.into());
    }
    let mut amounts = Map::new();
    let lists = [
        ("capacity", &known.status.capacity, &status.capacity),
        (
            "allocatable",
            &known.status.allocatable,
            &status.allocatable,
        ),
    ];
    for (name, known, own) in lists {
        let mut changes = Map::new();
        for (resource, amount) in own {
            let is_page = resource.starts_with("hugepages-");
            if (known.is_empty() || is_page) && known.get(resource) != Some(amount) {
                changes.insert(resource.clone(), json!(amount));
            }
        }
        // Devices are nobody's until a plugin of this node has them.
        let devices = known
            .iter()
            .filter(|(name, amount)| new && is_extended(name) && *amount != "0");
        changes.extend(devices.map(|(name, _)| (name.clone(), json!("0"))));
        for resource in known.keys() {
            if resource.starts_with("hugepages-") && !own.contains_key(resource) {
                changes.insert(resource.clone(), Value::Null);
            }
        }
        if !changes.is_empty() {
            amounts.insert(name.to_owned(), changes.into());
        }
    }
    if !amounts.is_empty() {
        patch.insert("status".to_owned(), amounts.into());
    }
    (!patch.is_empty()).then(|| patch.into())
}
