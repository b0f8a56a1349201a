//! The CPU manager's static policy: containers of Guaranteed pods that ask for whole CPUs have them for themselves, and
//! all others share the rest.
//!
//! Upstream's `pkg/kubelet/cm/cpumanager`; KEP-375, KEP-2625 (options). What is reserved for the system stays among the
//! shared CPUs, unless that is strict.

mod error;
mod hints;
mod options;
mod request;
mod restore;
mod spread;
mod state;
mod take;

use std::collections::{BTreeMap, BTreeSet};

pub use error::CpuError;
pub(super) use state::FILE_NAME;

use super::machine::Machine;
use super::recovery::RunningContainer;
use super::state_file::StateFile;
use super::topology::{Asking, Hint, HintProvider, Hints};
use super::{AllocateError, ContainerGrants, CpuSet};
use crate::config::FeatureGates;
use crate::metrics::kubelet;
use crate::pod::{ContainerKind, Pod, PodUid};
use options::CpuOptions;
pub(super) use request::has_pod_level;
use request::whole_cpus;
use state::{CpuState, Entries};
use take::{Choice, take};

/// The policy's name, as configuration and state file have it.
pub(super) const POLICY: &str = "static";

/// Values of metrics' labels.
const PHYSICAL_CPU: &str = "physical_cpu";
const CONTAINER: &str = "container";

/// What the static policy is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuInputs<'a> {
    /// `cpuManagerPolicyOptions`.
    pub(super) options: &'a BTreeMap<String, String>,
    /// Which of them may be used.
    pub(super) gates: &'a FeatureGates,
    /// `reservedSystemCPUs`.
    pub(super) reserved: Option<&'a CpuSet>,
    /// What is reserved for system and Kubernetes, thousandths; none where nothing is said of it.
    pub(super) reserved_milli: Option<i64>,
    /// Whether the topology manager wants single NUMA nodes.
    pub(super) single_node: bool,
}

/// Who has which CPUs.
pub(super) struct CpuManager {
    machine: Machine,
    options: CpuOptions,
    /// A container that has CPUs of its own is not held to its quota (`DisableCPUQuotaWithExclusiveCPUs`).
    lifts_quota: bool,
    /// Nobody has these for itself.
    reserved: CpuSet,
    /// With all others of the same cores.
    reserved_cores: CpuSet,
    /// Those that all share who have none of their own.
    shared: CpuSet,
    entries: Entries,
    /// Those that init containers of the pod that asks have had, and that its later containers may have.
    reusable: Option<(PodUid, CpuSet)>,
    file: StateFile,
    unsaved: bool,
    /// What containers had when the state was lost, until their pods are known.
    found: Option<Vec<RunningContainer>>,
    lost: bool,
}

impl CpuManager {
    /// With the state in `file`.
    ///
    /// # Errors
    /// When the options, the reservation or the state do not fit the machine.
    pub(super) fn new(
        machine: Machine,
        inputs: CpuInputs<'_>,
        file: StateFile,
    ) -> Result<Self, CpuError> {
        let options = CpuOptions::parse(inputs.options, inputs.gates)?;
        options.check(&machine, inputs.single_node)?;
        let milli = inputs.reserved_milli.ok_or(CpuError::NoReservation)?;
        if milli <= 0 {
            return Err(CpuError::NothingReserved);
        }
        let count = usize::try_from(milli.unsigned_abs().div_ceil(1000)).unwrap_or(usize::MAX);
        let choice = choice(options, &machine);
        let reserved = match inputs.reserved {
            Some(cpus) => cpus.clone(),
            None => take(&machine, &machine.all_cpus(), count, choice).unwrap_or_default(),
        };
        if reserved.len() != count {
            return Err(CpuError::CannotReserve { reserved, count });
        }
        let cores = machine.cpus.iter().filter(|(cpu, _)| reserved.has(**cpu));
        let cores: Vec<u32> = cores.map(|(_, place)| place.core).collect();
        let same_core = machine
            .cpus
            .iter()
            .filter(|(_, place)| cores.contains(&place.core));
        let mut manager = Self {
            reserved_cores: same_core.map(|(cpu, _)| *cpu).collect(),
            lifts_quota: inputs.gates.enabled("DisableCPUQuotaWithExclusiveCPUs"),
            machine,
            options,
            reserved,
            shared: CpuSet::new(),
            entries: Entries::new(),
            reusable: None,
            file,
            unsaved: false,
            found: None,
            lost: false,
        };
        manager.restore()?;
        kubelet().managers.expect_aligned(PHYSICAL_CPU, CONTAINER);
        manager.count();
        Ok(manager)
    }

