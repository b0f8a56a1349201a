//! Gives running containers the resources that their pod was given.
//!
//! The pod's cgroup first becomes large enough for what its containers have and for what they get; then the containers
//! change, those that get less first; then the cgroup becomes what it is to be. A container whose policy is to be made
//! anew is left to the plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use cri_proto::{CriError, v1};

use super::Worker;
use super::hold::Hold;
use crate::cgroups::CgroupsError;
use crate::cgroups::resources::ResourceError;
use crate::errors::error_chain;
use crate::events::About;
use crate::pod::{self, Pod};
use crate::resize::{self, Amounts, Change};
use crate::runtime::convert;
use crate::runtime::{ContainerState, ObservedPod};

/// Why a container does not have what it was given yet. It is tried again.
#[derive(Debug, thiserror::Error)]
enum ResizeError {
    #[error("cannot set the pod's cgroup")]
    Cgroup(#[from] CgroupsError),
    #[error("cannot decrease memory limits: {0}")]
    InUse(String),
    #[error("cannot read memory usage of container {name:?}")]
    Usage { name: Arc<str>, source: CriError },
    #[error("cannot read the resources of container {name:?}")]
    Resources {
        name: Arc<str>,
        source: ResourceError,
    },
    #[error("cannot update the resources of container {name:?}")]
    Update { name: Arc<str>, source: CriError },
}

impl Worker {
    /// Has the running containers have what `pod` says. Returns those that have to be made anew for it.
    pub(super) async fn resize(
        &mut self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
    ) -> BTreeSet<Arc<str>> {
        let none = BTreeSet::new();
        if !pod::is_from_api(pod) {
            return none;
        }
        self.take_over(pod, observed);
        if self.memory.note_given(pod) {
            self.memory.resize_hold = None;
            self.memory.resizing = Some(None);
        }
        let changes = resize::changes(pod, observed, self.memory.actuated());
        if changes.is_empty() && self.memory.resizing.is_none() {
            return none;
        }
        let now = self.tools.clock.now().monotonic;
        let held = self.memory.resize_hold.as_ref();
        if held.is_some_and(|hold| hold.left(now).is_some()) {
            return none;
        }
        self.memory.resizing.get_or_insert_default();
        match self.actuate(pod, &changes).await {
            Ok(()) => {
                self.memory.resize_hold = None;
                let anew = changes.iter().filter(|change| change.restarts);
                let anew: BTreeSet<_> = anew.map(|change| change.name.clone()).collect();
                if anew.is_empty() {
                    self.memory.resizing = None;
                    About::pod(pod).normal("ResizeCompleted", &resize::completed(pod));
                }
                anew
            }
            Err(error) => {
                let text = error_chain(&error);
                let hold = Hold::after(self.memory.resize_hold.as_ref(), now, None);
                self.memory.resize_hold = Some(hold);
                let told = Some(Some(text.as_str().into()));
                if self.memory.resizing != told {
                    About::pod(pod).warning("ResizeError", &resize::failed(pod, &text));
                    self.memory.resizing = told;
                }
                none
            }
        }
    }

    /// What runs, and nobody knows what it has, has what the pod was given: another agent has started it.
    fn take_over(&mut self, pod: &Pod, observed: &ObservedPod) {
        for (_, container) in pod::containers(pod) {
            let running = observed.newest(&container.name);
            let Some(running) = running.filter(|c| c.state == ContainerState::Running) else {
                continue;
            };
            let known = self.memory.actuated().get(&container.name);
            if known.is_none_or(|known| known.id != running.id.as_str()) {
                let has = Amounts::of(container.resources.as_ref());
                self.memory.note_actuated(&container.name, &running.id, has);
            }
        }
    }

    async fn actuate(&mut self, pod: &Arc<Pod>, changes: &[Change]) -> Result<(), ResizeError> {
        let (anew, in_place): (Vec<&Change>, Vec<&Change>) =
            changes.iter().partition(|change| change.restarts);
        for change in &in_place {
            self.check_usage(change).await?;
        }
        let envelope = resize::envelope(pod, changes);
        self.ensure_cgroup(&envelope).await?;
        for change in in_place {
            self.update(pod, change).await?;
            self.memory
                .note_actuated(&change.name, &change.id, change.to.clone());
        }
        if anew.is_empty() {
            self.ensure_cgroup(pod).await?;
        }
        Ok(())
    }

    /// A limit below what is in use would have the kernel end processes.
    async fn check_usage(&self, change: &Change) -> Result<(), ResizeError> {
        let Some(limit) = change.to.memory_shrinks_to(&change.from) else {
            return Ok(());
        };
        let name = &change.name;
        let stats = self.tools.runtime.container_stats(change.id.as_str()).await;
        let stats = stats.map_err(|source| ResizeError::Usage {
            name: name.clone(),
            source,
        })?;
        check_limit(name, limit, stats.memory)
    }

    async fn update(&self, pod: &Pod, change: &Change) -> Result<(), ResizeError> {
        let name = &change.name;
        let Some(container) = pod::container(pod, name) else {
            return Ok(());
        };
        let settings = &self.tools.node.settings;
        let grants = self.tools.managers.grants(&self.uid, name);
        let linux = convert::resized_container(pod, &container, &grants, settings);
        let linux = linux.map_err(|source| ResizeError::Resources {
            name: name.clone(),
            source,
        })?;
        let request = v1::UpdateContainerResourcesRequest {
            container_id: change.id.to_string(),
            linux: Some(linux),
            ..v1::UpdateContainerResourcesRequest::default()
        };
        let updated = self.tools.runtime.update_container_resources(request).await;
        updated.map_err(|source| ResizeError::Update {
            name: name.clone(),
            source,
        })
    }
}

/// Whether the container, which uses `memory`, can live with a `limit` of so many bytes.
fn check_limit(name: &str, limit: i64, memory: Option<v1::MemoryUsage>) -> Result<(), ResizeError> {
    let memory = memory.unwrap_or_default();
    let used = memory.usage_bytes.or(memory.working_set_bytes);
    match used.map(|used| used.value) {
        Some(used) if used < limit.max(0).unsigned_abs() => Ok(()),
        Some(used) => Err(ResizeError::InUse(format!(
            "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
        ))),
        None => Err(ResizeError::InUse(format!(
            "missing container {name:?} memory usage"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_not_set_below_what_is_in_use() {
        let bytes = |value| Some(v1::UInt64Value { value });
        let of = |usage, working_set, limit| {
            let memory = v1::MemoryUsage {
                usage_bytes: usage,
                working_set_bytes: working_set,
                ..v1::MemoryUsage::default()
            };
            let checked = check_limit("main", limit, Some(memory));
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(of(bytes(99), None, 100), Ok(()));
        // What may be given back counts as in use, unless nothing else is known.
        let refused = "cannot decrease memory limits: attempting to set container \"main\" memory limit (100) below current usage (100)";
        assert_eq!(of(bytes(100), bytes(1), 100), Err(refused.to_owned()));
        assert_eq!(of(None, bytes(99), 100), Ok(()));
        assert!(of(None, bytes(101), 100).is_err());
        assert!(of(bytes(0), None, -1).is_err());
        let unknown = check_limit("main", 100, None).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "cannot decrease memory limits: missing container \"main\" memory usage"
        );
    }
}
