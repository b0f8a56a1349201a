//! The cgroups the agent itself makes: the level of all pods, one for each QoS class below it, one for each pod.
//!
//! Owns: `<cgroupRoot>/kubepods` and everything below it that is named `burstable`, `besteffort` or `pod<uid>`, in
//! every mounted hierarchy, or the slices of systemd that stand for them; the arithmetic of requests and limits
//! ([`resources`]).
//! Inputs: pods, the configuration in [`CgroupsConfig`], and the driver, which is known only once the runtime was asked
//! ([`Cgroups::begin`]). Outputs: the cgroup parent a sandbox is created with.
//! Tasks: none. What asks systemd waits for it without a thread, within deadlines; the rest blocks briefly on the
//! kernel, and the removal of a pod, which may take some seconds, does so on a thread for that.
//! Deliberately not here: container cgroups (the runtime makes those), what is used of them (`stats` reads that), and the question which driver.
//!
//! With the systemd driver each level is a transient slice (`systemd`), and the same values are written to its files
//! as well, as runc does it: controllers that systemd does not know have nothing but files.
//!
//! The code is our own rather than that of a cgroup library: libraries create a cgroup by putting a process into
//! it, while these levels never hold one; the values follow Kubernetes' formulas, not the OCI specification's; and
//! nothing of D-Bus runs where the driver is cgroupfs.

mod error;
mod hierarchy;
mod levels;
mod memory_qos;
mod names;
mod node_levels;
mod places;
mod pod_level;
mod removal;
mod reserved_level;
pub mod resources;
mod systemd;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::dir::Dir;
use crate::pod::QosClass;
use hierarchy::Hierarchy;
use levels::Limits;
use names::Names;
use resources::CpuQuotaConfig;
use systemd::Systemd;

pub use error::CgroupsError;
pub use hierarchy::{Version, huge_page_bytes, huge_page_sizes, limits_swap};
pub use memory_qos::{ClassRequests, MemoryQos};
pub use places::CgroupMount;
pub use systemd::{Deadlines, Endpoint, SystemdConfig, SystemdError};

/// Where hierarchies are mounted, on every node there is.
pub const MOUNT_ROOT: &str = "/sys/fs/cgroup";

const CLASSES: [QosClass; 3] = [
    QosClass::Guaranteed,
    QosClass::Burstable,
    QosClass::BestEffort,
];

/// Who makes cgroups on this node. The runtime must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Directories in the cgroup filesystem.
    #[default]
    Cgroupfs,
    /// Slices of systemd.
    Systemd,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        })
    }
}

/// What the level of all pods, or that of daemons, is limited to (`enforceNodeAllocatable`); `None` sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// For pods capacity less what is reserved, for daemons what is; bytes.
    pub memory_bytes: Option<i64>,
    /// The same, thousandths of a cpu.
    pub cpu_milli: Option<i64>,
    /// Processes.
    pub pids: Option<i64>,
    /// Bytes by size of page in bytes; sizes that are absent are not to be used at all.
    pub huge_pages: Option<BTreeMap<u64, u64>>,
}

/// Settings of this room.
#[derive(Clone, Debug)]
pub struct CgroupsConfig {
    /// Where the cgroup filesystems are mounted: `/sys/fs/cgroup`.
    pub mount_root: PathBuf,
    /// `cgroupRoot`: the cgroup the pods' level lies in; empty or `/` is the root.
    pub cgroup_root: String,
    /// `cgroupsPerQOS`: when false the agent makes no cgroups, and sandboxes go into the cgroup root.
    pub per_qos: bool,
    /// `cpuCFSQuota` and its period.
    pub cpu_quota: CpuQuotaConfig,
    /// `podPidsLimit`; `None` or not above zero is no limit.
    pub pod_pids_limit: Option<i64>,
    /// What all pods together may use.
    pub node: NodeLimits,
    /// What is kept of memory; none unless the feature gate `MemoryQoS` is on, and there is cgroup v2.
    pub memory_qos: Option<MemoryQos>,
    /// What lesser classes leave of memory: percent of what better ones ask for (`qosReserved`, behind the feature gate
    /// `QOSReserved`), and what pods may ask for in sum, bytes.
    pub class_reserve: Option<(i64, i64)>,
    /// The sizes of huge page the kernel supports, bytes ([`huge_page_sizes`]).
    pub huge_page_sizes: Vec<u64>,
    /// The cpus the machine can have, as the kernel lists them: `0-3`. systemd leaves pods the controller `cpuset` only
    /// where it is told of cpus.
    pub cpus: Option<String>,
    /// Where systemd is, for its driver.
    pub systemd: SystemdConfig,
}

