//! `/metrics/resource`: what metrics-server asks for.

use jiff::Timestamp;

use crate::metrics::{Exposition, Family};
use crate::stats::{ContainerReading, LevelReading, PodReading, Readings};

const CONTAINER_CPU: Family = Family::counter(
    "container_cpu_usage_seconds_total",
    "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
);
const CONTAINER_MEMORY: Family = Family::gauge(
    "container_memory_working_set_bytes",
    "[STABLE] Current working set of the container in bytes",
);
const CONTAINER_START: Family = Family::gauge(
    "container_start_time_seconds",
    "[STABLE] Start time of the container since unix epoch in seconds",
);
const CONTAINER_SWAP_LIMIT: Family = Family::gauge(
    "container_swap_limit_bytes",
    "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
);
const CONTAINER_SWAP: Family = Family::gauge(
    "container_swap_usage_bytes",
    "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
);
const NODE_CPU: Family = Family::counter(
    "node_cpu_usage_seconds_total",
    "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
);
const NODE_MEMORY: Family = Family::gauge(
    "node_memory_working_set_bytes",
    "[STABLE] Current working set of the node in bytes",
);
const NODE_SWAP: Family = Family::gauge(
    "node_swap_usage_bytes",
    "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
);
const POD_CPU: Family = Family::counter(
    "pod_cpu_usage_seconds_total",
    "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
);
const POD_MEMORY: Family = Family::gauge(
    "pod_memory_working_set_bytes",
    "[STABLE] Current working set of the pod in bytes",
);
const POD_SWAP: Family = Family::gauge(
    "pod_swap_usage_bytes",
    "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
);
const ERROR: Family = Family::gauge(
    "resource_scrape_error",
    "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
);

/// A number of one cgroup.
type Value = fn(&LevelReading) -> Option<f64>;

pub(super) fn write(readings: &Readings) -> String {
    let mut out = Exposition::new();
    of_containers(&mut out, readings, CONTAINER_CPU, cpu);
    of_containers(&mut out, readings, CONTAINER_MEMORY, memory);
    out.family(CONTAINER_START);
    for (pod, container) in containers(readings) {
        if container.created_at > 0 {
            out.sample(&labels(pod, container), seconds_of(container.created_at));
        }
    }
    of_containers(&mut out, readings, CONTAINER_SWAP_LIMIT, swap_limit);
    of_containers(&mut out, readings, CONTAINER_SWAP, swap);
    for (family, value) in [
        (NODE_CPU, cpu as Value),
        (NODE_MEMORY, memory),
        (NODE_SWAP, swap),
    ] {
        out.family(family);
        sample(&mut out, &[], &readings.node, value);
    }
    for (family, value) in [
        (POD_CPU, cpu as Value),
        (POD_MEMORY, memory),
        (POD_SWAP, swap),
    ] {
        out.family(family);
        for pod in &readings.pods {
            if let Some(level) = &pod.level {
                let labels = [
                    ("namespace", &*pod.name.namespace),
                    ("pod", &*pod.name.name),
                ];
                sample(&mut out, &labels, level, value);
            }
        }
    }
    out.single(ERROR, 0.0);
    out.into_text()
}

fn containers(readings: &Readings) -> impl Iterator<Item = (&PodReading, &ContainerReading)> {
    let pods = readings.pods.iter();
    pods.flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

fn labels<'a>(pod: &'a PodReading, container: &'a ContainerReading) -> [(&'a str, &'a str); 3] {
    [
        ("container", &container.name),
        ("namespace", &pod.name.namespace),
        ("pod", &pod.name.name),
    ]
}

fn of_containers(out: &mut Exposition, readings: &Readings, family: Family, value: Value) {
    out.family(family);
    for (pod, container) in containers(readings) {
        sample(out, &labels(pod, container), &container.level, value);
    }
}

fn sample(out: &mut Exposition, labels: &[(&str, &str)], level: &LevelReading, value: Value) {
    let at: Timestamp = level.numbers.at;
    if let Some(value) = value(level) {
        out.sample_at(labels, value, at);
    }
}

fn cpu(level: &LevelReading) -> Option<f64> {
    let cpu = level.numbers.cpu.as_ref()?;
    Some(crate::metrics::float(cpu.usage_nanos) / 1e9)
}

fn memory(level: &LevelReading) -> Option<f64> {
    let memory = level.numbers.memory.as_ref()?;
    Some(crate::metrics::float(memory.working_set))
}

fn swap(level: &LevelReading) -> Option<f64> {
    let memory = level.numbers.memory.as_ref()?;
    Some(crate::metrics::float(memory.swap))
}

fn swap_limit(level: &LevelReading) -> Option<f64> {
    let limit = level.numbers.memory.as_ref()?.swap_limit?;
    Some(crate::metrics::float(limit))
}

/// Seconds since the epoch, with their fraction.
#[expect(
    clippy::cast_precision_loss,
    reason = "what a double loses of a time of this century is less than a microsecond"
)]
fn seconds_of(nanos: i64) -> f64 {
    nanos as f64 / 1e9
}
