//! From a pod's spec to the messages that make its sandbox and containers.
//!
//! Owns: names, labels and annotations under which the runtime keeps a pod; DNS, host name, environment, command,
//! mounts, security context and resources as CRI has them.
//! Inputs: the pod, [`NodeSettings`], and what was found out just before (addresses, image, volumes, paths).
//! Outputs: [`PodSandboxConfig`](cri_proto::v1::PodSandboxConfig) and
//! [`ContainerConfig`](cri_proto::v1::ContainerConfig), or the error whose text is the waiting container's message.
//! Spawns no task. Pure: no clock, no I/O; that a path exists is the caller's business.
//! Does not: get configMaps, secrets or services (it is handed what is known of them), mount parts of volumes (it says
//! which, and is handed where), or give out devices and ids of users (it is handed which).

mod container;
pub mod dns;
mod downward;
mod env;
mod env_file;
mod expand;
mod hostname;
mod identity;
mod mounts;
mod resources;
mod sandbox;
mod security;
mod service_env;

use std::net::IpAddr;
use std::path::PathBuf;

use crate::cgroups::MemoryQos;
use crate::cgroups::resources::{CpuQuotaConfig, NodeCapacity, ResourceList};

pub(crate) use container::signal_name;
pub use container::{ContainerConfigError, ContainerInputs, container_config, sub_paths};
pub use downward::DownwardError;
pub(crate) use downward::go_quote;
pub(crate) use downward::{field_for_file, resource_for_file};
pub use env::{EnvError, EnvFiles};
pub use env_file::EnvFile;
pub(crate) use expand::expand;
pub use hostname::{HostnameError, PodHostname, pod_hostname};
pub use identity::{
    DEFAULT_TERMINATION_MESSAGE_PATH, annotation, container_hash, container_log_path, label,
};
pub use mounts::{ImageVolumes, MountError, wants_recursive_read_only};
pub use resources::{cpuset_of, lift_sandbox_quota, may_swap, resized_container};
pub use sandbox::{SandboxConfigError, SandboxInputs, sandbox_config};
pub use security::{SecurityError, default_masked_paths, share_processes};

/// What is the same for every pod of the node.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    /// `clusterDomain`, such as `cluster.local`.
    pub cluster_domain: String,
    /// The directory of Localhost seccomp profiles, `<root>/seccomp`.
    pub seccomp_root: PathBuf,
    /// `seccompDefault`: a container without a profile gets the runtime's instead of none.
    pub seccomp_default: bool,
    /// Paths hidden from containers: [`default_masked_paths`].
    pub masked_paths: Vec<String>,
    /// SELinux is enabled.
    pub selinux: bool,
    /// The node has cgroup v2.
    pub cgroup_v2: bool,
    /// When memory runs out, all processes of a container die together (the opposite of `singleProcessOOMKill`;
    /// cgroup v2 only).
    pub group_oom_kill: bool,
    /// `lifecycle.stopSignal` counts (feature gate `ContainerStopSignals`). A runtime that does not know it sends the
    /// image's own signal.
    pub stop_signals: bool,
    /// Variables may come from files in volumes (feature gate `EnvFiles`).
    pub env_files: bool,
    /// The kernel can limit swap. Containers then get none (`NoSwap`), but for `limited_swap`.
    pub swap_controller: bool,
    /// Swap of the machine, bytes, where containers of burstable pods get their share of it (`LimitedSwap`; cgroup v2
    /// only).
    pub limited_swap: Option<u64>,
    /// What the kernel keeps of memory for containers, and where it slows them (feature gate `MemoryQoS`; cgroup v2
    /// only).
    pub memory_qos: Option<MemoryQos>,
    /// The size of a page of memory, bytes.
    pub page_bytes: usize,
    /// Memory and huge pages of the machine.
    pub capacity: NodeCapacity,
    /// How cpu limits are enforced.
    pub cpu_quota: CpuQuotaConfig,
    /// What pods may use of the node: the limit, for the downward API, of a container that has none.
    pub allocatable: ResourceList,
    /// The node's addresses, primary first.
    pub host_ips: Vec<IpAddr>,
}

#[cfg(test)]
mod tests;
