//! The machine's CPUs, caches, sockets and NUMA nodes, as the kernel lists them below `/sys/devices/system`.
//!
//! Seen as upstream sees them, through cAdvisor (`utils/sysinfo`): a core is what one socket's CPUs of one `core_id` are,
//! and is called by its lowest CPU; a cache above level 2 counts where only some of a node's CPUs share it; else the socket
//! stands for it. CPUs that are offline are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::CpuSet;

/// Where the kernel lists them.
pub const SYSTEM: &str = "/sys/devices/system";

/// A part of the machine that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file with something in it that does not belong there.
    #[error("{}: {text:?} is not what the kernel writes there", path.display())]
    Text {
        /// Which one.
        path: PathBuf,
        /// What is in it.
        text: String,
    },
    /// Not one CPU is there.
    #[error("could not detect number of cpus")]
    NoCpus,
}

/// A NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Its memory, bytes; 0 where the kernel does not say.
    pub memory_bytes: u64,
    /// How many huge pages of each size (bytes) are set aside on it.
    pub huge_pages: BTreeMap<u64, u64>,
    /// How far it is from each node (ACPI SLIT); empty where the kernel does not say.
    pub distances: Vec<u64>,
}

/// Where a CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its NUMA node.
    pub node: u32,
    /// Its socket.
    pub socket: u32,
    /// Its core: the lowest of the core's CPUs.
    pub core: u32,
    /// The cache that it shares with some of its node's CPUs, or else its socket.
    pub cache: u32,
}

/// CPUs and NUMA nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The NUMA nodes in order of their numbers.
    pub nodes: Vec<NumaNode>,
    /// The CPUs that are online.
    pub cpus: BTreeMap<u32, Cpu>,
}

impl Machine {
    /// Reads what is below `system` ([`SYSTEM`]).
    ///
    /// # Errors
    /// When the kernel lists no CPU, or writes what it should not.
    pub fn read(system: &Path) -> Result<Self, MachineError> {
        let mut machine = Self::default();
        let nodes = numbered(&system.join("node"), "node")?;
        for id in &nodes {
            let directory = system.join("node").join(format!("node{id}"));
            machine.nodes.push(node(*id, &directory)?);
            let path = directory.join("cpulist");
            let cpus = text(&path)?.unwrap_or_default();
            let cpus: CpuSet = cpus.parse().map_err(|_| wrong(&path, &cpus))?;
            machine.add(system, cpus.iter(), Some(*id))?;
        }
        if nodes.is_empty() {
            // A kernel without NUMA: each socket stands for a node.
            let cpus = numbered(&system.join("cpu"), "cpu")?;
            machine.add(system, cpus.into_iter(), None)?;
            let sockets: BTreeSet<u32> = machine.cpus.values().map(|cpu| cpu.socket).collect();
            machine.nodes.extend(sockets.into_iter().map(|id| NumaNode {
                id,
                ..NumaNode::default()
            }));
        }
        if machine.cpus.is_empty() {
            return Err(MachineError::NoCpus);
        }
        Ok(machine)
    }

    /// Adds the CPUs of one NUMA node; of the sockets that they are in where there is none.
    fn add(
        &mut self,
        system: &Path,
        cpus: impl Iterator<Item = u32>,
        node: Option<u32>,
    ) -> Result<(), MachineError> {
        let mut cores: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for cpu in cpus {
            let directory = system.join("cpu").join(format!("cpu{cpu}"));
            if text(&directory.join("online"))?.as_deref() == Some("0") {
                continue;
            }
            let topology = directory.join("topology");
            let core = number(&topology.join("core_id"))?;
            let socket = number(&topology.join("physical_package_id"))?;
            if let (Some(core), Some(socket)) = (core, socket) {
                cores.entry((socket, core)).or_default().push(cpu);
            }
        }
        let in_all = cores.len();
        for ((socket, _), cpus) in cores {
            let Some(core) = cpus.iter().copied().min() else {
                continue;
            };
            let cache = shared_cache(system, core, in_all * cpus.len())?;
            let place = Cpu {
                node: node.unwrap_or(socket),
                socket,
                core,
                cache: cache.unwrap_or(socket),
            };
            self.cpus.extend(cpus.into_iter().map(|cpu| (cpu, place)));
        }
        Ok(())
    }

