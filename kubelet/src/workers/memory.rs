//! What a worker knows that neither the spec nor the runtime says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1::PodSandboxConfig;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as api;
use tokio::sync::watch;

use super::Tools;
use super::hold::Hold;
use super::pin::Pins;
use super::start::Prepared;
use super::told::ToldBackoffs;
use crate::admission::Rejection;
use crate::cgroups::resources::qos_class;
use crate::clock::{Clock, Now};
use crate::errors::error_chain;
use crate::eviction::{EVICTED, Eviction};
use crate::plan::PodPlan;
use crate::pod::{self, Pod, PodName, PodUid, QosClass, RestartPolicy};
use crate::record::{
    Backoffs, ContainerRecord, Exit, Loaded, Record, RecordFile, RecordWriter, Terminal,
    Termination,
};
use crate::resize::{Actuated, Allocation, Amounts};
use crate::runtime::{ContainerId, ContainerState, ObservedPod};
use crate::shutdown;
use crate::status::{Phase, PodFailure, PodStatus, Rejected, restore};

/// Reason of a pod that had to make room for a critical one.
pub(super) const PREEMPTING: &str = "Preempting";
/// The same in a sentence.
pub(super) const PREEMPTED: &str = "Preempted in order to admit critical pod";
/// What the pod's condition says of it.
const PREEMPTED_CONDITION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
/// Reason of a pod that was active for as long as its `activeDeadlineSeconds` say.
pub(super) const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// The same in a sentence.
pub(super) const PAST_DEADLINE: &str =
    "Pod was active on the node longer than the specified deadline";

/// The last status of a pod, or what the record kept of it.
pub(super) type StatusCell = watch::Sender<Option<PodStatus>>;

/// What a worker remembers. The part that must survive a restart of the agent is in the record.
pub(super) struct Memory {
    record: Record,
    writer: RecordWriter,
    pub(super) start_time: Timestamp,
    pub(super) backoffs: Backoffs,
    /// When each ended container that the runtime shows ended.
    pub(super) exits: BTreeMap<ContainerId, Exit>,
    /// The attempt that follows the highest one with a log, by container.
    pub(super) attempts_on_disk: BTreeMap<Arc<str>, u32>,
    /// The attempt that the next sandbox has at least: higher after the runtime refused a name as taken.
    pub(super) sandbox_attempt: u32,
    /// What failed last, by container; `None` is the pod itself.
    pub(super) holds: BTreeMap<Option<Arc<str>>, Hold>,
    /// What has failed for want of an object of the API server, by container as above, and the count of the pod's news
    /// when it did.
    pub(super) object_waits: BTreeMap<Option<Arc<str>>, u64>,
    /// That count when the pod's objects were looked at last.
    pub(super) objects_seen: u64,
    /// The pod's directories, volumes and cgroup, once they are there.
    pub(super) prepared: Option<Prepared>,
    /// What the sandbox was made from.
    pub(super) sandbox_config: Option<PodSandboxConfig>,
    /// What was shown last.
    pub(super) status: StatusCell,
    /// The pod is over and its volumes and cgroup were given back.
    pub(super) released: bool,
    /// A change was made and has not been looked at.
    pub(super) stale: bool,
    /// The back-offs that there has been an event of.
    pub(super) told_backoffs: ToldBackoffs,
    /// The last plan, when all of it went well.
    pub(super) last_plan: Option<PodPlan>,
    /// Why the pod may not run here.
    pub(super) rejected: Option<Rejected>,
    /// Why the pod has to end though it was admitted.
    pub(super) failure: Option<PodFailure>,
    /// It has to end, for another pod or with the node, and is tried again.
    pub(super) gave_way: bool,
    /// It has been told to make room for another pod.
    pub(super) preempted: bool,
    /// The node is shutting down: how long it was given to end.
    pub(super) leaving: Option<Duration>,
    /// Why it was evicted, in this life of the agent.
    pub(super) evicted: Option<Arc<Eviction>>,
    /// What the pod was given when that was last acted upon.
    given: Option<Allocation>,
    /// The pod was given resources that its containers do not have yet; with what went wrong.
    pub(super) resizing: Option<Option<Arc<str>>>,
    /// That went wrong, and is not tried again before.
    pub(super) resize_hold: Option<Hold>,
    pub(super) pins: Pins,
    /// When the pod became active.
    active_since: Exit,
}

