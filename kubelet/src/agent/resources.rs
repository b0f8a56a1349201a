//! What of the machine is reserved, what is for pods, and what of it is enforced: from the configuration and the machine.

use std::collections::BTreeMap;
use std::path::Path;

use static_pods::quantity::Quantity;

use super::AgentError;
use super::levels::ReservedLevel;
use crate::admission;
use crate::cgroups::resources::{NodeCapacity, ResourceList};
use crate::cgroups::{self, MemoryQos, NodeLimits, Version};
use crate::config::Config;
use crate::managers::{CpuSet, ManagersError};
use crate::node;

/// Where the kernel has its huge pages.
pub(super) const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

/// What is reserved of which resource, as the configuration writes it.
type Reservation = BTreeMap<String, String>;

/// What is reserved for the system and for Kubernetes. `reservedSystemCPUs` takes the place of both amounts of cpu.
fn reservations(config: &Config) -> Result<(Reservation, Reservation), AgentError> {
    let cgroups = &config.cgroups;
    let mut system = cgroups.system_reserved.clone();
    let mut kube = cgroups.kube_reserved.clone();
    if let Some(list) = &config.managers.reserved_cpus {
        // That the machine has them is for the managers to check.
        let reserved: CpuSet = list.parse().map_err(ManagersError::from)?;
        kube.remove("cpu");
        system.insert("cpu".to_owned(), reserved.len().to_string());
    }
    Ok((system, kube))
}

/// What is reserved in all, thousandths, by resource.
pub(super) fn reserved(config: &Config) -> Result<BTreeMap<String, i64>, AgentError> {
    let (system, kube) = reservations(config)?;
    let mut reserved = amounts("systemReserved", &system)?;
    for (resource, amount) in amounts("kubeReserved", &kube)? {
        let sum = reserved.entry(resource).or_insert(0);
        *sum = sum.saturating_add(amount);
    }
    Ok(reserved)
}

/// What is left of `milli` thousandths of `resource`.
fn less(reserved: &BTreeMap<String, i64>, resource: &str, milli: i64) -> u64 {
    let reserved = reserved.get(resource).copied().unwrap_or(0);
    milli.saturating_sub(reserved).max(0).unsigned_abs()
}

/// Thousandths of `amount`.
fn milli(amount: impl TryInto<i64>) -> i64 {
    let amount: i64 = amount.try_into().unwrap_or(i64::MAX);
    amount.saturating_mul(1000)
}

/// What of processor and memory is for pods, as a container without limits is told.
pub(super) fn quantities(allocatable: &admission::Amounts) -> ResourceList {
    let amount = |name: &str| {
        let amount = allocatable.get(name).copied().unwrap_or(0);
        amount.max(0).unsigned_abs()
    };
    ResourceList::from([
        ("memory".to_owned(), Quantity::of(amount("memory"))),
        ("cpu".to_owned(), Quantity::of_milli(amount("cpu"))),
    ])
}

/// What all pods together are held below: the machine's capacity, less what is reserved where that is enforced.
pub(super) fn node_limits(
    config: &Config,
    capacity: &NodeCapacity,
    cores: usize,
) -> Result<NodeLimits, AgentError> {
    let reserved = match enforces_pods(config) {
        true => reserved(config)?,
        false => BTreeMap::new(),
    };
    let whole = |resource: &str, amount: i64| {
        let left = less(&reserved, resource, amount) / 1000;
        i64::try_from(left).unwrap_or(i64::MAX)
    };
    let cpu = less(&reserved, "cpu", milli(cores));
    let sizes = capacity.huge_page_sizes.iter();
    let huge_pages = sizes.map(|&size| {
        let bytes = cgroups::huge_page_bytes(Path::new(HUGE_PAGES), size);
        let is_this = |name: &str| {
            let text = name.strip_prefix("hugepages-").unwrap_or_default();
            Quantity::parse_amount(text).is_ok_and(|own| own == Quantity::of(size))
        };
        let name = reserved.keys().find(|name| is_this(name));
        let left = less(&reserved, name.map_or("", String::as_str), milli(bytes));
        (size, left / 1000)
    });
    Ok(NodeLimits {
        memory_bytes: Some(whole("memory", milli(capacity.memory_bytes))),
        cpu_milli: Some(i64::try_from(cpu).unwrap_or(i64::MAX)),
        pids: node::max_pids().map(|most| whole("pid", milli(most))),
        huge_pages: Some(huge_pages.collect()),
    })
}

