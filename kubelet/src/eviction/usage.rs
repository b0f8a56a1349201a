//! What one pod takes, as far as evictions go by it.

use std::collections::BTreeMap;

use crate::pod::{self, Pod};
use crate::stats::{MemoryStats, PodDisks, PodStats, Taken};

/// What one pod takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Its working set, bytes.
    pub(super) memory: u64,
    /// Its processes.
    pub(super) processes: u64,
    /// Its containers that run.
    pub(super) containers: Vec<ContainerUsage>,
    /// Its volumes, by name, on whatever file system they are.
    pub(super) volumes: BTreeMap<String, Taken>,
    /// Bytes of the node's own disk: writable layers, logs, local volumes, its hosts file.
    pub(super) ephemeral: u64,
}

/// What one container takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ContainerUsage {
    pub(super) name: String,
    /// Its working set, bytes; none where nobody counts it.
    pub(super) memory: Option<u64>,
    /// Its writable layer; none where the runtime does not tell.
    pub(super) layer: Option<Taken>,
    /// Its logs.
    pub(super) logs: Option<Taken>,
}

impl Usage {
    /// Of what the pod takes of memory and process ids.
    pub(super) fn of_stats(stats: &PodStats) -> Self {
        let working_set = |memory: Option<&MemoryStats>| memory?.working_set_bytes;
        let containers = stats.containers.iter().map(|container| ContainerUsage {
            name: container.name.clone(),
            memory: working_set(container.memory.as_ref()),
            ..ContainerUsage::default()
        });
        Self {
            memory: working_set(stats.memory.as_ref()).unwrap_or(0),
            processes: stats.process_stats.as_ref().map_or(0, |p| p.process_count),
            containers: containers.collect(),
            ..Self::default()
        }
    }

    /// Of a look at its files alone.
    pub(super) fn of_disks(disks: &PodDisks) -> Self {
        let containers = disks.containers.iter().map(|container| ContainerUsage {
            name: container.name.to_string(),
            memory: None,
            layer: container.layer,
            logs: Some(container.logs),
        });
        let volumes = disks.volumes.iter();
        Self {
            containers: containers.collect(),
            volumes: volumes.map(|one| (one.name.clone(), one.taken)).collect(),
            ephemeral: disks.ephemeral().bytes,
            ..Self::default()
        }
    }

    /// What the pod's volumes on the node's own disk take: its `emptyDir` volumes that are not in memory, and its
    /// configMaps.
    pub(super) fn local_volumes(&self, pod: &Pod) -> Taken {
        let mut sum = Taken::default();
        for volume in pod::spec(pod).volumes.iter().flatten() {
            let on_disk = |dir: &k8s_openapi::api::core::v1::EmptyDirVolumeSource| {
                dir.medium.as_deref().unwrap_or_default().is_empty()
            };
            let local =
                volume.config_map.is_some() || volume.empty_dir.as_ref().is_some_and(on_disk);
            if let Some(taken) = self.volumes.get(&volume.name).filter(|_| local) {
                sum.add(*taken);
            }
        }
        sum
    }
}
