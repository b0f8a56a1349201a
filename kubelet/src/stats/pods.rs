//! One round of reading: the node, the levels above the pods, the pods, their containers.

use std::path::Path;
use std::sync::Arc;

use super::level::Level;
use super::machine::{self, Meminfo};
use super::numbers::{self, Numbers, Parts};
use super::{Depth, DiskCounts, FileSystem, Interface, Stats, network};
use crate::pod::{Pod, PodName, PodUid, QosClass};
use crate::runtime::{ContainerState, ObservedPod};

/// Processes of one container whose files are counted; more would take longer than anybody waits.
const MOST_PROCESSES: usize = 4096;

/// What was read in one round.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// The cgroup that all others lie in: the node.
    pub node: LevelReading,
    /// The machine's memory.
    pub machine: Meminfo,
    /// The node's interfaces.
    pub interfaces: Vec<Interface>,
    /// The disks that the system and the agent's directory are on; none where nobody looked.
    pub devices: Vec<DeviceReading>,
    /// The level of all pods.
    pub all_pods: Option<LevelReading>,
    /// The levels of the classes below it.
    pub classes: Vec<LevelReading>,
    /// The agent's own cgroup, where it has one.
    pub own: Option<LevelReading>,
    /// The pods that have something that runs.
    pub pods: Vec<PodReading>,
}

/// A disk with a file system.
#[derive(Clone, Debug, Default)]
pub struct DeviceReading {
    /// `/dev/sda1`.
    pub device: String,
    /// How full it is.
    pub file_system: FileSystem,
    /// What went to and from it.
    pub counts: DiskCounts,
}

/// One cgroup.
#[derive(Clone, Debug, Default)]
pub struct LevelReading {
    /// Its path from the root.
    pub path: String,
    /// What the kernel counts.
    pub numbers: Numbers,
    /// What was learnt of its processes.
    pub processes: Option<ProcessReading>,
}

/// What was learnt of the processes in a cgroup itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessReading {
    /// How many.
    pub count: u64,
    /// Files that they have open; none where nobody looked.
    pub files: Option<u64>,
    /// Sockets among them.
    pub sockets: Option<u64>,
    /// The soft limit on open files of the first one: -1 where there is none.
    pub files_limit: Option<i64>,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct PodReading {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: PodName,
    /// When its sandbox was made, nanoseconds since the epoch.
    pub created_at: i64,
    /// Its cgroup; none where pods have none of their own.
    pub level: Option<LevelReading>,
    /// Its sandbox, where that has a cgroup.
    pub sandbox: Option<SandboxReading>,
    /// Its interfaces; none where nobody looked, or nothing of the pod has a process.
    pub interfaces: Option<Vec<Interface>>,
    /// Its containers that run.
    pub containers: Vec<ContainerReading>,
}

/// The sandbox of a pod.
#[derive(Clone, Debug)]
pub struct SandboxReading {
    /// The runtime's id.
    pub id: String,
    /// Its cgroup.
    pub level: LevelReading,
}

/// A container that runs.
#[derive(Clone, Debug)]
pub struct ContainerReading {
    /// The name in the pod's spec.
    pub name: Arc<str>,
    /// The runtime's id.
    pub id: String,
    /// Its image.
    pub image: Arc<str>,
    /// When it was made, nanoseconds since the epoch.
    pub created_at: i64,
    /// Its cgroup.
    pub level: LevelReading,
}

