//! What single pods take of the node's disks, for who wants nothing else of them.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1;

use super::disk::{self, Taken};
use super::machine::{self, Meminfo};
use super::numbers::{self, Memory, Parts};
use super::volumes::VolumeUsage;
use super::{RUNTIME_PATIENCE, Stats, StatsError, blocking};
use crate::pod::{Pod, PodName, PodUid};
use crate::poddir::ETC_HOSTS;
use crate::runtime::ContainerState;

/// Memory of the machine, and of all pods together; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMemory {
    /// All there is; zero where nobody can tell.
    pub total: u64,
    /// What is used, without the pages of files that nobody used of late.
    pub working_set: u64,
    /// The most that all pods together may have, and what they use in the same sense; none where nothing limits them.
    pub all_pods: Option<(u64, u64)>,
    /// Pages of files, of the machine as a whole, that nobody used of late.
    pub inactive_file: u64,
}

/// What a pod takes of the node's disks.
#[derive(Clone, Debug, Default)]
pub struct PodDisks {
    /// Its containers that run.
    pub containers: Vec<ContainerDisks>,
    /// Its volumes, on whatever file system they are.
    pub volumes: Vec<VolumeUsage>,
    /// Its hosts file.
    pub hosts: Taken,
    /// How long it took to find out.
    pub took: Duration,
}

/// What a container takes of them.
#[derive(Clone, Debug)]
pub struct ContainerDisks {
    /// Its name.
    pub name: Arc<str>,
    /// Its writable layer; none where nobody asked, or the runtime does not tell.
    pub layer: Option<Taken>,
    /// Its logs.
    pub logs: Taken,
}

impl PodDisks {
    /// What goes when the pod goes: writable layers, logs, local volumes, the hosts file.
    #[must_use]
    pub fn ephemeral(&self) -> Taken {
        let mut sum = self.hosts;
        for container in &self.containers {
            sum.add(container.logs);
            sum.add(container.layer.unwrap_or_default());
        }
        for volume in self.volumes.iter().filter(|volume| volume.ephemeral) {
            sum.add(volume.taken);
        }
        sum
    }
}

impl Stats {
    /// Memory alone. Blocks on the kernel's files.
    #[must_use]
    pub fn node_memory(&self) -> NodeMemory {
        let inputs = &self.inputs;
        let meminfo = Meminfo::read(&inputs.proc);
        let of = |level: &super::level::Level<'_>, meminfo| -> Option<Memory> {
            numbers::read(level, self.now(), Parts::default(), meminfo).memory
        };
        let root = self.roots.open();
        let node = of(&root, Some(&meminfo)).unwrap_or_default();
        let names = inputs.cgroups.all_pods_level();
        let pods = names.and_then(|names| of(&root.descend(&names)?, None));
        NodeMemory {
            total: meminfo.total,
            working_set: node.working_set,
            all_pods: pods.and_then(|memory| Some((memory.limit?, memory.working_set))),
            inactive_file: node.inactive_file,
        }
    }

    /// Processes and threads of the machine.
    #[must_use]
    pub fn tasks(&self) -> Option<u64> {
        machine::tasks(&self.inputs.proc)
    }

    /// What `pod` takes of the node's disks; with `layers` the runtime is asked for writable layers. None of a pod of which
    /// nothing runs.
    ///
    /// # Errors
    /// When the thread that reads ends early.
    pub async fn pod_disks(
        self: &Arc<Self>,
        pod: &Pod,
        uid: &PodUid,
        layers: bool,
    ) -> Result<Option<PodDisks>, StatsError> {
        let Some(observed) = self.inputs.observer.observed(uid) else {
            return Ok(None);
        };
        let Some(sandbox) = observed.sandboxes.first().filter(|sandbox| sandbox.ready) else {
            return Ok(None);
        };
        let clock = &self.inputs.clock;
        let began = clock.monotonic();
        let told = match layers {
            true => self.layers_of(sandbox.id.as_str()).await,
            false => Vec::new(),
        };
        let mut running: Vec<(Arc<str>, Option<Taken>)> = Vec::new();
        let all = observed.containers.iter();
        for container in all.filter(|c| c.state == ContainerState::Running) {
            let own = told.iter().find(|stats| {
                let id = stats.attributes.as_ref().map(|attributes| &attributes.id);
                id.is_some_and(|id| id == container.id.as_str())
            });
            let layer = own.and_then(|stats| stats.writable_layer.as_ref());
            let layer = layer.map(super::assemble::taken_of);
            // The newest instance stands first.
            if !running.iter().any(|(known, _)| *known == container.name) {
                running.push((container.name.clone(), layer));
            }
        }
        let (this, name, uid) = (self.clone(), PodName::of(pod), uid.clone());
        let _one_at_a_time = self.turn.lock().await;
        let mut disks = blocking(move || this.look_at_disks(&name, &uid, running)).await?;
        disks.took = clock.monotonic().saturating_sub(began);
        Ok(Some(disks))
    }

    fn look_at_disks(
        &self,
        name: &PodName,
        uid: &PodUid,
        running: Vec<(Arc<str>, Option<Taken>)>,
    ) -> PodDisks {
        let inputs = &self.inputs;
        let containers = running
            .into_iter()
            .map(|(container, layer)| ContainerDisks {
                logs: self.logs_in(name, uid, &container),
                name: container,
                layer,
            });
        let containers = containers.collect();
        let now = (self.now(), inputs.clock.monotonic());
        let mut cache = self.lock_volumes();
        let volumes = cache.of_pod(inputs.volumes_on_disk(), uid, Duration::ZERO, now);
        let volumes = volumes.to_vec();
        drop(cache);
        let dir = inputs.dirs.get(uid).ok().flatten();
        let hosts = dir.map(|dir| disk::of_file(dir.dir(), ETC_HOSTS));
        PodDisks {
            containers,
            volumes,
            hosts: hosts.unwrap_or_default(),
            took: Duration::ZERO,
        }
    }

    async fn layers_of(&self, sandbox: &str) -> Vec<v1::ContainerStats> {
        let filter = v1::ContainerStatsFilter {
            pod_sandbox_id: sandbox.to_owned(),
            ..v1::ContainerStatsFilter::default()
        };
        let asked = self.inputs.runtime.list_container_stats(Some(filter));
        let told = tokio::time::timeout(RUNTIME_PATIENCE, asked).await;
        told.ok().and_then(Result::ok).unwrap_or_default()
    }
}