impl Default for CgroupsConfig {
    /// The defaults of `KubeletConfiguration`.
    fn default() -> Self {
        Self {
            mount_root: PathBuf::from(MOUNT_ROOT),
            cgroup_root: String::new(),
            per_qos: true,
            cpu_quota: CpuQuotaConfig::default(),
            pod_pids_limit: None,
            node: NodeLimits::default(),
            memory_qos: None,
            class_reserve: None,
            huge_page_sizes: Vec::new(),
            cpus: None,
            systemd: SystemdConfig::default(),
        }
    }
}

/// The agent's cgroups.
#[derive(Debug)]
pub struct Cgroups {
    config: CgroupsConfig,
    version: Version,
    hierarchies: Vec<Hierarchy>,
    begun: OnceLock<Begun>,
}

/// What depends on the driver.
#[derive(Debug)]
struct Begun {
    names: Names,
    systemd: Option<Systemd>,
}

impl Begun {
    fn driver(&self) -> Driver {
        match self.systemd {
            Some(_) => Driver::Systemd,
            None => Driver::Cgroupfs,
        }
    }
}

impl Cgroups {
    /// Which cgroup version is mounted at `sys_fs_cgroup`.
    ///
    /// # Errors
    /// When the path cannot be looked at.
    pub fn detect(sys_fs_cgroup: &Path) -> Result<Version, CgroupsError> {
        hierarchy::detect(sys_fs_cgroup)
    }

    /// Finds the mounted hierarchies and the controllers pods need; makes nothing yet.
    ///
    /// # Errors
    /// When something of it is not there.
    pub fn new(config: CgroupsConfig) -> Result<Self, CgroupsError> {
        let version = Self::detect(&config.mount_root)?;
        let hierarchies = hierarchy::find(version, &config.mount_root)?;
        if config.per_qos {
            hierarchy::check(version, &config.mount_root, &hierarchies)?;
        }
        Ok(Self::with_hierarchies(config, version, hierarchies))
    }

    fn with_hierarchies(
        config: CgroupsConfig,
        version: Version,
        hierarchies: Vec<Hierarchy>,
    ) -> Self {
        Self {
            config,
            version,
            hierarchies,
            begun: OnceLock::new(),
        }
    }

    /// The version in use.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes the level of all pods and those of the QoS classes with `driver`, and takes on pods from then on.
    /// Idempotent until it has done so once; after that nothing changes.
    ///
    /// # Errors
    /// When the driver does not fit this machine, or a level cannot be made.
    pub async fn begin(&self, driver: Driver) -> Result<(), CgroupsError> {
        if self.begun.get().is_some() {
            return Ok(());
        }
        let config = &self.config;
        let names = Names::new(driver, &config.cgroup_root, config.per_qos)?;
        let systemd = match driver {
            Driver::Cgroupfs => None,
            Driver::Systemd => {
                if !config.systemd.booted.is_dir() {
                    return Err(CgroupsError::NoSystemd(config.systemd.booted.clone()));
                }
                let systemd = Systemd::new(&config.systemd);
                let version = systemd.version().await?;
                tracing::info!(version, "systemd makes the slices of pods");
                Some(systemd)
            }
        };
        let begun = Begun { names, systemd };
        self.make_levels(&begun).await?;
        self.check_handed_down(&begun)?;
        // Whoever was first has done the same.
        let _ = self.begun.set(begun);
        Ok(())
    }

    fn begun(&self) -> Result<&Begun, CgroupsError> {
        self.begun.get().ok_or(CgroupsError::DriverUnknown)
    }

    /// The values of a level as this driver can keep them.
    fn kept(&self, begun: &Begun, limits: Limits) -> Limits {
        match begun.systemd {
            Some(_) => systemd::whole_percent(&limits),
            None => limits,
        }
    }

    /// The level of `class` in `hierarchy`, for Guaranteed that of all pods; `None` where it is not there.
    fn open_class(
        &self,
        begun: &Begun,
        hierarchy: &Hierarchy,
        class: QosClass,
    ) -> Result<Option<Dir>, CgroupsError> {
        let mut level = Dir::open(&hierarchy.root)?;
        for name in begun.names.levels(class) {
            match level.child(&name)? {
                Some(child) => level = child,
                None => return Ok(None),
            }
        }
        Ok(Some(level))
    }

    /// Writes the files of one level.
    fn apply(
        &self,
        hierarchy: &Hierarchy,
        level: &Dir,
        limits: &Limits,
    ) -> Result<(), CgroupsError> {
        for setting in self.settings(hierarchy, limits) {
            levels::apply(level, &setting)?;
        }
        Ok(())
    }

    fn settings(
        &self,
        hierarchy: &Hierarchy,
        limits: &Limits,
    ) -> impl Iterator<Item = levels::Setting> {
        let all = levels::settings(self.version, limits, &self.config.huge_page_sizes);
        all.into_iter()
            .filter(|setting| hierarchy.has(setting.controller))
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
