//! The memory manager's static policy: containers of Guaranteed pods have their memory, and their huge pages, from certain
//! NUMA nodes.
//!
//! Upstream's `pkg/kubelet/cm/memorymanager`; KEP-1769. Memory comes from one node, or from a group of nodes that give
//! together and never by themselves: so that what the kernel takes from any of the group is accounted for.

mod error;
mod nodes;
mod request;
mod state;

use std::collections::BTreeMap;

pub use error::MemoryError;
pub(super) use state::FILE_NAME;

use super::cpu::has_pod_level;
use super::machine::NumaNode;
use super::pod_resources::MemoryBlock;
use super::recovery::RunningContainer;
use super::state_file::{Found, StateFile};
use super::topology::{Asking, Hint, HintProvider, Hints, NumaMask};
use super::{AllocateError, ContainerGrants};
use crate::cgroups::resources::qos_class;
use crate::metrics::kubelet;
use crate::pod::{self, ContainerKind, Pod, PodUid, QosClass};
use nodes::{add_block, best, fits, fresh, remove_block, same, ways};
use request::{Request, of_container, of_pod};
use state::{Block, Entries, MemoryState, Nodes};

/// The policy's name, as configuration and state file have it.
pub(super) const POLICY: &str = "Static";
/// The resource that is memory, huge pages aside.
const MEMORY: &str = "memory";

/// What is reserved on NUMA nodes for the system: bytes by node and resource.
pub(super) type ReservedMemory = BTreeMap<u32, BTreeMap<String, u64>>;

/// What init containers of a pod have had, bytes by nodes and resource.
type Reusable = BTreeMap<(NumaMask, String), u64>;

/// Who has which memory.
pub(super) struct MemoryManager {
    nodes: Nodes,
    entries: Entries,
    /// What init containers of the pod that asks have had, and its later containers may have.
    reusable: Option<(PodUid, Reusable)>,
    file: StateFile,
    unsaved: bool,
    /// What containers had when the state was lost, until their pods are known.
    found: Vec<RunningContainer>,
    lost: bool,
}

impl MemoryManager {
    /// On a machine with these nodes, with the state in `file`. `to_reserve` is how much memory is kept from pods by all
    /// other settings, bytes.
    ///
    /// # Errors
    /// When what is reserved does not come to that, or the state does not fit the machine.
    pub(super) fn new(
        machine: &[NumaNode],
        reserved: &ReservedMemory,
        to_reserve: u64,
        file: StateFile,
    ) -> Result<Self, MemoryError> {
        error::check_reserved(machine, reserved, to_reserve)?;
        let mut manager = Self {
            nodes: fresh(machine, reserved),
            entries: Entries::new(),
            reusable: None,
            file,
            unsaved: false,
            found: Vec::new(),
            lost: false,
        };
        match manager.file.load::<MemoryState>(POLICY)? {
            Found::Good(state) => manager.take_over(state)?,
            found => {
                manager.lost = found == Found::Corrupt;
                manager.unsaved = true;
                manager.commit();
            }
        }
        Ok(manager)
    }

    /// Takes over a state that comes to what its own entries say.
    fn take_over(&mut self, state: MemoryState) -> Result<(), MemoryError> {
        let invalid = |why: String| MemoryError::State(self.file.invalid(why));
        if state.machine_state.is_empty() {
            if !state.entries.is_empty() {
                let why =
                    "[memorymanager] machine state can not be empty when it has memory assignments";
                return Err(invalid(why.to_owned()));
            }
            self.unsaved = true;
            self.commit();
            return Ok(());
        }
        let mut expected = self.nodes.clone();
        for (uid, pod) in &state.entries {
            for (name, blocks) in pod {
                for block in blocks {
                    add_block(&mut expected, block, block.size).map_err(|what| {
                        invalid(format!("[memorymanager] (pod: {uid}, container: {name}) the memory assignment uses {what} that does not exist"))
                    })?;
                }
            }
        }
        if !same(&state.machine_state, &expected) {
            let why = "[memorymanager] the expected machine state is different from the real one";
            return Err(invalid(why.to_owned()));
        }
        self.nodes = state.machine_state;
        self.entries = state.entries;
        Ok(())
    }

    fn blocks(&self, uid: &PodUid, container: &str) -> Option<&Vec<Block>> {
        self.entries.get(uid.as_str())?.get(container)
    }

    fn reusable(&self, uid: &PodUid) -> Reusable {
        let own = self.reusable.as_ref().filter(|(of, _)| of == uid);
        own.map(|(_, memory)| memory.clone()).unwrap_or_default()
    }

    /// The ways to have `request` from the nodes.
    fn ways(&self, uid: &PodUid, request: &Request) -> Vec<Hint> {
        let reusable = self.reusable(uid);
        ways(&self.nodes, request, |mask, resource| {
            let key = (mask, resource.to_owned());
            reusable.get(&key).copied().unwrap_or(0)
        })
    }

