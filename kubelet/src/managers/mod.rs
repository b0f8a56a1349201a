//! The node's resources that are given to single containers: CPUs, memory of NUMA nodes, devices.
//!
//! Owns: who has which of them ([`Managers`]), the policy on where they come from (`topology`), the CPU manager (`cpu`),
//! the memory manager (`memory`), device plugins (`devices`), and their state files in the root directory, which are
//! upstream's; the PodResources API (`pod_resources`).
//! Inputs: the configuration, the machine's topology (`machine`), pods that are admitted, that run already, that are gone.
//! Outputs: a refusal, or what each container is made with ([`ContainerGrants`]); word that the CPUs which all others share
//! have changed ([`Managers::changes`]).
//! Tasks: those of `devices` and `pod_resources`. The registry asks for pods, one after the other; workers read what their
//! containers were given.
//! Does not: talk to the runtime (workers do), but for what runs where a state file was corrupt (`recovery`), or decide whether the node has room for a pod (`admission/` does).
//!
//! Where no policy is configured CPUs and memory have no provider, and nothing of them is looked at, written or changed.

mod cpu;
pub mod cpuset;
pub mod devices;
mod error;
mod grants;
mod grpc;
mod machine;
mod memory;
pub mod pod_resources;
mod recovery;
mod setup;
mod state_file;
mod topology;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::Rejection;
use crate::errors::error_chain;
use crate::metrics::kubelet;
use crate::pod::{self, Pod, PodName, PodUid};

pub use cpu::CpuError;
pub use cpuset::CpuSet;
pub use error::AllocateError;
pub use grants::ContainerGrants;
pub use machine::{Machine, MachineError, NumaNode, SYSTEM};
pub use memory::MemoryError;
pub use recovery::{RunningContainer, running_containers};
pub use setup::{ManagersError, ManagersInputs};
pub use state_file::StateError;
pub use topology::{
    Asking, Hint, HintProvider, Hints, NumaMask, TopologyError, TopologyOptions, TopologyPolicy,
    TopologyScope,
};

use pod_resources::{MemoryBlock, Pinned};
use topology::Topology;

/// All of them, for the whole agent.
pub struct Managers {
    inner: Mutex<Inner>,
    /// Goes up when what containers have that run may have changed.
    changes: watch::Sender<u64>,
    /// Containers can have CPUs for themselves.
    static_cpus: bool,
    /// Containers can have memory of certain NUMA nodes.
    static_memory: bool,
}

struct Inner {
    /// None for `topologyManagerPolicy: none`.
    topology: Option<Topology>,
    /// In the order in which they are asked: devices, CPUs, memory.
    providers: Vec<Box<dyn HintProvider>>,
}

