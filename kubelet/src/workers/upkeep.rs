//! Keeps the volumes of a pod as the API server's objects have them, for as long as it runs: beside its worker, which may
//! be at a pull or a hook that takes its time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::AbortHandle;

use super::{Orders, Tools, Worker};
use crate::events::About;
use crate::objects::PodObjects;
use crate::pod::{Pod, PodUid};
use crate::volumes::{Contents, Inputs, VolumeError};

/// What could not be written, for another reason than an object that is not there, is tried again after this long.
const RETRY: Duration = Duration::from_secs(30);

/// Who writes the volumes of one pod.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Held while somebody writes: nothing is given back meanwhile.
    writing: Arc<Mutex<()>>,
    task: Option<AbortHandle>,
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Upkeep {
    /// Waits for a turn to write.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        self.writing.clone().lock_owned().await
    }

    /// The turn itself, for whoever only knows later when it is needed.
    pub(super) fn writing(&self) -> Arc<Mutex<()>> {
        self.writing.clone()
    }

    /// What is to be written, by what is known now.
    pub(super) fn contents(&self, tools: &Tools, pod: &Pod, objects: &PodObjects) -> Contents {
        contents(tools, pod, objects)
    }

    /// Ends the task, and what it has begun to write.
    pub(super) async fn end(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        drop(self.turn().await);
    }
}

fn contents(tools: &Tools, pod: &Pod, objects: &PodObjects) -> Contents {
    Contents::of(&Inputs {
        pod,
        objects: &objects.snapshot(pod),
        allocatable: &tools.node.settings.allocatable,
        now: tools.clock.wall(),
    })
}

impl Worker {
    /// Begins to keep the volumes of a pod that runs, once.
    pub(super) fn keep_volumes(&mut self, pod: &Arc<Pod>) {
        let runs = self.observed.borrow().sandboxes.iter().any(|s| s.ready);
        // One that has panicked is begun anew.
        let kept = self
            .upkeep
            .task
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        if kept || !runs || !Contents::any(pod) {
            return;
        }
        let keeper = Keeper {
            tools: self.tools.clone(),
            uid: self.uid.clone(),
            objects: self.objects.clone(),
            orders: self.orders.clone(),
            writing: self.upkeep.writing.clone(),
        };
        self.upkeep.task = Some(tokio::spawn(keeper.run()).abort_handle());
    }
}

/// The task.
struct Keeper {
    tools: Arc<Tools>,
    uid: PodUid,
    objects: Arc<PodObjects>,
    orders: watch::Receiver<Orders>,
    writing: Arc<Mutex<()>>,
}

impl Keeper {
    async fn run(mut self) {
        let mut news = self.objects.news();
        self.objects.settle().await;
        let mut written = None;
        loop {
            news.mark_unchanged();
            let pod = self.orders.borrow_and_update().pod.clone();
            let contents = contents(&self.tools, &pod, &self.objects);
            let fingerprint = contents.fingerprint();
            let mut again = None;
            if written != Some(fingerprint) {
                match self.write(&pod, contents).await {
                    Ok(()) => written = Some(fingerprint),
                    Err(errors) => {
                        written = None;
                        again = self.tell(&pod, &errors);
                    }
                }
            }
            let alarm = async {
                match again {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: both channels carry states.
            tokio::select! {
                // The sender is `self`'s.
                _ = news.changed() => {}
                changed = self.orders.changed() => if changed.is_err() {
                    return;
                },
                () = alarm => {}
            }
        }
    }

    async fn write(&self, pod: &Arc<Pod>, contents: Contents) -> Result<(), Vec<VolumeError>> {
        let turn = self.writing.clone().lock_owned().await;
        let (volumes, pod) = (self.tools.volumes.clone(), pod.clone());
        let done = volumes.refresh_in_background(pod, self.uid.clone(), contents, turn);
        done.await
    }

    /// Tells of what could not be written; says when to try again what no change of an object is going to help.
    fn tell(&self, pod: &Pod, errors: &[VolumeError]) -> Option<Duration> {
        let mut again = None;
        for error in errors {
            if !error.waits_for_objects() {
                again = Some(RETRY);
            }
            // While the API server is away, the pod has what it had.
            if error.waits_for_answer() {
                tracing::debug!(uid = %self.uid, %error, "a volume is not renewed yet");
            } else {
                About::pod(pod).warning(VolumeError::REASON, &error.to_string());
            }
        }
        again
    }
}
