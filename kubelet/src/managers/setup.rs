//! From the configuration to the managers.

use std::path::Path;

use static_pods::quantity::Quantity;

use super::cpu::{self, CpuInputs, CpuManager};
use super::cpuset::InvalidCpuSet;
use super::machine::{Machine, MachineError};
use super::memory::{self, MemoryManager, ReservedMemory};
use super::state_file::StateFile;
use super::topology::{
    HintProvider, NumaMask, Topology, TopologyError, TopologyOptions, TopologyPolicy, TopologyScope,
};
use super::{CpuError, CpuSet, Managers, MemoryError, StateError};
use crate::config::{FeatureGates, ManagersConfig};

/// What the managers are made of.
#[derive(Clone, Copy, Debug)]
pub struct ManagersInputs<'a> {
    /// Their policies and options.
    pub config: &'a ManagersConfig,
    /// Which options may be used.
    pub gates: &'a FeatureGates,
    /// The root directory, where state files are.
    pub root: &'a Path,
    /// CPUs that are reserved for system and Kubernetes, thousandths; none where nothing is said of them.
    pub reserved_cpu_milli: Option<i64>,
    /// Memory that is kept from pods: reserved, or kept free by a hard eviction threshold, bytes.
    pub reserved_memory: u64,
    /// Where the kernel lists CPUs and NUMA nodes ([`super::SYSTEM`]).
    pub system: &'a Path,
}

impl ManagersInputs<'_> {
    /// The machine's NUMA nodes, where a topology policy wants to know them; none otherwise.
    ///
    /// # Errors
    /// When the machine does not say.
    pub fn numa_nodes(&self) -> Result<NumaMask, ManagersError> {
        if policy(&self.config.topology_policy).is_none() {
            return Ok(NumaMask::default());
        }
        let machine = Machine::read(self.system)?;
        Ok(NumaMask::of(machine.nodes.iter().map(|node| node.id)))
    }
}

/// Why the agent cannot start with its managers.
#[derive(Debug, thiserror::Error)]
pub enum ManagersError {
    /// The machine.
    #[error("cannot learn about the machine's CPUs and NUMA nodes")]
    Machine(#[from] MachineError),
    /// `reservedSystemCPUs` is no list.
    #[error("unable to parse reserved-cpus list")]
    Reserved(#[from] InvalidCpuSet),
    /// `reservedSystemCPUs` has CPUs that the machine has not.
    #[error("reserved-cpus: {reserved} is not a subset of online-cpus: {online}")]
    NotOnline {
        /// Those that are reserved.
        reserved: CpuSet,
        /// Those that the machine has.
        online: CpuSet,
    },
    /// The CPU manager.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The memory manager.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A state file.
    #[error(transparent)]
    State(#[from] StateError),
    /// The topology manager.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl Managers {
    /// The managers that are configured; `devices` are asked before CPUs and memory, as upstream.
    ///
    /// # Errors
    /// When an option is not known, or the machine is not as a policy needs it.
    pub fn new(
        inputs: &ManagersInputs<'_>,
        devices: Vec<Box<dyn HintProvider>>,
    ) -> Result<Self, ManagersError> {
        let config = inputs.config;
        let policy = policy(&config.topology_policy);
        let reserved = inputs.reserved_cpus()?;
        let static_cpus = config.cpu_policy == cpu::POLICY;
        let cpu_file = StateFile::new(inputs.root, cpu::FILE_NAME, "CPU");
        if !static_cpus {
            inputs.check_no_cpu_policy(&cpu_file)?;
        }
        let static_memory = config.memory_policy == memory::POLICY;
        let memory_file = StateFile::new(inputs.root, memory::FILE_NAME, "memory");
        if !static_memory {
            memory_file.check_policy("None")?;
        }
        if policy.is_none() && !static_cpus && !static_memory && reserved.is_none() {
            return Ok(Self::of(None, devices));
        }
        let machine = Machine::read(inputs.system)?;
        if let Some(reserved) = &reserved {
            let online = machine.all_cpus();
            if !reserved.is_subset(&online) {
                let reserved = reserved.clone();
                return Err(ManagersError::NotOnline { reserved, online });
            }
        }
        let topology = match policy {
            None => None,
            Some(policy) => {
                let scope = match config.topology_scope.as_str() {
                    "pod" => TopologyScope::Pod,
                    _ => TopologyScope::Container,
                };
                let options = TopologyOptions::parse(&config.topology_policy_options)?;
                Some(Topology::new(policy, scope, &options, &machine.nodes)?)
            }
        };
        let mut providers = devices;
        if static_cpus {
            let cpus = CpuInputs {
                options: &config.cpu_policy_options,
                gates: inputs.gates,
                reserved: reserved.as_ref(),
                reserved_milli: inputs.reserved_cpu_milli,
                single_node: policy == Some(TopologyPolicy::SingleNumaNode),
            };
            let cpus = CpuManager::new(machine.clone(), cpus, cpu_file)?;
            providers.push(Box::new(cpus));
        }
        if static_memory {
            let (nodes, most) = (&machine.nodes, inputs.reserved_memory);
            let memory = MemoryManager::new(nodes, &inputs.reserved_by_node()?, most, memory_file)?;
            providers.push(Box::new(memory));
        }
        Ok(Self {
            static_cpus,
            static_memory,
            ..Self::of(topology, providers)
        })
    }
}

impl ManagersInputs<'_> {
    fn reserved_cpus(&self) -> Result<Option<CpuSet>, ManagersError> {
        let text = self.config.reserved_cpus.as_deref();
        let read = text.filter(|text| !text.is_empty()).map(str::parse);
        Ok(read.transpose()?)
    }

    /// Amounts in bytes.
    fn reserved_by_node(&self) -> Result<ReservedMemory, MemoryError> {
        let mut reserved = ReservedMemory::new();
        for (node, amounts) in &self.config.reserved_memory {
            for (resource, text) in amounts {
                let amount = Quantity::parse_amount(text);
                let amount = amount.map_err(|_| MemoryError::NoAmount(text.clone()))?;
                let bytes = amount.value().max(0).unsigned_abs();
                let of_node = reserved.entry(*node).or_default();
                of_node.insert(resource.clone(), bytes);
            }
        }
        Ok(reserved)
    }

    /// Without a policy there are no options, and no state of another policy.
    fn check_no_cpu_policy(&self, file: &StateFile) -> Result<(), CpuError> {
        let options = &self.config.cpu_policy_options;
        if !options.is_empty() {
            let texts = options
                .iter()
                .map(|(name, value)| format!("{name}:{value}"));
            let texts: Vec<String> = texts.collect();
            return Err(CpuError::OptionsOfNone(format!("map[{}]", texts.join(" "))));
        }
        Ok(file.check_policy("none")?)
    }
}

/// The policy of this name, none for `none`; the configuration has no other names.
fn policy(name: &str) -> Option<TopologyPolicy> {
    match name {
        "best-effort" => Some(TopologyPolicy::BestEffort),
        "restricted" => Some(TopologyPolicy::Restricted),
        "single-numa-node" => Some(TopologyPolicy::SingleNumaNode),
        _ => None,
    }
}
