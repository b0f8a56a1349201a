//! The cgroups of the node's daemons (`kubeReservedCgroup`, `systemReservedCgroup`): the administrator's, held to what is
//! reserved for them where `enforceNodeAllocatable` says so.

use super::hierarchy::Hierarchy;
use super::levels::{HugePages, Limits};
use super::memory_qos::Kept;
use super::names::reserved_levels;
use super::systemd;
use super::{Begun, Cgroups, CgroupsError, NodeLimits, Version, resources};
use crate::dir::Dir;

/// The controllers of version 1 that a cgroup must be there in, as upstream has it.
const CONTROLLERS_V1: [&str; 7] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "hugetlb",
    "memory",
    "name=systemd",
    "pids",
];

impl Cgroups {
    /// Holds the cgroup `name` of daemons to `limits`. It is not made: that it is missing ends the agent's start.
    ///
    /// # Errors
    /// When it is not there whole, or the kernel or systemd refuses.
    pub async fn limit_reserved(
        &self,
        name: &str,
        limits: &NodeLimits,
    ) -> Result<(), CgroupsError> {
        let begun = self.begun()?;
        let names = reserved_levels(begun.driver(), name);
        let shown = format!("{:?}", shown(begun, &names));
        let mut levels = Vec::new();
        let mut missing = Vec::new();
        for hierarchy in &self.hierarchies {
            match open(hierarchy, &names)? {
                Some(level) => levels.push((hierarchy, level)),
                None if self.needs(hierarchy) => {
                    let path = names.iter().fold(hierarchy.root.clone(), |p, n| p.join(n));
                    missing.push(path.display().to_string());
                }
                None => {}
            }
        }
        if !missing.is_empty() {
            return Err(CgroupsError::ReservedMissing {
                name: shown,
                missing: missing.join(", "),
            });
        }
        for (hierarchy, level) in &levels {
            let lacking = hierarchy.not_handed_down(level)?;
            if self.version == Version::V2 && !lacking.is_empty() {
                return Err(CgroupsError::ReservedControllers {
                    name: shown,
                    missing: lacking.join(", "),
                });
            }
        }
        let limits = self.reserved_limits(begun, limits);
        if let (Some(systemd), Some(unit)) = (&begun.systemd, names.last()) {
            let properties = systemd::properties(self.version, &limits);
            systemd.set(unit, &properties).await?;
        }
        for (hierarchy, level) in &levels {
            self.apply(hierarchy, level, &limits)?;
        }
        Ok(())
    }

    fn needs(&self, hierarchy: &Hierarchy) -> bool {
        self.version == Version::V2 || CONTROLLERS_V1.iter().any(|name| hierarchy.has(name))
    }

    fn reserved_limits(&self, begun: &Begun, limits: &NodeLimits) -> Limits {
        let kept = self.config.memory_qos.and(limits.memory_bytes);
        Limits {
            cpu_shares: limits.cpu_milli.map(resources::shares),
            memory_bytes: limits.memory_bytes,
            memory_kept: Kept {
                min: kept,
                low: None,
            },
            pids: limits.pids,
            cpus: begun.systemd.as_ref().and_then(|_| self.slice_cpus()),
            huge_pages: match &limits.huge_pages {
                Some(sizes) => HugePages::Exactly(sizes.clone()),
                None => HugePages::Untouched,
            },
            ..Limits::default()
        }
    }
}

/// The parts of the name, as upstream shows them.
fn shown<'a>(begun: &Begun, names: &'a [String]) -> Vec<&'a str> {
    match (&begun.systemd, names.last()) {
        (Some(_), Some(unit)) => unit.trim_end_matches(".slice").split('-').collect(),
        _ => names.iter().map(String::as_str).collect(),
    }
}

fn open(hierarchy: &Hierarchy, names: &[String]) -> Result<Option<Dir>, CgroupsError> {
    let mut level = Dir::open(&hierarchy.root)?;
    for name in names {
        match level.child(name)? {
            Some(child) => level = child,
            None => return Ok(None),
        }
    }
    Ok(Some(level))
}