    /// All CPUs that are shared while nobody has any of its own.
    fn sharable(&self) -> CpuSet {
        let all = self.machine.all_cpus();
        match self.options.strict {
            true => all.difference(&self.reserved),
            false => all,
        }
    }

    fn own(&self, uid: &PodUid, container: &str) -> Option<&CpuSet> {
        self.entries.get(uid.as_str())?.get(container)
    }

    /// CPUs that may become somebody's own.
    fn available(&self) -> CpuSet {
        let free = self.shared.difference(&self.reserved);
        free.difference(&self.held())
    }

    /// CPUs of init containers of the pod that asks.
    fn reusable(&self, uid: &PodUid) -> CpuSet {
        let own = self.reusable.as_ref().filter(|(of, _)| of == uid);
        own.map(|(_, cpus)| cpus.clone()).unwrap_or_default()
    }

    fn note_reusable(&mut self, asking: &Asking<'_>, cpus: &CpuSet) {
        let before = self.reusable(asking.uid);
        let now = match asking.kind {
            // A sidecar goes on beside those that come after it.
            ContainerKind::Init => before.union(cpus),
            _ => before.difference(cpus),
        };
        self.reusable = Some((asking.uid.clone(), now));
    }

    fn give(&mut self, asking: &Asking<'_>, cpus: CpuSet) {
        self.shared = self.shared.difference(&cpus);
        self.note_reusable(asking, &cpus);
        let pod = self.entries.entry(asking.uid.to_string()).or_default();
        pod.insert(asking.container.name.clone(), cpus);
        self.unsaved = true;
    }

    /// Whole cores, or the reason why not.
    fn check_cores(&self, count: usize) -> Result<(), AllocateError> {
        if !self.options.full_cores {
            return Ok(());
        }
        let per_core = self.machine.threads_per_core();
        let available = self.shared.difference(&self.reserved_cores).len();
        let message = if !count.is_multiple_of(per_core) {
            format!(
                "SMT Alignment Error: requested {count} cpus not multiple cpus per core = {per_core}"
            )
        } else if count > available {
            format!(
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = {count}, CPUs per core = {per_core}"
            )
        } else {
            return Ok(());
        };
        Err(AllocateError::Reasoned {
            reason: "SMTAlignmentError",
            message,
        })
    }

    fn choose(&self, uid: &PodUid, count: usize, affinity: Hint) -> Result<CpuSet, AllocateError> {
        let free = self.available().union(&self.reusable(uid));
        let choice = choice(self.options, &self.machine);
        let taken = |from: &CpuSet, count| {
            let taken = take(&self.machine, from, count, choice);
            taken.map_err(|error| AllocateError::Unexpected(error.to_string()))
        };
        let mut own = CpuSet::new();
        if let Some(mask) = affinity.mask {
            let near = self.near(mask, &free);
            own = taken(&near, count.min(near.len()))?;
        }
        let rest = taken(&free.difference(&own), count - own.len())?;
        Ok(own.union(&rest))
    }

    fn allocate_own(
        &mut self,
        asking: &Asking<'_>,
        affinity: Hint,
        count: usize,
    ) -> Result<(), AllocateError> {
        self.check_cores(count)?;
        if let Some(cpus) = self.own(asking.uid, &asking.container.name).cloned() {
            self.note_reusable(asking, &cpus);
            return Ok(());
        }
        let cpus = match self.found_own(asking, count) {
            Some(cpus) => cpus,
            None => self.choose(asking.uid, count, affinity)?,
        };
        if self.shares_cache(&cpus) {
            kubelet().managers.aligned.inc(&["uncore_cache", CONTAINER]);
        }
        self.give(asking, cpus);
        Ok(())
    }

    /// Whether all of them share one cache.
    fn shares_cache(&self, cpus: &CpuSet) -> bool {
        let places = cpus.iter().filter_map(|cpu| self.machine.cpus.get(&cpu));
        let caches: BTreeSet<u32> = places.map(|place| place.cache).collect();
        caches.len() == 1
    }