/// The cgroups of daemons that are held to what is reserved for them, in the order in which upstream sets them.
pub(super) fn reserved_levels(config: &Config) -> Result<Vec<ReservedLevel>, AgentError> {
    let (system, kube) = reservations(config)?;
    let cgroups = &config.cgroups;
    let system = (&system, "systemReserved", &cgroups.system_reserved_cgroup);
    let kube = (&kube, "kubeReserved", &cgroups.kube_reserved_cgroup);
    let mut levels = Vec::new();
    for (word, (reservation, field, cgroup), compressible) in [
        ("system-reserved", system, false),
        ("kube-reserved", kube, false),
        ("system-reserved-compressible", system, true),
        ("kube-reserved-compressible", kube, true),
    ] {
        let cgroup = match cgroup {
            Some(name) if cgroups.enforce_allocatable.iter().any(|e| e == word) => name,
            _ => continue,
        };
        let amounts = amounts(field, reservation)?;
        levels.push(ReservedLevel {
            word,
            cgroup: cgroup.clone(),
            limits: (!amounts.is_empty()).then(|| daemon_limits(&amounts, compressible)),
        });
    }
    Ok(levels)
}

/// What daemons may use. Compressible is what they can have less of without harm: the processor alone.
fn daemon_limits(amounts: &BTreeMap<String, i64>, compressible: bool) -> NodeLimits {
    let of = |resource: &str| amounts.get(resource).copied();
    let cpu_milli = of("cpu");
    match compressible {
        true => NodeLimits {
            cpu_milli,
            ..NodeLimits::default()
        },
        false => NodeLimits {
            cpu_milli,
            memory_bytes: of("memory").map(|milli| milli / 1000),
            pids: of("pid").map(|milli| milli / 1000),
            // None can be reserved.
            huge_pages: Some(BTreeMap::new()),
        },
    }
}

/// How memory is kept and throttled; none unless that is on, and the kernel can.
pub(super) fn memory_qos(config: &Config, version: Version) -> Option<MemoryQos> {
    let on = config.gates.enabled("MemoryQoS") && version == Version::V2;
    on.then_some(MemoryQos {
        throttling_factor: config.cgroups.memory_throttling_factor,
        reserves: config.cgroups.memory_reservation,
    })
}

/// What lesser classes leave of memory: percent, and what pods may ask for in sum, bytes.
pub(super) fn class_reserve(
    config: &Config,
    allocatable: &ResourceList,
) -> Result<Option<(i64, i64)>, AgentError> {
    let mut percent = None;
    for (resource, text) in &config.cgroups.qos_reserved {
        let amount = text.strip_suffix('%').and_then(|text| text.parse().ok());
        match (resource.as_str(), amount) {
            ("memory", Some(amount)) if (0..=100).contains(&amount) => percent = Some(amount),
            ("memory", _) => return Err(AgentError::QosReserved(text.clone())),
            _ => return Err(AgentError::QosReservedResource(resource.clone())),
        }
    }
    let percent = percent.filter(|_| config.gates.enabled("QOSReserved"));
    let memory = i64::try_from(memory_of(allocatable)).unwrap_or(i64::MAX);
    Ok(percent.map(|percent| (percent, memory)))
}

/// What the machine has, and what of it is for pods.
pub(super) struct NodeResources {
    pub(super) capacity: admission::Capacity,
    pub(super) allocatable: admission::Amounts,
}

