//! What a pod may take of the node's disk by its own spec (local storage capacity isolation). Pure.

use super::signals::{Layout, Resource};
use super::usage::Usage;
use crate::cgroups::resources::pod_limits;
use crate::pod::{self, Pod};
use static_pods::quantity::Quantity;

const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// A limit that a pod has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// As `kubelet_evictions` calls it.
    pub(super) signal: &'static str,
    /// What is said of it.
    pub(super) message: String,
}

/// What of a pod is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limited {
    /// An `emptyDir` volume.
    pub(super) volumes: bool,
    /// Its containers, and so the whole pod.
    pub(super) containers: bool,
}

impl Limited {
    pub(super) fn of(pod: &Pod) -> Self {
        let spec = pod::spec(pod);
        let sized = |volume: &k8s_openapi::api::core::v1::Volume| {
            let dir = volume.empty_dir.as_ref();
            dir.is_some_and(|dir| {
                let medium = dir.medium.as_deref().unwrap_or_default();
                // In memory it is the kernel that holds it to its limit.
                medium.is_empty() && dir.size_limit.is_some()
            })
        };
        let has_limit = |container: &k8s_openapi::api::core::v1::Container| {
            let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
            limits.is_some_and(|limits| limits.contains_key(EPHEMERAL_STORAGE))
        };
        let mut all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        Self {
            volumes: spec.volumes.iter().flatten().any(sized),
            containers: all.any(has_limit),
        }
    }

    pub(super) fn any(self) -> bool {
        self.volumes || self.containers
    }
}

/// The first limit that the pod has passed, in upstream's order: a volume's, the pod's, a container's. Where images have a
/// file system of their own, writable layers are not held against a container, as upstream.
pub(super) fn passed(pod: &Pod, usage: &Usage, layout: Layout) -> Option<Passed> {
    of_volumes(pod, usage)
        .or_else(|| of_pod(pod, usage))
        .or_else(|| of_containers(pod, usage, layout))
}

fn of_volumes(pod: &Pod, usage: &Usage) -> Option<Passed> {
    pod::spec(pod).volumes.iter().flatten().find_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let limit = Quantity::parse_amount(&limit.0).ok()?;
        let used = bytes(usage.volumes.get(&volume.name)?.bytes);
        (!limit.is_zero() && used > limit).then(|| Passed {
            signal: "emptydirfs.limit",
            message: format!(
                "Usage of EmptyDir volume \"{}\" exceeds the limit \"{limit}\". ",
                volume.name
            ),
        })
    })
}

fn of_pod(pod: &Pod, usage: &Usage) -> Option<Passed> {
    let limits = pod_limits(pod).ok()?;
    let limit = limits.get(EPHEMERAL_STORAGE)?;
    (bytes(usage.ephemeral) > *limit).then(|| Passed {
        signal: "ephemeralpodfs.limit",
        message: format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ),
    })
}

fn of_containers(pod: &Pod, usage: &Usage, layout: Layout) -> Option<Passed> {
    usage.containers.iter().find_map(|container| {
        let mut all = pod::spec(pod).containers.iter();
        let own = all.find(|one| one.name == container.name)?;
        let limit = own
            .resources
            .as_ref()?
            .limits
            .as_ref()?
            .get(EPHEMERAL_STORAGE)?;
        let limit = Quantity::parse_amount(&limit.0).ok()?;
        let mut used = container.logs.unwrap_or_default();
        if layout == Layout::One {
            used.add(container.layer.unwrap_or_default());
        }
        (!limit.is_zero() && bytes(used.bytes) > limit).then(|| Passed {
            signal: "ephemeralcontainerfs.limit",
            message: format!(
                "Container {} exceeded its local ephemeral storage limit \"{limit}\". ",
                own.name
            ),
        })
    })
}

fn bytes(amount: u64) -> Quantity {
    Resource::EphemeralStorage.quantity(amount)
}

#[cfg(test)]
mod tests;