    /// As the topology manager takes them: where there is no way at all, it is not asked (upstream; the allocation says why).
    fn hints(&self, uid: &PodUid, request: &Request) -> Hints {
        let ways = self.ways(uid, request);
        if ways.is_empty() {
            return Hints::new();
        }
        let hints = request
            .keys()
            .map(|resource| (resource.clone(), Some(ways.clone())));
        hints.collect()
    }

    /// From which nodes the request comes, by `affinity` where that names any.
    fn choose(
        &self,
        uid: &PodUid,
        request: &Request,
        affinity: Hint,
    ) -> Result<NumaMask, AllocateError> {
        let fail = |why: &str| AllocateError::Unexpected(format!("[memorymanager] {why}"));
        let mut hint = affinity;
        let mask = match hint.mask {
            Some(mask) => mask,
            None => {
                let default = best(self.ways(uid, request));
                let default = default.ok_or_else(|| fail("failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"))?;
                if hint.preferred && !default.preferred {
                    return Err(fail("failed to find the default preferred hint"));
                }
                hint = default;
                default.mask.unwrap_or_default()
            }
        };
        let mask = if fits(&self.nodes, mask, request) {
            mask
        } else {
            let mut wider = self.ways(uid, request);
            wider.retain(|way| way.mask.is_some_and(|wide| wide.and(mask) == mask));
            let wider = best(wider);
            let wider = wider.ok_or_else(|| {
                fail("failed to find NUMA nodes to extend the current topology hint")
            })?;
            if hint.preferred && !wider.preferred {
                return Err(fail("failed to find the extended preferred hint"));
            }
            wider.mask.unwrap_or_default()
        };
        match nodes::violates(&self.nodes, mask) {
            true => Err(fail("preferred hint violates NUMA node allocation")),
            false => Ok(mask),
        }
    }

    fn give(&mut self, asking: &Asking<'_>, request: &Request, mask: NumaMask) {
        let reusable = self.reusable(asking.uid);
        let mut blocks = Vec::new();
        for (resource, size) in request {
            let block = Block {
                numa_affinity: mask.nodes().collect(),
                resource: resource.clone(),
                size: *size,
            };
            let had = reusable
                .get(&(mask, resource.clone()))
                .copied()
                .unwrap_or(0);
            // The nodes of `choose` have what is asked for, or it is taken note of as far as they do.
            let _ = add_block(&mut self.nodes, &block, size.saturating_sub(had));
            blocks.push(block);
        }
        self.note_reusable(asking, &blocks);
        self.shrink_inits(asking, &blocks);
        let pod = self.entries.entry(asking.uid.to_string()).or_default();
        pod.insert(asking.container.name.clone(), blocks);
        self.unsaved = true;
    }

    fn note_reusable(&mut self, asking: &Asking<'_>, blocks: &[Block]) {
        let mut memory = self.reusable(asking.uid);
        for block in blocks {
            let had = memory
                .entry((block.mask(), block.resource.clone()))
                .or_default();
            *had = match asking.kind {
                ContainerKind::Init => (*had).max(block.size),
                _ => had.saturating_sub(block.size),
            };
        }
        self.reusable = Some((asking.uid.clone(), memory));
    }

    /// What a container has taken over of init containers before it is in its own blocks now, and no more in theirs.
    fn shrink_inits(&mut self, asking: &Asking<'_>, blocks: &[Block]) {
        let Some(pod) = self.entries.get_mut(asking.uid.as_str()) else {
            return;
        };
        let inits =
            pod::containers(asking.pod).take_while(|(_, c)| c.name != asking.container.name);
        let inits = inits.filter(|(kind, _)| *kind == ContainerKind::Init);
        let inits: Vec<&str> = inits.map(|(_, c)| c.name.as_str()).collect();
        for block in blocks {
            let mut left = block.size;
            for name in &inits {
                for init in pod.get_mut(*name).into_iter().flatten() {
                    if init.resource == block.resource && init.mask() == block.mask() {
                        let taken = init.size.min(left);
                        init.size -= taken;
                        left -= taken;
                    }
                }
            }
        }
    }

    /// Where the container had its memory when the state was lost.
    fn found(&self, asking: &Asking<'_>) -> Option<NumaMask> {
        let mut found = self.found.iter();
        let found = found.find(|f| f.uid == *asking.uid && *f.name == *asking.container.name);
        found
            .map(|found| found.mems)
            .filter(|mems| !mems.is_empty())
    }
}

