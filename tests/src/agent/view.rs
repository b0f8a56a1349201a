//! What tests read of a pod of the API.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What tests read of a pod.
pub trait PodView {
    /// The UID.
    fn uid(&self) -> &str;
    /// `status.phase`.
    fn phase(&self) -> &str;
    /// `status.podIP`.
    fn ip(&self) -> &str;
    /// `status.containerStatuses`.
    fn statuses(&self) -> &[ContainerStatus];
    /// The status of one container, init containers included.
    ///
    /// # Errors
    /// When there is none yet.
    fn container(&self, name: &str) -> Result<&ContainerStatus>;
    /// Id and start time of every container: what does not change while nothing is restarted.
    fn instances(&self) -> Vec<(String, String, String)>;
    /// One line for a failed wait.
    fn describe(&self) -> String;
}

impl PodView for Pod {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn phase(&self) -> &str {
        let status = self.status.as_ref();
        status.and_then(|s| s.phase.as_deref()).unwrap_or_default()
    }

    fn ip(&self) -> &str {
        let status = self.status.as_ref();
        status.and_then(|s| s.pod_ip.as_deref()).unwrap_or_default()
    }

    fn statuses(&self) -> &[ContainerStatus] {
        let status = self.status.as_ref();
        status
            .and_then(|s| s.container_statuses.as_deref())
            .unwrap_or_default()
    }

    fn container(&self, name: &str) -> Result<&ContainerStatus> {
        let status = self.status.as_ref().context("the pod has no status")?;
        status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses)
            .flatten()
            .find(|status| status.name == name)
            .with_context(|| format!("no status of {name}: {}", self.describe()))
    }

    fn instances(&self) -> Vec<(String, String, String)> {
        let mut all: Vec<_> = self
            .statuses()
            .iter()
            .map(|status| {
                let running = status.state.as_ref().and_then(|s| s.running.as_ref());
                let started = running.and_then(|r| r.started_at.as_ref());
                (
                    status.name.clone(),
                    status.container_id.clone().unwrap_or_default(),
                    started.map(|time| time.0.to_string()).unwrap_or_default(),
                )
            })
            .collect();
        all.sort();
        all
    }

    fn describe(&self) -> String {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let containers: Vec<String> = self
            .statuses()
            .iter()
            .map(|status| {
                let state = status.state.clone().unwrap_or_default();
                let state = serde_json::to_string(&state).unwrap_or_default();
                format!(
                    "{} ready={} restarts={} {state}",
                    status.name, status.ready, status.restart_count
                )
            })
            .collect();
        format!("{name} {} [{}]", self.phase(), containers.join("; "))
    }
}
