//! What runs right after a container has started, and before the next one is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Worker;
use super::apply::{Applied, Next};
use super::kills::Kill;
use super::start::StartError;
use crate::errors::error_chain;
use crate::events::About;
use crate::hooks::{Hook, HookError};
use crate::plan::ContainerStart;
use crate::pod::{self, Pod};
use crate::runtime::{ContainerId, ContainerState, ObservedPod};

/// A hook that lasts for longer is mentioned.
const SAY_AFTER: Duration = Duration::from_secs(60);
/// How long a hook whose container has gone has for its answer, which the runtime may owe for ever.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    /// Runs the postStart hook of the instance `id` that has just been started, however long that takes; the container
    /// is not shown as running, nor probed, before it is done. One that fails ends its container, which is shown as waiting
    /// once all steps are taken.
    ///
    /// Dropped, it gives the hook up: an order to stop comes first.
    pub(super) async fn post_start(
        &mut self,
        pod: &Arc<Pod>,
        start: &ContainerStart,
        id: &ContainerId,
        applied: &mut Applied,
    ) -> Next {
        let mut shown = self.memory.status.subscribe();
        let done = {
            let mut hook = Box::pin(self.post_start_hook(pod, start, id));
            let mut lasts = std::pin::pin!(tokio::time::sleep(SAY_AFTER));
            let mut lost = std::pin::pin!(lost(self.observed.clone(), id.clone()));
            let mut said = false;
            loop {
                // Cancel-safe: all but what is shown are polled on, and that stays.
                tokio::select! {
                    done = &mut hook => break done.map_err(StartError::PostStart),
                    () = &mut lost => break Err(StartError::PostStartLost),
                    Ok(()) = shown.changed() => self.keep_shown(pod),
                    () = &mut lasts, if !said => {
                        said = true;
                        tracing::warn!(pod = %self.name, uid = %self.uid, container = &*start.name, "the postStart hook still runs; the pod waits for it");
                    }
                }
            }
        };
        let key = Some(start.name.clone());
        let Err(error) = done else {
            self.probes.hook_done(id);
            self.memory.holds.remove(&key);
            self.memory.post_start_done(id);
            return Next::GoOn;
        };
        // What it printed may be secret: it is in the log and the status, and not in the event.
        tracing::warn!(pod = %self.name, container = &*start.name, error = error_chain(&error), "postStart hook failed");
        About::container(pod, &start.name).warning("FailedPostStartHook", "PostStartHook failed");
        let grace = Duration::from_secs(pod::grace_seconds(pod).unsigned_abs());
        let kill = Kill::alone(id.clone(), start.name.clone(), grace, "FailedPostStartHook");
        let next = self.end_containers(pod, vec![kill], applied).await;
        applied.failed = true;
        let now = self.tools.clock.now().monotonic;
        self.hold_container(pod, start, &error, now);
        next
    }

    fn post_start_hook(
        &self,
        pod: &Arc<Pod>,
        start: &ContainerStart,
        id: &ContainerId,
    ) -> impl Future<Output = Result<(), HookError>> + use<> {
        let (tools, pod) = (self.tools.clone(), pod.clone());
        let (name, id) = (start.name.clone(), id.clone());
        let ip = self.pod_ip();
        async move {
            let Some(container) = pod::container(&pod, &name) else {
                return Ok(());
            };
            let lifecycle = container.lifecycle.as_ref();
            let Some(handler) = lifecycle.and_then(|l| l.post_start.as_ref()) else {
                return Ok(());
            };
            let hook = Hook {
                pod: &pod,
                container: &container,
                id: &id,
                handler,
                pod_ip: ip,
            };
            tools.hooks.run(hook).await
        }
    }
}

/// Waits until the container or its sandbox has been seen to have ended for [`ANSWER_PATIENCE`].
async fn lost(mut observed: watch::Receiver<Arc<ObservedPod>>, id: ContainerId) {
    let gone = |seen: &Arc<ObservedPod>| {
        let container = seen.containers.iter().find(|c| c.id == id);
        let sandbox = seen.sandboxes.first();
        container.is_some_and(|c| c.state == ContainerState::Exited)
            || sandbox.is_some_and(|sandbox| !sandbox.ready)
    };
    if observed.wait_for(gone).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(ANSWER_PATIENCE).await;
}