impl Memory {
    /// With what an earlier life of the agent left in the pod's record.
    pub(super) fn load(tools: &Tools, pod: &Pod, uid: &PodUid) -> Self {
        let record = match RecordFile::load(&tools.dirs.path(uid)) {
            Loaded::Good(record) => tried_again(*record, pod::is_static(pod), || {
                let ran = !attempts_on_disk(tools, pod, uid).is_empty();
                comes_back(pod, ran)
            }),
            // What was bad about it has been said.
            Loaded::Missing | Loaded::Bad { .. } => Record::default(),
        };
        Self::new(tools, pod, uid, record)
    }

    /// For a pod that begins anew.
    pub(super) fn fresh(tools: &Tools, pod: &Pod, uid: &PodUid) -> Self {
        Self::new(tools, pod, uid, Record::default())
    }

    fn new(tools: &Tools, pod: &Pod, uid: &PodUid, mut record: Record) -> Self {
        let shown = restore(pod, qos_class(pod)).filter(|_| !pod::is_static(pod));
        let status = before(&mut record, shown, qos_class(pod));
        let writer = RecordWriter::resume(tools.dirs.path(uid), &record);
        let now = follow_clock(&mut record, &tools.clock);
        let given = record.allocated.clone();
        let cap = tools.node.crash_loop_cap;
        let active_since = record
            .active_since
            .or(record.start_time)
            .unwrap_or(now.wall);
        Self {
            start_time: record.start_time.unwrap_or(now.wall),
            backoffs: Backoffs::from_records(Backoffs::INITIAL, cap, &record.backoffs, now),
            attempts_on_disk: attempts_on_disk(tools, pod, uid),
            status: watch::Sender::new(status),
            writer,
            record,
            exits: BTreeMap::new(),
            sandbox_attempt: 0,
            holds: BTreeMap::new(),
            object_waits: BTreeMap::new(),
            objects_seen: 0,
            prepared: None,
            sandbox_config: None,
            rejected: None,
            failure: None,
            gave_way: false,
            preempted: false,
            leaving: None,
            evicted: None,
            active_since: Exit::of_wall(active_since, now, Duration::MAX),
            released: false,
            stale: false,
            told_backoffs: ToldBackoffs::new(),
            last_plan: None,
            given,
            resizing: None,
            resize_hold: None,
            pins: Pins::default(),
        }
    }

    /// Notes what `pod` was given; says whether that is another amount than before.
    pub(super) fn note_given(&mut self, pod: &Pod) -> bool {
        let given = Allocation::of(pod);
        let before = self.given.replace(given);
        before.is_some() && before != self.given
    }

    /// What the running containers have, by name.
    pub(super) fn actuated(&self) -> &BTreeMap<String, Actuated> {
        &self.record.actuated
    }

    /// Notes that the container called `name` has what `amounts` say in its instance `id`.
    pub(super) fn note_actuated(&mut self, name: &str, id: &ContainerId, amounts: Amounts) {
        let has = Actuated {
            id: id.to_string(),
            has: amounts,
        };
        self.record.actuated.insert(name.to_owned(), has);
    }

    /// What an earlier life of the agent has established of containers, by name; later, what this one has.
    pub(super) fn established(&self) -> &BTreeMap<String, ContainerRecord> {
        &self.record.containers
    }

