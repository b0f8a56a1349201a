//! `cpuManagerPolicyOptions`.

use std::collections::BTreeMap;

use super::CpuError;
use crate::config::{FeatureGates, parse_bool};
use crate::managers::machine::Machine;

const FULL_CORES: &str = "full-pcpus-only";
const ACROSS_NODES: &str = "distribute-cpus-across-numa";
const BY_SOCKET: &str = "align-by-socket";
const ACROSS_CORES: &str = "distribute-cpus-across-cores";
const STRICT: &str = "strict-cpu-reservation";
const BY_CACHE: &str = "prefer-align-cpus-by-uncorecache";

/// Which options exclude each other.
const EXCLUSIVE: [(&str, &str); 4] = [
    (FULL_CORES, ACROSS_CORES),
    (ACROSS_NODES, ACROSS_CORES),
    (BY_CACHE, ACROSS_CORES),
    (BY_CACHE, ACROSS_NODES),
];

/// The options of the static policy, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuOptions {
    /// `full-pcpus-only`: whole cores, or nothing.
    pub(super) full_cores: bool,
    /// `distribute-cpus-across-numa`.
    pub(super) across_nodes: bool,
    /// `align-by-socket`: a socket is as good as a NUMA node.
    pub(super) by_socket: bool,
    /// `distribute-cpus-across-cores`.
    pub(super) across_cores: bool,
    /// `strict-cpu-reservation`: the CPUs that all share do not have the reserved ones among them.
    pub(super) strict: bool,
    /// `prefer-align-cpus-by-uncorecache`.
    pub(super) by_cache: bool,
}

impl CpuOptions {
    /// Reads the options.
    ///
    /// # Errors
    /// For one that is not known, not enabled, excludes another, or is set to what it cannot be.
    pub(super) fn parse(
        texts: &BTreeMap<String, String>,
        gates: &FeatureGates,
    ) -> Result<Self, CpuError> {
        let mut options = Self::default();
        for (name, value) in texts {
            let (option, level) = match name.as_str() {
                FULL_CORES => (&mut options.full_cores, None),
                STRICT => (&mut options.strict, None),
                BY_CACHE => (&mut options.by_cache, None),
                ACROSS_NODES => (&mut options.across_nodes, Some("Beta")),
                BY_SOCKET => (&mut options.by_socket, Some("Alpha")),
                ACROSS_CORES => (&mut options.across_cores, Some("Alpha")),
                _ => return Err(CpuError::UnknownOption(name.clone())),
            };
            if let Some(level) = level
                && !gates.enabled(&format!("CPUManagerPolicy{level}Options"))
            {
                return Err(CpuError::NotEnabled {
                    level,
                    option: name.clone(),
                });
            }
            *option = parse_bool(value).ok_or_else(|| CpuError::BadValue {
                option: name.clone(),
                value: value.clone(),
            })?;
        }
        for (one, other) in EXCLUSIVE {
            if options.has(one) && options.has(other) {
                return Err(CpuError::Exclusive(one, other));
            }
        }
        Ok(options)
    }

    fn has(&self, name: &str) -> bool {
        match name {
            FULL_CORES => self.full_cores,
            ACROSS_NODES => self.across_nodes,
            ACROSS_CORES => self.across_cores,
            BY_CACHE => self.by_cache,
            _ => false,
        }
    }

    /// Whether they go with the machine, and with the topology manager's policy.
    ///
    /// # Errors
    /// When they do not.
    pub(super) fn check(&self, machine: &Machine, single_node: bool) -> Result<(), CpuError> {
        if self.by_socket && single_node {
            return Err(CpuError::SocketsAndSingleNode);
        }
        if self.by_socket && machine.sockets() > machine.nodes_with_cpus() {
            return Err(CpuError::MoreSockets);
        }
        Ok(())
    }
}