    /// How many sockets there are.
    pub(super) fn sockets(&self) -> usize {
        self.count(|cpu| cpu.socket)
    }

    /// How many NUMA nodes have CPUs.
    pub(super) fn nodes_with_cpus(&self) -> usize {
        self.count(|cpu| cpu.node)
    }

    /// How many caches there are that CPUs are aligned by.
    pub(super) fn caches(&self) -> usize {
        self.count(|cpu| cpu.cache)
    }

    /// How many CPUs a core has, in the mean and rounded down; at least 1.
    pub(super) fn threads_per_core(&self) -> usize {
        (self.cpus.len() / self.count(|cpu| cpu.core).max(1)).max(1)
    }

    fn count(&self, of: impl Fn(&Cpu) -> u32) -> usize {
        let units: BTreeSet<u32> = self.cpus.values().map(of).collect();
        units.len()
    }

    /// All CPUs.
    #[must_use]
    pub fn all_cpus(&self) -> CpuSet {
        self.cpus.keys().copied().collect()
    }
}

/// The cache above level 2 that `cpu` shares with others, if not with all `in_node` CPUs of its node.
fn shared_cache(system: &Path, cpu: u32, in_node: usize) -> Result<Option<u32>, MachineError> {
    let caches = system.join("cpu").join(format!("cpu{cpu}")).join("cache");
    for index in numbered(&caches, "index")? {
        let cache = caches.join(format!("index{index}"));
        if number(&cache.join("level"))?.is_none_or(|level| level <= 2) {
            continue;
        }
        let path = cache.join("shared_cpu_list");
        let shared = text(&path)?.unwrap_or_default();
        let shared: CpuSet = shared.parse().map_err(|_| wrong(&path, &shared))?;
        if shared.len() != in_node {
            return number(&cache.join("id"));
        }
    }
    Ok(None)
}

fn node(id: u32, directory: &Path) -> Result<NumaNode, MachineError> {
    let meminfo = text(&directory.join("meminfo"))?.unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word != "MemTotal:");
        words.nth(1)?.parse::<u64>().ok()
    });
    let path = directory.join("distance");
    let distances = text(&path)?.unwrap_or_default();
    let read: Option<Vec<u64>> = distances
        .split_whitespace()
        .map(|d| d.parse().ok())
        .collect();
    let huge = directory.join("hugepages");
    let mut huge_pages = BTreeMap::new();
    for name in names(&huge)? {
        let size = name
            .strip_prefix("hugepages-")
            .and_then(|n| n.strip_suffix("kB"));
        let Some(size) = size.and_then(|size| size.parse::<u64>().ok()) else {
            continue;
        };
        let count = number(&huge.join(&name).join("nr_hugepages"))?.unwrap_or(0);
        huge_pages.insert(size * 1024, u64::from(count));
    }
    Ok(NumaNode {
        id,
        memory_bytes: total.unwrap_or(0) * 1024,
        huge_pages,
        distances: read.ok_or_else(|| wrong(&path, &distances))?,
    })
}

/// The numbers behind `prefix` of what is in `directory`, in order.
fn numbered(directory: &Path, prefix: &str) -> Result<Vec<u32>, MachineError> {
    let names = names(directory)?;
    let numbers = names
        .iter()
        .filter_map(|name| name.strip_prefix(prefix)?.parse().ok());
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// What is in `directory`; nothing where there is none.
fn names(directory: &Path) -> Result<Vec<String>, MachineError> {
    let failed = |source| MachineError::Read {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    Ok(names)
}

/// The one number in a file; none where there is no such file.
fn number(path: &Path) -> Result<Option<u32>, MachineError> {
    let Some(text) = text(path)? else {
        return Ok(None);
    };
    let number = text.parse().map_err(|_| wrong(path, &text))?;
    Ok(Some(number))
}

/// What is in a file, less the line's end; none where there is no such file.
fn text(path: &Path) -> Result<Option<String>, MachineError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(MachineError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn wrong(path: &Path, text: &str) -> MachineError {
    MachineError::Text {
        path: path.to_owned(),
        text: text.chars().take(80).collect(),
    }
}

#[cfg(test)]
pub(in crate::managers) mod tests;