impl Stats {
    /// Blocks on the kernel's files.
    pub(super) fn read_now(&self, depth: Depth) -> Readings {
        let inputs = &self.inputs;
        let meminfo = Meminfo::read(&inputs.proc);
        let root = self.roots.open();
        let mut readings = Readings {
            node: self.reading(&root, depth, Some(&meminfo)),
            machine: meminfo,
            ..Readings::default()
        };
        if depth == Depth::Everything {
            // Files of every process of the machine are none of a container's business.
            readings.node.processes = Some(ProcessReading {
                count: count(root.processes().len()),
                ..ProcessReading::default()
            });
            readings.devices = self.devices();
        }
        if depth >= Depth::Summary {
            readings.interfaces = network::of_process(&inputs.proc, 1).unwrap_or_default();
        }
        readings.own = self
            .own_level()
            .map(|level| self.reading(&level, depth, None));
        let Some(names) = inputs.cgroups.all_pods_level() else {
            return readings;
        };
        let Some(all) = root.descend(&names) else {
            return readings;
        };
        readings.all_pods = Some(self.reading(&all, depth, None));
        let [burstable, best_effort] = [QosClass::Burstable, QosClass::BestEffort].map(|class| {
            let name = inputs.cgroups.class_level(class)?;
            all.child(&name)
        });
        for level in [&burstable, &best_effort].into_iter().flatten() {
            if inputs.cgroups.per_qos() {
                readings.classes.push(self.reading(level, depth, None));
            }
        }
        for view in inputs.board.snapshot() {
            let Ok(uid) = PodUid::of(&view.pod) else {
                continue;
            };
            let Some(observed) = inputs.observer.observed(&uid) else {
                continue;
            };
            let place = inputs.cgroups.pod_level(&view.pod, &uid);
            let level = place.filter(|_| inputs.cgroups.per_qos());
            let level = level.and_then(|(class, name)| {
                let parent = match class {
                    QosClass::Guaranteed => Some(&all),
                    QosClass::Burstable => burstable.as_ref(),
                    QosClass::BestEffort => best_effort.as_ref(),
                };
                parent?.child(&name)
            });
            let parent = match (&level, inputs.cgroups.per_qos()) {
                (Some(level), _) => level,
                // Without levels of their own, all containers lie side by side.
                (None, false) => &all,
                (None, true) => continue,
            };
            let own = level.is_some();
            readings
                .pods
                .extend(self.pod(view.pod.clone(), uid, &observed, (parent, own), depth));
        }
        readings
    }

    /// The disks of the system and of the agent's directory. What has no disk of its own, as in memory, is left out.
    fn devices(&self) -> Vec<DeviceReading> {
        let inputs = &self.inputs;
        let mut devices: Vec<DeviceReading> = Vec::new();
        for path in [Path::new("/"), &inputs.root] {
            let numbers = machine::device_of(path);
            let device = numbers.and_then(|numbers| machine::device_name(&inputs.sys, &numbers));
            let (Some(device), Some(file_system)) = (device, FileSystem::of(path)) else {
                continue;
            };
            if devices.iter().any(|known| known.device == device) {
                continue;
            }
            let name = device.trim_start_matches("/dev/");
            devices.push(DeviceReading {
                counts: machine::disk_counts(&inputs.proc, name).unwrap_or_default(),
                file_system,
                device,
            });
        }
        devices
    }

    /// One pod, whose containers' cgroups lie in `level`, which is its own or not.
    fn pod(
        &self,
        pod: Arc<Pod>,
        uid: PodUid,
        observed: &ObservedPod,
        (level, own): (&Level<'_>, bool),
        depth: Depth,
    ) -> Option<PodReading> {
        let sandbox = observed.sandboxes.first()?;
        let children = level.children();
        let find = |id: &str| {
            // The driver of systemd has a prefix and a suffix around the id, which the runtime chooses.
            let name = children
                .iter()
                .find(|name| !id.is_empty() && name.contains(id))?;
            level.child(name)
        };
        let mut first_process = None;
        let mut read = |level: &Level<'_>| {
            let mut reading = self.reading(level, depth, None);
            if depth >= Depth::Summary {
                let processes = level.processes();
                first_process = first_process.or(processes.first().copied());
                let files = depth == Depth::Everything;
                reading.processes = Some(look_at(&self.inputs.proc, &processes, files));
            }
            reading
        };
        let sandbox_reading = find(sandbox.id.as_str())
            .filter(|_| sandbox.ready)
            .map(|level| SandboxReading {
                id: sandbox.id.to_string(),
                level: read(&level),
            });
        let mut containers: Vec<ContainerReading> = Vec::new();
        let running = observed.containers.iter();
        for container in running.filter(|c| c.state == ContainerState::Running) {
            // The newest instance stands first.
            if containers.iter().any(|known| known.name == container.name) {
                continue;
            }
            let Some(level) = find(container.id.as_str()) else {
                continue;
            };
            containers.push(ContainerReading {
                name: container.name.clone(),
                id: container.id.to_string(),
                image: container.image.clone(),
                created_at: container.created_at,
                level: read(&level),
            });
        }
        if sandbox_reading.is_none() && containers.is_empty() {
            return None;
        }
        let interfaces = first_process.and_then(|pid| network::of_process(&self.inputs.proc, pid));
        Some(PodReading {
            name: PodName::of(&pod),
            pod,
            uid,
            created_at: sandbox.created_at,
            level: own.then(|| self.reading(level, depth, None)),
            sandbox: sandbox_reading,
            interfaces,
            containers,
        })
    }

