//! The level of all pods and those of the QoS classes.

use std::path::PathBuf;

use super::hierarchy::{FILE_LIMIT, Hierarchy};
use super::levels::{self, HugePages, Limits};
use super::systemd::{self, Slice};
use super::{Begun, Cgroups, CgroupsError, ClassRequests, Version, memory_qos, resources};
use crate::dir::Dir;
use crate::metrics::kubelet;
use crate::pod::QosClass;

/// The hierarchy of version 1 that systemd keeps its units in.
const SYSTEMD_V1: &str = "name=systemd";

impl Cgroups {
    /// Limits all pods together to what is theirs (`NodeLimits`).
    ///
    /// # Errors
    /// When the kernel refuses, as one of version 1 does while pods use more than that; or systemd does.
    pub async fn limit_node(&self) -> Result<(), CgroupsError> {
        let begun = self.begun()?;
        if !self.config.per_qos {
            return Ok(());
        }
        let limits = self.node_limits(begun);
        if let Some(systemd) = &begun.systemd {
            let properties = systemd::properties(self.version, &limits);
            systemd
                .set(begun.names.base_slices().0, &properties)
                .await?;
        }
        for hierarchy in &self.hierarchies {
            let pods = self.ensure_base(begun, hierarchy)?;
            self.apply(hierarchy, &pods, &limits)?;
        }
        Ok(())
    }

    /// Sets the weight of all burstable pods together to the sum of their cpu requests, what is kept of memory for whom
    /// where that is configured, and the rest of what the levels of the classes are to have. A value that is already
    /// right is not written again, nor systemd asked then.
    ///
    /// # Errors
    /// When a level cannot be set, or the driver is not known yet.
    pub async fn set_classes(&self, requests: &ClassRequests) -> Result<(), CgroupsError> {
        let begun = self.begun()?;
        if !self.config.per_qos {
            return Ok(());
        }
        if let Some(qos) = &self.config.memory_qos {
            let (min, low) = qos.kept_in_sum(requests);
            kubelet().managers.memory_kept(min, low);
        }
        for (class, limits) in self.class_limits(requests) {
            let mut differing = Vec::new();
            for hierarchy in &self.hierarchies {
                if self.settings(hierarchy, &limits).next().is_none() {
                    continue;
                }
                let Some(level) = self.open_class(begun, hierarchy, class)? else {
                    continue;
                };
                for setting in self.settings(hierarchy, &limits) {
                    if !levels::is_set(&level, &setting)? {
                        differing.push((hierarchy, level));
                        break;
                    }
                }
            }
            if differing.is_empty() {
                continue;
            }
            // systemd first: a file that is right says that the property is.
            if let Some(systemd) = &begun.systemd {
                let unit = begun.names.class(class);
                let unit = unit.unwrap_or_else(|| begun.names.base_slices().0.to_owned());
                let properties = systemd::properties(self.version, &limits);
                systemd.set(&unit, &properties).await?;
            }
            for (hierarchy, level) in &differing {
                let applied = self.apply(hierarchy, level, &limits);
                match (applied, self.used_instead(level, &limits)?) {
                    // What is used already cannot be taken back: no more than that.
                    (Err(_), Some(used)) => self.apply(hierarchy, level, &used)?,
                    (applied, _) => applied?,
                }
            }
        }
        Ok(())
    }

    /// What the levels of the classes are to have; that of Guaranteed pods is the one of all pods.
    fn class_limits(&self, requests: &ClassRequests) -> Vec<(QosClass, Limits)> {
        let shares = resources::shares(requests.burstable_cpu_milli);
        let mut all = classes(Some(shares)).to_vec();
        if self.config.memory_qos.is_some() {
            all.insert(0, (QosClass::Guaranteed, Limits::default()));
        }
        for (class, limits) in &mut all {
            if let Some(qos) = self.config.memory_qos {
                limits.memory_kept = qos.class(*class, requests);
            }
            if let Some((percent, allocatable)) = self.config.class_reserve {
                limits.memory_bytes =
                    memory_qos::class_limit(*class, requests, allocatable, percent);
            }
        }
        all
    }

    /// `limits` with what is used of memory now in place of a limit below that; none where there is no such limit.
    fn used_instead(&self, level: &Dir, limits: &Limits) -> Result<Option<Limits>, CgroupsError> {
        let Some(limit) = limits.memory_bytes else {
            return Ok(None);
        };
        let file = match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        let text = level.read_file(file, FILE_LIMIT)?.unwrap_or_default();
        let used = String::from_utf8_lossy(&text).trim().parse::<i64>().ok();
        Ok(used.filter(|used| *used > limit).map(|used| Limits {
            memory_bytes: Some(used),
            ..limits.clone()
        }))
    }