    /// Notes when containers ended, by the runtime's account.
    pub(super) fn note_exits(&mut self, observed: &ObservedPod, now: Now) {
        let lives = |id: &String| {
            let mut containers = observed.containers.iter();
            containers.any(|c| c.id.as_str() == id && c.state != ContainerState::Exited)
        };
        self.record.pre_stop_begun.retain(lives);
        self.exits
            .retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
        for container in observed
            .containers
            .iter()
            .filter(|c| c.state == ContainerState::Exited)
        {
            if !self.exits.contains_key(&container.id) {
                let finished =
                    Timestamp::from_nanosecond(container.finished_at.into()).unwrap_or(now.wall);
                let exit = self
                    .backoffs
                    .note_exit(&container.name, &container.id, finished, now);
                self.exits.insert(container.id.clone(), exit);
            }
        }
    }

    /// Whether the pod has ended, was refused or has to end: nothing of it is started any more.
    pub(super) fn is_over(&self) -> bool {
        self.rejected.is_some() || self.failure.is_some() || self.record.terminal.is_some()
    }

    /// Refuses the pod, until it is given a place. True when it is refused for another reason than before.
    pub(super) fn reject(&mut self, rejection: &Rejection) -> bool {
        let before = self.rejected.replace(Rejected {
            reason: rejection.reason.as_ref().into(),
            message: rejection.message.as_str().into(),
        });
        before.is_none_or(|before| *before.reason != *rejection.reason)
    }

    /// Has the pod end to make room for another; a static one until it is given a place again. True the first time.
    pub(super) fn give_way(&mut self, pod: &Pod) -> bool {
        let news = self.failure.is_none() && !self.preempted;
        self.preempted = true;
        if news {
            self.gave_way = pod::is_static(pod);
            self.failure = Some(PodFailure {
                reason: PREEMPTING.into(),
                message: PREEMPTED.into(),
                disruption: Some(PREEMPTED_CONDITION.into()),
            });
        }
        news
    }

    /// Has the pod end within `time` because the node is shutting down. One that has `run` may begin again, should the
    /// node stay up.
    pub(super) fn leave(&mut self, pod: &Pod, time: Duration, ran: bool) {
        self.leaving = Some(time);
        if !self.is_over() {
            self.gave_way = comes_back(pod, ran);
            self.failure = Some(PodFailure {
                reason: shutdown::ENDED.into(),
                message: shutdown::ENDED_MESSAGE.into(),
                disruption: Some(shutdown::ENDED_MESSAGE.into()),
            });
        }
    }

    /// Has the pod end for good. True when that is news; one that has to end anyway keeps its reason.
    pub(super) fn evict(&mut self, eviction: &Arc<Eviction>) -> bool {
        let news = self.evicted.is_none();
        self.evicted = Some(eviction.clone());
        if !news || self.is_over() {
            return false;
        }
        let message = eviction.message.clone();
        self.failure = Some(PodFailure {
            reason: EVICTED.into(),
            disruption: eviction.for_the_node.then(|| message.clone()),
            message,
        });
        true
    }

    /// Whether the pod has ended because it was evicted, be it in an earlier life of the agent.
    pub(super) fn is_evicted(&self) -> bool {
        let by_record = || self.record.terminal.as_ref()?.reason.as_deref();
        let failure = self.failure.as_ref().map(|failure| &*failure.reason);
        self.rejected.is_none() && failure.or_else(by_record) == Some(EVICTED)
    }

    /// How long it has to end, where that is not for the pod to say.
    pub(super) fn time_to_end(&self) -> Option<Duration> {
        let evicted = self.evicted.as_ref().map(|eviction| eviction.grace);
        [self.leaving, evicted].into_iter().flatten().min()
    }

    /// Takes over that the API server shows the pod as ended for good: somebody else has ended it.
    pub(super) fn follow_source(&mut self, pod: &Pod) {
        if self.record.terminal.is_none() && !pod::is_static(pod) {
            self.record.terminal = pod.status.as_ref().and_then(terminal);
        }
    }

