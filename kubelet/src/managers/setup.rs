//! From the configuration to the managers.

use std::path::Path;

use super::Managers;
use super::machine::{Machine, MachineError};
use super::topology::{
    HintProvider, NumaMask, Topology, TopologyError, TopologyOptions, TopologyPolicy, TopologyScope,
};
use crate::config::ManagersConfig;

/// What the managers are made of.
#[derive(Clone, Copy, Debug)]
pub struct ManagersInputs<'a> {
    /// Their policies and options.
    pub config: &'a ManagersConfig,
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
        let topology = match policy(&inputs.config.topology_policy) {
            None => None,
            Some(policy) => {
                let machine = Machine::read(inputs.system)?;
                let scope = match inputs.config.topology_scope.as_str() {
                    "pod" => TopologyScope::Pod,
                    _ => TopologyScope::Container,
                };
                let options = TopologyOptions::parse(&inputs.config.topology_policy_options)?;
                Some(Topology::new(policy, scope, &options, &machine.nodes)?)
            }
        };
        Ok(Self::of(topology, devices))
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
