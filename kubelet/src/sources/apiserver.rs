//! The API server's pods: a watch of what is bound to this node, and the pure store behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_stream::StreamExt;

use super::{ApiPods, MirrorPod, ServerStatus, StalePods, startup};
use crate::api::watch_objects;
use crate::clock::Clock;
use crate::node::NodeObject;
use crate::pod::{
    CONFIG_MIRROR_ANNOTATION, CONFIG_SEEN_ANNOTATION, CONFIG_SOURCE_ANNOTATION, Pod, PodName,
    PodUid,
};
use crate::status::{self, Phase};

/// What `kubernetes.io/config.source` says of a pod from here.
const SOURCE: &str = "api";

/// Watches the pods bound to the node called `node_name` and publishes them. Ends with the receivers of `pods`.
///
/// It begins once the node object is known, as upstream does: a pod is admitted by the labels and taints that the object
/// has, and none may be refused because they had not arrived yet.
pub async fn run_api_source(
    client: Client,
    node_name: String,
    mut node: watch::Receiver<Option<Arc<NodeObject>>>,
    clock: Clock,
    stale: watch::Receiver<Arc<StalePods>>,
    pods: watch::Sender<Arc<ApiPods>>,
) {
    // Cancel-safe: both only wait. An error means that the watch of the node is gone, which ends the process.
    tokio::select! {
        known = node.wait_for(Option::is_some) => if known.is_err() { return },
        () = pods.closed() => return,
    }
    drop(node);
    tracing::info!(node = node_name, "watching the API server's pods");
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
    let mut events = watch_objects(Api::<Pod>::all(client), config);
    let mut store = ApiPodStore::default();
    loop {
        // Cancel-safe: a stream keeps what it has not given out.
        let event = tokio::select! {
            event = events.next() => event,
            () = pods.closed() => return,
        };
        let Some(event) = event else {
            return;
        };
        let now = clock.wall();
        if matches!(event, Event::Init) {
            store.remember(&stale.borrow());
        }
        startup::note(&event, now);
        let is_list = matches!(event, Event::InitDone);
        if store.apply(event, now) {
            pods.send_replace(store.pods());
        }
        if is_list {
            startup::listed(&store.pods());
        }
    }
}

/// The pods of the API server, as the events of a watch have them.
///
/// A pod keeps its `Arc` for as long as nothing changes in it that its worker goes by; what the agent itself has written
/// to its status comes back as a new [`ServerStatus`] and wakes no worker.
#[derive(Default)]
pub struct ApiPodStore {
    pods: Arc<ApiPods>,
    /// A list that has begun and is not whole.
    listing: Option<ApiPods>,
}

impl ApiPodStore {
    /// The pods as of the last whole list and what came since.
    #[must_use]
    pub fn pods(&self) -> Arc<ApiPods> {
        self.pods.clone()
    }

    /// Has pods keep their places in memory that run already, as an earlier life of the agent knew them: where nothing has
    /// changed, their workers have nothing to hear. Counts until the first list is whole.
    pub fn remember(&mut self, stale: &StalePods) {
        if !self.pods.synced {
            self.pods = Arc::new(ApiPods {
                pods: stale.pods.clone(),
                ..ApiPods::default()
            });
        }
    }

    /// Takes in one event that arrived `now`; true when [`ApiPodStore::pods`] is new.
    pub fn apply(&mut self, event: Event<Pod>, now: Timestamp) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(ApiPods::default());
                return false;
            }
            Event::InitApply(pod) => {
                let before = self.pods.clone();
                take_in(self.listing.get_or_insert_default(), &before, pod, now);
                return false;
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.pods = Arc::new(ApiPods {
                    synced: true,
                    ..listed
                });
            }
            Event::Apply(pod) => {
                let before = self.pods.clone();
                let mut after = ApiPods::clone(&before);
                if !take_in(&mut after, &before, pod, now) {
                    return false;
                }
                self.pods = Arc::new(after);
            }
            Event::Delete(pod) => {
                let Ok(uid) = PodUid::of(&pod) else {
                    return false;
                };
                let mut after = ApiPods::clone(&self.pods);
                remove(&mut after, &uid, &PodName::of(&pod));
                self.pods = Arc::new(after);
            }
        }
        true
    }
}

