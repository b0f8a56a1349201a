//! Statistics and metrics of the RuntimeService.

use super::RuntimeClient;
use crate::call::rpc;
use crate::{CriError, v1};

/// Statistics and metrics.
impl RuntimeClient {
    /// What one container uses.
    pub async fn container_stats(&self, id: &str) -> Result<v1::ContainerStats, CriError> {
        let container_id = id.into();
        let message = v1::ContainerStatsRequest { container_id };
        let answer = rpc!(
            self,
            "ContainerStats",
            container_stats,
            self.deadline(),
            message
        )?;
        answer
            .stats
            .ok_or_else(|| CriError::malformed("ContainerStats", "stats"))
    }

    /// What the containers use; all running ones without a filter.
    pub async fn list_container_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>, CriError> {
        let message = v1::ListContainerStatsRequest { filter };
        let answer = rpc!(
            self,
            "ListContainerStats",
            list_container_stats,
            self.deadline(),
            message
        )?;
        Ok(answer.stats)
    }

    /// What one sandbox and its containers use.
    pub async fn pod_sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats, CriError> {
        let pod_sandbox_id = id.into();
        let message = v1::PodSandboxStatsRequest { pod_sandbox_id };
        let answer = rpc!(
            self,
            "PodSandboxStats",
            pod_sandbox_stats,
            self.deadline(),
            message
        )?;
        answer
            .stats
            .ok_or_else(|| CriError::malformed("PodSandboxStats", "stats"))
    }

    /// What the sandboxes and their containers use; all ready ones without a filter.
    pub async fn list_pod_sandbox_stats(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>, CriError> {
        let message = v1::ListPodSandboxStatsRequest { filter };
        let answer = rpc!(
            self,
            "ListPodSandboxStats",
            list_pod_sandbox_stats,
            self.deadline(),
            message
        )?;
        Ok(answer.stats)
    }

    /// The metrics the runtime can give, with their labels.
    pub async fn list_metric_descriptors(&self) -> Result<Vec<v1::MetricDescriptor>, CriError> {
        let message = v1::ListMetricDescriptorsRequest {};
        let answer = rpc!(
            self,
            "ListMetricDescriptors",
            list_metric_descriptors,
            self.deadline(),
            message
        )?;
        Ok(answer.descriptors)
    }

    /// The metrics of every sandbox.
    pub async fn list_pod_sandbox_metrics(&self) -> Result<Vec<v1::PodSandboxMetrics>, CriError> {
        let message = v1::ListPodSandboxMetricsRequest {};
        let answer = rpc!(
            self,
            "ListPodSandboxMetrics",
            list_pod_sandbox_metrics,
            self.deadline(),
            message
        )?;
        Ok(answer.pod_metrics)
    }
}