    fn reading(&self, level: &Level<'_>, depth: Depth, meminfo: Option<&Meminfo>) -> LevelReading {
        let parts = Parts {
            all: depth == Depth::Everything,
            pressure: depth >= Depth::Pressure,
        };
        let mut numbers = numbers::read(level, self.now(), parts, meminfo);
        for disk in &mut numbers.disks {
            if let Some(name) = machine::device_name(&self.inputs.sys, &disk.device) {
                disk.device = name;
            }
        }
        LevelReading {
            path: level.path().to_owned(),
            numbers,
            processes: None,
        }
    }

    /// The agent's own cgroup, if processor and memory know the same one, and it is not that of all.
    fn own_level(&self) -> Option<Level<'_>> {
        let path = self.own.get_or_init(|| {
            let text = std::fs::read_to_string(self.inputs.proc.join("self/cgroup")).ok()?;
            own_path(&text).map(str::to_owned)
        });
        let names: Vec<String> = path
            .as_ref()?
            .split('/')
            .skip(1)
            .map(str::to_owned)
            .collect();
        self.roots.open().descend(&names)
    }
}

/// Of `/proc/self/cgroup`: the path on version 2, or that which processor and memory have in common.
pub(super) fn own_path(text: &str) -> Option<&str> {
    let path_of = |controller: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let mut names = controllers.split(',');
            names.any(|name| name == controller).then_some(path)
        })
    };
    let path = match (path_of("cpu"), path_of("memory")) {
        (Some(cpu), Some(memory)) if cpu == memory => cpu,
        (None, None) => path_of("")?,
        _ => return None,
    };
    (path != "/").then_some(path)
}

/// Looks at the `processes` of one cgroup, and with `files` at what they have open.
fn look_at(proc: &Path, processes: &[u32], files: bool) -> ProcessReading {
    let mut reading = ProcessReading {
        count: count(processes.len()),
        ..ProcessReading::default()
    };
    if !files {
        return reading;
    }
    let (mut open, mut sockets) = (0u64, 0u64);
    for pid in processes.iter().take(MOST_PROCESSES) {
        // One that has gone meanwhile has none.
        let Ok(entries) = std::fs::read_dir(proc.join(pid.to_string()).join("fd")) else {
            continue;
        };
        for entry in entries.flatten() {
            open += 1;
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            sockets += u64::from(
                target
                    .as_os_str()
                    .as_encoded_bytes()
                    .starts_with(b"socket:"),
            );
        }
    }
    reading.files = Some(open);
    reading.sockets = Some(sockets);
    reading.files_limit = processes.first().and_then(|pid| {
        let text = std::fs::read_to_string(proc.join(pid.to_string()).join("limits")).ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))?;
        match line.split_whitespace().next()? {
            "unlimited" => Some(-1),
            number => number.parse().ok(),
        }
    });
    reading
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
