//! What a pod's requests and limits come to: its QoS class, the numbers of its cgroup, the numbers of each container.
//!
//! Pure: no I/O, no clock. The formulas are those of the Kubernetes documents "Manage resources for containers",
//! "Configure quality of service for pods", KEP-753 (sidecars), KEP-2837 (pod-level resources) and of the kernel's
//! `sched-bwc` and `cgroup-v2`.

mod sums;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use static_pods::quantity::{InvalidAmount, Quantity};

use crate::pod::{self, ContainerKind, Pod, QosClass};
use sums::{
    Side, add, amount, every_stage_limits, limits_of, overhead, pod_level, pod_level_requests,
    requests_of, sum_of_containers,
};

/// The least `cpu.shares` the kernel takes; what a container without a cpu request gets.
pub const MIN_SHARES: u64 = 2;
/// The most `cpu.shares` the kernel takes.
const MAX_SHARES: u64 = 262_144;
/// The least CFS quota the kernel takes, microseconds.
const MIN_QUOTA: i64 = 1000;
/// `spec.priority` from which on a pod is critical to the system (`system-cluster-critical`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// `oom_score_adj` of Guaranteed and node-critical pods.
const OOM_GUARANTEED: i64 = -997;
/// `oom_score_adj` of BestEffort pods.
const OOM_BEST_EFFORT: i64 = 1000;

/// What resources are called in a spec.
const CPU: &str = "cpu";
const MEMORY: &str = "memory";
const HUGE_PAGES: &str = "hugepages-";

/// Amounts by the name of the resource.
pub type ResourceList = BTreeMap<String, Quantity>;

/// A request or limit that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{owner}: {field}[{resource}]: {text:?} is not a quantity")]
pub struct ResourceError {
    /// `container "c"`, or `pod` for resources and overhead of the whole pod.
    pub owner: String,
    /// `limits`, `requests` or `overhead`.
    pub field: &'static str,
    /// The name of the resource.
    pub resource: String,
    /// What the spec has.
    pub text: String,
    /// Why it is none.
    #[source]
    pub source: InvalidAmount,
}

/// What the node has, as far as it takes part in a container's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCapacity {
    /// All memory of the machine, bytes (`MemTotal`).
    pub memory_bytes: u64,
    /// The sizes of huge page the kernel supports, bytes.
    pub huge_page_sizes: Vec<u64>,
}

/// How cpu limits are enforced (`cpuCFSQuota`, `cpuCFSQuotaPeriod`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuQuotaConfig {
    /// Whether they are enforced.
    pub enabled: bool,
    /// The CFS period.
    pub period: Duration,
}

impl Default for CpuQuotaConfig {
    /// Enforced, with a period of 100 ms: the defaults of `KubeletConfiguration`.
    fn default() -> Self {
        Self {
            enabled: true,
            period: Duration::from_millis(100),
        }
    }
}

impl CpuQuotaConfig {
    fn period_micros(&self) -> i64 {
        i64::try_from(self.period.as_micros()).unwrap_or(i64::MAX)
    }
}

/// The most a container may use of one size of huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugePageLimit {
    /// The size as the kernel's files name it: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit_bytes: u64,
}

/// The numbers of one container for the runtime, each meaning what CRI's `LinuxContainerResources` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerResources {
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Microseconds; 0 when cpu limits are not enforced.
    pub cpu_period: i64,
    /// Microseconds a period; 0 when there is no limit.
    pub cpu_quota: i64,
    /// Bytes; 0 when there is no limit.
    pub memory_limit_bytes: i64,
    /// -997 to 1000.
    pub oom_score_adj: i64,
    /// One for each size the node supports, 0 where none was asked for.
    pub hugepages: Vec<HugePageLimit>,
}

/// The numbers of a whole pod. `None` leaves the kernel's default, which is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodResources {
    /// What the pod asks for, overhead included.
    pub requests: ResourceList,
    /// What it may use, overhead included where a limit is set.
    pub limits: ResourceList,
    /// Relative weight of its cgroup, 2 to 262144.
    pub cpu_shares: u64,
    /// Microseconds a period; -1 is explicitly none.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<i64>,
    /// Bytes.
    pub memory_limit_bytes: Option<i64>,
    /// Bytes by size of page in bytes. A size that is absent is not to be used at all.
    pub hugepages: BTreeMap<u64, u64>,
}

/// `cpu.shares` for a request of `milli` thousandths of a cpu.
#[must_use]
pub fn shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// cgroup v2's `cpu.weight`, 1 to 10000, for `shares`.
#[must_use]
pub fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(MIN_SHARES, MAX_SHARES);
    1 + (shares - MIN_SHARES) * 9999 / (MAX_SHARES - MIN_SHARES)
}

/// CFS quota in microseconds a period for a limit of `milli` thousandths of a cpu; 0 for no limit.
#[must_use]
pub fn quota(milli: i64, period_micros: i64) -> i64 {
    if milli == 0 {
        return 0;
    }
    let quota = i128::from(milli) * i128::from(period_micros) / 1000;
    i64::try_from(quota).unwrap_or(i64::MAX).max(MIN_QUOTA)
}