    /// Makes the levels above the pods. Idempotent.
    pub(super) async fn make_levels(&self, begun: &Begun) -> Result<(), CgroupsError> {
        if !self.config.per_qos {
            return Ok(());
        }
        for hierarchy in &self.hierarchies {
            self.open_root(begun, hierarchy)?;
        }
        if let Some(systemd) = &begun.systemd {
            let slices = self.slices(begun);
            systemd.ensure(self.version, &slices).await?;
        }
        for hierarchy in &self.hierarchies {
            let pods = self.ensure_base(begun, hierarchy)?;
            // The shares of burstable follow its pods (`set_classes`) and are left as they are here.
            for (class, limits) in classes(None) {
                let Some(name) = begun.names.class(class) else {
                    continue;
                };
                let level = hierarchy.ensure_level(&pods, &name)?;
                hierarchy.enable_controllers(&level)?;
                self.apply(hierarchy, &level, &limits)?;
            }
        }
        Ok(())
    }

    /// The slices of the levels above the pods, the outermost first.
    fn slices(&self, begun: &Begun) -> Vec<Slice> {
        let (own, parent) = begun.names.base_slices();
        let cpus = Limits {
            cpus: self.slice_cpus(),
            ..Limits::default()
        };
        let mut slices = vec![Slice {
            unit: own.to_owned(),
            parent: parent.to_owned(),
            description: "Kubernetes pods".to_owned(),
            properties: systemd::properties(self.version, &cpus),
        }];
        for (class, limits) in classes(None) {
            slices.extend(begun.names.class(class).map(|unit| Slice {
                unit,
                parent: own.to_owned(),
                description: format!("Kubernetes pods of the class {}", class.as_str()),
                properties: systemd::properties(self.version, &limits),
            }));
        }
        slices
    }

    fn node_limits(&self, begun: &Begun) -> Limits {
        let node = &self.config.node;
        Limits {
            cpu_shares: node.cpu_milli.map(resources::shares),
            memory_bytes: node.memory_bytes,
            pids: node.pids,
            cpus: begun.systemd.as_ref().and_then(|_| self.slice_cpus()),
            huge_pages: match &node.huge_pages {
                Some(sizes) => HugePages::Exactly(sizes.clone()),
                None => HugePages::Untouched,
            },
            ..Limits::default()
        }
    }

    /// The cpus that the slice of all pods is told of (version 2).
    pub(super) fn slice_cpus(&self) -> Option<String> {
        let cpus = self.config.cpus.clone();
        cpus.filter(|_| {
            self.version == Version::V2 && self.hierarchies.iter().any(|h| h.has("cpuset"))
        })
    }

    /// The level that the level of all pods lies in. It is the administrator's and must exist, for systemd's driver
    /// where systemd keeps its units; the other hierarchies of version 1 are then filled up.
    fn open_root(&self, begun: &Begun, hierarchy: &Hierarchy) -> Result<Dir, CgroupsError> {
        let mut level = Dir::open(&hierarchy.root)?;
        let make =
            begun.systemd.is_some() && self.version == Version::V1 && !hierarchy.has(SYSTEMD_V1);
        let above = begun
            .names
            .base()
            .split_last()
            .map_or(&[][..], |(_, above)| above);
        for name in above {
            hierarchy.enable_controllers(&level)?;
            let missing = || CgroupsError::RootMissing(level.path_of(name));
            level = match make {
                true => hierarchy.ensure_level(&level, name)?,
                false => level.child(name)?.ok_or_else(missing)?,
            };
        }
        Ok(level)
    }

    /// Makes the level of all pods in `hierarchy`, and hands the controllers down to it and below.
    pub(super) fn ensure_base(
        &self,
        begun: &Begun,
        hierarchy: &Hierarchy,
    ) -> Result<Dir, CgroupsError> {
        let level = self.open_root(begun, hierarchy)?;
        let Some(last) = begun.names.base().last() else {
            return Ok(level);
        };
        hierarchy.enable_controllers(&level)?;
        let pods = hierarchy.ensure_level(&level, last)?;
        hierarchy.enable_controllers(&pods)?;
        Ok(pods)
    }

    /// Version 2: sees that the level of all pods has the controllers that the kernel has.
    pub(super) fn check_handed_down(&self, begun: &Begun) -> Result<(), CgroupsError> {
        for hierarchy in &self.hierarchies {
            if self.version != Version::V2 || !self.config.per_qos {
                continue;
            }
            let pods = self.ensure_base(begun, hierarchy)?;
            let missing = hierarchy.not_handed_down(&pods)?;
            if !missing.is_empty() {
                let file: PathBuf = pods.path_of("cgroup.controllers");
                return Err(CgroupsError::TakenAway { missing, file });
            }
        }
        Ok(())
    }
}

/// What the classes that have a level are limited to: nothing but their weight.
fn classes(burstable_shares: Option<u64>) -> [(QosClass, Limits); 2] {
    let limits = |cpu_shares| Limits {
        cpu_shares,
        huge_pages: HugePages::Unbounded,
        ..Limits::default()
    };
    [
        (QosClass::Burstable, limits(burstable_shares)),
        (QosClass::BestEffort, limits(Some(resources::MIN_SHARES))),
    ]
}
