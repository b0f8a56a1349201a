//! The task: looks, judges, reclaims what nobody uses, and has pods evicted where that is not enough.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

use super::local_storage::LocalStorage;
use super::memory_notice::MemoryNotice;
use super::ranking::{self, Candidate};
use super::signals::{Disks, Layout, Observations, Resource, Signal};
use super::thresholds::{Judge, Threshold};
use super::usage::Usage;
use super::{Evict, Eviction, EvictionLink, Pressure};
use crate::admission::is_critical;
use crate::clock::Clock;
use crate::events::About;
use crate::images::ImageCollector;
use crate::metrics;
use crate::observe::Observer;
use crate::pod::{self, Pod, PodName, PodUid};
use crate::stats::Stats;
use crate::status::{StatusBoard, Word};

/// How often it looks (upstream's `evictionMonitoringPeriod`).
const EVERY: Duration = Duration::from_secs(10);
/// How long pods that were evicted are waited for, before more are (upstream's `podCleanupTimeout`).
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// How long ended containers are waited for that were told to go.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
/// How long a file system may take to have what was removed free: the runtime gives it back a little later.
const FREED_WITHIN: Duration = Duration::from_secs(3);
/// Between looks at either.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often the runtime is asked where its images are; until it has told, at each look.
const DISKS_EVERY: Duration = Duration::from_secs(300);
/// How long it has to answer.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(2);
/// How long a pod has that is evicted at once (upstream's `immediateEvictionGracePeriodSeconds`).
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);
/// When a pod that has not ended may be told again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// Orders that the registry has not taken yet.
const ORDERS: usize = 16;

/// What the task works with.
pub struct EvictorInputs {
    /// The thresholds, and for how long a condition stays.
    pub thresholds: Vec<Threshold>,
    /// `evictionPressureTransitionPeriod`.
    pub transition: Duration,
    /// `evictionMaxPodGracePeriod`, seconds; none for the pod's own.
    pub max_pod_grace_seconds: Option<u32>,
    /// `localStorageCapacityIsolation`: pods are held to what their specs allow them of the disk.
    pub local_storage: bool,
    /// `kernelMemcgNotification`.
    pub notice: bool,
    /// The node's name.
    pub node: String,
    /// The agent's root directory.
    pub root: PathBuf,
    /// What everything takes.
    pub stats: Arc<Stats>,
    /// The pods.
    pub board: StatusBoard,
    /// What the runtime holds of them.
    pub observer: Arc<Observer>,
    /// Where images are, and what removes those that nobody uses.
    pub images: Arc<ImageCollector>,
    /// Has workers remove ended containers that stay for show only.
    pub reclaim: watch::Sender<u64>,
    /// Both clocks.
    pub clock: Clock,
}

/// The task of evictions.
pub struct Evictor {
    inputs: EvictorInputs,
    judge: Judge,
    disks: Option<Disks>,
    asked: Option<Duration>,
    pressure: watch::Sender<Pressure>,
    orders: mpsc::Sender<Evict>,
    /// Those that were told to end and have not, and when.
    evicting: BTreeMap<PodUid, Duration>,
    local: LocalStorage,
    /// It has been said that there is no pod to evict.
    said: bool,
}

impl Evictor {
    /// A task that has not begun, and what the registry goes by. Looks once at the machine, so that the first pods are
    /// admitted by what is so.
    #[must_use]
    pub fn new(inputs: EvictorInputs) -> (Self, EvictionLink) {
        let mut judge = Judge::new(inputs.thresholds.clone(), inputs.transition);
        let observed = match judge.is_empty() {
            true => Observations::default(),
            false => Observations::read(&inputs.stats, &inputs.root, None),
        };
        let first = judge.judge(&observed, inputs.clock.monotonic());
        let (pressure, seen) = watch::channel(first.pressure);
        let (orders, taken) = mpsc::channel(ORDERS);
        let link = EvictionLink {
            pressure: seen,
            orders: taken,
        };
        let evictor = Self {
            inputs,
            judge,
            disks: None,
            asked: None,
            pressure,
            orders,
            evicting: BTreeMap::new(),
            local: LocalStorage::default(),
            said: false,
        };
        (evictor, link)
    }