    /// Sets the numbers of the metrics.
    fn count(&self) {
        let shared = self.shared.difference(&self.reserved).len();
        let own: CpuSet = self
            .entries
            .values()
            .flat_map(BTreeMap::values)
            .flat_map(CpuSet::iter)
            .collect();
        let mut by_node: BTreeMap<u32, u64> = BTreeMap::new();
        for cpu in self
            .machine
            .cpus
            .iter()
            .filter(|(cpu, _)| own.has(**cpu))
            .map(|(_, c)| c)
        {
            *by_node.entry(cpu.node).or_default() += 1;
        }
        let metrics = &kubelet().managers;
        metrics.cpu_shared_milli.set(shared as u64 * 1000);
        metrics.cpu_exclusive.set(own.len() as u64);
        for node in &self.machine.nodes {
            let own = by_node.get(&node.id).copied().unwrap_or(0);
            metrics.cpu_per_node.set(&[&node.id.to_string()], own);
        }
    }
}

impl HintProvider for CpuManager {
    fn container_hints(&self, asking: &Asking<'_>) -> Hints {
        self.hints_of_container(asking)
    }

    fn pod_hints(&self, uid: &PodUid, pod: &Pod) -> Hints {
        self.hints_of_pod(uid, pod)
    }

    fn allocate(&mut self, asking: &Asking<'_>, affinity: Hint) -> Result<(), AllocateError> {
        let count = whole_cpus(asking.pod, asking.container);
        if count == 0 || has_pod_level(asking.pod) {
            return Ok(());
        }
        let metrics = &kubelet().managers;
        metrics.cpu_requests.inc();
        let given = self.allocate_own(asking, affinity, count);
        if given.is_err() {
            metrics.cpu_errors.inc();
        }
        if self.options.full_cores {
            let labels = [PHYSICAL_CPU, CONTAINER];
            match given {
                Ok(()) => metrics.aligned.inc(&labels),
                Err(_) => metrics.unaligned.inc(&labels),
            }
        }
        given
    }

    fn grants(&self, uid: &PodUid, container: &str, grants: &mut ContainerGrants) {
        let own = self.own(uid, container);
        let cpus = own.unwrap_or(&self.shared);
        grants.cpuset_cpus = (!cpus.is_empty()).then(|| cpus.to_string());
        grants.lifts_quota = self.lifts_quota && own.is_some();
    }

    fn exclusive_cpus(&self, uid: &PodUid, container: &str) -> CpuSet {
        self.own(uid, container).cloned().unwrap_or_default()
    }

    fn allocatable_cpus(&self) -> CpuSet {
        self.machine.all_cpus().difference(&self.reserved)
    }

    fn release(&mut self, uid: &PodUid) {
        if self.reusable.as_ref().is_some_and(|(of, _)| of == uid) {
            self.reusable = None;
        }
        self.adopted(uid);
        let Some(own) = self.entries.remove(uid.as_str()) else {
            return;
        };
        for cpus in own.values() {
            self.shared = self.shared.union(cpus);
        }
        self.unsaved = true;
    }

    fn holders(&self) -> Vec<PodUid> {
        let entries = self
            .entries
            .keys()
            .filter_map(|uid| PodUid::parse(uid).ok());
        let found = self.found.iter().flatten().map(|found| found.uid.clone());
        entries.chain(found).collect()
    }

    fn commit(&mut self) -> bool {
        if !self.unsaved {
            return false;
        }
        self.count();
        let state = CpuState::new(POLICY, &self.shared, &self.entries);
        self.unsaved = !self.file.save(state);
        true
    }

    fn is_lost(&self) -> bool {
        self.lost
    }

    fn recover(&mut self, running: &[RunningContainer]) {
        if std::mem::take(&mut self.lost) {
            self.found = Some(running.to_vec());
        }
    }

    fn adopted(&mut self, uid: &PodUid) {
        if let Some(found) = &mut self.found {
            found.retain(|found| found.uid != *uid);
        }
    }
}

/// How the options have CPUs chosen.
fn choice(options: CpuOptions, machine: &Machine) -> Choice {
    let group = match options.full_cores {
        true => machine.threads_per_core(),
        false => 1,
    };
    Choice {
        across_cores: options.across_cores,
        by_cache: options.by_cache,
        distribute: options.across_nodes.then_some(group),
    }
}

#[cfg(test)]
mod tests;