impl HintProvider for MemoryManager {
    fn container_hints(&self, asking: &Asking<'_>) -> Hints {
        if !is_pinned(asking.pod) {
            return Hints::new();
        }
        let request = of_container(asking.container);
        match self.blocks(asking.uid, &asking.container.name) {
            Some(blocks) => again(blocks, &request),
            None => self.hints(asking.uid, &request),
        }
    }

    fn pod_hints(&self, uid: &PodUid, pod: &Pod) -> Hints {
        if !is_pinned(pod) {
            return Hints::new();
        }
        let request = of_pod(pod);
        let mut given = pod::containers(pod).filter_map(|(_, c)| self.blocks(uid, &c.name));
        match given.next() {
            Some(blocks) => again(blocks, &request),
            None => self.hints(uid, &request),
        }
    }

    fn allocate(&mut self, asking: &Asking<'_>, affinity: Hint) -> Result<(), AllocateError> {
        if !is_pinned(asking.pod) {
            return Ok(());
        }
        let metrics = &kubelet().managers;
        metrics.memory_requests.inc();
        if let Some(blocks) = self.blocks(asking.uid, &asking.container.name).cloned() {
            self.note_reusable(asking, &blocks);
            return Ok(());
        }
        let request = of_container(asking.container);
        let found = self.found(asking).map(|mems| Hint::over(mems, false));
        let again = found.and_then(|hint| self.choose(asking.uid, &request, hint).ok());
        let mask = match again {
            Some(mask) => Ok(mask),
            None => self.choose(asking.uid, &request, affinity),
        };
        let mask = mask.inspect_err(|_| metrics.memory_errors.inc())?;
        self.give(asking, &request, mask);
        Ok(())
    }

    fn grants(&self, uid: &PodUid, container: &str, grants: &mut ContainerGrants) {
        let blocks = self.blocks(uid, container).into_iter().flatten();
        let mask = blocks.fold(NumaMask::default(), |mask, block| mask.or(block.mask()));
        grants.cpuset_mems = (!mask.is_empty()).then(|| mask.to_string());
    }

    fn memory(&self, uid: &PodUid, container: &str) -> Vec<MemoryBlock> {
        let blocks = self.blocks(uid, container).into_iter().flatten();
        let told = blocks.map(|block| MemoryBlock {
            kind: block.resource.clone(),
            bytes: block.size,
            nodes: block.numa_affinity.clone(),
        });
        told.collect()
    }

    fn allocatable_memory(&self) -> Vec<MemoryBlock> {
        let mut all = Vec::new();
        for (id, node) in &self.nodes {
            let some = node
                .memory_map
                .iter()
                .filter(|(_, table)| table.allocatable > 0);
            all.extend(some.map(|(resource, table)| MemoryBlock {
                kind: resource.clone(),
                bytes: table.allocatable,
                nodes: vec![*id],
            }));
        }
        all
    }

    fn release(&mut self, uid: &PodUid) {
        if self.reusable.as_ref().is_some_and(|(of, _)| of == uid) {
            self.reusable = None;
        }
        self.adopted(uid);
        let Some(pod) = self.entries.remove(uid.as_str()) else {
            return;
        };
        for block in pod.values().flatten() {
            remove_block(&mut self.nodes, block);
        }
        self.unsaved = true;
    }

    fn holders(&self) -> Vec<PodUid> {
        let entries = self
            .entries
            .keys()
            .filter_map(|uid| PodUid::parse(uid).ok());
        let found = self.found.iter().map(|found| found.uid.clone());
        entries.chain(found).collect()
    }

    fn commit(&mut self) -> bool {
        if !self.unsaved {
            return false;
        }
        let state = MemoryState::new(POLICY, &self.nodes, &self.entries);
        self.unsaved = !self.file.save(state);
        true
    }

    fn is_lost(&self) -> bool {
        self.lost
    }

    fn recover(&mut self, running: &[RunningContainer]) {
        if std::mem::take(&mut self.lost) {
            self.found = running.to_vec();
        }
    }

    fn adopted(&mut self, uid: &PodUid) {
        self.found.retain(|found| found.uid != *uid);
    }
}

/// Whether containers of the pod have their memory from certain nodes.
fn is_pinned(pod: &Pod) -> bool {
    qos_class(pod) == QosClass::Guaranteed && !has_pod_level(pod)
}

/// The hints of what was given already; none, and so no preference, where that is not what is asked for.
fn again(blocks: &[Block], request: &Request) -> Hints {
    let is_same = |block: &Block| request.get(&block.resource) == Some(&block.size);
    if blocks.len() != request.len() || !blocks.iter().all(is_same) {
        return Hints::new();
    }
    let hints = blocks.iter().map(|block| {
        let hint = Hint::over(block.mask(), true);
        (block.resource.clone(), Some(vec![hint]))
    });
    hints.collect()
}

#[cfg(test)]
mod tests;
