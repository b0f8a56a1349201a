//! Has running containers run on the CPUs that they are to run on: those without any of their own share what is left, which
//! changes with every pod that has some.
//!
//! Upstream looks at all containers each `cpuManagerReconcilePeriod`; here a change wakes each worker, and the period is how
//! long after a failure it tries again.

use std::collections::BTreeMap;
use std::time::Duration;

use cri_proto::v1;

use super::Worker;
use crate::errors::error_chain;
use crate::runtime::{ContainerId, ContainerState, ObservedPod};

/// What running containers were told last.
#[derive(Default)]
pub(super) struct Pins {
    /// By instance; of one that an earlier life of the agent has started nobody knows.
    told: BTreeMap<ContainerId, String>,
    /// Something could not be told, and is not tried again before.
    retry_at: Option<Duration>,
}

impl Pins {
    /// The instance was made with these CPUs; with an empty text for all.
    pub(super) fn made(&mut self, id: ContainerId, cpus: String) {
        if !cpus.is_empty() {
            self.told.insert(id, cpus);
        }
    }

    /// How long until something is tried again.
    pub(super) fn retry_in(&self, now: Duration) -> Option<Duration> {
        Some(self.retry_at?.saturating_sub(now))
    }
}

impl Worker {
    /// Tells the runtime which CPUs the running containers are to have, where that is news.
    pub(super) async fn pin(&mut self, observed: &ObservedPod) {
        let managers = &self.tools.managers;
        if !managers.pin_cpus() {
            return;
        }
        let now = self.tools.clock.now().monotonic;
        let pins = &mut self.memory.pins;
        if pins.retry_at.is_some_and(|at| at > now) {
            return;
        }
        pins.retry_at = None;
        let running = observed.containers.iter();
        let running = running.filter(|c| c.state == ContainerState::Running);
        let wanted: BTreeMap<ContainerId, (std::sync::Arc<str>, String)> = running
            .filter_map(|c| {
                let cpus = managers.grants(&self.uid, &c.name).cpuset_cpus?;
                Some((c.id.clone(), (c.name.clone(), cpus)))
            })
            .collect();
        // One that was only just made runs before it is seen to.
        let known = |id: &ContainerId| observed.containers.iter().any(|c| c.id == *id);
        pins.told
            .retain(|id, _| wanted.contains_key(id) || !known(id));
        for (id, (name, cpus)) in wanted {
            if self.memory.pins.told.get(&id) == Some(&cpus) {
                continue;
            }
            let request = v1::UpdateContainerResourcesRequest {
                container_id: id.to_string(),
                linux: Some(v1::LinuxContainerResources {
                    cpuset_cpus: cpus.clone(),
                    ..v1::LinuxContainerResources::default()
                }),
                ..v1::UpdateContainerResourcesRequest::default()
            };
            match self.tools.runtime.update_container_resources(request).await {
                Ok(()) => {
                    tracing::debug!(pod = %self.name, uid = %self.uid, container = %name, cpus, "the container runs on these CPUs now");
                    self.memory.pins.told.insert(id, cpus);
                }
                // Its exit is on its way.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let every = self.tools.node.pin_retry;
                    tracing::warn!(pod = %self.name, uid = %self.uid, container = %name, cpus, error = error_chain(&error), "cannot have the container run on its CPUs; tries again in {every:?}");
                    self.memory.pins.retry_at = Some(now + every);
                }
            }
        }
    }
}