impl Managers {
    /// Those of `providers`, in this order, under a topology policy; none for `topologyManagerPolicy: none`.
    fn of(topology: Option<Topology>, providers: Vec<Box<dyn HintProvider>>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                topology,
                providers,
            }),
            changes: watch::Sender::default(),
            static_cpus: false,
            static_memory: false,
        }
    }

    /// Those of a node where nothing is configured.
    #[must_use]
    pub fn none() -> Self {
        Self::of(None, Vec::new())
    }

    /// Whether there is any at all.
    #[must_use]
    pub fn are_any(&self) -> bool {
        !self.lock().providers.is_empty()
    }

    /// Whether containers run on CPUs that change while they run.
    #[must_use]
    pub fn pin_cpus(&self) -> bool {
        self.static_cpus
    }

    /// Gives the containers of a pod that is admitted what they ask for: all of it or nothing. What the pod has already
    /// it keeps.
    ///
    /// # Errors
    /// When it cannot be had, or not from the nodes that the policy wants.
    pub fn allocate(&self, uid: &PodUid, pod: &Pod) -> Result<(), Rejection> {
        let began = Instant::now();
        let mut inner = self.lock();
        let given = inner.allocate(uid, pod);
        if given.is_err() {
            inner.release(uid);
        }
        self.commit(inner);
        kubelet().managers.admitted(began.elapsed(), given.is_err());
        given.map_err(|error| error.rejection())
    }

    /// Takes over a pod that runs already: it keeps what it has, and gets what it asks for besides where that can be had. It
    /// is never refused.
    pub fn adopt(&self, uid: &PodUid, pod: &Pod) {
        let mut inner = self.lock();
        if let Err(error) = inner.adopt(uid, pod) {
            let name = PodName::of(pod);
            let error = error_chain(&error);
            tracing::warn!(pod = %name, %uid, error, "a pod that runs already does not get all that it asks for; it goes on as it is");
        }
        self.commit(inner);
    }

    /// Nothing of the pod runs any more.
    pub fn release(&self, uid: &PodUid) {
        let mut inner = self.lock();
        inner.release(uid);
        self.commit(inner);
    }

    /// Whether the pod has something.
    #[must_use]
    pub fn has(&self, uid: &PodUid) -> bool {
        let inner = self.lock();
        inner.providers.iter().any(|p| p.holders().contains(uid))
    }

    /// Takes back what pods have that are not among `living`.
    pub fn retain(&self, living: &BTreeSet<PodUid>) {
        let mut inner = self.lock();
        let holders = inner.providers.iter().flat_map(|p| p.holders());
        let gone: BTreeSet<PodUid> = holders.filter(|uid| !living.contains(uid)).collect();
        if gone.is_empty() {
            return;
        }
        for uid in &gone {
            tracing::info!(%uid, "takes back the resources of a pod that is gone");
            inner.release(uid);
        }
        self.commit(inner);
    }

    /// Whether the state of earlier lives of the agent was lost: then [`Managers::recover`] comes before all pods.
    #[must_use]
    pub fn are_lost(&self) -> bool {
        self.lock().providers.iter().any(|p| p.is_lost())
    }

    /// Tells what runs, so that what was lost can be made out.
    pub fn recover(&self, running: &[RunningContainer]) {
        let mut inner = self.lock();
        for provider in &mut inner.providers {
            provider.recover(running);
        }
        self.commit(inner);
    }

    /// Why a Guaranteed pod cannot have other CPUs, or other memory, while it runs; none where it can.
    #[must_use]
    pub fn refuses_resize(&self, cpu: bool, memory: bool) -> Option<String> {
        let (manager, policy) = if cpu && self.static_cpus {
            ("CPU", cpu::POLICY)
        } else if memory && self.static_memory {
            ("Memory", memory::POLICY)
        } else {
            return None;
        };
        Some(format!(
            "Resize is infeasible for Guaranteed Pods alongside {manager} Manager policy \"{policy}\""
        ))
    }

    /// Whether a container of the pod has CPUs for itself, and is not held to a quota on them.
    #[must_use]
    pub fn lift_quota(&self, uid: &PodUid, pod: &Pod) -> bool {
        let own = |(_, container): (_, &Container)| self.grants(uid, &container.name).lifts_quota;
        self.static_cpus && pod::containers(pod).any(own)
    }

    /// What `container` of the pod was given.
    #[must_use]
    pub fn grants(&self, uid: &PodUid, container: &str) -> ContainerGrants {
        let mut grants = ContainerGrants::default();
        for provider in &self.lock().providers {
            provider.grants(uid, container, &mut grants);
        }
        grants
    }

    /// Goes up when containers that run may have to have something else than before.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn gathered<T>(&self, of: impl Fn(&dyn HintProvider) -> Vec<T>) -> Vec<T> {
        let inner = self.lock();
        inner.providers.iter().flat_map(|p| of(&**p)).collect()
    }

    /// Has the providers write down what was changed, and tells of it.
    fn commit(&self, mut inner: MutexGuard<'_, Inner>) {
        let mut changed = false;
        for provider in &mut inner.providers {
            changed |= provider.commit();
        }
        drop(inner);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panic left half done is at worst an allocation that is taken back with its pod.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pinned for Managers {
    fn cpus_of(&self, uid: &PodUid, container: &str) -> Vec<u32> {
        self.gathered(|provider| provider.exclusive_cpus(uid, container).iter().collect())
    }

    fn allocatable_cpus(&self) -> Vec<u32> {
        self.gathered(|provider| provider.allocatable_cpus().iter().collect())
    }

    fn memory_of(&self, uid: &PodUid, container: &str) -> Vec<MemoryBlock> {
        self.gathered(|provider| provider.memory(uid, container))
    }

    fn allocatable_memory(&self) -> Vec<MemoryBlock> {
        self.gathered(|provider| provider.allocatable_memory())
    }
}

impl Inner {
    fn allocate(&mut self, uid: &PodUid, pod: &Pod) -> Result<(), AllocateError> {
        let Some(topology) = &self.topology else {
            for asking in askings(uid, pod) {
                give(&mut self.providers, &asking, Hint::default())?;
            }
            return Ok(());
        };
        match topology.scope {
            TopologyScope::Pod => {
                let hints = self.providers.iter().map(|p| p.pod_hints(uid, pod));
                let hint = topology.merge(hints.collect());
                let hint = hint.ok_or_else(|| topology.refused())?;
                for asking in askings(uid, pod) {
                    give(&mut self.providers, &asking, hint)?;
                }
                topology.given();
                Ok(())
            }
            TopologyScope::Container => {
                for asking in askings(uid, pod) {
                    let hints = self.providers.iter().map(|p| p.container_hints(&asking));
                    let hint = topology.merge(hints.collect());
                    let hint = hint.ok_or_else(|| topology.refused())?;
                    give(&mut self.providers, &asking, hint)?;
                    topology.given();
                }
                Ok(())
            }
        }
    }

    /// Gives a pod that runs what can be had, whatever else of it cannot; the first thing that stood against it.
    fn adopt(&mut self, uid: &PodUid, pod: &Pod) -> Result<(), AllocateError> {
        let mut first = Ok(());
        for asking in askings(uid, pod) {
            let hint = match &self.topology {
                None => Hint::default(),
                Some(topology) => {
                    let hints = self.providers.iter().map(|p| match topology.scope {
                        TopologyScope::Pod => p.pod_hints(uid, pod),
                        TopologyScope::Container => p.container_hints(&asking),
                    });
                    topology.merge(hints.collect()).unwrap_or_default()
                }
            };
            for provider in &mut self.providers {
                first = first.and(provider.adopt(&asking, hint));
            }
        }
        for provider in &mut self.providers {
            provider.adopted(uid);
        }
        first
    }

    fn release(&mut self, uid: &PodUid) {
        for provider in &mut self.providers {
            provider.release(uid);
        }
    }
}

/// The containers of `pod` that can ask for resources, in the order in which they do.
fn askings<'a>(uid: &'a PodUid, pod: &'a Pod) -> impl Iterator<Item = Asking<'a>> {
    pod::containers(pod).map(move |(kind, container)| Asking {
        uid,
        pod,
        kind,
        container,
    })
}

fn give(
    providers: &mut [Box<dyn HintProvider>],
    asking: &Asking<'_>,
    hint: Hint,
) -> Result<(), AllocateError> {
    for provider in providers {
        provider.allocate(asking, hint)?;
    }
    Ok(())
}
