//! What the agent counts, under upstream's names (`pkg/kubelet/metrics/metrics.go` and the registries it shares).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::certificates::Certificates;
use super::image_volumes::ImageVolumes;
use super::instruments::{Counter, CounterVec, GaugeVec, Histogram, HistogramVec};
use super::managers::Managers;
use super::names::{image_size, operation_of};
use super::pod_certificates::PodCertificates;
use super::pod_resources::PodResourcesCounts;
use super::text::{Exposition, Family};
use super::user_namespaces::UserNamespaces;

/// Prometheus' own bounds, seconds.
pub(super) const DEFAULT: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Of calls to the runtime: each two and a half times the one before.
const OPERATION: &[f64] = &[
    0.005,
    0.0125,
    0.031_25,
    0.078_125,
    0.195_312_5,
    0.488_281_25,
    1.220_703_125,
    3.051_757_812_5,
    7.629_394_531_25,
    19.073_486_328_125,
    47.683_715_820_312_5,
    119.209_289_550_781_25,
    298.023_223_876_953_1,
    745.058_059_692_382_8,
];
const POD_START: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
    300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const IMAGE_PULL: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0,
];
const CONTAINERS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
const STORAGE: &[f64] = &[
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0,
];
const REST: &[f64] = &[
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];

const HTTP: &[&str] = &["long_running", "method", "path", "server_type"];

const LAST_SEEN: Family = Family::gauge(
    "kubelet_pleg_last_seen_seconds",
    "[ALPHA] Timestamp in seconds when PLEG was last seen active.",
);

const FIRST_NETWORK_POD: Family = Family::gauge(
    "kubelet_first_network_pod_start_sli_duration_seconds",
    "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
);

/// A time, or a time between two.
#[expect(
    clippy::cast_precision_loss,
    reason = "seconds of this millennium are far below 2^53"
)]
pub(super) fn seconds(seconds: i64) -> f64 {
    seconds as f64
}

/// All that is counted while the process lives.
#[derive(Debug)]
pub struct Kubelet {
    /// Calls to the runtime, by `operation_type`.
    pub runtime_operations: CounterVec,
    /// Those that failed.
    pub runtime_errors: CounterVec,
    /// How long they took.
    pub runtime_duration: HistogramVec,
    /// How long a list of everything in the runtime took.
    pub relist_duration: Histogram,
    /// How long after the one before it each such list began.
    pub relist_interval: Histogram,
    relisted_at: AtomicI64,
    /// How long a worker took to do what it had planned, by `operation_type`.
    pub worker_duration: HistogramVec,
    /// From the moment a pod is known until its first worker looks at it.
    pub worker_start: Histogram,
    /// From the moment a pod is known until it runs.
    pub pod_start: Histogram,
    /// How many containers the pods have that workers began with.
    pub containers_per_pod: Histogram,
    /// From the creation of an API server's pod until it is seen to run, but for what is not the node's to hurry.
    pub pod_start_sli: HistogramVec,
    /// The same in all.
    pub pod_start_total: HistogramVec,
    /// The first of `pod_start_sli` that has a network of its own, as the bits of a number of seconds.
    first_network_pod: AtomicU64,
    image_pull: HistogramVec,
    /// How long a sandbox took to be made, by `runtime_handler`.
    pub run_sandbox_duration: HistogramVec,
    /// Those that were not made, by `runtime_handler`.
    pub run_sandbox_errors: CounterVec,
    /// Containers that have ended, by `container_type`, `exit_code` and `reason`.
    pub terminated_containers: CounterVec,
    /// Sandboxes that were asked for.
    pub started_pods: Counter,
    /// Those that were not made.
    pub started_pods_errors: Counter,
    /// Those with users of their own.
    pub user_namespaces: UserNamespaces,
    /// Images that containers were to mount.
    pub image_volumes: ImageVolumes,
    /// Containers that were asked for, by `container_type`.
    pub started_containers: CounterVec,
    /// Those that were not started, by `code` and `container_type`.
    pub started_containers_errors: CounterVec,
    /// What was done to cgroups, by `operation_type`.
    pub cgroup_duration: HistogramVec,
    /// Pods that were evicted, by `eviction_signal`.
    pub evictions: CounterVec,
    /// How old what was measured was when a pod was evicted by it, by `eviction_signal`.
    pub eviction_age: HistogramVec,
    /// Images that were removed because nobody used them, by `reason`: `space` or `age`.
    pub images_collected: CounterVec,
    /// Requests to `PodResources`.
    pub pod_resources: PodResourcesCounts,
    /// How long credential providers took, by name.
    pub provider_duration: HistogramVec,
    /// How often they could not be run, did not end well, or not in time.
    pub provider_errors: CounterVec,
    /// Images that were asked for, by whether they were here, the policy, and whether they had to be pulled.
    pub ensured_images: CounterVec,
    /// Images that are here, by what came of the question whether a pod may use them.
    pub must_pull_checks: CounterVec,
    /// Volumes set up and given back, by `migrated`, `operation_name`, `status` and `volume_plugin`.
    pub storage_duration: HistogramVec,
    /// Requests to the agent's ports, by `long_running`, `method`, `path` and `server_type`.
    pub http_requests: CounterVec,
    /// Those that have not been answered.
    pub http_inflight: GaugeVec,
    /// How long the answers took to begin.
    pub http_duration: HistogramVec,
    /// Requests to the API server, by `code`, `host` and `method`.
    pub rest_requests: CounterVec,
    /// How long they took, by `host` and `verb`.
    pub rest_duration: HistogramVec,
    /// Of the topology, CPU and memory managers.
    pub managers: Managers,
    /// The node's certificates.
    pub certificates: Certificates,
    /// Those of pods.
    pub pod_certificates: PodCertificates,
    /// Probes, by `container`, `namespace`, `pod`, `pod_uid`, `probe_type` and `result`.
    pub probes: CounterVec,
    /// How long they took, by `container`, `namespace`, `pod` and `probe_type`.
    pub probe_duration: HistogramVec,
}