/// The QoS class of `pod`, from its pod-level resources where it has any, else from those of its containers.
///
/// A quantity that cannot be read counts as absent; [`pod_resources`] reports it.
#[must_use]
pub fn qos_class(pod: &Pod) -> QosClass {
    let counts = |list: &ResourceList| -> ResourceList {
        let wanted = [CPU, MEMORY].into_iter();
        wanted
            .filter_map(|name| Some((name.to_owned(), list.get(name)?.clone())))
            .filter(|(_, amount)| !amount.is_zero())
            .collect()
    };
    let (mut requests, mut limits) = (ResourceList::new(), ResourceList::new());
    let mut every_limit_set = true;
    if pod::spec(pod).resources.is_some() {
        requests = counts(&pod_level_requests(pod).unwrap_or_default());
        limits = counts(&pod_level(pod, Side::Limits).unwrap_or_default());
        every_limit_set = limits.len() == 2;
    } else {
        for (_, container) in pod::containers(pod) {
            let limit = counts(&limits_of(container).unwrap_or_default());
            every_limit_set &= limit.len() == 2;
            add(&mut limits, &limit);
            add(
                &mut requests,
                &counts(&requests_of(container).unwrap_or_default()),
            );
        }
    }
    if requests.is_empty() && limits.is_empty() {
        QosClass::BestEffort
    } else if every_limit_set && requests == limits {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// What `pod` asks of the node: the sum over its containers and sidecars, no less than any init container needs
/// beside the sidecars before it, overridden by pod-level requests, plus the overhead of its runtime class.
///
/// # Errors
/// When a quantity of the spec cannot be read.
pub fn pod_requests(pod: &Pod) -> Result<ResourceList, ResourceError> {
    let mut total = sum_of_containers(pod, requests_of)?;
    total.extend(pod_level_requests(pod)?);
    add(&mut total, &overhead(pod)?);
    Ok(total)
}

/// What `pod` may use, summed as in [`pod_requests`]. A resource is missing where no container limits it; one that
/// only some containers limit is there with the sum of those.
///
/// # Errors
/// When a quantity of the spec cannot be read.
pub fn pod_limits(pod: &Pod) -> Result<ResourceList, ResourceError> {
    let mut total = sum_of_containers(pod, limits_of)?;
    total.extend(pod_level(pod, Side::Limits)?);
    for (name, more) in overhead(pod)? {
        if let Some(limit) = total.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = limit.plus(&more);
        }
    }
    Ok(total)
}

/// The numbers of the pod's own cgroup.
///
/// # Errors
/// When a quantity of the spec cannot be read.
pub fn pod_resources(pod: &Pod, cfg: &CpuQuotaConfig) -> Result<PodResources, ResourceError> {
    let requests = pod_requests(pod)?;
    let limits = pod_limits(pod)?;
    let class = qos_class(pod);
    let limited = |name: &str| -> Result<bool, ResourceError> {
        if class == QosClass::BestEffort {
            return Ok(false);
        }
        if !amount(&pod_level(pod, Side::Limits)?, name).is_zero() {
            return Ok(true);
        }
        every_stage_limits(pod, name)
    };

    let period = cfg.period_micros();
    let cpu_limited = limited(CPU)?;
    let cpu_quota = cpu_limited.then(|| match cfg.enabled {
        true => quota(amount(&limits, CPU).milli(), period),
        false => -1,
    });
    let memory_limit_bytes = limited(MEMORY)?.then(|| amount(&limits, MEMORY).value());
    let cpu_shares = match class {
        QosClass::BestEffort => MIN_SHARES,
        _ => shares(amount(&requests, CPU).milli()),
    };
    let hugepages = huge_pages(&requests);
    Ok(PodResources {
        requests,
        limits,
        cpu_shares,
        cpu_quota,
        cpu_period: cpu_limited.then_some(period),
        memory_limit_bytes,
        hugepages,
    })
}

/// The numbers of the container `c` of `pod`.
///
/// # Errors
/// When a quantity of the container or of the pod's own resources cannot be read.
pub fn container_resources(
    pod: &Pod,
    c: &Container,
    node: &NodeCapacity,
    cfg: &CpuQuotaConfig,
) -> Result<ContainerResources, ResourceError> {
    let own_limits = limits_of(c)?;
    let pod_limits = pod_level(pod, Side::Limits)?;
    // A container without a limit of its own lives under the pod's.
    let limit = |name: &str| match amount(&own_limits, name) {
        own if own.is_zero() => amount(&pod_limits, name),
        own => own,
    };
    let request = requests_of(c)?.get(CPU).cloned();
    let (cpu_period, cpu_quota) = match cfg.enabled {
        true => {
            let period = cfg.period_micros();
            (period, quota(limit(CPU).milli(), period))
        }
        false => (0, 0),
    };

    let mut wanted = huge_pages(&pod_limits);
    wanted.extend(huge_pages(&own_limits));
    let hugepages = node
        .huge_page_sizes
        .iter()
        .map(|&size| HugePageLimit {
            page_size: huge_page_name(size),
            limit_bytes: wanted.get(&size).copied().unwrap_or(0),
        })
        .collect();
    let cpu_shares = shares(request.unwrap_or_else(|| limit(CPU)).milli());
    Ok(ContainerResources {
        cpu_shares: i64::try_from(cpu_shares).unwrap_or(i64::MAX),
        cpu_period,
        cpu_quota,
        memory_limit_bytes: limit(MEMORY).value(),
        oom_score_adj: oom_score_adj(pod, c, node.memory_bytes)?,
        hugepages,
    })
}

/// What the container `c` itself asks for of memory, and what it may use; bytes, 0 where it does not say. A limit alone is
/// the request too.
///
/// # Errors
/// When a quantity of the container cannot be read.
pub fn container_memory(c: &Container) -> Result<(i64, i64), ResourceError> {
    let of = |list: &ResourceList| amount(list, MEMORY).value();
    Ok((of(&requests_of(c)?), of(&limits_of(c)?)))
}

/// How much sooner or later than others the kernel kills the container `c` of `pod` when memory runs out.
///
/// # Errors
/// When a quantity of the spec cannot be read.
pub fn oom_score_adj(
    pod: &Pod,
    c: &Container,
    node_memory_bytes: u64,
) -> Result<i64, ResourceError> {
    if is_node_critical(pod) {
        return Ok(OOM_GUARANTEED);
    }
    match qos_class(pod) {
        QosClass::Guaranteed => return Ok(OOM_GUARANTEED),
        QosClass::BestEffort => return Ok(OOM_BEST_EFFORT),
        QosClass::Burstable => {}
    }
    let capacity = i128::from(node_memory_bytes.max(1));
    let spare = i128::from(spare_pod_memory(pod)?);
    let score = |request: i64| 1000 - 1000 * (i128::from(request) + spare) / capacity;
    let mut adj = score(amount(&requests_of(c)?, MEMORY).value());
    let is_sidecar = pod::containers(pod)
        .any(|(kind, other)| kind == ContainerKind::Sidecar && other.name == c.name);
    if is_sidecar {
        // A sidecar outlives the containers it serves.
        let mut least = None;
        for regular in &pod::spec(pod).containers {
            let request = amount(&requests_of(regular)?, MEMORY).value();
            least = Some(least.map_or(request, |least: i64| least.min(request)));
        }
        adj = adj.min(score(least.unwrap_or(0)));
    }
    // Burstable lies between the other two classes.
    let adj = i64::try_from(adj).unwrap_or(0);
    Ok(adj.clamp(1000 + OOM_GUARANTEED, OOM_BEST_EFFORT - 1))
}

/// What the pod-level memory request leaves over the sum of its containers', evenly for each container, bytes.
fn spare_pod_memory(pod: &Pod) -> Result<i64, ResourceError> {
    let whole = amount(&pod_level_requests(pod)?, MEMORY).value();
    if whole == 0 {
        return Ok(0);
    }
    let count = i64::try_from(pod::containers(pod).count()).unwrap_or(i64::MAX);
    let used = amount(&sum_of_containers(pod, requests_of)?, MEMORY).value();
    Ok((whole - used) / count.max(1))
}

/// Whether the node itself depends on `pod`: critical, and of the class `system-node-critical`.
fn is_node_critical(pod: &Pod) -> bool {
    let spec = pod::spec(pod);
    let annotation = |name: &str| {
        let annotations = pod.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    };
    let is_static = annotation(pod::CONFIG_SOURCE_ANNOTATION).is_some_and(|source| source != "api");
    let is_mirror = annotation(pod::CONFIG_MIRROR_ANNOTATION).is_some();
    let is_critical = is_static || is_mirror || spec.priority.unwrap_or(0) >= CRITICAL_PRIORITY;
    is_critical && spec.priority_class_name.as_deref() == Some("system-node-critical")
}

/// Bytes of huge pages by size of page; names with a size that cannot be read are left to validation.
fn huge_pages(list: &ResourceList) -> BTreeMap<u64, u64> {
    let of_size = |(name, amount): (&String, &Quantity)| {
        let size = Quantity::parse_amount(name.strip_prefix(HUGE_PAGES)?)
            .ok()?
            .value();
        Some((
            u64::try_from(size).ok()?,
            u64::try_from(amount.value()).ok()?,
        ))
    };
    list.iter().filter_map(of_size).collect()
}

/// A size of huge page as the kernel's hugetlb files name it: `64KB`, `2MB`, `1GB`.
#[must_use]
pub fn huge_page_name(size_bytes: u64) -> String {
    let mut size = size_bytes;
    let mut unit = 0;
    let units = ["B", "KB", "MB", "GB", "TB", "PB"];
    while size > 0 && size.is_multiple_of(1024) && unit + 1 < units.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", units[unit])
}

#[cfg(test)]
mod tests;
