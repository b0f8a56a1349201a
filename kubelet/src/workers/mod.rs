//! One task per pod: it alone changes that pod's sandbox and containers.
//!
//! Owns: the registry (UID to worker), who has a place on the node (`places`), each pod's lifecycle, its back-off and
//! its record.
//! Inputs: the desired pods (`sources/`), the observations (`observe/`), time.
//! Outputs: calls to the runtime and the node's file system, a status per pod on the board.
//! Tasks: the registry, with one that writes the weight of burstable pods; one worker a pod, and one that keeps the volumes
//! of a pod as the API server's objects have them (`upkeep`).
//! Does not: decide (that is `plan/`, `queue` and `admission/`, all pure) or look at the runtime itself (that is `observe/`).
//!
//! ```text
//!          begin          stop ordered                nothing runs             given back, a minute later
//! (none) ───────▶ Live ──────────────▶ Terminating ─────────────▶ Terminated ────────────────────────────▶ (none)
//!                  ▲                                                  │
//!                  └─────── run ordered again, once given back ───────┘
//! ```
//! A living pod that has ended by itself, or was evicted, is `Over`; one that had to make room for another, or that a shutdown of the node
//! has ended, is `GivenWay`, and lives again when there is room, or the node stays up.
//!
//! A worker snapshots its inputs, plans, applies the plan step by step, publishes the status, and waits. Why it woke is
//! never asked. An order to stop pre-empts every wait of a living pod, calls to the runtime included: what such a call
//! leaves behind, the next look at the runtime shows.

mod apply;
mod container;
mod hold;
mod images;
mod kill;
mod kills;
mod live;
mod memory;
mod network;
mod objects;
mod permits;
mod pin;
mod places;
mod post_start;
mod qos;
pub mod queue;
mod registry;
mod removal;
mod republish;
mod resize;
mod restore;
mod start;
mod stop;
mod stuck;
mod terminate;
mod timing;
mod told;
mod upkeep;
mod users;
mod view;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::RuntimeClient;
use tokio::sync::watch;

use crate::admission;
use crate::cgroups::Cgroups;
use crate::claims::Claims;
use crate::clock::Clock;
use crate::csi::{Csi, CsiChanges};
use crate::eviction::Eviction;
use crate::hooks::HookRunner;
use crate::images::ImagePuller;
use crate::images::archives::ImageArchives;
use crate::logs::PodLogs;
use crate::managers::Managers;
use crate::managers::devices::Devices;
use crate::objects::{Objects, PodObjects};
use crate::observe::{Observer, RuntimeState};
use crate::pod::{Pod, PodName, PodUid};
use crate::poddir::PodDirs;
use crate::probes::{PodProbes, Prober};
use crate::resize::Pending;
use crate::runtime::ObservedPod;
use crate::runtime::convert::NodeSettings;
use crate::runtime::convert::dns::DnsSettings;
use crate::runtime_class::{ClassChanges, RuntimeClasses};
use crate::status::{StatusBoard, StatusWriter};
use crate::userns::UserNamespaces;
use crate::volumes::Volumes;

pub use network::Network;
pub use permits::StartPermits;
pub use queue::{Stage, Wanted};
pub use registry::{KnownNode, Lives, Registry, run_registry};
pub use stuck::StuckPods;

/// What every worker works with. One for the whole agent.
pub struct Tools {
    /// Wall clock and monotonic time.
    pub clock: Clock,
    /// The runtime's calls.
    pub runtime: RuntimeClient,
    /// Asks containers what probes want to know.
    pub prober: Arc<Prober>,
    /// What the runtime shows.
    pub observer: Arc<Observer>,
    /// Presence and pulls of images.
    pub images: ImagePuller<cri_proto::ImageClient>,
    /// Images that come from no registry.
    pub archives: Arc<ImageArchives>,
    /// What pods refer to at the API server.
    pub objects: Objects,
    /// What stands behind pods' claims.
    pub claims: Claims,
    /// Volumes of the kinds that are built.
    pub volumes: Arc<Volumes>,
    /// Volumes of storage drivers.
    pub csi: Csi,
    /// Devices of plugins.
    pub devices: Devices,
    /// Who has CPUs, memory and devices of its own.
    pub managers: Arc<Managers>,
    /// Which of the node's ids pods with users of their own have.
    pub user_namespaces: UserNamespaces,
    /// The cgroups above the containers.
    pub cgroups: Arc<Cgroups>,
    /// `<root>/pods`.
    pub dirs: PodDirs,
    /// `/var/log/pods` and `/var/log/containers`.
    pub logs: PodLogs,
    /// The statuses, for whoever asks.
    pub board: StatusBoard,
    /// Which pods have not ended; none before the runtime has been seen, or while nobody listens.
    pub lives: watch::Sender<Option<Arc<Lives>>>,
    /// Counts how often ended containers that stay for show were to go because a disk is full.
    pub reclaim: watch::Sender<u64>,
    /// Which handler sandboxes are made with.
    pub runtime_classes: RuntimeClasses,
    /// What containers ask for at their beginning and end.
    pub hooks: HookRunner,
    /// Which pods do not end.
    pub stuck: StuckPods,
    /// How many pods are started at once.
    pub starts: StartPermits,
    /// Whether pods can have a network.
    pub network: Network,
    /// Facts of the node and settings that shape pods.
    pub node: NodeFacts,
}

