//! The status of a pod in the agent's own words: small, shared where it can be, turned into Kubernetes' types only when
//! written out.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::pod::{ContainerKind, QosClass};
use crate::runtime::{ContainerId, ImageRef, LinuxUser};

/// `status.phase`. `Unknown` is the control plane's word; a node never writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted, and not all of its containers have been started yet.
    Pending,
    /// Every container was started and one at least runs or restarts.
    Running,
    /// Every container ended with exit code 0, and none restarts.
    Succeeded,
    /// Every container ended, one at least in failure; or the pod was refused.
    Failed,
}

impl Phase {
    /// As `status.phase` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether a pod never leaves this phase.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The phase that `text` spells.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|phase| phase.as_str() == text)
    }
}

/// The pod conditions that the agent writes, in the order in which it writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionKind {
    /// The pod is being ended by the node, or was marked so by another component.
    DisruptionTarget,
    /// There is a sandbox, ready and with its network.
    PodReadyToStartContainers,
    /// Every init container has done its part.
    Initialized,
    /// The pod may get traffic: containers ready and readiness gates open.
    Ready,
    /// Every container is ready.
    ContainersReady,
    /// The pod has a node, which is this one.
    PodScheduled,
    /// A container has ended for which every container of the pod starts anew; they are being stopped and forgotten.
    AllContainersRestarting,
    /// The pod asks for resources that it was not given.
    PodResizePending,
    /// The pod was given resources that its containers do not have yet.
    PodResizeInProgress,
}

impl ConditionKind {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 9] = [
        Self::DisruptionTarget,
        Self::PodReadyToStartContainers,
        Self::Initialized,
        Self::Ready,
        Self::ContainersReady,
        Self::PodScheduled,
        Self::AllContainersRestarting,
        Self::PodResizePending,
        Self::PodResizeInProgress,
    ];

    /// The one that `status.conditions[].type` spells so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// As `status.conditions[].type` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DisruptionTarget => "DisruptionTarget",
            Self::PodReadyToStartContainers => "PodReadyToStartContainers",
            Self::Initialized => "Initialized",
            Self::Ready => "Ready",
            Self::ContainersReady => "ContainersReady",
            Self::PodScheduled => "PodScheduled",
            Self::AllContainersRestarting => "AllContainersRestarting",
            Self::PodResizePending => "PodResizePending",
            Self::PodResizeInProgress => "PodResizeInProgress",
        }
    }
}

/// One condition of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which one.
    pub kind: ConditionKind,
    /// True or False.
    pub status: bool,
    /// One CamelCase word, where there is more to say.
    pub reason: Option<&'static str>,
    /// A sentence for people.
    pub message: Option<Arc<str>>,
    /// When `status` last changed.
    pub last_transition: Timestamp,
}

/// Why a container does not run yet, or not at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// One CamelCase word: `ContainerCreating`, `CrashLoopBackOff`, `ErrImagePull` … Empty for a container that was
    /// made and not started.
    pub reason: Arc<str>,
    /// A sentence for people; may be empty.
    pub message: Arc<str>,
}

/// How an instance of a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminated {
    /// Its exit code; 137 where nobody saw the end.
    pub exit_code: i32,
    /// The runtime's word for it, or `ContainerStatusUnknown`.
    pub reason: Arc<str>,
    /// The termination message; bounded.
    pub message: Arc<str>,
    /// When it was started. `None` where nobody knows.
    pub started_at: Option<Timestamp>,
    /// When it ended. `None` where nobody knows.
    pub finished_at: Option<Timestamp>,
    /// The instance.
    pub id: Option<ContainerId>,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not running, and it may yet.
    Waiting(Waiting),
    /// Running.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended.
    Terminated(Box<Terminated>),
}

impl State {
    /// Whether the container runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// Whether the container waits.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    /// How the container ended, if it did.
    #[must_use]
    pub fn terminated(&self) -> Option<&Terminated> {
        match self {
            Self::Terminated(end) => Some(end),
            _ => None,
        }
    }
}

/// The status of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// The name in the spec.
    pub name: Arc<str>,
    /// Init container, sidecar, regular or ephemeral.
    pub kind: ContainerKind,
    /// What it does now.
    pub state: State,
    /// How the instance before this one ended; for a waiting container, how the last one did.
    pub last: Option<Box<Terminated>>,
    /// Running, postStart done, startup probe passed.
    pub started: bool,
    /// Started and passing its readiness probe; for an init container, ended with 0.
    pub ready: bool,
    /// How often it was started again.
    pub restart_count: u32,
    /// The image: the runtime's word for a container that was made, the spec's before.
    pub image: Arc<str>,
    /// The image that runs, as the runtime names it.
    pub image_id: Option<ImageRef>,
    /// The newest instance.
    pub id: Option<ContainerId>,
    /// Who the newest instance was started as, where the runtime says so.
    pub user: Option<Box<LinuxUser>>,
    /// What asks the newest instance to stop, where the runtime says so and the gate is open.
    pub stop_signal: Option<Arc<str>>,
    /// Where, inside, the newest instance has mounts that are read-only with all that is below.
    pub recursive_read_only: Option<Arc<[Box<str>]>>,
    /// Whether the devices work that it was given, by resource; empty where nobody is to know.
    pub devices: Vec<ResourceHealth>,
}

/// Whether a container's devices of one resource work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceHealth {
    /// The resource.
    pub resource: String,
    /// The devices by id, and whether each works.
    pub devices: Vec<(String, bool)>,
}

/// The status of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// Its phase.
    pub phase: Phase,
    /// Why it is in a phase: `Evicted`, `DeadlineExceeded`, `OutOfcpu` …
    pub reason: Option<Arc<str>>,
    /// The same in a sentence.
    pub message: Option<Arc<str>>,
    /// When the agent took the pod on.
    pub start_time: Option<Timestamp>,
    /// In the order of [`ConditionKind`].
    pub conditions: Vec<Condition>,
    /// Init containers and sidecars, in the spec's order.
    pub init_containers: Vec<ContainerStatus>,
    /// Regular containers, by name.
    pub containers: Vec<ContainerStatus>,
    /// Ephemeral containers, by name.
    pub ephemeral_containers: Vec<ContainerStatus>,
    /// Addresses, primary first, at most one a family.
    pub pod_ips: Vec<IpAddr>,
    /// The node's addresses, primary first; empty when unknown.
    pub host_ips: Vec<IpAddr>,
    /// Quality of service.
    pub qos: QosClass,
}

impl PodStatus {
    /// The condition of that kind.
    #[must_use]
    pub fn condition(&self, kind: ConditionKind) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }

    /// The statuses of all containers, of whatever kind.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        let spec = self.init_containers.iter().chain(&self.containers);
        spec.chain(&self.ephemeral_containers)
    }

    /// The status of the container called `name`, of whatever kind.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.all_containers().find(|c| &*c.name == name)
    }
}
