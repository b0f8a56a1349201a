//! Resources as CRI has them.

use std::collections::BTreeMap;

use cri_proto::v1;
use k8s_openapi::api::core::v1::Container;
use static_pods::quantity::Quantity;

use super::NodeSettings;
use crate::cgroups::resources::{
    CpuQuotaConfig, ResourceError, ResourceList, container_resources, pod_limits, pod_requests,
    quota, shares,
};
use crate::managers::ContainerGrants;
use crate::pod::{self, Pod};

/// The resources of one container.
pub(super) fn of_container(
    pod: &Pod,
    container: &Container,
    node: &NodeSettings,
) -> Result<v1::LinuxContainerResources, ResourceError> {
    let numbers = container_resources(pod, container, &node.capacity, &node.cpu_quota)?;
    let mut resources = v1::LinuxContainerResources {
        cpu_period: numbers.cpu_period,
        cpu_quota: numbers.cpu_quota,
        cpu_shares: numbers.cpu_shares,
        memory_limit_in_bytes: numbers.memory_limit_bytes,
        oom_score_adj: numbers.oom_score_adj,
        hugepage_limits: numbers
            .hugepages
            .into_iter()
            .map(|limit| v1::HugepageLimit {
                page_size: limit.page_size,
                limit: limit.limit_bytes,
            })
            .collect(),
        unified: oom_group(node),
        ..v1::LinuxContainerResources::default()
    };
    if node.swap_controller {
        match node.cgroup_v2 {
            true => {
                resources
                    .unified
                    .insert("memory.swap.max".to_owned(), "0".to_owned());
            }
            // Memory and swap together no more than memory alone.
            false => resources.memory_swap_limit_in_bytes = resources.memory_limit_in_bytes,
        }
    }
    Ok(resources)
}

/// The same resources on the CPUs and the memory that the container was given for itself.
pub(super) fn with_grants(
    resources: v1::LinuxContainerResources,
    grants: &ContainerGrants,
) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpuset_cpus: grants.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: grants.cpuset_mems.clone().unwrap_or_default(),
        cpu_quota: match grants.lifts_quota && resources.cpu_period != 0 {
            true => -1,
            false => resources.cpu_quota,
        },
        ..resources
    }
}

/// The CPUs that a container is made with; empty for all.
#[must_use]
pub fn cpuset_of(config: &v1::ContainerConfig) -> String {
    let linux = config.linux.as_ref();
    let resources = linux.and_then(|linux| linux.resources.as_ref());
    resources.map_or_else(String::new, |resources| resources.cpuset_cpus.clone())
}

/// The sandbox of a pod that has CPUs for itself is not held to a quota on them.
pub fn lift_sandbox_quota(config: &mut v1::PodSandboxConfig) {
    let linux = config.linux.as_mut();
    if let Some(resources) = linux.and_then(|linux| linux.resources.as_mut())
        && resources.cpu_period != 0
    {
        resources.cpu_quota = -1;
    }
}

/// The resources of a container that changes them while it runs: cpu and memory. What is zero stays as it is.
///
/// # Errors
/// When a quantity cannot be read.
pub fn resized_container(
    pod: &Pod,
    container: &Container,
    grants: &ContainerGrants,
    node: &NodeSettings,
) -> Result<v1::LinuxContainerResources, ResourceError> {
    let all = with_grants(of_container(pod, container, node)?, grants);
    Ok(v1::LinuxContainerResources {
        cpu_period: all.cpu_period,
        cpu_quota: all.cpu_quota,
        cpu_shares: all.cpu_shares,
        memory_limit_in_bytes: all.memory_limit_in_bytes,
        memory_swap_limit_in_bytes: all.memory_swap_limit_in_bytes,
        ..v1::LinuxContainerResources::default()
    })
}

/// What the whole sandbox gets, its overhead aside: runtimes that put a machine around a pod size it by this.
pub(super) fn of_sandbox(
    pod: &Pod,
    node: &NodeSettings,
) -> Result<v1::LinuxContainerResources, ResourceError> {
    let bare;
    let pod = match pod::spec(pod).overhead {
        None => pod,
        Some(_) => {
            let mut copy = pod.clone();
            if let Some(spec) = copy.spec.as_mut() {
                spec.overhead = None;
            }
            bare = copy;
            &bare
        }
    };
    let limits = pod_limits(pod)?;
    Ok(linux(pod_requests(pod)?.get("cpu").cloned(), &limits, node))
}

/// The overhead of the sandbox, which is request and limit at once; empty for a pod without.
pub(super) fn overhead(
    pod: &Pod,
    node: &NodeSettings,
) -> Result<v1::LinuxContainerResources, ResourceError> {
    if pod::spec(pod).overhead.is_none() {
        return Ok(v1::LinuxContainerResources::default());
    }
    // The overhead is what is left of a pod without containers.
    let mut empty = Pod {
        spec: Some(k8s_openapi::api::core::v1::PodSpec::default()),
        ..Pod::default()
    };
    if let (Some(into), Some(from)) = (empty.spec.as_mut(), pod.spec.as_ref()) {
        into.overhead.clone_from(&from.overhead);
    }
    let overhead = pod_requests(&empty)?;
    Ok(linux(overhead.get("cpu").cloned(), &overhead, node))
}

fn linux(
    cpu_request: Option<Quantity>,
    limits: &ResourceList,
    node: &NodeSettings,
) -> v1::LinuxContainerResources {
    let limit = |name: &str| limits.get(name).cloned().unwrap_or_default();
    let (cpu_period, cpu_quota) = cfs(limit("cpu"), &node.cpu_quota);
    let cpu_shares = shares(cpu_request.unwrap_or_else(|| limit("cpu")).milli());
    v1::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares: i64::try_from(cpu_shares).unwrap_or(i64::MAX),
        memory_limit_in_bytes: limit("memory").value(),
        unified: oom_group(node),
        ..v1::LinuxContainerResources::default()
    }
}

fn cfs(limit: Quantity, config: &CpuQuotaConfig) -> (i64, i64) {
    if !config.enabled {
        return (0, 0);
    }
    let period = i64::try_from(config.period.as_micros()).unwrap_or(i64::MAX);
    (period, quota(limit.milli(), period))
}

fn oom_group(node: &NodeSettings) -> BTreeMap<String, String> {
    match node.cgroup_v2 && node.group_oom_kill {
        true => BTreeMap::from([("memory.oom.group".to_owned(), "1".to_owned())]),
        false => BTreeMap::new(),
    }
}