/// Facts of the node and settings that shape pods. Inert.
pub struct NodeFacts {
    /// What shapes sandboxes and containers.
    pub settings: NodeSettings,
    /// How pods look names up, but for the node's own file.
    pub dns: DnsSettings,
    /// `resolvConf`: the file that `dnsPolicy: Default` copies; none where the configuration has it empty.
    pub resolv_conf: Option<PathBuf>,
    /// What pods may ask for here.
    pub admission: Arc<admission::Node>,
    /// The node's addresses as pods' statuses have them, primary first; none on a node without an API server, as
    /// upstream.
    pub status_ips: Arc<[IpAddr]>,
    /// How long after a failure a container is told its CPUs again (`cpuManagerReconcilePeriod`).
    pub pin_retry: Duration,
    /// Whether a pod's status says how its devices are (`ResourceHealthStatus`).
    pub device_health: bool,
    /// The most that a crash loop waits.
    pub crash_loop_cap: Duration,
}

/// What the registry tells a worker: the pod as its source has it now, whether it is wanted, and whether it may run.
#[derive(Clone)]
pub(crate) struct Orders {
    pod: Arc<Pod>,
    wanted: Wanted,
    place: Place,
    /// A source has the pod: it is shown, and should it be deleted, until its source no longer has it.
    shown: bool,
    /// Why the pod has not been given the resources that it asks for; `pod` has those that it was given.
    resize: Option<Arc<Pending>>,
}

impl Orders {
    /// Whether the pod is ending before the eyes of its source, which has it until it has ended.
    fn ends_in_view(&self) -> bool {
        self.shown && self.wanted == Wanted::Stop && is_deleted(&self.pod)
    }
}

/// Whether the API server has the pod only until it has ended.
fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether a pod that is wanted has a place on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It has, or needs none; before it is told to run, nobody has asked yet.
    Granted,
    /// It was not admitted. It is tried again when the node changes.
    Refused(Arc<admission::Rejection>),
    /// It has to make room for a critical pod. It is tried again when the node changes.
    Preempted,
    /// The node is shutting down, and it has this long to end. It is tried again should the node stay up.
    Leaving(Duration),
    /// The node is short of something, or the pod has taken more of the disk than it may: it has to end, for good.
    Evicted(Arc<Eviction>),
}

/// The task of one pod.
struct Worker {
    tools: Arc<Tools>,
    uid: PodUid,
    name: PodName,
    orders: watch::Receiver<Orders>,
    stage: watch::Sender<Stage>,
    observed: watch::Receiver<Arc<ObservedPod>>,
    runtime: watch::Receiver<RuntimeState>,
    memory: memory::Memory,
    probes: PodProbes,
    removals: removal::Removals,
    kills: kills::Kills,
    classes: ClassChanges,
    /// Goes up when there are new images.
    imported: watch::Receiver<u64>,
    /// Counts the times that ended containers were to go.
    reclaim: watch::Receiver<u64>,
    drivers: CsiChanges,
    /// Goes up when running containers may have to run on other CPUs.
    pins: watch::Receiver<u64>,
    /// What the pod refers to at the API server.
    objects: Arc<PodObjects>,
    upkeep: upkeep::Upkeep,
    republish: republish::Republish,
    /// The pod's place on the board, for as long as the pod is wanted.
    board: Option<Arc<StatusWriter>>,
    timing: timing::Timing,
}

impl Worker {
    fn new(
        tools: Arc<Tools>,
        uid: PodUid,
        orders: watch::Receiver<Orders>,
        stage: watch::Sender<Stage>,
    ) -> Self {
        let pod = orders.borrow().pod.clone();
        let memory = memory::Memory::load(&tools, &pod, &uid);
        if memory.is_over() {
            stage.send_replace(Stage::Over);
        }
        let observed = tools.observer.subscribe(&uid);
        let probes = probes_of(&tools, &observed, &memory);
        Self {
            observed,
            probes,
            runtime: tools.observer.state(),
            memory,
            removals: removal::Removals::default(),
            kills: kills::Kills::default(),
            classes: tools.runtime_classes.changes(),
            imported: tools.archives.imported(),
            reclaim: tools.reclaim.subscribe(),
            drivers: tools.csi.changes(),
            pins: tools.managers.changes(),
            objects: Arc::new(tools.objects.pod()),
            upkeep: upkeep::Upkeep::default(),
            republish: republish::Republish::default(),
            board: None,
            timing: timing::Timing::new(tools.clock.monotonic()),
            name: PodName::of(&pod),
            tools,
            uid,
            orders,
            stage,
        }
    }

    /// Lives the pod's life until nothing of it is left.
    async fn run(mut self) {
        loop {
            self.live_until_stopped().await;
            self.stage.send_replace(Stage::Terminating);
            self.terminate().await;
            self.tools.stuck.clear(&self.name);
            // A successor of the same name has a UID, and so volumes, a cgroup and a directory, of its own.
            self.stage.send_replace(Stage::Terminated);
            self.give_back().await;
            self.say_last();
            if !self.linger().await {
                return;
            }
            let pod = self.orders.borrow().pod.clone();
            self.memory = memory::Memory::fresh(&self.tools, &pod, &self.uid);
            self.probes = probes_of(&self.tools, &self.observed, &self.memory);
            self.stage.send_replace(Stage::Live);
        }
    }

    /// Waits until the runtime has been seen, and all that it held then.
    async fn runtime_seen(&mut self) {
        // An error means that the observer is gone, which ends the process.
        let _ = self
            .runtime
            .wait_for(|state| *state != RuntimeState::NeverSeen)
            .await;
    }
}

fn probes_of(
    tools: &Tools,
    observed: &watch::Receiver<Arc<ObservedPod>>,
    memory: &memory::Memory,
) -> PodProbes {
    let (prober, clock) = (tools.prober.clone(), tools.clock.clone());
    PodProbes::new(prober, clock, observed.clone(), memory.established())
}