/// What is counted in this process.
#[must_use]
pub fn kubelet() -> &'static Kubelet {
    &KUBELET
}

static KUBELET: Kubelet = Kubelet {
    runtime_operations: CounterVec::new(
        "kubelet_runtime_operations_total",
        "[ALPHA] Cumulative number of runtime operations by operation type.",
        &["operation_type"],
    ),
    runtime_errors: CounterVec::new(
        "kubelet_runtime_operations_errors_total",
        "[ALPHA] Cumulative number of runtime operation errors by operation type.",
        &["operation_type"],
    ),
    runtime_duration: HistogramVec::new(
        "kubelet_runtime_operations_duration_seconds",
        "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
        &["operation_type"],
        OPERATION,
    ),
    relist_duration: Histogram::new(
        "kubelet_pleg_relist_duration_seconds",
        "[ALPHA] Duration in seconds for relisting pods in PLEG.",
        DEFAULT,
    ),
    relist_interval: Histogram::new(
        "kubelet_pleg_relist_interval_seconds",
        "[ALPHA] Interval in seconds between relisting in PLEG.",
        DEFAULT,
    ),
    relisted_at: AtomicI64::new(0),
    worker_duration: HistogramVec::new(
        "kubelet_pod_worker_duration_seconds",
        "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
        &["operation_type"],
        DEFAULT,
    ),
    worker_start: Histogram::new(
        "kubelet_pod_worker_start_duration_seconds",
        "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.",
        DEFAULT,
    ),
    pod_start: Histogram::new(
        "kubelet_pod_start_duration_seconds",
        "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
        POD_START,
    ),
    containers_per_pod: Histogram::new(
        "kubelet_containers_per_pod_count",
        "[ALPHA] The number of containers per pod.",
        CONTAINERS,
    ),
    pod_start_sli: HistogramVec::new(
        "kubelet_pod_start_sli_duration_seconds",
        "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
        &[],
        POD_START,
    ),
    pod_start_total: HistogramVec::new(
        "kubelet_pod_start_total_duration_seconds",
        "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
        &[],
        POD_START,
    ),
    first_network_pod: AtomicU64::new(0),
    image_pull: HistogramVec::new(
        "kubelet_image_pull_duration_seconds",
        "[ALPHA] Duration in seconds to pull an image.",
        &["image_size_in_bytes"],
        IMAGE_PULL,
    ),
    run_sandbox_duration: HistogramVec::new(
        "kubelet_run_podsandbox_duration_seconds",
        "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
        &["runtime_handler"],
        DEFAULT,
    ),
    run_sandbox_errors: CounterVec::new(
        "kubelet_run_podsandbox_errors_total",
        "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
        &["runtime_handler"],
    ),
    terminated_containers: CounterVec::new(
        "kubelet_terminated_containers_total",
        "[ALPHA] Cumulative number of container terminations.",
        &["container_type", "exit_code", "reason"],
    ),
    started_pods: Counter::new(
        "kubelet_started_pods_total",
        "[ALPHA] Cumulative number of pods started",
    ),
    started_pods_errors: Counter::new(
        "kubelet_started_pods_errors_total",
        "[ALPHA] Cumulative number of errors when starting pods",
    ),
    user_namespaces: UserNamespaces::new(),
    image_volumes: ImageVolumes::new(),
    started_containers: CounterVec::new(
        "kubelet_started_containers_total",
        "[ALPHA] Cumulative number of containers started",
        &["container_type"],
    ),
    started_containers_errors: CounterVec::new(
        "kubelet_started_containers_errors_total",
        "[ALPHA] Cumulative number of errors when starting containers",
        &["code", "container_type"],
    ),
    cgroup_duration: HistogramVec::new(
        "kubelet_cgroup_manager_duration_seconds",
        "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.",
        &["operation_type"],
        DEFAULT,
    ),
    evictions: CounterVec::new(
        "kubelet_evictions",
        "[ALPHA] Cumulative number of pod evictions by eviction signal",
        &["eviction_signal"],
    ),
    eviction_age: HistogramVec::new(
        "kubelet_eviction_stats_age_seconds",
        "[ALPHA] Time between when stats are collected, and when pod is evicted based on those stats by eviction signal",
        &["eviction_signal"],
        DEFAULT,
    ),
    provider_duration: HistogramVec::new(
        "kubelet_credential_provider_plugin_duration",
        "[ALPHA] Duration of execution in seconds for credential provider plugin",
        &["plugin_name"],
        DEFAULT,
    ),
    provider_errors: CounterVec::new(
        "kubelet_credential_provider_plugin_errors_total",
        "[ALPHA] Number of errors from credential provider plugin",
        &["plugin_name"],
    ),
    ensured_images: CounterVec::new(
        "kubelet_image_manager_ensure_image_requests_total",
        "[ALPHA] Number of ensure-image requests processed by the kubelet.",
        &["present_locally", "pull_policy", "pull_required"],
    ),
    must_pull_checks: CounterVec::new(
        "kubelet_imagemanager_image_mustpull_checks_total",
        "[ALPHA] Counter for how many times kubelet checked whether credentials need to be re-verified to access an image",
        &["result"],
    ),
    images_collected: CounterVec::new(
        "kubelet_image_garbage_collected_total",
        "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
        &["reason"],
    ),
    pod_resources: PodResourcesCounts::new(),
    storage_duration: HistogramVec::new(
        "storage_operation_duration_seconds",
        "[ALPHA] Storage operation duration",
        &["migrated", "operation_name", "status", "volume_plugin"],
        STORAGE,
    ),
    http_requests: CounterVec::new(
        "kubelet_http_requests_total",
        "[ALPHA] Number of the http requests received since the server started",
        HTTP,
    ),
    http_inflight: GaugeVec::new(
        "kubelet_http_inflight_requests",
        "[ALPHA] Number of the inflight http requests",
        HTTP,
    ),
    http_duration: HistogramVec::new(
        "kubelet_http_requests_duration_seconds",
        "[ALPHA] Duration in seconds to serve http requests",
        HTTP,
        DEFAULT,
    ),
    rest_requests: CounterVec::new(
        "rest_client_requests_total",
        "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
        &["code", "host", "method"],
    ),
    rest_duration: HistogramVec::new(
        "rest_client_request_duration_seconds",
        "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
        &["host", "verb"],
        REST,
    ),
    managers: Managers::new(),
    certificates: Certificates::new(),
    pod_certificates: PodCertificates::new(),
    probes: CounterVec::new(
        "prober_probe_total",
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
        &[
            "container",
            "namespace",
            "pod",
            "pod_uid",
            "probe_type",
            "result",
        ],
    ),
    probe_duration: HistogramVec::new(
        "prober_probe_duration_seconds",
        "[ALPHA] Duration in seconds for a probe response.",
        &["container", "namespace", "pod", "probe_type"],
        DEFAULT,
    ),
};

