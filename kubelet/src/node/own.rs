//! The watch of the node's own object.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::object::NodeObject;
use super::types::Node;
use crate::api;
use crate::events::About;

/// The node's own object, as the API server has it.
#[derive(Clone, Debug, Default)]
pub enum OwnNode {
    /// Nobody has said yet.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// This one.
    There(Arc<Node>),
}

impl OwnNode {
    /// Its UID, where it is there.
    #[must_use]
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::There(node) => node.metadata.uid.as_deref(),
            _ => None,
        }
    }
}

/// Watches the object of the node called `name`: all of it into `own`, what pods are admitted by into `object`. Says when it
/// is cordoned. Never ends.
pub async fn run_own_node(
    client: Client,
    name: String,
    own: watch::Sender<OwnNode>,
    object: watch::Sender<Option<Arc<NodeObject>>>,
) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = api::watch_objects(Api::<Node>::all(client), config);
    let mut listed = None;
    let mut unschedulable = false;
    while let Some(event) = events.next().await {
        let now = match event {
            Event::Init => {
                listed = None;
                continue;
            }
            Event::InitApply(node) => {
                listed = Some(node);
                continue;
            }
            Event::InitDone => listed.take(),
            Event::Apply(node) => Some(node),
            Event::Delete(_) => {
                tracing::warn!(
                    "the node's object was deleted; it is registered again when the agent starts anew"
                );
                None
            }
        };
        if let Some(node) = &now
            && node.spec.unschedulable != unschedulable
        {
            unschedulable = node.spec.unschedulable;
            let reason = match unschedulable {
                true => "NodeNotSchedulable",
                false => "NodeSchedulable",
            };
            say_turn(&name, reason);
        }
        let kept = now.as_ref().map(|node| Arc::new(kept(node)));
        object.send_if_modified(|object| {
            let differs = *object != kept;
            *object = kept;
            differs
        });
        own.send_replace(now.map_or(OwnNode::Absent, |node| OwnNode::There(Arc::new(node))));
    }
}

/// An event of the node that says what it is now, in upstream's words.
pub(super) fn say_turn(name: &str, reason: &str) {
    let message = format!("Node {name} status is now: {reason}");
    About::node(name).normal(reason, &message);
}

fn kept(node: &Node) -> NodeObject {
    let taints: Vec<Taint> = node.spec.taints.clone();
    NodeObject {
        uid: node.metadata.uid.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints,
        unschedulable: node.spec.unschedulable,
        deleting: node.metadata.deletion_timestamp.is_some(),
        pod_cidrs: node.spec.pod_cidrs.clone(),
    }
}
