//! The cgroups the agent itself makes: the level of all pods, one for each QoS class below it, one for each pod.
//!
//! Owns: `<cgroupRoot>/kubepods` and everything below it that is named `burstable`, `besteffort` or `pod<uid>`, in
//! every mounted hierarchy; the arithmetic of requests and limits ([`resources`]).
//! Inputs: pods, and the configuration in [`CgroupsConfig`]. Outputs: the cgroup parent a sandbox is created with.
//! Tasks: none; every function here blocks briefly on the kernel, [`Cgroups::remove_pod`] for up to some seconds.
//! Deliberately not here: container cgroups (the runtime makes those), usage statistics, and the systemd driver,
//! which has its place in [`Driver`].
//!
//! The code is our own rather than that of a cgroup library: libraries create a cgroup by putting a process into
//! it, while these levels never hold one; the values follow Kubernetes' formulas, not the OCI specification's; and
//! the libraries bring a D-Bus stack that half of all nodes do not need.

mod hierarchy;
mod levels;
mod removal;
pub mod resources;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::dir::{Dir, DirError};
use crate::pod::{Pod, PodUid, QosClass, long_name};
use hierarchy::Hierarchy;
use levels::{HugePages, Limits};
use resources::{CpuQuotaConfig, ResourceError};

pub use hierarchy::{Version, huge_page_bytes, huge_page_sizes};

/// Where hierarchies are mounted, on every node there is.
pub const MOUNT_ROOT: &str = "/sys/fs/cgroup";

/// The level of all pods.
const ALL_PODS: &str = "kubepods";
/// What the name of a pod's cgroup begins with.
const POD_PREFIX: &str = "pod";

/// Who makes cgroups on this node. The runtime must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Directories in the cgroup filesystem.
    #[default]
    Cgroupfs,
    /// Slices of systemd.
    Systemd,
}

/// What the level of all pods is limited to (`enforceNodeAllocatable: [pods]`); `None` sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// Capacity less what is reserved, bytes.
    pub memory_bytes: Option<i64>,
    /// Capacity less what is reserved, thousandths of a cpu.
    pub cpu_milli: Option<i64>,
    /// Processes.
    pub pids: Option<i64>,
}

/// Settings of this room.
#[derive(Clone, Debug)]
pub struct CgroupsConfig {
    /// Where the cgroup filesystems are mounted: `/sys/fs/cgroup`.
    pub mount_root: PathBuf,
    /// `cgroupRoot`: the cgroup the pods' level lies in; empty or `/` is the root.
    pub cgroup_root: String,
    /// `cgroupDriver`.
    pub driver: Driver,
    /// `cgroupsPerQOS`: when false the agent makes no cgroups, and sandboxes go into the cgroup root.
    pub per_qos: bool,
    /// `cpuCFSQuota` and its period.
    pub cpu_quota: CpuQuotaConfig,
    /// `podPidsLimit`; `None` or not above zero is no limit.
    pub pod_pids_limit: Option<i64>,
    /// What all pods together may use.
    pub node: NodeLimits,
    /// The sizes of huge page the kernel supports, bytes ([`huge_page_sizes`]).
    pub huge_page_sizes: Vec<u64>,
}

impl Default for CgroupsConfig {
    /// The defaults of `KubeletConfiguration`.
    fn default() -> Self {
        Self {
            mount_root: PathBuf::from("/sys/fs/cgroup"),
            cgroup_root: String::new(),
            driver: Driver::Cgroupfs,
            per_qos: true,
            cpu_quota: CpuQuotaConfig::default(),
            pod_pids_limit: None,
            node: NodeLimits::default(),
            huge_page_sizes: Vec::new(),
        }
    }
}