/// Reads what the machine has.
pub(super) fn node_resources(config: &Config) -> Result<NodeResources, AgentError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let capacity = NodeCapacity {
        memory_bytes: node::memory_bytes()?,
        huge_page_sizes: cgroups::huge_page_sizes(Path::new(HUGE_PAGES)),
    };
    resources(config, &capacity, cores)
}

/// What pods may ask for in sum: less than what the agent enforces for all of them, by the eviction thresholds.
pub(super) fn resources(
    config: &Config,
    capacity: &NodeCapacity,
    cores: usize,
) -> Result<NodeResources, AgentError> {
    let ephemeral_bytes = match config.node.local_storage_isolation {
        true => Some(node::file_system_bytes(&config.paths.root)?),
        false => None,
    };
    let sizes = capacity.huge_page_sizes.iter();
    let huge_pages = sizes.map(|size| {
        let bytes = cgroups::huge_page_bytes(Path::new(HUGE_PAGES), *size);
        (*size, bytes)
    });
    let has = admission::Capacity {
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes: capacity.memory_bytes,
        ephemeral_bytes,
        huge_pages: huge_pages.collect(),
    };
    let (system, kube) = reservations(config)?;
    let reserved = kept(config, (&system, &kube));
    let too_much = admission::reserved_beyond(&has, &reserved);
    if !too_much.is_empty() {
        return Err(AgentError::Allocatable(too_much.join(" ")));
    }
    Ok(NodeResources {
        allocatable: admission::allocatable(&has, &reserved),
        capacity: has,
    })
}

/// Memory that is reserved, or that the hard eviction threshold keeps free, bytes.
pub(super) fn reserved_memory(config: &Config, capacity: &NodeCapacity) -> Result<u64, AgentError> {
    let (system, kube) = reservations(config)?;
    let kept = kept(config, (&system, &kube));
    Ok(admission::reserved_memory(capacity.memory_bytes, &kept))
}

/// What is kept from pods, of the reservations for the system and for Kubernetes.
fn kept<'a>(
    config: &'a Config,
    (system, kube): (&'a Reservation, &'a Reservation),
) -> admission::Reserved<'a> {
    admission::Reserved {
        system,
        kube,
        eviction: &config.eviction.hard,
        max_pods: config.node.max_pods,
        pods_per_core: config.node.pods_per_core,
    }
}

/// Thousandths, by resource.
fn amounts(field: &'static str, texts: &Reservation) -> Result<BTreeMap<String, i64>, AgentError> {
    let read = |(resource, text): (&String, &String)| match Quantity::parse_amount(text) {
        Ok(amount) => Ok((resource.clone(), amount.milli())),
        Err(_) => Err(AgentError::Reserved {
            field,
            resource: resource.clone(),
            text: text.clone(),
        }),
    };
    texts.iter().map(read).collect()
}

/// Bytes of memory.
pub(super) fn memory_of(allocatable: &ResourceList) -> u64 {
    allocatable
        .get("memory")
        .map_or(0, |amount| amount.value().max(0).unsigned_abs())
}

/// Whether all pods together are held below what is theirs.
fn enforces_pods(config: &Config) -> bool {
    let levels = &config.cgroups.enforce_allocatable;
    config.cgroups.per_qos && levels.iter().any(|level| level == "pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressible_is_the_processor_alone() {
        let amounts = BTreeMap::from([
            ("cpu".to_owned(), 250),
            ("memory".to_owned(), 4_096_000),
            ("pid".to_owned(), 100_000),
            ("ephemeral-storage".to_owned(), 5000),
        ]);
        let whole = NodeLimits {
            cpu_milli: Some(250),
            memory_bytes: Some(4096),
            pids: Some(100),
            huge_pages: Some(BTreeMap::new()),
        };
        assert_eq!(daemon_limits(&amounts, false), whole);
        let part = NodeLimits {
            cpu_milli: Some(250),
            ..NodeLimits::default()
        };
        assert_eq!(daemon_limits(&amounts, true), part);
    }
}
