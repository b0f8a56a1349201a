//! Which NUMA nodes the resources of a container, or of a whole pod, come from, and whether it may run if they are not
//! the same.
//!
//! Upstream's `pkg/kubelet/cm/topologymanager`; KEP-693, KEP-1752 (pod scope), KEP-3545 (options).

mod hint;
mod mask;
mod merge;
mod options;

use k8s_openapi::api::core::v1::Container;

pub use hint::{Hint, Hints};
pub use mask::NumaMask;
pub use options::{TopologyError, TopologyOptions};

use super::pod_resources::MemoryBlock;
use super::{AllocateError, ContainerGrants, CpuSet, RunningContainer};
use crate::metrics::kubelet;
use crate::pod::{ContainerKind, Pod, PodUid};
use hint::ways;
use merge::Nodes;

/// `topologyManagerPolicy`, but for `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyPolicy {
    /// `best-effort`: by the best hint, and without one all the same.
    BestEffort,
    /// `restricted`: only by a preferred hint.
    Restricted,
    /// `single-numa-node`: only where one node has it all.
    SingleNumaNode,
}

/// `topologyManagerScope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyScope {
    /// Each container has a hint of its own.
    Container,
    /// The pod has one for all of its containers.
    Pod,
}

/// One container of a pod that asks for resources.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Its pod's UID.
    pub uid: &'a PodUid,
    /// Its pod.
    pub pod: &'a Pod,
    /// When it runs.
    pub kind: ContainerKind,
    /// The container.
    pub container: &'a Container,
}

/// A manager of one kind of resource. All of its functions are called below one lock, and none may wait for anything.
pub trait HintProvider: Send {
    /// From which nodes what `asking` asks for could come. What it has already comes from where it is.
    fn container_hints(&self, asking: &Asking<'_>) -> Hints;

    /// The same for all containers of the pod together.
    fn pod_hints(&self, uid: &PodUid, pod: &Pod) -> Hints;

    /// Gives the container what it asks for, by `affinity` as far as that can be. What it has already, it keeps.
    ///
    /// # Errors
    /// When it cannot be had. What other containers of the pod have been given is taken back by [`HintProvider::release`].
    fn allocate(&mut self, asking: &Asking<'_>, affinity: Hint) -> Result<(), AllocateError>;

    /// Gives the container of a pod that runs already what it asks for, where that can be had.
    ///
    /// # Errors
    /// As [`HintProvider::allocate`]; the pod goes on as it is.
    fn adopt(&mut self, asking: &Asking<'_>, affinity: Hint) -> Result<(), AllocateError> {
        self.allocate(asking, affinity)
    }

    /// Adds what the container was given.
    fn grants(&self, uid: &PodUid, container: &str, grants: &mut ContainerGrants);

    /// The CPUs that the container has to itself.
    fn exclusive_cpus(&self, _uid: &PodUid, _container: &str) -> CpuSet {
        CpuSet::new()
    }

    /// The CPUs that containers can have to themselves, whoever has them.
    fn allocatable_cpus(&self) -> CpuSet {
        CpuSet::new()
    }

    /// The memory of single NUMA nodes that the container was given.
    fn memory(&self, _uid: &PodUid, _container: &str) -> Vec<MemoryBlock> {
        Vec::new()
    }

    /// The memory of single NUMA nodes that containers can be given, whoever has it.
    fn allocatable_memory(&self) -> Vec<MemoryBlock> {
        Vec::new()
    }

    /// The pod has nothing any more.
    fn release(&mut self, uid: &PodUid);

    /// The pods that have something.
    fn holders(&self) -> Vec<PodUid>;

    /// Writes down what was changed since the last time, and says whether anything was. Called once after the calls for one
    /// pod. What cannot be written is logged, and tried again with the next change.
    fn commit(&mut self) -> bool;

    /// Whether the state of earlier lives of the agent was lost, and has to be made out from what runs.
    fn is_lost(&self) -> bool {
        false
    }

    /// What runs, for one whose state was lost. Pods of which something runs are adopted before others are admitted.
    fn recover(&mut self, running: &[RunningContainer]) {
        let _ = running;
    }

    /// The pod, which ran already, has been asked for all of its containers.
    fn adopted(&mut self, uid: &PodUid) {
        let _ = uid;
    }
}

/// The policy, and what of the machine it goes by.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) policy: TopologyPolicy,
    pub(super) scope: TopologyScope,
    nodes: Nodes,
    closest: bool,
}

impl Topology {
    /// By `options`, on a machine with these NUMA nodes.
    ///
    /// # Errors
    /// When there are more nodes than `max-allowable-numa-nodes`, or their distances are wanted and not known.
    pub(super) fn new(
        policy: TopologyPolicy,
        scope: TopologyScope,
        options: &TopologyOptions,
        nodes: &[super::machine::NumaNode],
    ) -> Result<Self, TopologyError> {
        if nodes.len() > options.max_numa_nodes {
            return Err(TopologyError::TooManyNodes(options.max_numa_nodes));
        }
        let mut known = Nodes {
            all: NumaMask::of(nodes.iter().map(|node| node.id)),
            ..Nodes::default()
        };
        if options.prefer_closest {
            for node in nodes {
                if node.distances.is_empty() {
                    return Err(TopologyError::NoDistances);
                }
                known.distances.insert(node.id, node.distances.clone());
            }
        }
        Ok(Self {
            policy,
            scope,
            nodes: known,
            closest: options.prefer_closest,
        })
    }

    /// The hint that `hints`, one entry a provider, agree on; none where the policy does not have that.
    pub(super) fn merge(&self, hints: Vec<Hints>) -> Option<Hint> {
        let best = merge::merge(self.policy, &self.nodes, ways(hints), self.closest);
        match self.policy {
            TopologyPolicy::BestEffort => Some(best),
            TopologyPolicy::Restricted | TopologyPolicy::SingleNumaNode => {
                best.preferred.then_some(best)
            }
        }
    }

    /// The policy would not have any of the hints: counts it where the policy promises one node.
    pub(super) fn refused(&self) -> AllocateError {
        self.count(false);
        AllocateError::topology()
    }

    /// What was asked for has been given by a hint.
    pub(super) fn given(&self) {
        self.count(true);
    }

    fn count(&self, aligned: bool) {
        if self.policy == TopologyPolicy::SingleNumaNode {
            kubelet().managers.on_one_node(self.scope.name(), aligned);
        }
    }
}

impl TopologyScope {
    /// As configuration and metrics have it.
    fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

#[cfg(test)]
mod tests;
