//! Where the levels are, for whoever reads their numbers.

use std::path::PathBuf;

use super::{Cgroups, resources};
use crate::pod::{Pod, PodUid, QosClass};

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMount {
    /// Where it is mounted.
    pub root: PathBuf,
    /// Its controllers, as the kernel names them.
    pub controllers: Vec<String>,
}

impl Cgroups {
    /// The hierarchies: one of version 2, several of version 1.
    #[must_use]
    pub fn mounts(&self) -> Vec<CgroupMount> {
        let mounts = self.hierarchies.iter().map(|hierarchy| CgroupMount {
            root: hierarchy.root.clone(),
            controllers: hierarchy.controllers.clone(),
        });
        mounts.collect()
    }

    /// Whether pods have cgroups of their own (`cgroupsPerQOS`).
    #[must_use]
    pub fn per_qos(&self) -> bool {
        self.config.per_qos
    }

    /// The directories from the root to the level of all pods; none before the driver is known.
    #[must_use]
    pub fn all_pods_level(&self) -> Option<Vec<String>> {
        Some(self.begun.get()?.names.base().to_vec())
    }

    /// The directory of the level of `class` in that of all pods; none for Guaranteed, and before the driver is known.
    #[must_use]
    pub fn class_level(&self, class: QosClass) -> Option<String> {
        self.begun.get()?.names.class(class)
    }

    /// The class of `pod`, and the directory of its level in that of the class; none before the driver is known.
    #[must_use]
    pub fn pod_level(&self, pod: &Pod, uid: &PodUid) -> Option<(QosClass, String)> {
        let class = resources::qos_class(pod);
        Some((class, self.begun.get()?.names.pod(class, uid)))
    }
}

#[cfg(test)]
impl Cgroups {
    /// Those of a fixture, with the driver cgroupfs, as if they had begun.
    pub(crate) fn fixture(version: super::Version, mounts: &[CgroupMount]) -> Self {
        let hierarchies = mounts.iter().map(|mount| super::Hierarchy {
            version,
            root: mount.root.clone(),
            controllers: mount.controllers.clone(),
        });
        let config = super::CgroupsConfig::default();
        let names = super::Names::new(super::Driver::Cgroupfs, "", true).unwrap();
        let cgroups = Self::with_hierarchies(config, version, hierarchies.collect());
        let begun = super::Begun {
            names,
            systemd: None,
        };
        assert!(cgroups.begun.set(begun).is_ok());
        cgroups
    }
}