    /// Looks for as long as the agent lives; not at all where nothing can be short and nothing is limited.
    pub async fn run(mut self) -> Infallible {
        if self.judge.is_empty() && !self.inputs.local_storage {
            return std::future::pending().await;
        }
        let mut notice = MemoryNotice::new(self.inputs.notice && !self.judge.is_empty());
        loop {
            let evicted = self.round(&mut notice).await;
            if !evicted.is_empty() {
                wait_until_ended(&evicted).await;
                continue;
            }
            // Cancel-safe: what the kernel has said is said again while it is so.
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = notice.next() => tracing::debug!("the kernel says that memory is getting short"),
            }
        }
    }

    /// One look, and what follows from it. Tells whom it has evicted.
    async fn round(&mut self, notice: &mut MemoryNotice) -> Vec<Arc<Eviction>> {
        self.forget_ended();
        if !self.judge.is_empty() {
            self.find_disks().await;
        }
        let now = self.inputs.clock.monotonic();
        let observed = self.observe().await;
        let judged = self.judge.judge(&observed, now);
        self.tell(judged.pressure);
        notice.follow(self.judge.thresholds(), &self.inputs.stats, &observed);
        if self.inputs.local_storage {
            let evicted = self.hold_to_limits(now).await;
            if !evicted.is_empty() {
                return evicted;
            }
        }
        let Some(first) = judged.due.first() else {
            self.said = false;
            return Vec::new();
        };
        let resource = first.signal.resource();
        let about = About::node(&self.inputs.node);
        let what = resource.as_str();
        about.warning(
            "EvictionThresholdMet",
            &format!("Attempting to reclaim {what}"),
        );
        if self.reclaim(first.signal).await {
            tracing::info!(
                resource = what,
                "what nobody used was enough; no pod is evicted"
            );
            return Vec::new();
        }
        let evicted = self.evict_one(first, &judged.due, &observed, now).await;
        evicted.into_iter().collect()
    }

    /// Tells whoever goes by it what is short.
    fn tell(&self, pressure: Pressure) {
        self.pressure.send_if_modified(|before| {
            let news = *before != pressure;
            if news {
                let short = pressure.conditions().join(" ");
                match pressure.any() {
                    true => tracing::warn!(short, "the node is short of something"),
                    false => tracing::info!("the node is short of nothing any more"),
                }
            }
            *before = pressure;
            news
        });
    }

    /// Asks the runtime where its images are, at first and then now and again. Until it has told, their file system is not
    /// looked at.
    async fn find_disks(&mut self) {
        let now = self.inputs.clock.monotonic();
        let known = self.disks.is_some();
        let fresh = |at: Duration| now.saturating_sub(at) < DISKS_EVERY;
        if known && self.asked.is_some_and(fresh) {
            return;
        }
        let asked = self.inputs.images.file_systems();
        let Ok(Ok(info)) = timeout(RUNTIME_PATIENCE, asked).await else {
            return;
        };
        self.asked = Some(now);
        let Some(disks) = Disks::of(&self.inputs.root, &info) else {
            return;
        };
        if self.disks.as_ref().map(|known| known.layout) != Some(disks.layout) {
            self.judge.set_layout(disks.layout);
        }
        self.disks = Some(disks);
    }

    fn layout(&self) -> Layout {
        self.disks
            .as_ref()
            .map(|disks| disks.layout)
            .unwrap_or_default()
    }

    async fn observe(&self) -> Observations {
        if self.judge.is_empty() {
            return Observations::default();
        }
        let (stats, root) = (self.inputs.stats.clone(), self.inputs.root.clone());
        let disks = self.disks.clone();
        let read = move || Observations::read(&stats, &root, disks.as_ref());
        // What nobody could read is not there, and nothing follows from it.
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Removes what nobody uses from the file system that is full. True when nothing is short any more.
    async fn reclaim(&self, signal: Signal) -> bool {
        let (containers, images) = reclaims(signal, self.layout());
        if !containers && !images {
            return false;
        }
        let mut any = false;
        if containers {
            any |= self.remove_ended().await;
        }
        if images {
            match self.inputs.images.remove_unused().await {
                Ok(freed) => any |= freed > 0,
                Err(error) => {
                    tracing::warn!(%error, "cannot remove all images that nobody uses");
                    any = true;
                }
            }
        }
        let until = Instant::now() + FREED_WITHIN;
        loop {
            if self.judge.is_resolved(&self.observe().await) {
                return true;
            }
            if !any || Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Has ended containers removed that stay for show only. True when there were any.
    async fn remove_ended(&self) -> bool {
        if self.inputs.observer.ended().is_empty() {
            return false;
        }
        self.inputs.reclaim.send_modify(|count| *count += 1);
        let until = Instant::now() + REMOVED_WITHIN;
        while !self.inputs.observer.ended().is_empty() && Instant::now() < until {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }

    /// The pods that have been looked at, have not ended, and were not told to.
    fn live(&self) -> BTreeMap<PodUid, Arc<Pod>> {
        let views = self.inputs.board.snapshot().into_iter();
        let seen =
            views.filter(|view| view.word != Word::Unseen && !view.status.phase.is_terminal());
        let pods = seen.filter_map(|view| Some((PodUid::of(&view.pod).ok()?, view.pod)));
        pods.filter(|(uid, _)| !self.evicting.contains_key(uid))
            .collect()
    }

    /// Evicts the pod that stands first.
    async fn evict_one(
        &mut self,
        first: &Threshold,
        due: &[Threshold],
        observed: &Observations,
        now: Duration,
    ) -> Option<Arc<Eviction>> {
        let mut pods = self.live();
        pods.retain(|_, pod| !is_critical(pod));
        if pods.is_empty() {
            let resource = first.signal.resource().as_str();
            if !std::mem::replace(&mut self.said, true) {
                tracing::warn!(
                    resource,
                    "eviction thresholds have been met, and there is no pod that may be evicted"
                );
            }
            return None;
        }
        let mut candidates = match first.signal.resource() {
            Resource::EphemeralStorage | Resource::Inodes => self.with_disks(pods).await,
            Resource::Memory => self.with_stats(pods, true).await,
            Resource::Pids => self.with_stats(pods, false).await,
        };
        ranking::rank(&mut candidates, first.signal, self.layout());
        let age = self.inputs.clock.monotonic().saturating_sub(now);
        for threshold in due {
            let signal = threshold.signal.as_str();
            metrics::kubelet().eviction_age.observe(&[signal], age);
        }
        let chosen = candidates.first()?;
        let message = ranking::message(chosen, first.signal, due, observed);
        let grace = match first.is_hard() {
            true => AT_ONCE,
            false => self.soft_grace(&chosen.pod),
        };
        let pod = chosen.pod.clone();
        self.evict(&pod, first.signal.as_str(), message, true, grace)
            .await
    }

    /// With what the pods take of memory and, unless `brief`, of process ids.
    async fn with_stats(&self, pods: BTreeMap<PodUid, Arc<Pod>>, brief: bool) -> Vec<Candidate> {
        let mut usages = match self.inputs.stats.summary(brief).await {
            Ok(summary) => summary.pods,
            Err(error) => {
                tracing::warn!(%error, "cannot tell what pods take");
                Vec::new()
            }
        };
        let candidates = pods.into_iter().map(|(uid, pod)| {
            let at = usages
                .iter()
                .position(|one| one.pod_ref.uid == uid.as_str());
            let usage = at.map(|at| Usage::of_stats(&usages.swap_remove(at)));
            Candidate { pod, usage }
        });
        candidates.collect()
    }

    /// With what the pods take of the node's disks.
    async fn with_disks(&self, pods: BTreeMap<PodUid, Arc<Pod>>) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (uid, pod) in pods {
            let disks = self.inputs.stats.pod_disks(&pod, &uid, true).await;
            let usage = disks.ok().flatten().map(|disks| Usage::of_disks(&disks));
            candidates.push(Candidate { pod, usage });
        }
        candidates
    }

    fn soft_grace(&self, pod: &Pod) -> Duration {
        let own = Duration::from_secs(pod::grace_seconds(pod).unsigned_abs());
        let most = self.inputs.max_pod_grace_seconds;
        own.min(most.map_or(own, |seconds| Duration::from_secs(seconds.into())))
    }

    /// Evicts pods that take more of the disk than they may. Those that are never evicted are only told of.
    async fn hold_to_limits(&mut self, now: Duration) -> Vec<Arc<Eviction>> {
        let pods = self.live();
        let layout = self.layout();
        let passed = self
            .local
            .look(&self.inputs.stats, &pods, layout, now)
            .await;
        let mut evicted = Vec::new();
        for (pod, passed) in passed {
            let done = self.evict(&pod, passed.signal, passed.message, false, AT_ONCE);
            evicted.extend(done.await);
        }
        evicted
    }

    /// Has the registry end the pod.
    async fn evict(
        &mut self,
        pod: &Pod,
        signal: &str,
        message: String,
        for_the_node: bool,
        grace: Duration,
    ) -> Option<Arc<Eviction>> {
        let uid = PodUid::of(pod).ok()?;
        tracing::warn!(pod = %PodName::of(pod), %uid, signal, "evicting a pod: {message}");
        let eviction = Arc::new(Eviction {
            message: message.into(),
            for_the_node,
            grace,
            ended: Notify::new(),
        });
        let order = Evict {
            uid: uid.clone(),
            eviction: eviction.clone(),
        };
        // A registry that is gone ends the process.
        self.orders.send(order).await.ok()?;
        metrics::kubelet().evictions.inc(&[signal]);
        self.evicting.insert(uid, self.inputs.clock.monotonic());
        Some(eviction)
    }

    fn forget_ended(&mut self) {
        let (board, now) = (&self.inputs.board, self.inputs.clock.monotonic());
        // One that could not be told, because it had not begun, may be told again.
        self.evicting.retain(|uid, told| {
            let view = board.get(uid);
            let lives = view.is_some_and(|view| !view.status.phase.is_terminal());
            lives && now.saturating_sub(*told) < TOLD_AGAIN
        });
    }
}

async fn wait_until_ended(evicted: &[Arc<Eviction>]) {
    let until = Instant::now() + ENDED_WITHIN;
    for eviction in evicted {
        if tokio::time::timeout_at(until, eviction.ended.notified())
            .await
            .is_err()
        {
            tracing::warn!("a pod that was evicted has not ended within {ENDED_WITHIN:?}");
            return;
        }
    }
}

/// What is removed before pods are, where a file system is full: ended containers, unused images; as upstream.
fn reclaims(signal: Signal, layout: Layout) -> (bool, bool) {
    let of_nodefs = matches!(signal, Signal::NodefsBytes | Signal::NodefsInodes);
    let of_images = matches!(signal, Signal::ImagefsBytes | Signal::ImagefsInodes);
    match (signal.resource(), layout) {
        (Resource::Memory | Resource::Pids, _) => (false, false),
        (_, Layout::One) => (true, true),
        (_, Layout::Images) => (!of_nodefs, !of_nodefs),
        (_, Layout::Split) => (!of_images, of_images),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_goes_from_the_file_system_that_is_full() {
        let of = |signal, layout| reclaims(signal, layout);
        assert_eq!(of(Signal::Memory, Layout::One), (false, false));
        assert_eq!(of(Signal::Pids, Layout::Images), (false, false));
        assert_eq!(of(Signal::NodefsInodes, Layout::One), (true, true));
        assert_eq!(of(Signal::NodefsBytes, Layout::Images), (false, false));
        assert_eq!(of(Signal::ContainerfsBytes, Layout::Images), (true, true));
        assert_eq!(of(Signal::ImagefsBytes, Layout::Split), (false, true));
        assert_eq!(of(Signal::NodefsBytes, Layout::Split), (true, false));
    }
}