    /// How much longer the pod may be active; none where nothing limits it, or it has to end anyway.
    fn deadline_left(&self, pod: &Pod, now: Duration) -> Option<Duration> {
        let limit = active_limit(pod).filter(|_| !self.is_over())?;
        Some(limit.saturating_sub(self.active_since.age(now)))
    }

    /// What an active deadline is counted from; none while that is not settled, because the pod has never been told
    /// to run.
    pub(super) fn active_since(&self) -> Option<Exit> {
        self.record.start_time.map(|_| self.active_since)
    }

    /// Has the pod end if its deadline has passed. True when that is news.
    pub(super) fn exceed_deadline(&mut self, pod: &Pod, now: Duration) -> bool {
        let passed = self.deadline_left(pod, now) == Some(Duration::ZERO);
        if passed {
            self.failure = Some(PodFailure {
                reason: DEADLINE_EXCEEDED.into(),
                message: PAST_DEADLINE.into(),
                disruption: None,
            });
        }
        passed
    }

    /// Whether the pod has no place on the node.
    pub(super) fn has_no_place(&self) -> bool {
        self.rejected.is_some() || self.gave_way
    }

    /// The pod is wanted: a termination that an earlier life of the agent had begun is none any more.
    pub(super) fn begin_life(&mut self, now: Duration) {
        self.record.termination = None;
        if self.active_since().is_none() {
            self.active_since = Exit::at(now);
        }
    }

    /// Notes that the preStop hook of an instance is about to run, so that no later life of the agent runs it again. False
    /// when it had begun before.
    pub(super) fn begin_pre_stop(&mut self, pod: &Pod, id: &ContainerId, clock: &Clock) -> bool {
        let news = self.record.pre_stop_begun.insert(id.to_string());
        if news {
            self.store(pod, clock);
        }
        news
    }

    /// Notes that the postStart hook of an instance is done.
    pub(super) fn post_start_done(&mut self, id: &ContainerId) {
        self.record.post_start_done.insert(id.to_string());
    }

    /// When the termination under way has to be done; begins one of `grace` where none is.
    pub(super) fn termination_deadline(&mut self, grace: Duration, clock: &Clock) -> Duration {
        let now = follow_clock(&mut self.record, clock);
        let left = match &self.record.termination {
            // Never longer than the grace period, whatever has happened to the wall clock.
            Some(begun) => {
                Duration::try_from(begun.deadline_wall.duration_since(now.wall)).unwrap_or_default()
            }
            None => grace,
        };
        let left = left.min(grace);
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let begun = self.record.termination.as_ref();
        if begun.is_none_or(|begun| seconds < begun.grace_seconds) {
            let span = SignedDuration::try_from(left).unwrap_or(SignedDuration::MAX);
            self.record.termination = Some(Termination {
                grace_seconds: seconds,
                deadline_wall: now.wall.checked_add(span).unwrap_or(Timestamp::MAX),
            });
        }
        now.monotonic + left
    }

    /// Takes over what a new status says, and writes the record where it changed.
    ///
    /// A record that cannot be written costs what it would have held after a restart of the agent, and nothing now.
    pub(super) fn store(&mut self, pod: &Pod, clock: &Clock) {
        let now = follow_clock(&mut self.record, clock);
        if pod::is_from_api(pod) {
            self.record.allocated = Some(Allocation::of(pod));
        }
        if pod::spec(pod).active_deadline_seconds.is_none() {
            self.record.active_since = None;
        } else if self.record.active_since.is_none() {
            self.record.active_since = Some(self.active_since.to_wall(now));
        }
        let shown = self.status.borrow();
        if let Some(status) = shown.as_ref().filter(|_| self.rejected.is_none()) {
            let established = self.record.containers.clone();
            self.record.take_status(status);
            // What has started and is ready has been told: the next agent must tell the same.
            if self.record.containers != established {
                self.writer.hurry();
            }
        }
        drop(shown);
        self.backoffs.write_records(&mut self.record.backoffs, now);
        // The deadline of a termination too is written at once: nothing else is going to write it later.
        let durable = self.record.terminal.is_some()
            || self.record.termination.is_some()
            || !self.record.pre_stop_begun.is_empty();
        if let Err(error) = self.writer.store(&self.record, now.monotonic, durable) {
            tracing::debug!(
                error = error_chain(&error),
                "could not write a pod's record"
            );
        }
    }

