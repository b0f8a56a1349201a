//! `/metrics/cadvisor`: every cgroup from the node's down to the containers', under cAdvisor's names.
//!
//! Rows are those of upstream: a container's has its name, image and id; a sandbox's the same with an empty `container`; a pod's cgroup
//! an empty `container` and `name` with the pod's name; the levels above have only their path (`id`).

mod families;

use std::sync::Arc;

use jiff::Timestamp;

use self::families::FAMILIES;
use super::MetricsApi;
use crate::metrics::{Exposition, Family, float};
use crate::stats::{
    Cpu, DeviceReading, DiskTraffic, Interface, LevelReading, Memory, Pressure, Readings, Stall,
    topology,
};

/// What stays while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's UUID.
    pub system_uuid: String,
    /// This boot's UUID.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// `PRETTY_NAME` of os-release(5).
    pub os_image: String,
    /// Logical processors.
    pub processors: usize,
}

/// A cgroup with the labels of its samples.
struct Row<'a> {
    level: &'a LevelReading,
    container: &'a str,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
    /// When it was made, seconds since the epoch.
    made_at: Option<i64>,
    interfaces: &'a [Interface],
    /// All memory of the machine, for the node's own row.
    machine_memory: Option<u64>,
    devices: &'a [DeviceReading],
}

/// How a family's samples come of a row.
type Emit = fn(&mut Exposition, &Row<'_>);

impl Row<'_> {
    /// The labels of all families, with `more` in their places.
    fn labels<'b>(&'b self, more: &[(&'b str, &'b str)]) -> Vec<(&'b str, &'b str)> {
        let mut labels = vec![
            ("container", self.container),
            ("id", self.level.path.as_str()),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ];
        labels.extend_from_slice(more);
        labels.sort_unstable_by_key(|(label, _)| *label);
        labels
    }

    fn at(&self) -> Timestamp {
        self.level.numbers.at
    }

    fn timed(&self, out: &mut Exposition, more: &[(&str, &str)], value: f64) {
        out.sample_at(&self.labels(more), value, self.at());
    }

    fn plain(&self, out: &mut Exposition, value: f64) {
        out.sample(&self.labels(&[]), value);
    }

    fn memory(&self, out: &mut Exposition, value: fn(&Memory) -> u64) {
        if let Some(memory) = &self.level.numbers.memory {
            self.timed(out, &[], float(value(memory)));
        }
    }

    fn cpu(&self, out: &mut Exposition, more: &[(&str, &str)], nanos: fn(&Cpu) -> u64) {
        if let Some(cpu) = &self.level.numbers.cpu {
            self.timed(out, more, float(nanos(cpu)) / 1e9);
        }
    }

    /// Where there is a quota.
    fn throttling(&self, out: &mut Exposition, value: fn(&Cpu) -> f64) {
        let cpu = self.level.numbers.cpu.as_ref();
        if let Some(cpu) = cpu.filter(|cpu| cpu.quota_micros.is_some()) {
            self.timed(out, &[], value(cpu));
        }
    }

    fn limit(&self, out: &mut Exposition, value: fn(&Memory) -> Option<u64>) {
        if let Some(memory) = &self.level.numbers.memory {
            // No limit is 0.
            self.plain(out, float(value(memory).unwrap_or(0)));
        }
    }

    fn interfaces(&self, out: &mut Exposition, value: fn(&Interface) -> u64) {
        for interface in self.interfaces {
            let more = [("interface", interface.name.as_str())];
            self.timed(out, &more, float(value(interface)));
        }
    }

    fn disks(&self, out: &mut Exposition, value: fn(&DiskTraffic) -> u64) {
        for disk in &self.level.numbers.disks {
            let known = self.devices.iter().any(|known| known.device == disk.device);
            if !known {
                let more = [("device", disk.device.as_str())];
                self.timed(out, &more, float(value(disk)));
            }
        }
    }

    fn devices(&self, out: &mut Exposition, value: fn(&DeviceReading) -> f64) {
        for device in self.devices {
            let more = [("device", device.device.as_str())];
            self.timed(out, &more, value(device));
        }
    }

    fn pressure(&self, out: &mut Exposition, of: fn(&Pressure) -> Stall) {
        if let Some(pressure) = &self.level.numbers.pressure {
            self.timed(out, &[], float(of(pressure).total_micros) / 1e6);
        }
    }
}

/// A whole number below 2^53, such as a time or a limit.
#[expect(
    clippy::cast_precision_loss,
    reason = "times of this century and limits of the kernel are far below 2^53"
)]
fn whole(number: i64) -> f64 {
    number as f64
}

