//! From readings to the answer of `/stats/summary`.

use std::collections::HashMap;
use std::path::Path;

use cri_proto::v1;
use jiff::Timestamp;

use super::claims::ClaimUsage;
use super::disk::{self, FileSystem, Taken};
use super::machine;
use super::numbers::{Memory, Stall, Stalls};
use super::pods::{LevelReading, PodReading, Readings};
use super::rates::Rates;
use super::summary::{
    ContainerStats, CpuStats, FsStats, InterfaceStats, IoStats, MemoryStats, NetworkStats,
    NodeStats, PodReference, PodStats, ProcessStats, PsiData, PsiStats, PvcRef, RlimitStats,
    RuntimeStats, Second, Summary, SwapStats, VolumeHealthStats, VolumeStats,
};
use super::volumes::VolumeUsage;
use super::{Interface, Stats};
use crate::node;
use crate::pod::{PodName, PodUid};
use crate::poddir::ETC_HOSTS;

/// What upstream calls an interface that a pod or node is known by.
const MAIN_INTERFACE: &str = "eth0";

/// What the runtime said: of writable layers, and of images.
type Told<'a> = (
    &'a [v1::ContainerStats],
    Option<&'a v1::ImageFsInfoResponse>,
);

impl Stats {
    /// Blocks on disks where there is more to say than processor and memory.
    pub(super) fn assemble(&self, readings: &Readings, told: Option<Told<'_>>) -> Summary {
        let mut rates = self.lock_rates();
        rates.begin();
        let mut maker = Maker {
            monotonic: self.inputs.clock.monotonic(),
            rates: &mut rates,
            full: told.is_some(),
        };
        let node = self.node(&mut maker, readings);
        let mut pods: Vec<PodStats> = readings.pods.iter().map(|pod| maker.pod(pod)).collect();
        drop(rates);
        let Some((layers, images)) = told else {
            return Summary { node, pods };
        };
        let mut node = node;
        let at = self.now();
        let disk = Disk {
            at,
            own: FileSystem::of(&self.inputs.root).unwrap_or_default(),
            layers: layers
                .iter()
                .filter_map(|stats| Some((stats.attributes.as_ref()?.id.as_str(), stats)))
                .collect(),
        };
        node.fs = Some(whole(disk.own, at));
        node.runtime = Some(runtime_file_systems(images));
        node.network = Some(network(&readings.interfaces, readings.node.numbers.at));
        node.rlimit = Some(RlimitStats {
            time: Second(at),
            maxpid: node::max_pids(),
            curproc: machine::tasks(&self.inputs.proc),
        });
        for (stats, pod) in pods.iter_mut().zip(&readings.pods) {
            self.add_disks(stats, pod, &disk);
        }
        self.lock_volumes()
            .keep(|uid| readings.pods.iter().any(|pod| pod.uid == *uid));
        Summary { node, pods }
    }

    fn node(&self, maker: &mut Maker<'_>, readings: &Readings) -> NodeStats {
        let mut root = maker.container("/", 0, &readings.node);
        // Its limit is what the machine has.
        let machine = readings.machine;
        if let (Some(stats), Some(memory)) = (&mut root.memory, &readings.node.numbers.memory) {
            stats.available_bytes = Some(machine.total.saturating_sub(memory.working_set));
        }
        if let (Some(swap), Some(memory)) = (&mut root.swap, &readings.node.numbers.memory) {
            swap.swap_available_bytes = Some(machine.swap_total.saturating_sub(memory.swap));
        }
        let mut system_containers = Vec::new();
        for (name, level) in [("kubelet", &readings.own), ("pods", &readings.all_pods)] {
            if let Some(level) = level {
                let made_at = level.numbers.made_at.or_else(|| self.made_at(&level.path));
                let nanos = made_at.unwrap_or(0).saturating_mul(1_000_000_000);
                system_containers.push(maker.container(name, nanos, level));
            }
        }
        let booted = machine::booted_at(&self.inputs.proc).unwrap_or(0);
        NodeStats {
            node_name: self.inputs.node_name.clone(),
            system_containers,
            start_time: Second(Timestamp::from_second(booted).unwrap_or_default()),
            cpu: root.cpu,
            memory: root.memory,
            io: root.io,
            swap: root.swap,
            ..NodeStats::default()
        }
    }

