//! What the device, topology, CPU and memory managers count.

use std::time::Duration;

use super::instruments::{Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramVec};
use super::kubelet::DEFAULT;
use super::text::Exposition;

/// Milliseconds, each twice the one before.
const ADMISSION: &[f64] = &[
    0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2,
];
/// In order of their names: what something is aligned to, and what is.
const ALIGNED: &[&str] = &["boundary", "scope"];

/// The value of `boundary` for what comes from one NUMA node.
const NUMA_NODE: &str = "numa_node";

/// Of the device, topology, CPU and memory managers.
#[derive(Debug)]
pub struct Managers {
    /// Device plugins that asked to be registered, by `resource_name`.
    pub device_registrations: CounterVec,
    /// How long plugins took to give devices, by `resource_name`.
    pub device_allocations: HistogramVec,
    /// Pods that were asked about.
    admissions: Counter,
    /// Those that did not get what they ask for.
    admission_errors: Counter,
    admission_duration: Histogram,
    /// Containers that ask for CPUs for themselves.
    pub cpu_requests: Counter,
    /// Those that did not get them.
    pub cpu_errors: Counter,
    /// CPUs that may still become somebody's own, thousandths.
    pub cpu_shared_milli: Gauge,
    /// CPUs that are somebody's own.
    pub cpu_exclusive: Gauge,
    /// The same by `numa_node`.
    pub cpu_per_node: GaugeVec,
    /// Containers that ask for memory of NUMA nodes.
    pub memory_requests: Counter,
    /// Those that did not get it.
    pub memory_errors: Counter,
    /// What of memory the kernel keeps for Guaranteed and for Burstable pods, bytes; told where it keeps any at all.
    memory_min: GaugeVec,
    memory_low: GaugeVec,
    /// What was given as aligned as the configuration wants it, by `boundary` and `scope`.
    pub aligned: CounterVec,
    /// What could not be.
    pub unaligned: CounterVec,
}

impl Managers {
    pub(super) const fn new() -> Self {
        Self {
            device_registrations: CounterVec::new(
                "kubelet_device_plugin_registration_total",
                "[ALPHA] Cumulative number of device plugin registrations. Broken down by resource name.",
                &["resource_name"],
            ),
            device_allocations: HistogramVec::new(
                "kubelet_device_plugin_alloc_duration_seconds",
                "[ALPHA] Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.",
                &["resource_name"],
                DEFAULT,
            ),
            admissions: Counter::new(
                "kubelet_topology_manager_admission_requests_total",
                "[ALPHA] The number of admission requests where resources have to be aligned.",
            ),
            admission_errors: Counter::new(
                "kubelet_topology_manager_admission_errors_total",
                "[ALPHA] The number of admission request failures where resources could not be aligned.",
            ),
            admission_duration: Histogram::new(
                "kubelet_topology_manager_admission_duration_ms",
                "[ALPHA] Duration in milliseconds to serve a pod admission request.",
                ADMISSION,
            ),
            cpu_requests: Counter::new(
                "kubelet_cpu_manager_pinning_requests_total",
                "[ALPHA] The number of cpu core allocations which required pinning.",
            ),
            cpu_errors: Counter::new(
                "kubelet_cpu_manager_pinning_errors_total",
                "[ALPHA] The number of cpu core allocations which required pinning failed.",
            ),
            cpu_shared_milli: Gauge::new(
                "kubelet_cpu_manager_shared_pool_size_millicores",
                "[ALPHA] The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.",
            ),
            cpu_exclusive: Gauge::new(
                "kubelet_cpu_manager_exclusive_cpu_allocation_count",
                "[ALPHA] The total number of CPUs exclusively allocated to containers running on this node",
            ),
            cpu_per_node: GaugeVec::new(
                "kubelet_cpu_manager_allocation_per_numa",
                "[ALPHA] Number of CPUs allocated per NUMA node",
                &[NUMA_NODE],
            ),
            memory_requests: Counter::new(
                "kubelet_memory_manager_pinning_requests_total",
                "[ALPHA] The number of memory pages allocations which required pinning.",
            ),
            memory_errors: Counter::new(
                "kubelet_memory_manager_pinning_errors_total",
                "[ALPHA] The number of memory pages allocations which required pinning that failed.",
            ),
            memory_min: GaugeVec::new(
                "kubelet_memory_qos_node_memory_min_bytes",
                "[ALPHA] Total cgroup v2 memory.min in bytes for Guaranteed pods. This memory is hard-reserved and never reclaimed by the kernel.",
                &[],
            ),
            memory_low: GaugeVec::new(
                "kubelet_memory_qos_node_memory_low_bytes",
                "[ALPHA] Total cgroup v2 memory.low in bytes for Burstable pods. This memory is soft-reserved and may be reclaimed under extreme pressure.",
                &[],
            ),
            aligned: CounterVec::new(
                "kubelet_container_aligned_compute_resources_count",
                "[ALPHA] Cumulative number of aligned compute resources allocated to containers by alignment type.",
                ALIGNED,
            ),
            unaligned: CounterVec::new(
                "kubelet_container_aligned_compute_resources_failure_count",
                "[ALPHA] Cumulative number of failures to allocate aligned compute resources to containers by alignment type.",
                ALIGNED,
            ),
        }
    }

    /// A pod was asked about, which took `elapsed`.
    pub fn admitted(&self, elapsed: Duration, failed: bool) {
        self.admissions.inc();
        self.admission_duration.observe_millis(elapsed);
        if failed {
            self.admission_errors.inc();
        }
    }

    /// What a container, or a pod as a whole (`scope`), asks for has to come from one NUMA node; whether it does.
    pub fn on_one_node(&self, scope: &str, does: bool) {
        let counter = if does { &self.aligned } else { &self.unaligned };
        counter.inc(&[NUMA_NODE, scope]);
    }

    /// Begins to tell of what is aligned to `boundary`: nothing yet.
    pub fn expect_aligned(&self, boundary: &str, scope: &str) {
        self.aligned.ensure(&[boundary, scope]);
        self.unaligned.ensure(&[boundary, scope]);
    }

    /// So much of memory is kept for Guaranteed pods and for Burstable ones (`MemoryQoS`), bytes.
    pub fn memory_kept(&self, min: u64, low: u64) {
        self.memory_min.set(&[], min);
        self.memory_low.set(&[], low);
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        self.device_allocations.write(out);
        self.device_registrations.write(out);
        self.aligned.write(out);
        self.unaligned.write(out);
        self.cpu_per_node.write(out);
        self.cpu_exclusive.write(out);
        self.cpu_errors.write(out);
        self.cpu_requests.write(out);
        self.cpu_shared_milli.write(out);
        self.memory_errors.write(out);
        self.memory_requests.write(out);
        self.memory_low.write(out);
        self.memory_min.write(out);
        self.admission_duration.write(out);
        self.admission_errors.write(out);
        self.admissions.write(out);
    }
}