/// The families one after the other, each as text; the machine's stand last. `sandbox_image` is the image of all
/// sandboxes, as far as it is known.
pub(super) fn families(
    api: Arc<MetricsApi>,
    readings: Readings,
    sandbox_image: Arc<str>,
) -> impl Iterator<Item = String> + Send + 'static {
    let readings = Arc::new(readings);
    let of_cgroups = {
        let readings = Arc::clone(&readings);
        FAMILIES.iter().map(move |(family, emit)| {
            let mut out = Exposition::new();
            out.family(*family);
            for row in rows(&readings, &sandbox_image) {
                emit(&mut out, &row);
            }
            out.into_text()
        })
    };
    let of_machine = std::iter::once_with(move || machine(&api, &readings));
    of_cgroups.chain(of_machine).filter(|text| !text.is_empty())
}

/// From the node down to the containers.
fn rows<'a>(readings: &'a Readings, sandbox_image: &'a str) -> impl Iterator<Item = Row<'a>> {
    let mut rows = Vec::new();
    let level = |level| Row {
        level,
        container: "",
        image: "",
        name: "",
        namespace: "",
        pod: "",
        made_at: level.numbers.made_at,
        interfaces: &[],
        machine_memory: None,
        devices: &[],
    };
    rows.push(Row {
        interfaces: &readings.interfaces,
        machine_memory: Some(readings.machine.total),
        devices: &readings.devices,
        ..level(&readings.node)
    });
    rows.extend(readings.all_pods.iter().map(level));
    rows.extend(readings.classes.iter().map(level));
    rows.extend(readings.own.iter().map(level));
    for pod in &readings.pods {
        let of_pod = |reading| Row {
            namespace: &pod.name.namespace,
            pod: &pod.name.name,
            ..level(reading)
        };
        rows.extend(pod.level.iter().map(of_pod));
        if let Some(sandbox) = &pod.sandbox {
            rows.push(Row {
                name: &sandbox.id,
                image: sandbox_image,
                made_at: Some(pod.created_at / NANOS),
                interfaces: pod.interfaces.as_deref().unwrap_or_default(),
                ..of_pod(&sandbox.level)
            });
        }
        for container in &pod.containers {
            rows.push(Row {
                container: &container.name,
                image: &container.image,
                name: &container.id,
                made_at: Some(container.created_at / NANOS),
                ..of_pod(&container.level)
            });
        }
    }
    rows.into_iter()
}

const NANOS: i64 = 1_000_000_000;

/// What is true of the machine, and that nothing went wrong.
fn machine(api: &MetricsApi, readings: &Readings) -> String {
    let facts = &api.machine;
    let mut out = Exposition::new();
    out.family(Family::gauge(
        "cadvisor_version_info",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.",
    ));
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", facts.kernel_version.as_str()),
        ("osVersion", facts.os_image.as_str()),
    ];
    out.sample(&labels, 1.0);
    out.single(
        Family::gauge(
            "container_scrape_error",
            "1 if there was an error while getting container metrics, 0 otherwise",
        ),
        0.0,
    );
    let (cores, sockets) = topology(&api.stats.inputs().proc, facts.processors);
    let count = |number: usize| float(u64::try_from(number).unwrap_or(u64::MAX));
    let labels = [
        ("boot_id", facts.boot_id.as_str()),
        ("machine_id", facts.machine_id.as_str()),
        ("system_uuid", facts.system_uuid.as_str()),
    ];
    for (family, value) in [
        (
            Family::gauge("machine_cpu_cores", "Number of logical CPU cores."),
            count(facts.processors),
        ),
        (
            Family::gauge(
                "machine_cpu_physical_cores",
                "Number of physical CPU cores.",
            ),
            count(cores),
        ),
        (
            Family::gauge("machine_cpu_sockets", "Number of CPU sockets."),
            count(sockets),
        ),
        (
            Family::gauge(
                "machine_memory_bytes",
                "Amount of memory installed on the machine.",
            ),
            float(readings.machine.total),
        ),
        (
            Family::gauge(
                "machine_swap_bytes",
                "Amount of swap memory available on the machine.",
            ),
            float(readings.machine.swap_total),
        ),
    ] {
        out.family(family).sample(&labels, value);
    }
    out.single(
        Family::gauge(
            "machine_scrape_error",
            "1 if there was an error while getting machine metrics, 0 otherwise.",
        ),
        0.0,
    );
    out.into_text()
}
