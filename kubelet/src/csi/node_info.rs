//! What the API server learns of the node's drivers: an annotation and labels of the Node, and the CSINode.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::csi::NodeGetInfoResponse;
use kube::Client;
use kube::api::{DeleteParams, GetParams, PostParams};
use kube::core::Request;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::Csi;
use super::call::Calls;
use super::drivers::{Driver, Drivers, Registration, check_versions};
use crate::api::Retry;
use crate::errors::error_chain;
use crate::node::types::Node;
use crate::node::{OwnNode, patch_node};

const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";
/// What each driver calls the node, as JSON.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Which kinds of volume of old drivers do now.
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// All of them that ever were: the control plane hands none of them to a node any more.
const MIGRATED_PLUGINS: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,\
     kubernetes.io/cinder,kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";

/// Of each driver: its registration, and whether the API server has taken it.
pub(super) type Published = BTreeMap<String, (u64, Result<(), String>)>;

impl Csi {
    /// A plugin called `name` that serves at `endpoint` wants to be a driver. It is one until what this gives is dropped.
    ///
    /// # Errors
    /// Why not, in upstream's words.
    pub async fn register(
        &self,
        name: &str,
        endpoint: &std::path::Path,
        versions: &[String],
    ) -> Result<Registration, String> {
        let version = check_versions(name, versions, self.drivers.get(name).as_ref())?;
        let mut calls = Calls::to(endpoint);
        let info = calls.info().await.map_err(|error| error.to_string())?;
        let abilities = calls.abilities().await.map_err(|error| error.to_string())?;
        let abilities = abilities.collect();
        let driver = driver(endpoint, version, info, abilities)?;
        let registration = self.drivers.insert(name, driver);
        if self.joins {
            self.published(name, registration.generation).await?;
        }
        tracing::info!(driver = name, endpoint = %endpoint.display(), "a storage driver has registered");
        Ok(registration)
    }

    /// Waits until the API server has taken, or refused, a driver.
    async fn published(&self, name: &str, generation: u64) -> Result<(), String> {
        let mut published = self.published.subscribe();
        let own = |all: &Published| all.get(name).is_some_and(|(taken, _)| *taken == generation);
        let taken = published.wait_for(own).await;
        let outcome = taken.ok().and_then(|all| all.get(name).cloned());
        match outcome {
            Some((_, outcome)) => outcome,
            // The sender is in `self`.
            None => std::future::pending().await,
        }
    }

    /// Makes the CSINode, then keeps it and the Node as the drivers are. Never ends.
    pub(super) async fn run_node_info(&self, client: Client, mut own: watch::Receiver<OwnNode>) {
        let mut drivers = self.drivers.subscribe();
        let mut retry = Retry::new(Duration::from_millis(200), Duration::from_secs(30));
        // Names that this life of the agent has told of.
        let mut told: BTreeMap<String, ()> = BTreeMap::new();
        let mut said = None;
        loop {
            let wanted = drivers.borrow_and_update().clone();
            let node = own_node(&mut own).await;
            let done = self.tell(&client, &node, &wanted, &told).await;
            match done {
                Ok(outcomes) => {
                    retry.reset();
                    said = None;
                    told.extend(wanted.keys().map(|name| (name.clone(), ())));
                    self.published.send_replace(outcomes);
                    self.initialized
                        .send_if_modified(|done| !std::mem::replace(done, true));
                    let uid = node.metadata.uid.clone();
                    // Cancel-safe: both are states.
                    tokio::select! {
                        Ok(()) = drivers.changed() => {}
                        () = another(&mut own, uid.as_deref()) => {}
                    }
                }
                Err(error) => {
                    if said.as_deref() != Some(&*error) {
                        tracing::warn!(
                            error,
                            "cannot tell the API server of the node's storage drivers"
                        );
                        said = Some(error);
                    }
                    retry.pause().await;
                }
            }
        }
    }

    /// Tells of the drivers, of all of them at once. Where the API server refuses that for good, of one more at a time:
    /// what is wrong with one driver keeps no other from its registration.
    async fn tell(
        &self,
        client: &Client,
        seen: &Node,
        wanted: &Drivers,
        told: &BTreeMap<String, ()>,
    ) -> Result<Published, String> {
        let is_gone = |name: &str| told.contains_key(name) && !wanted.contains_key(name);
        let mut outcomes = Published::new();
        let mut taken = BTreeMap::new();
        for (name, driver) in wanted {
            let outcome = check_topology(seen, &driver.topology);
            if outcome.is_ok() {
                taken.insert(name.as_str(), driver);
            }
            outcomes.insert(name.clone(), (driver.generation, outcome));
        }
        match self.tell_of(client, seen, &taken, is_gone).await {
            Ok(()) => return Ok(outcomes),
            Err(error) if !is_final(&error) || taken.is_empty() => return Err(words(&error)),
            Err(_) => {}
        }
        let all = std::mem::take(&mut taken);
        for (name, driver) in all {
            taken.insert(name, driver);
            let Err(error) = self.tell_of(client, seen, &taken, is_gone).await else {
                continue;
            };
            if !is_final(&error) {
                return Err(words(&error));
            }
            taken.remove(name);
            let refused = format!(
                "error updating CSINode object with CSI driver node info: {}",
                words(&error)
            );
            outcomes.insert(name.to_owned(), (driver.generation, Err(refused)));
        }
        Ok(outcomes)
    }