/// Why a cgroup could not be made, set or removed. All but the first four are worth another try with back-off.
#[derive(Debug, thiserror::Error)]
pub enum CgroupsError {
    /// Another driver than this build has.
    #[error(
        "the systemd cgroup driver is not built: set cgroupDriver to cgroupfs, in the runtime too"
    )]
    DriverNotBuilt,
    /// `cgroupRoot` is no path of plain names.
    #[error("cgroupRoot {0:?} is no absolute path of plain names")]
    BadRoot(String),
    /// No cgroup filesystem is mounted.
    #[error("no cgroup filesystem is mounted at or below {}", .0.display())]
    NoHierarchy(PathBuf),
    /// `cgroupRoot` does not exist.
    #[error("the cgroup {} does not exist", .0.display())]
    RootMissing(PathBuf),
    /// The mount table or the cgroup filesystem could not be looked at.
    #[error("cannot find the cgroup filesystems at {}", path.display())]
    Lookup {
        /// What was looked at.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file or directory of the cgroup filesystem.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The pod's own numbers.
    #[error("pod {pod}: cannot compute the limits of its cgroup")]
    Resources {
        /// `<name>_<namespace>(<uid>)`.
        pod: String,
        /// The quantity that cannot be read.
        #[source]
        source: ResourceError,
    },
    /// Processes of the pod outlive SIGKILL.
    #[error("the cgroup of pod {uid} still has processes after SIGKILL: {pids:?}")]
    Alive {
        /// The pod.
        uid: PodUid,
        /// Some of them.
        pids: Vec<i32>,
    },
}

/// The agent's cgroups.
#[derive(Debug)]
pub struct Cgroups {
    config: CgroupsConfig,
    version: Version,
    hierarchies: Vec<Hierarchy>,
    /// Names from the root to the level of all pods.
    base: Vec<String>,
}

impl Cgroups {
    /// Which cgroup version is mounted at `sys_fs_cgroup`.
    ///
    /// # Errors
    /// When the path cannot be looked at.
    pub fn detect(sys_fs_cgroup: &Path) -> Result<Version, CgroupsError> {
        hierarchy::detect(sys_fs_cgroup)
    }

    /// Finds the mounted hierarchies; makes nothing yet.
    ///
    /// # Errors
    /// When there are none, or the configuration asks for what cannot be.
    pub fn new(config: CgroupsConfig) -> Result<Self, CgroupsError> {
        let version = Self::detect(&config.mount_root)?;
        let hierarchies = hierarchy::find(version, &config.mount_root)?;
        Self::with_hierarchies(config, version, hierarchies)
    }

    fn with_hierarchies(
        config: CgroupsConfig,
        version: Version,
        hierarchies: Vec<Hierarchy>,
    ) -> Result<Self, CgroupsError> {
        match config.driver {
            Driver::Cgroupfs => {}
            Driver::Systemd => return Err(CgroupsError::DriverNotBuilt),
        }
        let root = config.cgroup_root.trim_matches('/');
        let mut base: Vec<String> = root
            .split('/')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        if base.iter().any(|name| name == "." || name == "..") {
            return Err(CgroupsError::BadRoot(config.cgroup_root));
        }
        if config.per_qos {
            base.push(ALL_PODS.to_owned());
        }
        Ok(Self {
            config,
            version,
            hierarchies,
            base,
        })
    }

    /// The version in use.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes the level of all pods and those of the QoS classes, with their values. Idempotent; called at start.
    ///
    /// # Errors
    /// When a level cannot be made or set.
    pub fn ensure_node_levels(&self) -> Result<(), CgroupsError> {
        if !self.config.per_qos {
            return Ok(());
        }
        let node = self.config.node;
        let all = Limits {
            cpu_shares: node.cpu_milli.map(resources::shares),
            memory_bytes: node.memory_bytes,
            pids: node.pids,
            ..Limits::default()
        };
        let class = |cpu_shares| Limits {
            cpu_shares,
            huge_pages: HugePages::Unbounded,
            ..Limits::default()
        };
        for hierarchy in &self.hierarchies {
            let pods = self.ensure_base(hierarchy)?;
            self.apply(hierarchy, &pods, &all)?;
            // The shares of burstable follow its pods (`set_qos_shares`) and are left as they are here.
            for (class_of, shares) in [
                (QosClass::Burstable, None),
                (QosClass::BestEffort, Some(resources::MIN_SHARES)),
            ] {
                let level =
                    hierarchy.ensure_level(&pods, class_name(class_of).unwrap_or_default())?;
                hierarchy.enable_controllers(&level)?;
                self.apply(hierarchy, &level, &class(shares))?;
            }
        }
        Ok(())
    }

