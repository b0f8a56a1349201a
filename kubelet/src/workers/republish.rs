//! Has volumes published again whose drivers want that, for as long as their pod runs: beside its worker, and only for
//! such pods.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Orders, Tools, Worker};
use crate::csi::{CsiVolume, may_use_driver, of_pod};
use crate::events::About;
use crate::pod::{Pod, PodUid};

/// Who sees to the volumes of one pod.
#[derive(Default)]
pub(super) struct Republish(Option<AbortHandle>);

impl Drop for Republish {
    fn drop(&mut self) {
        self.end();
    }
}

impl Republish {
    /// Ends the task. What is under way at a driver goes on, and the pod's teardown waits for it.
    pub(super) fn end(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

impl Tools {
    /// The volumes of `pod` that storage drivers mount.
    pub(super) fn drivers_volumes(&self, pod: &Pod, uid: &PodUid) -> Vec<CsiVolume> {
        let claimed = self.claims.of_pod(uid);
        let claimed = claimed.iter().filter_map(CsiVolume::of_claim);
        claimed.chain(of_pod(pod, uid)).collect()
    }
}

impl Worker {
    /// Begins to see to the volumes of a pod that runs, once.
    pub(super) fn keep_published(&mut self, pod: &Arc<Pod>) {
        let runs = self.observed.borrow().sandboxes.iter().any(|s| s.ready);
        // One that has panicked is begun anew.
        let kept = (self.republish.0.as_ref()).is_some_and(|task| !task.is_finished());
        if kept || !runs || !may_use_driver(pod) {
            return;
        }
        let task = run(self.tools.clone(), self.uid.clone(), self.orders.clone());
        self.republish.0 = Some(tokio::spawn(task).abort_handle());
    }
}

async fn run(tools: Arc<Tools>, uid: PodUid, orders: watch::Receiver<Orders>) {
    let csi = &tools.csi;
    let pod = || orders.borrow().pod.clone();
    let volumes = tools.drivers_volumes(&pod(), &uid);
    if volumes.is_empty() {
        return std::future::pending().await;
    }
    let mut changes = csi.changes();
    csi.learn_of(&volumes).await;
    loop {
        let pod = pod();
        if !csi.wants_republish(&volumes) {
            changes.changed_for(&pod).await;
            continue;
        }
        csi.republish_pause().await;
        let failed = csi.republish(pod.clone(), uid.clone(), volumes.clone());
        for failure in failed.await {
            About::pod(&pod).warning(failure.operation.reason(), &failure.to_string());
        }
    }
}
