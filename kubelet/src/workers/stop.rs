//! Stops containers and sandboxes.
//!
//! What counts is that they have ended, not that the runtime says so in its answer: where the observation shows the end
//! and the answer does not come, the answer is not waited for.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::CriError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Worker;
use super::apply::{Applied, Next, gone_is_done};
use crate::events::About;
use crate::plan::{ContainerStop, MINIMUM_GRACE};
use crate::pod::Pod;
use crate::runtime::{ContainerState, ObservedPod, SandboxId};

/// How much longer than the end of what it stops a call may take: the runtime takes the sandbox's network down.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// A stop that takes this much longer than its grace period is mentioned, long before its deadline.
const SAY_AFTER: Duration = Duration::from_secs(10);

impl Worker {
    /// Stops containers side by side, and waits for all of them.
    pub(super) async fn stop(
        &mut self,
        pod: &Pod,
        stops: &[ContainerStop],
        applied: &mut Applied,
    ) -> Next {
        if self.held(None) {
            applied.failed = true;
            return Next::Halt;
        }
        applied.acted = true;
        let mut calls = JoinSet::new();
        for stop in stops.iter().cloned() {
            About::container(pod, &stop.name).normal("Killing", &stop.message());
            let runtime = self.tools.runtime.clone();
            let observed = self.observed.clone();
            let who = format!("{} container {}", self.name, stop.name);
            calls.spawn(async move {
                let ended = |seen: &ObservedPod| {
                    let seen = seen.containers.iter().find(|c| c.id == stop.id);
                    seen.is_none_or(|c| c.state == ContainerState::Exited)
                };
                let grace = stop.grace.max(MINIMUM_GRACE);
                let call = runtime.stop_container(stop.id.as_str(), grace);
                let call = said_when_late(&who, "StopContainer", grace, call);
                (answer_or_end(call, observed, ended).await, stop)
            });
        }
        let mut next = Next::GoOn;
        while let Some(joined) = calls.join_next().await {
            match joined {
                Ok((Ok(()), _)) => {}
                Ok((Err(error), stop)) => {
                    About::container(pod, &stop.name)
                        .warning("FailedKillPod", &format!("error killing pod: {error}"));
                    next = Next::Halt;
                }
                Err(error) => {
                    tracing::error!(%error, "stopping a container ended in a panic");
                    next = Next::Halt;
                }
            }
        }
        self.settle_hold(None, next == Next::GoOn, applied);
        next
    }

    pub(super) async fn stop_sandbox(&mut self, id: &SandboxId, applied: &mut Applied) -> Next {
        if self.held(None) {
            applied.failed = true;
            return Next::Halt;
        }
        applied.acted = true;
        let ended = |seen: &ObservedPod| !seen.sandboxes.iter().any(|s| s.id == *id && s.ready);
        let call = self.tools.runtime.stop_pod_sandbox(id.as_str());
        let who = format!("{} sandbox {id}", self.name);
        let call = said_when_late(&who, "StopPodSandbox", Duration::ZERO, call);
        let done = answer_or_end(call, self.observed.clone(), ended).await;
        if let Err(error) = &done {
            tracing::warn!(pod = %self.name, sandbox = %id, %error, "could not stop a sandbox");
        }
        self.settle_hold(None, done.is_ok(), applied);
        if done.is_ok() { Next::GoOn } else { Next::Halt }
    }
}

/// Waits for the answer of `call`, or until `ended` has been so for [`ANSWER_PATIENCE`].
async fn answer_or_end(
    call: impl Future<Output = Result<(), CriError>>,
    mut observed: watch::Receiver<Arc<ObservedPod>>,
    ended: impl Fn(&ObservedPod) -> bool,
) -> Result<(), CriError> {
    let end = async {
        // An error means that the observer has forgotten the pod, and with it there will be no news.
        if observed.wait_for(|seen| ended(seen)).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(ANSWER_PATIENCE).await;
    };
    // Cancel-safe: what the dropped call has stopped has stopped.
    tokio::select! {
        biased;
        answer = call => gone_is_done(answer),
        () = end => Ok(()),
    }
}

/// Names a call that blocks the pod's end, once.
async fn said_when_late<T>(
    who: &str,
    step: &'static str,
    grace: Duration,
    call: impl Future<Output = T>,
) -> T {
    let mut call = std::pin::pin!(call);
    // Cancel-safe: `call` is polled on below.
    tokio::select! {
        answer = &mut call => return answer,
        () = tokio::time::sleep(grace + SAY_AFTER) => {}
    }
    tracing::warn!(pod = who, step, "stuck: the runtime has not answered yet");
    call.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_proto::CriErrorKind;

    use crate::runtime::ObservedSandbox;

    fn seen(ready: bool) -> Arc<ObservedPod> {
        let sandbox = ObservedSandbox {
            id: "s".into(),
            attempt: 0,
            ready,
            created_at: 0,
            ips: Vec::new(),
            host_network: false,
        };
        Arc::new(ObservedPod {
            sandboxes: vec![sandbox],
            containers: Vec::new(),
        })
    }

    fn ended(seen: &ObservedPod) -> bool {
        !seen.sandboxes.iter().any(|s| s.ready)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_not_waited_for_once_the_end_shows() {
        let (seen_now, observed) = watch::channel(seen(true));
        let stopped = tokio::spawn(answer_or_end(std::future::pending(), observed, ended));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(!stopped.is_finished(), "it still runs");
        seen_now.send_replace(seen(false));
        let shown = tokio::time::Instant::now();
        assert!(stopped.await.unwrap().is_ok());
        assert_eq!(shown.elapsed(), ANSWER_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_counts() {
        let (_seen_now, observed) = watch::channel(seen(false));
        let call = async {
            tokio::time::sleep(ANSWER_PATIENCE / 2).await;
            Err(CriError::new("StopPodSandbox", CriErrorKind::Other, "no"))
        };
        assert!(answer_or_end(call, observed, ended).await.is_err());
    }
}
