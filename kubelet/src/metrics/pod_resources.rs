//! What is counted of requests to `PodResources`, by `server_api_version`.

use super::instruments::CounterVec;
use super::text::Exposition;

const VERSION: &[&str] = &["server_api_version"];

/// Requests to `PodResources`.
#[derive(Debug)]
pub struct PodResourcesCounts {
    /// All of them.
    pub all: CounterVec,
    /// For what all pods have.
    pub list: CounterVec,
    /// For what there is.
    pub allocatable: CounterVec,
    /// For what one pod has.
    pub get: CounterVec,
    /// Those for a pod that is not there.
    pub get_errors: CounterVec,
}

impl PodResourcesCounts {
    pub(super) const fn new() -> Self {
        Self {
            all: CounterVec::new(
                "kubelet_pod_resources_endpoint_requests_total",
                "[ALPHA] Cumulative number of requests to the PodResource endpoint. Broken down by server api version.",
                VERSION,
            ),
            list: CounterVec::new(
                "kubelet_pod_resources_endpoint_requests_list",
                "[ALPHA] Number of requests to the PodResource List endpoint. Broken down by server api version.",
                VERSION,
            ),
            allocatable: CounterVec::new(
                "kubelet_pod_resources_endpoint_requests_get_allocatable",
                "[ALPHA] Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version.",
                VERSION,
            ),
            get: CounterVec::new(
                "kubelet_pod_resources_endpoint_requests_get",
                "[ALPHA] Number of requests to the PodResource Get endpoint. Broken down by server api version.",
                VERSION,
            ),
            get_errors: CounterVec::new(
                "kubelet_pod_resources_endpoint_errors_get",
                "[ALPHA] Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version.",
                VERSION,
            ),
        }
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        self.get_errors.write(out);
        self.get.write(out);
        self.allocatable.write(out);
        self.list.write(out);
        self.all.write(out);
    }
}
