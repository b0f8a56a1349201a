//! UID to worker: begins workers, passes orders to them, and clears up behind them.

mod devices;
mod evicting;
mod giving;
mod known_node;
mod leaving;
mod leftovers;
mod lives;
mod recovering;
mod resizing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

use super::places::{Places, first_seen, made_at};
use super::qos::QosShares;
use super::queue::{Action, QueueInput, Stage, Wanted, WorkerView, reconcile};
use super::{Orders, Place, Tools, Worker, is_deleted};
use crate::eviction::{EvictionLink, Pressure};
use crate::node::NodeObject;
use crate::observe::{FoundPod, RuntimeState};
use crate::pod::{self, Pod, PodName, PodUid};
use crate::server::Heartbeat;
use crate::shutdown::{NodeState, ShutdownLink};
use crate::sources::Desired;
use crate::status::PodStatus;

use devices::Fetches;
pub use known_node::KnownNode;
use leftovers::{stand_in, traces_on_disk};
pub use lives::Lives;
use recovering::recovered;
use resizing::Asked;

/// The loop goes round at least this often: a fraction of what the `syncloop` check bears.
const BEAT: Duration = Duration::from_secs(60);
/// Nothing is begun for this long before it is known that the node does not shut down.
const FIRST_STATE: Duration = Duration::from_secs(1);
/// Before a worker that panicked is begun again.
const AFTER_PANIC: Duration = Duration::from_secs(10);

/// The workers there are.
pub struct Registry {
    tools: Arc<Tools>,
    handles: BTreeMap<PodUid, Handle>,
    tasks: JoinSet<()>,
    by_task: BTreeMap<Id, PodUid>,
    /// Who may run.
    places: Places,
    /// Pods that have a place, and whose devices their plugins are asked for.
    fetches: Fetches,
    /// A place became free, and those who wait for one have not been asked again.
    freed: bool,
    /// The node's object at the API server, as far as it has been seen.
    object: Option<Arc<NodeObject>>,
    /// What becomes of the node.
    node: NodeState,
    /// What it is short of.
    pressure: Pressure,
    /// Woken by any worker that changes its stage.
    staged: Arc<tokio::sync::Notify>,
    /// Pods whose worker panicked, until they have another.
    panicked: BTreeMap<PodUid, Panicked>,
    /// Deleted pods that have ended, and that their source still has.
    ended: BTreeMap<PodUid, PodName>,
    /// Logs that no pod of this life of the agent has are gone.
    logs_collected: bool,
    /// Pods that left traces on the node's disk, from before this life of the agent.
    on_disk: Vec<FoundPod>,
}

/// A pod that is left alone for a while. What it runs may be younger than the last list of what the runtime holds.
struct Panicked {
    pod: FoundPod,
    until: Duration,
}

struct Handle {
    name: PodName,
    /// When the API server made the pod, or else when the agent took it on, this life or an earlier one.
    since: Timestamp,
    orders: watch::Sender<Orders>,
    stage: watch::Receiver<Stage>,
    /// What a pod of the API server asks for, and what it was given.
    asked: Option<Asked>,
}