/// How a probe ended, as `prober_probe_total` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// It passed.
    Successful,
    /// It did not.
    Failed,
    /// The container could not be asked.
    Unknown,
}

impl ProbeResult {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Successful, Self::Failed, Self::Unknown];

    /// The value of the label `result`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl Kubelet {
    /// One call to the runtime. `method` is CRI's name of it.
    pub fn runtime_call(&self, method: &str, elapsed: Duration, failed: bool) {
        let Some(operation) = operation_of(method) else {
            return;
        };
        self.runtime_operations.inc(&[operation]);
        self.runtime_duration.observe(&[operation], elapsed);
        if failed {
            self.runtime_errors.inc(&[operation]);
        }
    }

    /// A list of everything in the runtime has been made, which took `elapsed` and began `interval` after the one before
    /// it; `now` is in seconds since the epoch.
    pub fn relisted(&self, elapsed: Duration, interval: Option<Duration>, now: i64) {
        self.relist_duration.observe(elapsed);
        if let Some(interval) = interval {
            self.relist_interval.observe(interval);
        }
        self.relisted_at.store(now, Ordering::Relaxed);
    }

    /// An image of that many bytes has been pulled, which took `elapsed` with the wait for its turn.
    pub fn image_pulled(&self, bytes: u64, elapsed: Duration) {
        self.image_pull.observe(&[image_size(bytes)], elapsed);
    }

    /// A pod with a network of its own has started within `took`, by the measure of `pod_start_sli`.
    pub fn network_pod_started(&self, took: Duration) {
        let bits = took.as_secs_f64().to_bits();
        let first = &self.first_network_pod;
        // All but the first are told of no more.
        let _ = first.compare_exchange(0, bits, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Writes what `/metrics` has of this; `joined`: the node is one of a cluster. `now` is in seconds since the epoch.
    pub fn write(&self, out: &mut Exposition, joined: bool, now: i64) {
        self.certificates.write(out, joined, now);
        self.cgroup_duration.write(out);
        self.managers.write(out);
        self.containers_per_pod.write(out);
        self.eviction_age.write(out);
        self.evictions.write(out);
        let first = self.first_network_pod.load(Ordering::Relaxed);
        out.single(FIRST_NETWORK_POD, f64::from_bits(first));
        self.http_inflight.write(out);
        self.http_duration.write(out);
        self.http_requests.write(out);
        self.images_collected.write(out);
        self.provider_duration.write(out);
        self.provider_errors.write(out);
        self.ensured_images.write(out);
        self.must_pull_checks.write(out);
        let relisted_at = self.relisted_at.load(Ordering::Relaxed);
        out.single(LAST_SEEN, seconds(relisted_at));
        self.image_pull.write(out);
        self.image_volumes.write(out);
        self.relist_duration.write(out);
        self.relist_interval.write(out);
        self.pod_resources.write(out);
        self.pod_start.write(out);
        self.pod_start_sli.write(out);
        self.pod_start_total.write(out);
        self.worker_duration.write(out);
        self.worker_start.write(out);
        self.pod_certificates.write(out, now);
        self.run_sandbox_duration.write(out);
        self.run_sandbox_errors.write(out);
        self.runtime_duration.write(out);
        self.runtime_errors.write(out);
        self.runtime_operations.write(out);
        self.started_containers_errors.write(out);
        self.started_containers.write(out);
        self.started_pods_errors.write(out);
        self.started_pods.write(out);
        self.user_namespaces.write(out);
        self.terminated_containers.write(out);
        self.rest_duration.write(out);
        self.rest_requests.write(out);
        self.storage_duration.write(out);
    }

    /// Writes what `/metrics/probes` has.
    pub fn write_probes(&self, out: &mut Exposition) {
        self.probe_duration.write(out);
        self.probes.write(out);
    }
}