/// Takes a pod in, with what was known of it `before`. False for one that is not taken.
fn take_in(into: &mut ApiPods, before: &ApiPods, pod: Pod, now: Timestamp) -> bool {
    let name = PodName::of(&pod);
    let uid = match identity(&pod, &name) {
        Ok(uid) => uid,
        Err(why) => {
            tracing::error!(pod = %name, error = why, "a pod of the API server is ignored");
            return false;
        }
    };
    // A name is one object's at a time: whoever had it before is gone.
    let namesake = |other: &Pod| PodName::of(other) == name;
    let others = into.pods.iter().filter(|(other, _)| **other != uid);
    let stale: Vec<PodUid> = others
        .filter(|(_, other)| namesake(other))
        .map(|(uid, _)| uid.clone())
        .collect();
    let stale_mirror = into.mirrors.get(&name).filter(|mirror| mirror.uid != uid);
    for gone in stale_mirror.map(|m| m.uid.clone()).into_iter().chain(stale) {
        remove(into, &gone, &name);
    }
    into.statuses
        .insert(uid.clone(), Arc::new(ServerStatus::of(&pod)));
    let annotations = pod.metadata.annotations.as_ref();
    if let Some(hash) = annotations.and_then(|a| a.get(CONFIG_MIRROR_ANNOTATION)) {
        let mirror = MirrorPod {
            hash: hash.clone(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            uid,
        };
        into.mirrors.insert(name, mirror);
        return true;
    }
    let known = before.pods.get(&uid);
    let pod = kept(known, pod, now);
    into.pods.insert(uid, pod);
    true
}

/// The UID of a pod whose names can be parts of paths.
fn identity(pod: &Pod, name: &PodName) -> Result<PodUid, String> {
    let uid = PodUid::of(pod).map_err(|error| error.to_string())?;
    for part in [&name.namespace, &name.name] {
        if !is_object_name(part) {
            return Err(format!("{part:?} cannot be part of a path"));
        }
    }
    Ok(uid)
}

/// Whether the names of `pod` can be parts of paths.
#[must_use]
pub fn is_safe(pod: &Pod) -> bool {
    identity(pod, &PodName::of(pod)).is_ok()
}

/// Whether `text` can be the name of a pod or a namespace, and so part of a path (a DNS subdomain, RFC 1123).
fn is_object_name(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-');
    let begins = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253 && text.bytes().all(legal) && text.bytes().next().is_some_and(begins)
}

fn remove(from: &mut ApiPods, uid: &PodUid, name: &PodName) {
    from.pods.remove(uid);
    from.statuses.remove(uid);
    if from.mirrors.get(name).is_some_and(|m| m.uid == *uid) {
        from.mirrors.remove(name);
    }
}

/// The pod as it is kept: as before where nothing has changed that its worker goes by.
fn kept(known: Option<&Arc<Pod>>, mut pod: Pod, now: Timestamp) -> Arc<Pod> {
    pod.metadata.managed_fields = None;
    let seen = known.and_then(|known| {
        let annotations = known.metadata.annotations.as_ref()?;
        annotations.get(CONFIG_SEEN_ANNOTATION).cloned()
    });
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE_ANNOTATION.to_owned(), SOURCE.to_owned());
    annotations.insert(
        CONFIG_SEEN_ANNOTATION.to_owned(),
        seen.unwrap_or_else(|| now.to_string()),
    );
    match known {
        Some(known) if is_same(known, &pod) => known.clone(),
        Some(_) | None => Arc::new(pod),
    }
}

/// Whether nothing has changed that a pod's worker goes by: its spec, its labels and annotations, its deletion, and of its
/// status what others have written there.
fn is_same(known: &Pod, pod: &Pod) -> bool {
    let (a, b) = (&known.metadata, &pod.metadata);
    a.labels == b.labels
        && a.annotations == b.annotations
        && a.generation == b.generation
        && a.deletion_timestamp == b.deletion_timestamp
        && a.deletion_grace_period_seconds == b.deletion_grace_period_seconds
        && known.spec == pod.spec
        && terminal(known) == terminal(pod)
        && foreign(known) == foreign(pod)
}

fn terminal(pod: &Pod) -> Option<Phase> {
    let phase = Phase::parse(pod.status.as_ref()?.phase.as_deref()?);
    phase.filter(|phase| phase.is_terminal())
}

/// The conditions that others have written, but for their times.
fn foreign(pod: &Pod) -> BTreeMap<&str, (&str, Option<&str>, Option<&str>)> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let foreign = conditions.filter(|c| !status::is_written_by_node(&c.type_));
    let said = foreign.map(|c| {
        let why = (&*c.status, c.reason.as_deref(), c.message.as_deref());
        (&*c.type_, why)
    });
    said.collect()
}

#[cfg(test)]
mod tests;