    fn made_at(&self, path: &str) -> Option<i64> {
        let names: Vec<String> = path.split('/').skip(1).map(str::to_owned).collect();
        self.roots.open().descend(&names)?.made_at()
    }

    /// Writable layers, logs, volumes, and the sum of what is on the node's own disk.
    fn add_disks(&self, stats: &mut PodStats, pod: &PodReading, disk: &Disk<'_>) {
        let mut sum = Taken::default();
        for (container, reading) in stats.containers.iter_mut().zip(&pod.containers) {
            let logs = self.logs_in(&pod.name, &pod.uid, &reading.name);
            sum.add(logs);
            container.logs = Some(part(disk.own, logs, disk.at));
            let (rootfs, taken) = disk.layer(&reading.id);
            sum.add(taken);
            container.rootfs = Some(rootfs);
        }
        let inputs = &self.inputs;
        if let Ok(Some(dir)) = inputs.dirs.get(&pod.uid) {
            sum.add(disk::of_file(dir.dir(), ETC_HOSTS));
        }
        let now = (disk.at, inputs.clock.monotonic());
        if let Some(every) = inputs.volumes_every {
            let mut cache = self.lock_volumes();
            let volumes = cache.of_pod(inputs.volumes_on_disk(), &pod.uid, every, now);
            for volume in volumes.iter().filter(|volume| volume.ephemeral) {
                sum.add(volume.taken);
            }
            stats.volume = volumes
                .iter()
                .map(|volume| volume_stats(volume, &pod.name.namespace))
                .collect();
        }
        stats.ephemeral_storage = Some(part(disk.own, sum, disk.at));
    }

    /// What the logs of a pod's container take.
    pub(super) fn logs_in(&self, pod: &PodName, uid: &PodUid, container: &str) -> Taken {
        let logs = &self.inputs.logs;
        let dir = logs.container_dir(pod, uid, container);
        let dir = dir.ok().flatten();
        dir.map(|dir| disk::of_files(&dir)).unwrap_or_default()
    }
}

/// Makes the parts that come of cgroups.
struct Maker<'a> {
    monotonic: std::time::Duration,
    rates: &'a mut Rates,
    /// With disks and networks.
    full: bool,
}