    async fn tell_of(
        &self,
        client: &Client,
        seen: &Node,
        taken: &BTreeMap<&str, &Driver>,
        is_gone: impl Fn(&str) -> bool + Copy,
    ) -> Result<(), kube::Error> {
        if let Some(metadata) = node_patch(seen, taken, is_gone) {
            let body = json!({ "metadata": metadata });
            patch_node(client, &self.node, body).await?;
        }
        let uid = seen.metadata.uid.as_deref().unwrap_or_default();
        self.tell_csi_node(client, uid, taken, is_gone).await
    }

    async fn tell_csi_node(
        &self,
        client: &Client,
        uid: &str,
        taken: &BTreeMap<&str, &Driver>,
        is_gone: impl Fn(&str) -> bool,
    ) -> Result<(), kube::Error> {
        let all = Request::new(CSI_NODES);
        let get = all.get(&self.node, &GetParams::default());
        let found = client
            .request::<Value>(get.map_err(kube::Error::BuildRequest)?)
            .await;
        let before = match found {
            Ok(object) if is_owned(&object, &self.node, uid) => Some(object),
            Ok(_) => {
                tracing::info!("the CSINode is that of another node of this name; it is made anew");
                let delete = all.delete(&self.node, &DeleteParams::default());
                let delete = delete.map_err(kube::Error::BuildRequest)?;
                client.request_text(delete).await?;
                None
            }
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => return Err(error),
        };
        let is_new = before.is_none();
        let base = before
            .clone()
            .unwrap_or_else(|| new_csi_node(&self.node, uid));
        let after = csi_node(base, taken, is_gone);
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        let body = after.to_string().into_bytes();
        let request = match is_new {
            true => all.create(&PostParams::default(), body),
            false => all.replace(&self.node, &PostParams::default(), body),
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        client.request::<Value>(request).await.map(drop)
    }
}

/// Whether the API server has looked at what it was told, and will never take it.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 413 | 422))
}

fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => error_chain(other),
    }
}

/// Waits until the node is there.
async fn own_node(own: &mut watch::Receiver<OwnNode>) -> Arc<Node> {
    loop {
        if let OwnNode::There(node) = &*own.borrow_and_update() {
            return node.clone();
        }
        if own.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Waits until there is another node than that of `uid`.
async fn another(own: &mut watch::Receiver<OwnNode>, uid: Option<&str>) {
    let differs = |own: &OwnNode| matches!(own, OwnNode::There(_)) && own.uid() != uid;
    if own.wait_for(differs).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What a driver has said of itself.
fn driver(
    endpoint: &std::path::Path,
    version: (u64, u64, u64),
    info: NodeGetInfoResponse,
    abilities: std::collections::BTreeSet<i32>,
) -> Result<Driver, String> {
    if info.node_id.is_empty() {
        return Err("error adding CSI driver node info: driverNodeID must not be empty".to_owned());
    }
    let most = info.max_volumes_per_node;
    if most < 0 {
        tracing::warn!(
            limit = most,
            "a driver's limit of volumes is negative, and does not count"
        );
    }
    Ok(Driver {
        endpoint: endpoint.to_owned(),
        version,
        node_id: info.node_id,
        most_volumes: (most > 0).then(|| i32::try_from(most).unwrap_or(i32::MAX)),
        topology: info.accessible_topology.unwrap_or_default().segments,
        abilities,
        generation: 0,
    })
}

/// Whether the node has no label that says otherwise.
fn check_topology(node: &Node, topology: &BTreeMap<String, String>) -> Result<(), String> {
    let labels = node.metadata.labels.as_ref();
    for (key, value) in topology {
        let has = labels.and_then(|labels| labels.get(key));
        if let Some(has) = has.filter(|has| *has != value) {
            return Err(format!(
                "error updating Node object with CSI driver node info: detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{has:?}"
            ));
        }
    }
    Ok(())
}

/// What of the node's metadata is not as the drivers have it; none where nothing is.
fn node_patch(
    node: &Node,
    drivers: &BTreeMap<&str, &Driver>,
    is_gone: impl Fn(&str) -> bool,
) -> Option<Value> {
    let annotations = node.metadata.annotations.as_ref();
    let written = annotations.and_then(|all| all.get(NODE_IDS));
    let before: BTreeMap<String, String> = written
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let mut ids = before.clone();
    ids.retain(|name, _| !is_gone(name));
    let own = drivers
        .iter()
        .map(|(name, driver)| ((*name).to_owned(), driver.node_id.clone()));
    ids.extend(own);
    let mut metadata = Map::new();
    if ids != before {
        let text = match ids.is_empty() {
            true => Value::Null,
            false => json!(json!(ids).to_string()),
        };
        metadata.insert("annotations".to_owned(), json!({ NODE_IDS: text }));
    }
    let labels = node.metadata.labels.as_ref();
    let topology = drivers.values().flat_map(|driver| &driver.topology);
    let missing = topology.filter(|(key, value)| {
        let has = labels.and_then(|labels| labels.get(*key));
        has != Some(*value)
    });
    let missing: Map<String, Value> = missing
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !missing.is_empty() {
        metadata.insert("labels".to_owned(), missing.into());
    }
    (!metadata.is_empty()).then(|| metadata.into())
}

fn new_csi_node(name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": {"name": name, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]},
        "spec": {"drivers": []},
    })
}

/// Whether a CSINode belongs to the node of this name and UID.
fn is_owned(object: &Value, name: &str, uid: &str) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let is_node =
        |owner: &Value| owner["kind"] == "Node" && owner["name"] == name && owner["uid"] == uid;
    owners.into_iter().flatten().any(is_node)
}

