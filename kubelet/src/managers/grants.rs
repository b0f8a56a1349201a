//! What the managers gave a container, as its creation needs it.

use super::devices::DeviceGrants;

/// What the managers gave a container. Empty for one that was given nothing, which is every one where no manager is
/// configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerGrants {
    /// The CPUs that it may run on, as `cpuset.cpus` has them; none where that is not the managers'.
    pub cpuset_cpus: Option<String>,
    /// The NUMA nodes that its memory comes from, as `cpuset.mems` has them; none where that is not the managers'.
    pub cpuset_mems: Option<String>,
    /// It has CPUs for itself, and is not held to a quota on them.
    pub lifts_quota: bool,
    /// What comes with its devices.
    pub devices: DeviceGrants,
}