impl Maker<'_> {
    fn pod(&mut self, pod: &PodReading) -> PodStats {
        let own = pod.level.as_ref();
        let own = own.map(|level| self.container("", pod.created_at, level));
        let own = own.unwrap_or_default();
        let containers = pod.containers.iter();
        let containers = containers
            .map(|c| self.container(&c.name, c.created_at, &c.level))
            .collect();
        let levels = pod.sandbox.iter().map(|sandbox| &sandbox.level);
        let levels = levels.chain(pod.containers.iter().map(|container| &container.level));
        let processes: u64 = levels
            .filter_map(|level| level.processes)
            .map(|processes| processes.count)
            .sum();
        let at = pod.sandbox.as_ref().map(|sandbox| sandbox.level.numbers.at);
        let interfaces = pod.interfaces.as_deref().filter(|_| self.full);
        PodStats {
            pod_ref: PodReference {
                name: pod.name.name.to_string(),
                namespace: pod.name.namespace.to_string(),
                uid: pod.uid.to_string(),
            },
            start_time: of_nanos(pod.created_at),
            containers,
            cpu: own.cpu,
            memory: own.memory,
            io: own.io,
            network: interfaces.map(|interfaces| network(interfaces, at.unwrap_or_default())),
            process_stats: self.full.then_some(ProcessStats {
                process_count: processes,
            }),
            swap: own.swap,
            ..PodStats::default()
        }
    }

    fn container(&mut self, name: &str, created_at: i64, level: &LevelReading) -> ContainerStats {
        let numbers = &level.numbers;
        let time = Second(numbers.at);
        // Upstream has zeros where the kernel does not tell.
        let pressure = numbers.pressure.unwrap_or_default();
        let cpu = numbers.cpu.as_ref().map(|cpu| CpuStats {
            time,
            usage_nano_cores: self
                .rates
                .rate(&level.path, self.monotonic, cpu.usage_nanos),
            usage_core_nano_seconds: Some(cpu.usage_nanos),
            psi: Some(psi(pressure.cpu)),
        });
        let memory = numbers.memory.as_ref();
        ContainerStats {
            name: name.to_owned(),
            start_time: of_nanos(created_at),
            cpu,
            memory: Some(memory.map_or_else(
                || no_memory(time),
                |m| memory_stats(time, m, pressure.memory),
            )),
            io: self.full.then(|| IoStats {
                time,
                psi: Some(psi(pressure.io)),
            }),
            swap: memory.map(|memory| SwapStats {
                time,
                swap_available_bytes: memory
                    .swap_limit
                    .map(|limit| limit.saturating_sub(memory.swap)),
                swap_usage_bytes: Some(memory.swap),
            }),
            ..ContainerStats::default()
        }
    }
}

/// Where memory is not counted, upstream says that nothing is in use.
fn no_memory(time: Second) -> MemoryStats {
    MemoryStats {
        time,
        working_set_bytes: Some(0),
        ..MemoryStats::default()
    }
}

fn memory_stats(time: Second, memory: &Memory, pressure: Stalls) -> MemoryStats {
    MemoryStats {
        time,
        available_bytes: memory
            .limit
            .map(|limit| limit.saturating_sub(memory.working_set)),
        usage_bytes: Some(memory.usage),
        working_set_bytes: Some(memory.working_set),
        rss_bytes: Some(memory.rss),
        page_faults: Some(memory.faults),
        major_page_faults: Some(memory.major_faults),
        psi: Some(psi(pressure)),
    }
}

fn psi(stalls: Stalls) -> PsiStats {
    // The kernel's totals as they are, microseconds, as upstream.
    let data = |stall: Stall| PsiData {
        total: stall.total_micros,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    PsiStats {
        full: data(stalls.full),
        some: data(stalls.some),
    }
}

fn network(interfaces: &[Interface], at: Timestamp) -> NetworkStats {
    let stats = |interface: &Interface| InterfaceStats {
        name: interface.name.clone(),
        rx_bytes: Some(interface.received.bytes),
        rx_errors: Some(interface.received.errors),
        tx_bytes: Some(interface.sent.bytes),
        tx_errors: Some(interface.sent.errors),
    };
    let all: Vec<InterfaceStats> = interfaces.iter().map(stats).collect();
    let main = all
        .iter()
        .find(|interface| interface.name == MAIN_INTERFACE);
    NetworkStats {
        time: Second(at),
        default: main.cloned().unwrap_or_default(),
        interfaces: all,
    }
}

/// What pods take of the node's disk, and what the runtime told of their layers.
struct Disk<'a> {
    at: Timestamp,
    own: FileSystem,
    layers: HashMap<&'a str, &'a v1::ContainerStats>,
}

impl Disk<'_> {
    /// The writable layer of a container.
    fn layer(&self, id: &str) -> (FsStats, Taken) {
        let stats = self.layers.get(id);
        let Some(layer) = stats.and_then(|stats| stats.writable_layer.as_ref()) else {
            return (FsStats::default(), Taken::default());
        };
        file_system_usage(layer)
    }
}