/// A CSINode with these drivers; those of before that are not gone stay.
fn csi_node(
    mut object: Value,
    drivers: &BTreeMap<&str, &Driver>,
    is_gone: impl Fn(&str) -> bool,
) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        annotations[MIGRATED] = json!(MIGRATED_PLUGINS);
    }
    let mut all = object["spec"]["drivers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    all.retain(|one| !is_gone(one["name"].as_str().unwrap_or_default()));
    for (name, driver) in drivers {
        let keys: Vec<_> = driver.topology.keys().collect();
        let mut entry = json!({"name": name, "nodeID": driver.node_id, "topologyKeys": keys});
        if keys.is_empty() {
            // As the API server gives it back.
            entry["topologyKeys"] = Value::Null;
        }
        if let Some(count) = driver.most_volumes {
            entry["allocatable"] = json!({ "count": count });
        }
        match all.iter_mut().find(|one| one["name"] == *name) {
            Some(one) => *one = entry,
            None => all.push(entry),
        }
    }
    object["spec"]["drivers"] = all.into();
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::drivers::some_driver;

    fn node(metadata: Value) -> Node {
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn at(zone: &str) -> Driver {
        let mut driver = some_driver((1, 0, 0));
        driver
            .topology
            .insert("topology.d/zone".into(), zone.into());
        driver.most_volumes = Some(8);
        driver
    }

    #[test]
    fn the_node_shows_what_its_drivers_say() {
        let driver = at("a");
        let drivers = BTreeMap::from([("d", &driver)]);
        let none = |_: &str| false;
        let bare = node(json!({"name": "n"}));
        let patch = node_patch(&bare, &drivers, none).unwrap();
        assert_eq!(patch["annotations"][NODE_IDS], r#"{"d":"n"}"#);
        assert_eq!(patch["labels"], json!({"topology.d/zone": "a"}));
        let told = node(json!({"name": "n", "labels": {"topology.d/zone": "a"},
            "annotations": {NODE_IDS: r#"{"d":"n","other":"x"}"#}}));
        assert_eq!(node_patch(&told, &drivers, none), None);
        let gone = node_patch(&told, &BTreeMap::new(), |name| name == "d").unwrap();
        assert_eq!(gone, json!({"annotations": {NODE_IDS: r#"{"other":"x"}"#}}));
        let last = node(json!({"annotations": {NODE_IDS: r#"{"d":"n"}"#}}));
        let gone = node_patch(&last, &BTreeMap::new(), |_| true).unwrap();
        assert_eq!(gone["annotations"][NODE_IDS], Value::Null);
        assert_eq!(check_topology(&told, &driver.topology), Ok(()));
        let elsewhere = check_topology(&told, &at("b").topology).unwrap_err();
        assert!(
            elsewhere.contains("topology value collision"),
            "{elsewhere}"
        );
    }

    #[test]
    fn the_csi_node_has_the_drivers_and_keeps_those_of_others() {
        let driver = at("a");
        let drivers = BTreeMap::from([("d", &driver)]);
        let made = csi_node(new_csi_node("n", "u"), &drivers, |_| false);
        assert!(is_owned(&made, "n", "u") && !is_owned(&made, "n", "other"));
        assert_eq!(
            made["spec"]["drivers"],
            json!([{"name": "d", "nodeID": "n", "topologyKeys": ["topology.d/zone"], "allocatable": {"count": 8}}])
        );
        let plugins = made["metadata"]["annotations"][MIGRATED].as_str().unwrap();
        assert_eq!(plugins.split(',').count(), 7);
        assert_eq!(csi_node(made.clone(), &drivers, |_| false), made);
        let mut more = made.clone();
        let other = json!({"name": "other", "nodeID": "x", "topologyKeys": null});
        more["spec"]["drivers"]
            .as_array_mut()
            .unwrap()
            .push(other.clone());
        let gone = csi_node(more, &BTreeMap::new(), |name| name == "d");
        assert_eq!(gone["spec"]["drivers"], json!([other]));
    }
}
