//! The net under the events: two lists of everything, and a look at the pods that differ.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{CriError, v1};
use tokio::task::JoinSet;

use super::{Observer, Slot, inspect};
use crate::metrics::kubelet;
use crate::pod::{PodName, PodUid};
use crate::runtime::ObservedPod;
use crate::runtime::convert::label;
use crate::runtime::observed;

/// A pod with the kubelet's labels that the runtime holds something of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPod {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl FoundPod {
    /// Namespace and name.
    #[must_use]
    pub fn pod_name(&self) -> PodName {
        PodName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// How long a relist waits for the pods it looks at.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Listed {
    sandboxes: Vec<v1::PodSandbox>,
    containers: Vec<v1::Container>,
}

impl Observer {
    /// Lists all that carries the kubelet's labels, renews the observation of each pod that differs from the last
    /// one, and publishes which pods there are.
    ///
    /// # Errors
    /// What the runtime answers to the lists; a pod that cannot be looked at is named in the log and left.
    pub async fn relist(self: &Arc<Self>) -> Result<(), CriError> {
        let began = tokio::time::Instant::now();
        let before = self.lock_relisted().replace(began);
        let sandboxes = self.runtime.list_pod_sandbox(None).await?;
        let containers = self.runtime.list_containers(None).await?;
        let listed = group(sandboxes, containers);
        let gone: Vec<PodUid> = {
            let pods = self.lock_pods();
            let lost = |uid: &PodUid, slot: &Slot| {
                !listed.contains_key(uid) && !slot.observed.borrow().is_empty()
            };
            let known = pods.iter().filter(|(uid, slot)| lost(uid, slot));
            known.map(|(uid, _)| uid.clone()).collect()
        };
        let found: Vec<FoundPod> = listed
            .iter()
            .map(|(uid, now)| found_pod(uid, now))
            .collect();
        let gone = gone.into_iter().map(|uid| (uid, Listed::default()));
        let mut changed: Vec<(PodUid, Listed)> = listed.into_iter().collect();
        changed.retain(|(uid, now)| !self.agrees(uid, now));
        changed.extend(gone);
        let mut looks = JoinSet::new();
        for (uid, now) in changed {
            // One that hangs is not begun again and again.
            if self.lock_looking().insert(uid.clone()) {
                looks.spawn(self.clone().look(uid, now));
            }
        }
        let all = async { while looks.join_next().await.is_some() {} };
        // Those that take longer go on by themselves, and hold up nobody but their own pods.
        let _late = tokio::time::timeout(LOOK_PATIENCE, all).await;
        looks.detach_all();
        self.found.send_if_modified(|current| {
            let news = **current != found;
            if news {
                *current = Arc::new(found);
            }
            news
        });
        let interval = before.map(|before| began.duration_since(before));
        let now = crate::clock::system_wall().as_second();
        kubelet().relisted(began.elapsed(), interval, now);
        Ok(())
    }

    /// Whether the last observation of a pod shows just what the lists show.
    fn agrees(&self, uid: &PodUid, listed: &Listed) -> bool {
        let Some(slot) = self.lock_pods().get(uid).cloned() else {
            return false;
        };
        let observed = slot.observed.borrow();
        observed.sandboxes.len() == listed.sandboxes.len()
            && observed.containers.len() == listed.containers.len()
            && listed.sandboxes.iter().all(|l| {
                let known = observed.sandboxes.iter().find(|s| s.id.as_str() == l.id);
                known.is_some_and(|s| s.ready == observed::sandbox_ready(l.state))
            })
            && listed.containers.iter().all(|l| {
                let known = observed.containers.iter().find(|c| c.id.as_str() == l.id);
                known.is_some_and(|c| c.state == observed::container_state(l.state))
            })
    }

    async fn look(self: Arc<Self>, uid: PodUid, listed: Listed) {
        if let Err(error) = self.look_at_listed(&uid, &listed).await {
            tracing::warn!(%uid, %error, "could not look at a pod");
        }
        self.lock_looking().remove(&uid);
    }

    async fn look_at_listed(&self, uid: &PodUid, listed: &Listed) -> Result<(), CriError> {
        let slot = self.slot(uid);
        let one_at_a_time = slot.look.lock().await;
        let fresh = slot.observed.borrow().is_empty();
        if !fresh || listed.sandboxes.is_empty() && listed.containers.is_empty() {
            drop(one_at_a_time);
            return self.refresh(uid).await.map(drop);
        }
        // The first look, as after a start of the agent: the lists are at hand already.
        let before = ObservedPod::default();
        let seen = inspect::fill(
            &self.runtime,
            &self.files,
            uid,
            &before,
            &listed.sandboxes,
            &listed.containers,
        )
        .await?;
        self.note_owners(uid, &before, &seen);
        self.publish(&slot, Arc::new(seen));
        Ok(())
    }
}

fn group(
    sandboxes: Vec<v1::PodSandbox>,
    containers: Vec<v1::Container>,
) -> BTreeMap<PodUid, Listed> {
    let mut pods: BTreeMap<PodUid, Listed> = BTreeMap::new();
    for sandbox in sandboxes {
        if let Some(uid) = observed::owner(&sandbox.labels) {
            pods.entry(uid).or_default().sandboxes.push(sandbox);
        }
    }
    for container in containers {
        if let Some(uid) = observed::owner(&container.labels) {
            pods.entry(uid).or_default().containers.push(container);
        }
    }
    pods
}

fn found_pod(uid: &PodUid, listed: &Listed) -> FoundPod {
    let mut labels = listed
        .sandboxes
        .iter()
        .map(|s| &s.labels)
        .chain(listed.containers.iter().map(|c| &c.labels));
    let labels = labels.next();
    let label = |key: &str| -> Arc<str> {
        labels
            .and_then(|l: &BTreeMap<String, String>| l.get(key))
            .map_or("", String::as_str)
            .into()
    };
    FoundPod {
        uid: uid.clone(),
        namespace: label(label::POD_NAMESPACE),
        name: label(label::POD_NAME),
    }
}
