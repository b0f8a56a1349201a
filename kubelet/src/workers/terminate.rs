//! The end of a pod: its containers stop, what it held is given back, and a little later its traces go.

use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use super::queue::Wanted;
use crate::errors::error_chain;
use crate::events::About;
use crate::plan::{PodPlan, plan_removal, plan_termination};
use crate::pod::{self, Pod};

/// How long ended containers and their logs outlive their pod (upstream's container garbage collection period):
/// a manifest that comes back finds its restart counts, and a user the last words.
const TRACES_STAY: Duration = Duration::from_secs(60);
/// Between attempts at a step of the teardown that failed.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// A doubling pause between attempts.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(RETRY_FIRST)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_MOST);
    }
}

impl Worker {
    /// Stops all that runs of the pod. Each step is tried until it is done, and blocks nobody but a successor of the
    /// same name.
    pub(super) async fn terminate(&mut self) {
        let pod = self.orders.borrow().pod.clone();
        // As upstream: a pod that no source has is not shown, though it may still be stopping.
        // It may be on the board without this worker having put it there: by one that panicked.
        let writer = self.board.take();
        if let Some(writer) = writer.or_else(|| self.tools.board.writer(&self.uid).ok()) {
            writer.remove();
        }
        self.runtime_seen().await;
        let grace = Duration::from_secs(pod::grace_seconds(&pod).unsigned_abs());
        let clock = &self.tools.clock;
        let deadline = self.memory.termination_deadline(grace, clock);
        self.memory.store(&pod, clock);
        self.stop_everything(&pod, deadline).await;
    }

    async fn stop_everything(&mut self, pod: &Arc<Pod>, deadline: Duration) {
        let mut pause = Pause::new();
        let mut last = None;
        loop {
            let observed = match self.tools.observer.refresh(&self.uid).await {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::warn!(pod = %self.name, uid = %self.uid, %error, "cannot stop the pod yet");
                    pause.wait().await;
                    continue;
                }
            };
            let left = deadline.saturating_sub(self.tools.clock.now().monotonic);
            let plan = plan_termination(pod, &observed, left);
            if plan.finished {
                return;
            }
            self.tidy(&observed);
            self.memory.holds.clear();
            self.removals.forgive();
            // What went well and changed nothing is not to be hurried either.
            let in_vain = last.replace(observed.clone()).as_ref() == Some(&observed);
            if self.apply(pod, &observed, &plan).await.failed || in_vain {
                pause.wait().await;
            }
        }
    }

    /// Gives back the volumes and the cgroup of a pod that is over and still wanted: its status and record stay. What
    /// cannot be given back now is given back when the pod goes.
    pub(super) async fn release(&mut self) {
        let volumes = self.tools.volumes.clone();
        if let Err(error) = volumes.tear_down_in_background(self.uid.clone()).await {
            self.say_blocked("volumes", &error);
        }
        let cgroups = self.tools.cgroups.clone();
        if let Err(error) = cgroups.remove_pod_in_background(self.uid.clone()).await {
            self.say_blocked("cgroup", &error);
        }
    }

    /// Volumes first, then the cgroup, then the directory: each only once the one before is gone. Nobody waits for it
    /// but the same pod, should it be wanted again.
    pub(super) async fn give_back(&mut self) {
        let mut pause = Pause::new();
        while let Err(error) = self
            .tools
            .volumes
            .clone()
            .tear_down_in_background(self.uid.clone())
            .await
        {
            self.say_blocked("volumes", &error);
            pause.wait().await;
        }
        while let Err(error) = self
            .tools
            .cgroups
            .clone()
            .remove_pod_in_background(self.uid.clone())
            .await
        {
            self.say_blocked("cgroup", &error);
            pause.wait().await;
        }
        while let Err(error) = self.tools.dirs.remove_in_background(&self.uid).await {
            self.say_blocked("directory", &error);
            pause.wait().await;
        }
        tracing::info!(pod = %self.name, uid = %self.uid, "pod has stopped");
    }

    fn say_blocked(&self, step: &'static str, error: &dyn std::error::Error) {
        let error = error_chain(error);
        tracing::warn!(pod = %self.name, uid = %self.uid, step, error, "pod is stuck terminating");
    }

    /// Waits until the traces of the pod may go, and removes them. True when the pod is wanted again before that.
    pub(super) async fn linger(&mut self) -> bool {
        let mut orders = self.orders.clone();
        let gone = async {
            tokio::time::sleep(TRACES_STAY).await;
            let pod = self.orders.borrow().pod.clone();
            self.remove_traces(&pod).await;
        };
        // Cancel-safe: the order stays in its channel, and what a removal that is dropped leaves, or still does, the next
        // look shows: only what has ended is removed.
        tokio::select! {
            biased;
            _ = orders.wait_for(|o| o.wanted == Wanted::Run) => return true,
            () = gone => {}
        }
        self.tools.observer.forget(&self.uid);
        self.tools.images.forget(&self.uid);
        false
    }

    async fn remove_traces(&mut self, pod: &Arc<Pod>) {
        let mut pause = Pause::new();
        loop {
            match self.tools.observer.refresh(&self.uid).await {
                Ok(observed) if observed.is_empty() => break,
                Ok(observed) => {
                    self.tidy(&observed);
                    self.removals.forgive();
                    let plan = PodPlan {
                        steps: plan_removal(&observed),
                        ..PodPlan::default()
                    };
                    let applied = self.apply(pod, &observed, &plan).await;
                    if applied.acted && !applied.failed {
                        continue;
                    }
                }
                Err(error) => {
                    tracing::warn!(pod = %self.name, %error, "cannot remove the pod's containers yet")
                }
            }
            pause.wait().await;
        }
        if let Err(error) = self.tools.logs.remove_pod(&self.name, &self.uid) {
            About::pod(pod).warning("FailedLogRemoval", &error_chain(&error));
        }
    }
}
