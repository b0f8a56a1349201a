//! What may go on before the API server has been heard, and its end: the first list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::CheckpointInputs;
use super::choice::{Circumstances, Why, may_go_on};
use super::files::{self, NODE, NodeFile, SERVICES};
use super::store::{Place, Store};
use crate::objects::{self, Assumed, objects_of};
use crate::observe::RuntimeState;
use crate::pod::{Pod, PodName, PodUid};
use crate::poddir::PodDirs;
use crate::sources::{StalePods, is_safe};
use crate::volumes::tokens_in_volumes;

/// How long the API server has to say which pods there are, before an earlier life's word counts. One that is there is
/// heard sooner, and an agent that begins beside it behaves as if nothing were kept.
const PATIENCE: Duration = Duration::from_secs(5);

/// Restores what may be, and ends with the API server's first list.
pub(super) async fn restore(inputs: &CheckpointInputs, store: &Arc<Store>) {
    let mut pods = inputs.pods.clone();
    let mut runtime = inputs.observer.state();
    let waits = async {
        tokio::time::sleep(PATIENCE).await;
        // What it still holds decides who goes on. An error means that the observer is gone, which ends the process.
        let _ = runtime
            .wait_for(|state| *state != RuntimeState::NeverSeen)
            .await;
    };
    // Cancel-safe: both only wait.
    tokio::select! {
        _ = pods.wait_for(|pods| pods.synced) => return,
        () = waits => {}
    }
    let found = inputs.observer.found().borrow().clone();
    let (dirs, from) = (inputs.dirs.clone(), store.clone());
    let boot = inputs.clock.since_boot().map(|since| since.boot);
    let so = Circumstances {
        rebooted: true,
        restore: inputs.settings.restore,
        max_age: inputs.settings.max_age,
        renewed: None,
        now: inputs.clock.wall(),
    };
    let reading = tokio::task::spawn_blocking(move || {
        let in_runtime = |uid: &PodUid| found.iter().any(|pod| pod.uid == *uid);
        read(&from, &dirs, (boot.as_deref(), so), in_runtime)
    });
    let Ok(read) = reading.await else {
        tracing::error!("what is kept of the API server's pods could not be read");
        return;
    };
    if pods.borrow().synced {
        return;
    }
    read.tell();
    if read.stale.pods.is_empty() {
        return;
    }
    let before: Vec<PodUid> = read.stale.pods.keys().cloned().collect();
    inputs.objects.assume(read.assumed);
    inputs.stale.send_replace(Arc::new(read.stale));
    let now = pods.wait_for(|pods| pods.synced).await;
    let Ok(there) = now.map(|now| {
        before
            .iter()
            .filter(|uid| now.pods.contains_key(*uid))
            .count()
    }) else {
        return;
    };
    tracing::info!(
        reason = "StalePodsReplaced",
        confirmed = there,
        gone = before.len() - there,
        "the API server has said which pods there are: none is stale any more"
    );
    inputs.objects.assume(Assumed::default());
    inputs.stale.send_replace(Arc::default());
}

/// What the files hold, and what came of it.
pub(super) struct Read {
    pub(super) stale: StalePods,
    pub(super) assumed: Assumed,
    /// Who waits for the API server, and why.
    pub(super) left: Vec<(PodName, Why)>,
    rebooted: bool,
}

impl Read {
    fn tell(&self) {
        let since = match self.rebooted {
            true => "before the machine was booted",
            false => "before the agent was restarted",
        };
        for pod in self.stale.pods.values() {
            tracing::warn!(
                reason = "PodStale",
                pod = %PodName::of(pod),
                uid = pod.metadata.uid.as_deref(),
                "the API server is not heard: the pod goes on as it was known {since}, and is stale"
            );
        }
        for (pod, why) in &self.left {
            tracing::info!(
                reason = "PodNotRestored",
                pod = %pod,
                "the API server is not heard, and the pod waits for it: {why}"
            );
        }
    }
}

/// Reads what there is, in the boot called `boot`.
pub(super) fn read(
    store: &Store,
    dirs: &PodDirs,
    (boot, so): (Option<&str>, Circumstances),
    in_runtime: impl Fn(&PodUid) -> bool,
) -> Read {
    let node = store.read(Place::Top, NODE).and_then(|bytes| {
        let node = serde_json::from_slice::<NodeFile>(&bytes).ok();
        if node.is_none() {
            store.set_aside(Place::Top, NODE, NO_CHECKPOINT);
        }
        node
    });
    let last = node.as_ref().map(|node| node.boot.as_str());
    let so = Circumstances {
        rebooted: boot.is_none() || boot != last,
        renewed: store.last_renewal(),
        ..so
    };
    let mut read = Read {
        stale: StalePods {
            pods: BTreeMap::new(),
            node: node.map(|node| Arc::new(node.object())),
        },
        assumed: Assumed::default(),
        left: Vec::new(),
        rebooted: so.rebooted,
    };
    for name in store.names(Place::Pods) {
        let Some((uid, pod)) = read_pod(store, &name) else {
            continue;
        };
        match may_go_on(&pod, in_runtime(&uid), &so) {
            Ok(()) => {
                read.stale.pods.insert(uid, Arc::new(pod));
            }
            Err(why) => read.left.push((PodName::of(&pod), why)),
        }
    }
    let mut assumed = Assumed::default();
    for (uid, pod) in &read.stale.pods {
        for key in objects_of(pod) {
            let name = files::name_of_object(&key);
            let Some(bytes) = store.read(Place::Objects, &name) else {
                continue;
            };
            match objects::decode(&key, &bytes) {
                Some(found) => assumed.object(key, found),
                None => store.set_aside(Place::Objects, &name, NO_CHECKPOINT),
            }
        }
        for (wish, token) in tokens_in_volumes(dirs, uid, pod) {
            assumed.token(pod, uid, &wish, token);
        }
    }
    if let Some(bytes) = store.read(Place::Top, SERVICES) {
        match serde_json::from_slice(&bytes) {
            Ok(services) => assumed.services(services),
            Err(_) => store.set_aside(Place::Top, SERVICES, NO_CHECKPOINT),
        }
    }
    read.assumed = assumed;
    read
}

/// Whole, and yet of no use.
const NO_CHECKPOINT: &str = "its content is no checkpoint";

fn read_pod(store: &Store, name: &str) -> Option<(PodUid, Pod)> {
    let bytes = store.read(Place::Pods, name)?;
    let pod = files::pod(&bytes).filter(is_safe);
    let uid = pod.as_ref().and_then(|pod| PodUid::of(pod).ok());
    let found = uid.filter(|uid| uid.as_str() == name).zip(pod);
    if found.is_none() {
        store.set_aside(Place::Pods, name, NO_CHECKPOINT);
    }
    found
}