/// What the runtime told, with the file system that it names.
fn file_system_usage(usage: &v1::FilesystemUsage) -> (FsStats, Taken) {
    let taken = taken_of(usage);
    let at = of_nanos(usage.timestamp).0;
    let mountpoint = usage.fs_id.as_ref().map(|id| id.mountpoint.as_str());
    let found = mountpoint.and_then(|path| FileSystem::of(Path::new(path)));
    let stats = match found {
        Some(file_system) => part(file_system, taken, at),
        None => FsStats {
            time: Second(at),
            used_bytes: Some(taken.bytes),
            inodes_used: Some(taken.inodes),
            ..FsStats::default()
        },
    };
    (stats, taken)
}

/// What the runtime told.
pub(super) fn taken_of(usage: &v1::FilesystemUsage) -> Taken {
    let value = |value: &Option<v1::UInt64Value>| value.as_ref().map(|value| value.value);
    Taken {
        bytes: value(&usage.used_bytes).unwrap_or(0),
        inodes: value(&usage.inodes_used).unwrap_or(0),
    }
}

/// Where the runtime does not tell of containers' own, they are with the images.
fn runtime_file_systems(info: Option<&v1::ImageFsInfoResponse>) -> RuntimeStats {
    let Some(info) = info else {
        return RuntimeStats::default();
    };
    let stats = |usage: &v1::FilesystemUsage| file_system_usage(usage).0;
    let images = info.image_filesystems.first().map(stats);
    let containers = info.container_filesystems.first().map(stats);
    RuntimeStats {
        container_fs: containers.or_else(|| images.clone()),
        image_fs: images,
    }
}

fn volume_stats(volume: &VolumeUsage, namespace: &str) -> VolumeStats {
    VolumeStats {
        pvc_ref: volume.claim.as_ref().map(|claim| PvcRef {
            name: claim.clone(),
            namespace: namespace.to_owned(),
        }),
        fs: part(volume.file_system, volume.taken, volume.at),
        name: volume.name.clone(),
        volume_health_stats: None,
    }
}

impl Summary {
    /// Adds what drivers tell of their volumes to the pods that have them.
    pub(super) fn add_claims(&mut self, readings: &Readings, claims: &[ClaimUsage]) {
        for (stats, pod) in self.pods.iter_mut().zip(&readings.pods) {
            let own = claims.iter().filter(|claim| claim.uid == pod.uid);
            stats.volume.extend(own.map(claim_stats));
        }
    }
}

fn claim_stats(claim: &ClaimUsage) -> VolumeStats {
    let (bytes, inodes) = (claim.usage.bytes, claim.usage.inodes);
    VolumeStats {
        fs: FsStats {
            time: Second(claim.at),
            available_bytes: Some(bytes.available),
            capacity_bytes: Some(bytes.capacity),
            used_bytes: Some(bytes.used),
            inodes_free: Some(inodes.available),
            inodes: Some(inodes.capacity),
            inodes_used: Some(inodes.used),
        },
        name: claim.volume.clone(),
        pvc_ref: claim.claim.as_ref().map(|name| PvcRef {
            name: name.clone(),
            namespace: claim.namespace.to_string(),
        }),
        volume_health_stats: claim.usage.condition.as_ref().map(|of| VolumeHealthStats {
            abnormal: of.abnormal,
        }),
    }
}

/// A file system, and all that is taken of it.
fn whole(file_system: FileSystem, at: Timestamp) -> FsStats {
    part(file_system, file_system.taken(), at)
}

/// A file system, and what is `taken` of it.
fn part(file_system: FileSystem, taken: Taken, at: Timestamp) -> FsStats {
    FsStats {
        time: Second(at),
        available_bytes: Some(file_system.available),
        capacity_bytes: Some(file_system.capacity),
        used_bytes: Some(taken.bytes),
        inodes_free: Some(file_system.inodes_free),
        inodes: Some(file_system.inodes),
        inodes_used: Some(taken.inodes),
    }
}

fn of_nanos(nanos: i64) -> Second {
    Second(Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default())
}
