//! Stops containers and sandboxes.
//!
//! What counts is that they have ended, not that the runtime says so in its answer: where the observation shows the end
//! and the answer does not come, the answer is not waited for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::CriError;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Worker;
use super::apply::{Applied, Next, gone_is_done};
use super::kill::end_container;
use super::kills::{Kill, Kills, predecessors};
use super::queue::Wanted;
use crate::errors::error_chain;
use crate::events::About;
use crate::hooks::Hook;
use crate::plan::{ContainerStop, StopReason};
use crate::pod::{self, Pod};
use crate::runtime::{ContainerId, ContainerState, ObservedPod, SandboxId};

/// How much longer than the end of what it stops a call may take: the runtime takes the sandbox's network down.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
impl Worker {
    /// Ends containers side by side, each after those that it has to wait for.
    pub(super) async fn stop(
        &mut self,
        pod: &Arc<Pod>,
        stops: &[ContainerStop],
        applied: &mut Applied,
    ) -> Next {
        if self.held(None) {
            applied.failed = true;
            return Next::Halt;
        }
        if let Some(stop) = stops.iter().find(|stop| stop.reason == StopReason::PodEnds) {
            self.kills.pod_ends(stop.grace);
        }
        let observed = self.observed.borrow().clone();
        let kills = stops.iter().map(|stop| Kill {
            runs: runs(&observed, &stop.id),
            id: stop.id.clone(),
            name: stop.name.clone(),
            grace: stop.grace,
            message: stop.message(),
            after: predecessors(pod, stops, stop),
        });
        let kills = kills.collect();
        self.end_containers(pod, kills, applied).await
    }

    /// Ends containers, and waits for all of them. Dropped, it leaves them ending.
    pub(super) async fn end_containers(
        &mut self,
        pod: &Arc<Pod>,
        kills: Vec<Kill>,
        applied: &mut Applied,
    ) -> Next {
        applied.acted = true;
        self.memory.stale = true;
        let mut left: BTreeSet<ContainerId> = kills.iter().map(|kill| kill.id.clone()).collect();
        for kill in kills {
            self.begin_kill(pod, kill);
        }
        let mut failures = Vec::new();
        let mut next = Next::GoOn;
        let mut orders = self.orders.clone();
        let mut shown = self.memory.status.subscribe();
        while !left.is_empty() {
            let overdue = Kills::overdue(self.kills.due());
            // Cancel-safe: a kill that is done stays in its set, news in their channels.
            tokio::select! {
                killed = self.kills.next() => {
                    left.remove(&killed.id);
                    if let Err(error) = killed.result {
                        failures.push(failure("KillContainer", &killed.name, &error));
                        // What does not let itself be stopped in its time goes with its sandbox.
                        if !killed.late {
                            next = Next::Halt;
                        }
                    }
                }
                Ok(()) = shown.changed() => self.keep_shown(pod),
                Ok(()) = orders.changed() => self.shorten_kills(),
                () = overdue => self.say_overdue(pod),
            }
        }
        self.say_failed(pod, &failures);
        applied.failed |= !failures.is_empty();
        if failures.is_empty() || next == Next::Halt {
            self.settle_hold(None, failures.is_empty(), applied);
        }
        next
    }

    /// Begins to end a container; one that is being ended already gets no more time than the new reason gives it.
    fn begin_kill(&mut self, pod: &Arc<Pod>, kill: Kill) {
        let now = Instant::now();
        let end = now.checked_add(kill.grace).unwrap_or(now);
        if self.kills.hurry(&kill.id, end) {
            return;
        }
        About::container(pod, &kill.name).normal("Killing", &kill.message);
        let hook = self.pre_stop(pod, &kill).map(Box::pin);
        let runtime = self.tools.runtime.clone();
        let observed = self.observed.clone();
        let (id, after) = (kill.id.clone(), kill.after.clone());
        self.kills.begin(&kill, end, |deadline| async move {
            let turn = all_ended(observed.clone(), after);
            let stop = |grace| {
                let (id, observed) = (id.clone(), observed.clone());
                let runtime = runtime.clone();
                // A call takes much room, and a pod whose hook runs has none to make yet.
                Box::pin(async move {
                    let call = runtime.stop_container(id.as_str(), grace);
                    let ended = |seen: &ObservedPod| has_ended(seen, &id);
                    answer_or_end(call, observed, ended).await
                })
            };
            end_container(deadline, hook, turn, stop).await
        });
    }

    /// The pod may have been told to end sooner.
    fn shorten_kills(&mut self) {
        if self.orders.borrow().wanted != Wanted::Stop {
            return;
        }
        let deadline = self.termination_deadline();
        let left = deadline.saturating_sub(self.tools.clock.now().monotonic);
        let now = Instant::now();
        self.kills.shorten(now.checked_add(left).unwrap_or(now));
    }

    /// Says, once, that the pod has not ended in its time, and what it waits for.
    fn say_overdue(&mut self, pod: &Pod) {
        self.kills.overdue_said();
        About::pod(pod).warning(
            "ExceededGracePeriod",
            "Container runtime did not kill the pod within specified grace period.",
        );
        self.say_stuck(&self.kills.describe());
    }