    /// How long until the record wants to be written again.
    pub(super) fn next_flush(&self, now: Duration) -> Option<Duration> {
        self.writer.next_flush().map(|at| at.saturating_sub(now))
    }
}

/// How long `pod` may be active.
pub(super) fn active_limit(pod: &Pod) -> Option<Duration> {
    let seconds = pod::spec(pod).active_deadline_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The present; the record's times move along where the wall clock was stepped.
fn follow_clock(record: &mut Record, clock: &Clock) -> Now {
    let now = clock.now();
    if let Some(boot) = clock.since_boot() {
        record.follow_clock(now.wall, &boot);
    }
    now
}

/// What the first status of this life of the agent is derived from: the record, and what the API server has `shown`. A
/// pod that has ended for good by either is not run again.
fn before(record: &mut Record, shown: Option<PodStatus>, qos: QosClass) -> Option<PodStatus> {
    let Some(shown) = shown else {
        return record.previous_status(qos);
    };
    if record.terminal.is_none() && shown.phase.is_terminal() {
        record.terminal = Some(Terminal {
            phase: shown.phase,
            reason: shown.reason.as_deref().map(str::to_owned),
            message: shown.message.as_deref().map(str::to_owned),
        });
    }
    record.start_time = record.start_time.or(shown.start_time);
    let Some(kept) = record
        .previous_status(qos)
        .filter(|r| !r.conditions.is_empty())
    else {
        return Some(shown);
    };
    Some(PodStatus {
        init_containers: shown.init_containers,
        containers: shown.containers,
        ephemeral_containers: shown.ephemeral_containers,
        pod_ips: shown.pod_ips,
        ..kept
    })
}

fn terminal(shown: &api::PodStatus) -> Option<Terminal> {
    let phase = Phase::parse(shown.phase.as_deref()?)?;
    phase.is_terminal().then(|| Terminal {
        phase,
        reason: shown.reason.clone(),
        message: shown.message.clone(),
    })
}

/// A pod that had to make room for another, or that a shutdown of the node has ended, has not ended for good: with a new
/// life of the agent it asks again, as one that was refused does, of which the record says nothing.
fn tried_again(record: Record, is_static: bool, comes_back: impl FnOnce() -> bool) -> Record {
    let reason = record.terminal.as_ref().and_then(|t| t.reason.as_deref());
    let again = match reason {
        Some(PREEMPTING) => is_static,
        Some(shutdown::ENDED) => comes_back(),
        _ => false,
    };
    if again { Record::default() } else { record }
}

/// Whether a pod that a shutdown of the node has ended begins again after it: what another component has put on the
/// node that one puts anew, and what is never restarted has had its run.
fn comes_back(pod: &Pod, ran: bool) -> bool {
    let once = ran && RestartPolicy::of_pod(pod) == RestartPolicy::Never;
    pod::is_static(pod) && !once
}

/// What the runtime may have forgotten: the attempt after the highest one with a log, by container.
fn attempts_on_disk(tools: &Tools, pod: &Pod, uid: &PodUid) -> BTreeMap<Arc<str>, u32> {
    let name = PodName::of(pod);
    let next = |container: &str| {
        tools.logs.next_attempt(&name, uid, container).unwrap_or_else(|error| {
            tracing::warn!(pod = %name, container, error = error_chain(&error), "restart count is lost");
            0
        })
    };
    let attempts = pod::containers(pod).map(|(_, c)| (c.name.as_str().into(), next(&c.name)));
    attempts.filter(|(_, attempt)| *attempt > 0).collect()
}

#[cfg(test)]
mod tests;
