//! All probes of one pod, as its worker has them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::ask::{Ask, Prober};
use super::counts::Counts;
use super::facts::Facts;
use super::spec::ProbeKey;
use super::task::ProbeTask;
use super::{ProbeKind, ProbeView};
use crate::clock::Clock;
use crate::pod::{self, ContainerKind, Pod};
use crate::record::ContainerRecord;
use crate::runtime::{ContainerId, ObservedPod};

/// The probes of one pod. Dropped, they end.
pub struct PodProbes {
    ask: Arc<dyn Ask>,
    clock: Clock,
    observed: watch::Receiver<Arc<ObservedPod>>,
    facts: watch::Sender<Facts>,
    news: watch::Receiver<Facts>,
    tasks: JoinSet<()>,
    running: BTreeMap<ProbeKey, AbortHandle>,
}

impl PodProbes {
    /// Of a pod whose observation is `observed`. `records` is what an earlier life of the agent has established, by
    /// container: it holds until a probe says otherwise.
    #[must_use]
    pub fn new(
        prober: Arc<Prober>,
        clock: Clock,
        observed: watch::Receiver<Arc<ObservedPod>>,
        records: &BTreeMap<String, ContainerRecord>,
    ) -> Self {
        Self::asking(prober, clock, observed, records)
    }

    pub(super) fn asking(
        ask: Arc<dyn Ask>,
        clock: Clock,
        observed: watch::Receiver<Arc<ObservedPod>>,
        records: &BTreeMap<String, ContainerRecord>,
    ) -> Self {
        let (facts, news) = watch::channel(Facts::of_record(records));
        Self {
            ask,
            clock,
            observed,
            facts,
            news,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
        }
    }

    /// Begins the probes of the pod's regular containers and sidecars that are not begun. As on upstream, those that are
    /// go on as they were begun, whatever became of the spec.
    pub fn sync(&mut self, pod: &Arc<Pod>) {
        for (kind, container) in pod::containers(pod) {
            if kind == ContainerKind::Init {
                continue;
            }
            for kind in ProbeKind::ALL {
                if kind.of(container).is_none() {
                    continue;
                }
                let key = ProbeKey {
                    container: container.name.as_str().into(),
                    kind,
                };
                if self.running.contains_key(&key) {
                    continue;
                }
                let task = ProbeTask {
                    counts: Counts::of(pod, &key),
                    pod: pod.clone(),
                    key: key.clone(),
                    clock: self.clock.clone(),
                    ask: self.ask.clone(),
                    observed: self.observed.clone(),
                    facts: self.facts.clone(),
                };
                let handle = self.tasks.spawn(task.run());
                self.running.insert(key, handle);
            }
        }
    }

    /// What is known of the containers that run.
    #[must_use]
    pub fn views(&self, pod: &Pod, observed: &ObservedPod) -> BTreeMap<Arc<str>, ProbeView> {
        self.facts.borrow().views(pod, observed)
    }

    /// Resolves when something is known that was not the last time.
    ///
    /// Cancel-safe: the news stay.
    pub async fn changed(&mut self) {
        // The sender is `self.facts`.
        let _ = self.news.changed().await;
    }

    /// Another view of the same, which can be had while the probes are the worker's.
    #[must_use]
    pub fn news(&self) -> ProbeNews {
        // With what the worker has not looked at yet.
        ProbeNews(self.news.clone())
    }

    /// The container's postStart hook is about to run: until it is done the container has not started, and none of its
    /// probes is asked. To be called before the container is started.
    pub fn hook_began(&self, id: &ContainerId) {
        self.facts.send_if_modified(|facts| facts.hook(id, true));
    }

    /// The container's postStart hook is done, or was given up.
    pub fn hook_done(&self, id: &ContainerId) {
        self.facts.send_if_modified(|facts| facts.hook(id, false));
    }

    /// No postStart hook runs any more.
    pub fn hooks_over(&self) {
        self.facts.send_if_modified(Facts::hooks_over);
    }

    /// Forgets instances that the runtime holds no more.
    pub fn forget_gone(&self, observed: &ObservedPod) {
        self.facts.send_if_modified(|facts| {
            facts.forget_gone(observed);
            false
        });
    }

    /// The pod ends: nobody asks any more whether a container lives or has started, only whether it is ready.
    pub fn pod_ends(&mut self) {
        self.running.retain(|key, handle| {
            let stays = key.kind == ProbeKind::Readiness;
            if !stays {
                handle.abort();
            }
            stays
        });
    }

    /// Nothing of the pod runs.
    pub fn clear(&mut self) {
        self.tasks.abort_all();
        self.running.clear();
    }
}

/// What is known of a pod's containers, and news of it.
#[derive(Clone)]
pub struct ProbeNews(watch::Receiver<Facts>);

impl ProbeNews {
    /// Resolves when something is known that was not the last time; for ever not, once the pod's probes are gone.
    ///
    /// Cancel-safe: the news stay.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// What is to be shown of `observed`: a container whose postStart hook runs is not there yet, as upstream has it.
    #[must_use]
    pub fn shown<'a>(&self, observed: &'a ObservedPod) -> Cow<'a, ObservedPod> {
        self.0.borrow().shown(observed)
    }

    /// What is known of the containers that run.
    #[must_use]
    pub fn views(&self, pod: &Pod, observed: &ObservedPod) -> BTreeMap<Arc<str>, ProbeView> {
        self.0.borrow().views(pod, observed)
    }
}

#[cfg(test)]
mod tests;
