//! What there is to do about mirror pods. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::memory::Memory;
use crate::node::NodeObject;
use crate::objects::objects_of;
use crate::pod::{self, CONFIG_HASH_ANNOTATION, Pod, PodName, PodUid};
use crate::sources::{ApiPods, Desired};
use crate::workers::Lives;

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    /// The pods of the sources on this node; those of an API server among them do not count.
    pub(super) desired: &'a Desired,
    /// None before the runtime has been seen.
    pub(super) lives: Option<&'a Lives>,
    pub(super) api: &'a ApiPods,
    pub(super) node: Option<&'a NodeObject>,
    /// What was done already, and `api` does not show yet.
    pub(super) memory: &'a Memory,
    /// Monotonic.
    pub(super) now: Duration,
}

/// One request to the API server. Each is complete in itself: after it, a new plan is made.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Creates the mirror of this static pod.
    Create {
        pod: Arc<Pod>,
        /// `metadata.uid` of the node that owns it.
        node: String,
    },
    /// Deletes the mirror with this name, as long as it has this UID.
    Delete { name: PodName, uid: PodUid },
}

impl Action {
    /// Whose mirror it is about.
    pub(super) fn name(&self) -> PodName {
        match self {
            Self::Create { pod, .. } => PodName::of(pod),
            Self::Delete { name, .. } => name.clone(),
        }
    }
}

/// What there is to do, by name of the pod, at most one thing for each.
pub(super) fn plan(input: &Input<'_>) -> Vec<Action> {
    // Before the first list nobody knows which mirrors there are.
    if !input.api.synced {
        return Vec::new();
    }
    let wanted = wanted(input.desired);
    let made = wanted
        .iter()
        .filter_map(|(name, pod)| for_static(input, name, pod));
    let orphans = input.api.mirrors.keys();
    let orphans = orphans
        .filter(|name| !wanted.contains_key(*name))
        .filter_map(|name| for_orphan(input, name));
    made.chain(orphans).collect()
}

/// The static pods that should have a mirror, by name. An API server takes none that refers to objects: it has other ones, or
/// none, of the same names.
fn wanted(desired: &Desired) -> BTreeMap<PodName, &Arc<Pod>> {
    let refers = |pod: &Pod| objects_of(pod).next().is_some();
    let pods = desired.pods.values();
    let pods = pods.filter(|pod| pod::is_static(pod) && !refers(pod));
    pods.map(|pod| (PodName::of(pod), pod)).collect()
}

fn for_static(input: &Input<'_>, name: &PodName, pod: &Arc<Pod>) -> Option<Action> {
    let Some(mirror) = input.memory.mirror(name, input.api, input.now) else {
        let node = input.node.filter(|node| !node.deleting)?;
        let node = Some(&node.uid).filter(|uid| !uid.is_empty())?.clone();
        let pod = pod.clone();
        return Some(Action::Create { pod, node });
    };
    let same = mirror.hash == hash(pod);
    // It shows the pod's predecessor for as long as that has not ended.
    let shows_another = !same && input.lives.is_none_or(|lives| has(lives, &mirror.hash));
    let stays = !mirror.deleting && (same || shows_another);
    (!stays).then(|| Action::Delete {
        name: name.clone(),
        uid: mirror.uid.clone(),
    })
}

fn for_orphan(input: &Input<'_>, name: &PodName) -> Option<Action> {
    if !input.desired.ready {
        return None;
    }
    let mirror = input.memory.mirror(name, input.api, input.now)?;
    if has(input.lives?, &mirror.hash) {
        return None;
    }
    Some(Action::Delete {
        name: name.clone(),
        uid: mirror.uid.clone(),
    })
}

/// Whether the static pod with `hash`, which is its UID, has not ended.
fn has(lives: &Lives, hash: &str) -> bool {
    lives.contains_key(hash)
}

/// `kubernetes.io/config.hash`: which version of the static pod it is.
pub(super) fn hash(pod: &Pod) -> &str {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(CONFIG_HASH_ANNOTATION))
        .map_or("", String::as_str)
}