    /// Sets the weight of all burstable pods together to the sum of their cpu requests.
    ///
    /// # Errors
    /// When a level is missing or cannot be set.
    pub fn set_qos_shares(&self, burstable_milli_cpu: i64) -> Result<(), CgroupsError> {
        if !self.config.per_qos {
            return Ok(());
        }
        for (class, shares) in [
            (QosClass::Burstable, resources::shares(burstable_milli_cpu)),
            (QosClass::BestEffort, resources::MIN_SHARES),
        ] {
            let limits = Limits {
                cpu_shares: Some(shares),
                ..Limits::default()
            };
            for hierarchy in &self.hierarchies {
                if let Some(level) = self.open_class(hierarchy, class)? {
                    self.apply(hierarchy, &level, &limits)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the pod's cgroup with its values, and returns it as the runtime wants it for the sandbox: the path in
    /// the hierarchy, such as `/kubepods/burstable/pod<uid>`. Idempotent; a value that is already right is not
    /// written again.
    ///
    /// # Errors
    /// When the cgroup cannot be made or set, or a quantity of the pod cannot be read.
    pub fn ensure_pod(&self, pod: &Pod, uid: &PodUid) -> Result<String, CgroupsError> {
        if !self.config.per_qos {
            return Ok(format!("/{}", self.base.join("/")));
        }
        let numbers = resources::pod_resources(pod, &self.config.cpu_quota).map_err(|source| {
            CgroupsError::Resources {
                pod: long_name(pod),
                source,
            }
        })?;
        let limits = Limits {
            cpu_shares: Some(numbers.cpu_shares),
            cpu_quota: numbers.cpu_quota,
            cpu_period: numbers.cpu_period,
            memory_bytes: numbers.memory_limit_bytes.filter(|bytes| *bytes > 0),
            pids: self.config.pod_pids_limit.filter(|limit| *limit > 0),
            huge_pages: HugePages::Exactly(numbers.hugepages),
        };
        let class = resources::qos_class(pod);
        let name = pod_cgroup(uid);
        for hierarchy in &self.hierarchies {
            let parent = match self.open_class(hierarchy, class)? {
                Some(parent) => parent,
                None => {
                    let pods = self.ensure_base(hierarchy)?;
                    match class_name(class) {
                        Some(class) => hierarchy.ensure_level(&pods, class)?,
                        None => pods,
                    }
                }
            };
            hierarchy.enable_controllers(&parent)?;
            let level = hierarchy.ensure_level(&parent, &name)?;
            self.apply(hierarchy, &level, &limits)?;
        }
        Ok(self.path(class, &name))
    }

    /// Kills what is left in the pod's cgroup and below, and removes it from every hierarchy. Nothing outside the
    /// pod's own directories is touched. Blocks for up to some seconds; may be called again.
    ///
    /// # Errors
    /// When processes outlive SIGKILL, or a directory cannot be removed.
    pub fn remove_pod(&self, uid: &PodUid) -> Result<(), CgroupsError> {
        if !self.config.per_qos {
            return Ok(());
        }
        let name = pod_cgroup(uid);
        for class in CLASSES {
            let mut parents = Vec::new();
            for hierarchy in &self.hierarchies {
                if let Some(parent) = self.open_class(hierarchy, class)? {
                    parents.push(parent);
                }
            }
            removal::kill_all(&parents, &name, &self.path(class, &name), uid)?;
            for parent in &parents {
                removal::remove(parent, &name)?;
            }
        }
        Ok(())
    }

    /// [`Cgroups::remove_pod`] away from the task's thread.
    ///
    /// # Errors
    /// As [`Cgroups::remove_pod`].
    pub async fn remove_pod_in_background(
        self: std::sync::Arc<Self>,
        uid: PodUid,
    ) -> Result<(), CgroupsError> {
        match tokio::task::spawn_blocking(move || self.remove_pod(&uid)).await {
            Ok(done) => done,
            // It panicked or the agent is going down: the caller's next try finds what is left.
            Err(error) => Err(CgroupsError::Lookup {
                path: PathBuf::from("/"),
                source: io::Error::other(error),
            }),
        }
    }

    /// The pods that have a cgroup in any hierarchy: among them those nobody knows any more.
    ///
    /// # Errors
    /// When a hierarchy cannot be read.
    pub fn list_pods(&self) -> Result<Vec<PodUid>, CgroupsError> {
        let mut found = BTreeSet::new();
        if !self.config.per_qos {
            return Ok(Vec::new());
        }
        for hierarchy in &self.hierarchies {
            for class in CLASSES {
                let Some(level) = self.open_class(hierarchy, class)? else {
                    continue;
                };
                let names = level.subdirectories()?;
                let uids = names
                    .iter()
                    .filter_map(|name| name.strip_prefix(POD_PREFIX));
                found.extend(uids.filter_map(|uid| PodUid::parse(uid).ok()));
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The path of `name` in the hierarchy, below the level of `class`.
    fn path(&self, class: QosClass, name: &str) -> String {
        let mut path = String::new();
        let levels = self.base.iter().map(String::as_str);
        for level in levels.chain(class_name(class)).chain([name]) {
            path.push('/');
            path.push_str(level);
        }
        path
    }

    /// Makes the level of all pods in `hierarchy`. What lies above it is the administrator's and must exist.
    fn ensure_base(&self, hierarchy: &Hierarchy) -> Result<Dir, CgroupsError> {
        let mut level = Dir::open(&hierarchy.root)?;
        let (last, above) = match self.base.split_last() {
            Some((last, above)) => (last, above),
            None => return Ok(level),
        };
        hierarchy.enable_controllers(&level)?;
        for name in above {
            let missing = || CgroupsError::RootMissing(level.path_of(name));
            level = level.child(name)?.ok_or_else(missing)?;
            hierarchy.enable_controllers(&level)?;
        }
        let pods = hierarchy.ensure_level(&level, last)?;
        hierarchy.enable_controllers(&pods)?;
        Ok(pods)
    }

    fn open_class(
        &self,
        hierarchy: &Hierarchy,
        class: QosClass,
    ) -> Result<Option<Dir>, CgroupsError> {
        let mut level = Dir::open(&hierarchy.root)?;
        for name in self
            .base
            .iter()
            .map(String::as_str)
            .chain(class_name(class))
        {
            match level.child(name)? {
                Some(child) => level = child,
                None => return Ok(None),
            }
        }
        Ok(Some(level))
    }

    fn apply(
        &self,
        hierarchy: &Hierarchy,
        level: &Dir,
        limits: &Limits,
    ) -> Result<(), CgroupsError> {
        let settings = levels::settings(self.version, limits, &self.config.huge_page_sizes);
        for setting in settings {
            if hierarchy.has(setting.controller) {
                levels::apply(level, &setting)?;
            }
        }
        Ok(())
    }
}

const CLASSES: [QosClass; 3] = [
    QosClass::Guaranteed,
    QosClass::Burstable,
    QosClass::BestEffort,
];

/// The level of a class below that of all pods; Guaranteed pods have none of their own.
fn class_name(class: QosClass) -> Option<&'static str> {
    match class {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("burstable"),
        QosClass::BestEffort => Some("besteffort"),
    }
}

fn pod_cgroup(uid: &PodUid) -> String {
    format!("{POD_PREFIX}{uid}")
}

#[cfg(test)]
mod tests;