/// Runs the registry for as long as the agent lives: it ends only with an error of the process. `object` is the node's at
/// the API server, none where there is none; pods are admitted by its labels and taints.
pub async fn run_registry(
    tools: Arc<Tools>,
    mut desired: watch::Receiver<Arc<Desired>>,
    heartbeat: Heartbeat,
    mut shutdown: ShutdownLink,
    mut evictions: EvictionLink,
    mut object: KnownNode,
) {
    let on_disk = traces_on_disk(&tools);
    let mut found = tools.observer.found();
    let mut runtime = tools.observer.state();
    let mut devices = tools.devices.news();
    let mut qos = QosShares::new(tools.cgroups.clone());
    let mut registry = Registry {
        places: Places::new(tools.node.admission.clone(), tools.managers.clone()),
        fetches: Fetches::default(),
        object: None,
        freed: false,
        tools,
        handles: BTreeMap::new(),
        tasks: JoinSet::new(),
        by_task: BTreeMap::new(),
        node: NodeState::Unknown,
        pressure: Pressure::default(),
        staged: Arc::default(),
        panicked: BTreeMap::new(),
        ended: BTreeMap::new(),
        logs_collected: false,
        on_disk,
    };
    shutdown.first_state(FIRST_STATE).await;
    let mut recovery = registry.recovery();
    loop {
        heartbeat.beat();
        registry.follow_node(&shutdown.state.borrow_and_update());
        registry.pressure = *evictions.pressure.borrow();
        let known = object.now();
        registry.follow_object(known);
        let wanted = desired.borrow_and_update().clone();
        let state = runtime.borrow_and_update().clone();
        let seen = state != RuntimeState::NeverSeen && recovery.is_none();
        let in_runtime = found.borrow_and_update().clone();
        registry.update_specs(&wanted);
        qos.follow(&wanted);
        registry.act(&wanted, &in_runtime, seen);
        registry.resize_pods();
        registry.tell_lives(seen);
        let remaining = registry.remaining(seen);
        shutdown.remaining.send_if_modified(|before| {
            let news = *before != remaining;
            *before = remaining;
            news
        });
        let rest = registry.rest_left();
        let rested = async {
            match rest {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: each arm is a channel that keeps its news, a task set, or a timer.
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            _ = found.changed() => {}
            _ = runtime.changed() => {}
            () = recovered(&mut recovery) => recovery = None,
            changed = shutdown.state.changed() => if changed.is_err() { return },
            evict = evictions.next() => registry.evict(evict),
            // Of a node that runs by itself nobody sends one.
            () = object.changed() => {}
            () = registry.staged.notified() => {}
            // Whoever has the devices lives as long as this does.
            Ok(()) = devices.changed() => registry.follow_devices(),
            Some(fetched) = registry.fetches.next() => registry.fetched(fetched),
            Some(ended) = registry.tasks.join_next_with_id() => registry.clear_up(ended),
            () = rested => {}
            // Nothing happened: the loop shows that it could have gone round.
            () = tokio::time::sleep(BEAT) => {}
        }
    }
}

impl Registry {
    fn update_specs(&mut self, desired: &Desired) {
        for (uid, handle) in &mut self.handles {
            let pod = desired.pods.get(uid);
            let asked = handle.asked.as_mut();
            let (pod, resize) = match (pod, asked) {
                (Some(pod), Some(asked)) => asked.follow(pod, &handle.orders.borrow()),
                (pod, _) => (pod.cloned(), None),
            };
            handle.orders.send_if_modified(|orders| {
                // Who lives is told to stop when its source no longer has it; who ends is only shown no longer.
                let hidden = pod.is_none() && orders.shown && orders.wanted == Wanted::Stop;
                orders.shown = pod.is_some();
                let Some(pod) = pod else {
                    return hidden;
                };
                let news = !Arc::ptr_eq(&orders.pod, &pod) || orders.resize != resize;
                orders.pod = pod;
                orders.resize = resize;
                news
            });
        }
    }

    fn act(&mut self, desired: &Desired, in_runtime: &[FoundPod], runtime_seen: bool) {
        let now = self.tools.clock.now().monotonic;
        if runtime_seen {
            self.places.runtime_seen(in_runtime);
        }
        self.follow_places();
        self.on_disk
            .retain(|pod| !desired.pods.contains_key(&pod.uid));
        let names: BTreeMap<PodUid, PodName> = desired
            .pods
            .iter()
            .filter(|(uid, _)| !self.rests(uid, now))
            .map(|(uid, pod)| (uid.clone(), PodName::of(pod)))
            .collect();
        let deleted: BTreeSet<PodUid> = desired
            .pods
            .iter()
            .filter(|(uid, pod)| is_deleted(pod) && !self.rests(uid, now))
            .map(|(uid, _)| uid.clone())
            .collect();
        self.forget_ended(&deleted);
        // Of those found twice the later one counts: traces on the disk have no name, and a name must not be lost.
        let panicked = self.panicked.values().map(|panicked| &panicked.pod);
        let found: BTreeMap<PodUid, PodName> = self
            .on_disk
            .iter()
            .chain(panicked)
            .chain(in_runtime)
            .filter(|pod| !desired.pods.contains_key(&pod.uid))
            .map(|pod| (pod.uid.clone(), pod.pod_name()))
            .collect();
        let ended = self.ended.iter();
        let ended = ended.map(|(uid, name)| (uid.clone(), WorkerView::ended(name.clone())));
        let views = self
            .handles
            .iter()
            .map(|(uid, handle)| (uid.clone(), handle.view()))
            .chain(ended)
            .collect();
        let input = QueueInput {
            desired: &names,
            deleted: &deleted,
            workers: &views,
            found: &found,
            sources_ready: desired.ready,
            runtime_seen,
        };
        let mut actions = reconcile(&input);
        // Those that came first are begun first, so that they come first after a restart of the agent too.
        actions.sort_by_cached_key(|action| match action {
            Action::Begin(uid) => desired.pods.get(uid).map(|pod| came(uid, pod)),
            _ => None,
        });
        let mut asking = Vec::new();
        for action in actions {
            match action {
                Action::Begin(uid) => {
                    if let Some(pod) = desired.pods.get(&uid) {
                        self.begin(uid, pod.clone(), Wanted::Wait);
                    }
                }
                // Its name stays taken while it rests.
                Action::BeginEnding(uid) if self.rests(&uid, now) => {}
                Action::BeginEnding(uid) if deleted.contains(&uid) => {
                    self.places.dealt_with(&uid);
                    if let Some(pod) = desired.pods.get(&uid) {
                        self.begin(uid, pod.clone(), Wanted::Stop);
                    }
                }
                Action::BeginEnding(uid) => {
                    if let Some(name) = found.get(&uid) {
                        self.places.dealt_with(&uid);
                        let reason = self.why_unwanted(&uid, name, desired);
                        tracing::info!(pod = %name, %uid, "ending a pod that was found on the node: {reason}");
                        let observed = self.tools.observer.subscribe(&uid).borrow().clone();
                        self.begin(
                            uid.clone(),
                            Arc::new(stand_in(&uid, name, &observed)),
                            Wanted::Stop,
                        );
                    }
                }
                Action::Run(uid) => asking.push(uid),
                Action::Stop(uid) => {
                    self.places.ends(&uid);
                    self.order(&uid, |orders| orders.wanted = Wanted::Stop);
                }
            }
        }
        let all_known = desired.ready && runtime_seen;
        if all_known && !self.logs_collected {
            self.take_back();
        }
        self.give_places(asking);
        self.have_pods_leave();
        if all_known && !self.logs_collected {
            self.on_disk.clear();
            self.collect_logs(in_runtime);
        }
    }

    /// Forgets pods that have ended and that no source has any more, and takes them off the board.
    fn forget_ended(&mut self, deleted: &BTreeSet<PodUid>) {
        self.ended.retain(|uid, _| {
            let keep = deleted.contains(uid);
            if !keep && let Ok(writer) = self.tools.board.writer(uid) {
                writer.remove();
            }
            keep
        });
    }

    fn begin(&mut self, uid: PodUid, pod: Arc<Pod>, wanted: Wanted) {
        let panicked = self.panicked.remove(&uid).is_some();
        let name = PodName::of(&pod);
        let place = Place::Granted;
        let shown = wanted != Wanted::Stop || is_deleted(&pod);
        let asked = self.asked_at_start(&uid, &pod);
        let pod = asked.as_ref().map_or(pod, Asked::given);
        let (orders, orders_seen) = watch::channel(Orders {
            pod,
            wanted,
            place,
            shown,
            resize: None,
        });
        let (stage_told, stage) = watch::channel(Stage::Live);
        self.forward_stage(stage.clone());
        let mut worker = Worker::new(self.tools.clone(), uid.clone(), orders_seen, stage_told);
        // What the one before it did last, nobody has looked at.
        worker.memory.stale = panicked;
        let made = made_at(&worker.orders.borrow().pod);
        let since = made.unwrap_or(worker.memory.start_time);
        let task = self.tasks.spawn(worker.run());
        self.by_task.insert(task.id(), uid.clone());
        self.handles.insert(
            uid,
            Handle {
                name,
                since,
                orders,
                stage,
                asked,
            },
        );
    }

    /// Wakes the registry on each stage of one worker. Ends with the worker.
    fn forward_stage(&self, mut stage: watch::Receiver<Stage>) {
        let staged = self.staged.clone();
        tokio::spawn(async move {
            while stage.changed().await.is_ok() {
                staged.notify_one();
            }
        });
    }

    fn order(&self, uid: &PodUid, change: impl FnOnce(&mut Orders)) {
        if let Some(handle) = self.handles.get(uid) {
            handle.orders.send_modify(change);
        }
    }

    /// A worker's task has ended: its pod is gone, or its code panicked.
    fn clear_up(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, panic) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(uid) = self.by_task.remove(&id) else {
            return;
        };
        let handle = self.handles.remove(&uid);
        if let Some(handle) = &handle
            && panic.is_none()
            && handle.orders.borrow().ends_in_view()
        {
            self.ended.insert(uid.clone(), handle.name.clone());
        }
        let Some((panic, handle)) = panic.zip(handle) else {
            self.freed |= self.places.gone(&uid);
            return;
        };
        tracing::error!(pod = %handle.name, %uid, error = %panic, "a pod's worker panicked; it is begun again in {AFTER_PANIC:?}");
        self.show_panic(&uid, &handle.orders.borrow().pod, &panic);
        let pod = FoundPod {
            uid: uid.clone(),
            namespace: handle.name.namespace,
            name: handle.name.name,
        };
        let until = self.tools.clock.now().monotonic + AFTER_PANIC;
        self.panicked.insert(uid, Panicked { pod, until });
    }

    /// Shows on the pod that its worker is gone: what the worker last said stays, with the reason beside it.
    fn show_panic(&self, uid: &PodUid, pod: &Arc<Pod>, panic: &JoinError) {
        let Some(view) = self.tools.board.get(uid) else {
            return;
        };
        let Ok(writer) = self.tools.board.writer(uid) else {
            return;
        };
        let mut status = PodStatus::clone(&view.status);
        status.reason = Some("WorkerPanic".into());
        status.message =
            Some(format!("the agent failed while it worked on this pod: {panic}").into());
        writer.set(pod, status);
    }

    fn rests(&self, uid: &PodUid, now: Duration) -> bool {
        self.panicked.get(uid).is_some_and(|p| p.until > now)
    }

    fn rest_left(&self) -> Option<Duration> {
        let now = self.tools.clock.now().monotonic;
        let left = |p: &Panicked| p.until.checked_sub(now).filter(|left| !left.is_zero());
        self.panicked.values().filter_map(left).min()
    }
}

/// In which order pods that nobody has met before are begun.
fn came(uid: &PodUid, pod: &Pod) -> (bool, Timestamp, PodName, PodUid) {
    let (later, name) = (!pod::is_static(pod), PodName::of(pod));
    (later, first_seen(pod), name, uid.clone())
}

impl Handle {
    fn view(&self) -> WorkerView {
        WorkerView {
            name: self.name.clone(),
            wanted: self.orders.borrow().wanted,
            stage: *self.stage.borrow(),
        }
    }
}