    /// Names what the pod's end waits for, in the log and to whoever waits for the pod.
    pub(super) fn say_stuck(&self, why: &str) {
        tracing::warn!(pod = %self.name, uid = %self.uid, step = why, "pod is stuck terminating");
        self.tools.stuck.report(&self.name, why);
    }

    fn say_failed(&self, pod: &Pod, failures: &[String]) {
        let text = match failures {
            [] => return,
            [one] => one.clone(),
            more => format!("[{}]", more.join(", ")),
        };
        About::pod(pod).warning("FailedKillPod", &format!("error killing pod: {text}"));
        self.tools.stuck.report(&self.name, &text);
    }

    pub(super) async fn stop_sandbox(
        &mut self,
        pod: &Pod,
        id: &SandboxId,
        applied: &mut Applied,
    ) -> Next {
        if self.held(None) {
            applied.failed = true;
            return Next::Halt;
        }
        applied.acted = true;
        self.kills.pod_ends(Duration::ZERO);
        let ended = |seen: &ObservedPod| !seen.sandboxes.iter().any(|s| s.id == *id && s.ready);
        let runtime = self.tools.runtime.clone();
        let call = runtime.stop_pod_sandbox(id.as_str());
        let begun = Instant::now();
        let mut call = std::pin::pin!(answer_or_end(call, self.observed.clone(), ended));
        let done = loop {
            // Cancel-safe: `call` is polled on, or given up with the worker's life.
            tokio::select! {
                done = &mut call => break done,
                () = Kills::overdue(self.kills.due()) => {
                    self.say_overdue(pod);
                    let since = begun.elapsed().as_secs();
                    self.say_stuck(&format!("sandbox {id}: StopPodSandbox after {since}s"));
                }
            }
        };
        if let Err(error) = &done {
            let uid = self.uid.as_str();
            self.say_failed(pod, &[failure("KillPodSandbox", uid, &error.rpc_text())]);
        }
        self.settle_hold(None, done.is_ok(), applied);
        if done.is_ok() { Next::GoOn } else { Next::Halt }
    }

    /// The pod's first address on its own network.
    pub(super) fn pod_ip(&self) -> Option<IpAddr> {
        let observed = self.observed.borrow();
        observed.sandboxes.first()?.ips.first().copied()
    }

    /// What a preStop hook does, as a task of its own; none where there is no hook, it was begun before, or the container
    /// does not run.
    fn pre_stop(
        &mut self,
        pod: &Arc<Pod>,
        kill: &Kill,
    ) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let spec = pod::containers(pod).find(|(_, c)| *c.name == *kill.name);
        // A pod that no source has is a stand-in, without what its containers were made from.
        let known = spec
            .filter(|(_, c)| c.image.is_some())
            .map(|(_, c)| c.clone());
        let has_hook = |c: &Container| c.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some());
        if !kill.runs || kill.grace.is_zero() || known.as_ref().is_some_and(|c| !has_hook(c)) {
            return None;
        }
        if !self.memory.begin_pre_stop(pod, &kill.id, &self.tools.clock) {
            tracing::info!(pod = %self.name, container = &*kill.name, "the preStop hook was begun before; it is not run again");
            return None;
        }
        let ip = self.pod_ip();
        let (tools, pod) = (self.tools.clone(), pod.clone());
        let (id, name) = (kill.id.clone(), kill.name.clone());
        Some(Box::pin(async move {
            let container = match known {
                Some(container) => container,
                None => match tools.restore_container(&id, &name).await {
                    Ok(container) => container,
                    Err(error) => {
                        let error = error_chain(&error);
                        tracing::warn!(
                            container = &*name,
                            error,
                            "no preStop hook: the container's annotations cannot be read"
                        );
                        return;
                    }
                },
            };
            let handler = container
                .lifecycle
                .as_ref()
                .and_then(|l| l.pre_stop.as_ref());
            let Some(handler) = handler else {
                return;
            };
            let hook = Hook {
                pod: &pod,
                container: &container,
                id: &id,
                handler,
                pod_ip: ip,
            };
            if let Err(error) = tools.hooks.run(hook).await {
                // What it printed may be secret: it is in the log and not in the event.
                tracing::warn!(
                    container = &*name,
                    error = error_chain(&error),
                    "preStop hook failed"
                );
                About::container(&pod, &name).warning("FailedPreStopHook", "PreStopHook failed");
            }
        }))
    }
}

/// One failure in the words of upstream's aggregated error.
fn failure(action: &str, target: &str, error: &str) -> String {
    format!("failed to \"{action}\" for \"{target}\" with {action}Error: {error:?}")
}

fn runs(seen: &ObservedPod, id: &ContainerId) -> bool {
    let container = seen.containers.iter().find(|c| c.id == *id);
    container.is_some_and(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
}

fn has_ended(seen: &ObservedPod, id: &ContainerId) -> bool {
    let container = seen.containers.iter().find(|c| c.id == *id);
    container.is_none_or(|c| c.state == ContainerState::Exited)
}

/// Waits until each of `ids` is seen to have ended.
async fn all_ended(mut observed: watch::Receiver<Arc<ObservedPod>>, ids: Vec<ContainerId>) {
    let ended = |seen: &Arc<ObservedPod>| ids.iter().all(|id| has_ended(seen, id));
    if observed.wait_for(ended).await.is_err() {
        std::future::pending::<()>().await;
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
