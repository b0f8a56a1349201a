//! Who is evicted first, and what is said of it. Pure.
//!
//! Order and messages are upstream's (`pkg/kubelet/eviction/helpers.go`).

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::sync::Arc;

use static_pods::quantity::Quantity;

use super::signals::{Layout, Observations, Resource, Signal};
use super::thresholds::Threshold;
use super::usage::Usage;
use crate::cgroups::resources::{ResourceList, pod_requests};
use crate::pod::{self, Pod};
use crate::shutdown::priority_of;
use crate::stats::Taken;

/// A pod that may be evicted.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) pod: Arc<Pod>,
    /// What it takes; none where nobody could tell.
    pub(super) usage: Option<Usage>,
}

/// What the pods are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Memory,
    Processes,
    /// Bytes or inodes of what of a pod lies on the file system that is full.
    Disk {
        layers: bool,
        logs_and_volumes: bool,
        inodes: bool,
    },
}

impl Measure {
    fn of(signal: Signal, layout: Layout) -> Self {
        let inodes = signal.resource() == Resource::Inodes;
        let disk = |layers, logs_and_volumes| Self::Disk {
            layers,
            logs_and_volumes,
            inodes,
        };
        match signal {
            Signal::Memory | Signal::AllocatableMemory => Self::Memory,
            Signal::Pids => Self::Processes,
            Signal::NodefsBytes | Signal::NodefsInodes => disk(layout != Layout::Images, true),
            Signal::ImagefsBytes | Signal::ImagefsInodes => {
                disk(layout != Layout::Split, layout == Layout::One)
            }
            Signal::ContainerfsBytes | Signal::ContainerfsInodes => {
                disk(true, layout != Layout::Images)
            }
        }
    }

    /// What the pod takes of it, and what it asks for.
    fn take(self, pod: &Pod, usage: &Usage) -> (u64, u64) {
        let requests = || pod_requests(pod).unwrap_or_default();
        match self {
            Self::Memory => (usage.memory, amount(&requests(), "memory")),
            Self::Processes => (usage.processes, 0),
            Self::Disk {
                layers,
                logs_and_volumes,
                inodes,
            } => {
                let mut sum = Taken::default();
                for container in &usage.containers {
                    sum.add(container.layer.filter(|_| layers).unwrap_or_default());
                    sum.add(
                        container
                            .logs
                            .filter(|_| logs_and_volumes)
                            .unwrap_or_default(),
                    );
                }
                if logs_and_volumes {
                    sum.add(usage.local_volumes(pod));
                }
                // Nobody can ask for inodes.
                match inodes {
                    true => (sum.inodes, 0),
                    false => (sum.bytes, amount(&requests(), "ephemeral-storage")),
                }
            }
        }
    }
}

fn amount(list: &ResourceList, name: &str) -> u64 {
    list.get(name)
        .map_or(0, |amount| amount.value().max(0).unsigned_abs())
}

/// Sorts the pods, first who is evicted first: those of which nobody knows anything; for memory and disks those that take
/// more than they ask for; those of lower priority; those that take the most beyond what they ask for.
pub(super) fn rank(candidates: &mut [Candidate], signal: Signal, layout: Layout) {
    let measure = Measure::of(signal, layout);
    candidates.sort_by_cached_key(|candidate| {
        let priority = priority_of(&candidate.pod);
        let Some(usage) = &candidate.usage else {
            return (false, false, priority, Reverse(0));
        };
        let (takes, asks) = measure.take(&candidate.pod, usage);
        let within = takes <= asks && measure != Measure::Processes;
        (
            true,
            within,
            priority,
            Reverse(i128::from(takes) - i128::from(asks)),
        )
    });
}

/// What is said of a pod that is evicted for `signal`; `due` is all that is short.
pub(super) fn message(
    candidate: &Candidate,
    signal: Signal,
    due: &[Threshold],
    observed: &Observations,
) -> String {
    let resource = signal.resource();
    let name = resource.as_str();
    let mut text = format!("The node was low on resource: {name}. ");
    // Nothing fails that is written to a text.
    let met = due.iter().find_map(|threshold| {
        let amount = observed.get(threshold.signal)?;
        (threshold.signal.resource() == resource).then_some((threshold, amount))
    });
    if let Some((threshold, amount)) = met {
        let quantity = threshold.quantity(amount.capacity);
        let available = resource.quantity(amount.available);
        let _ = write!(
            text,
            "Threshold quantity: {quantity}, available: {available}. "
        );
    }
    let Some(usage) = &candidate.usage else {
        return text;
    };
    let spec = pod::spec(&candidate.pod);
    let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let of_pod = of_pod.and_then(|requests| requests.get(name));
    if let Some(request) = of_pod.filter(|_| resource == Resource::Memory) {
        let pod_name = candidate.pod.metadata.name.as_deref().unwrap_or_default();
        let used = resource.quantity(usage.memory);
        let request = parsed(&request.0);
        let _ = write!(
            text,
            "Pod {pod_name} was using {used}, request is {request}, has larger consumption of {name}. "
        );
    }
    for container in &usage.containers {
        let mut all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let Some(own) = all.find(|one| one.name == container.name) else {
            continue;
        };
        let used = match resource {
            Resource::Memory => container.memory,
            Resource::EphemeralStorage => container
                .layer
                .zip(container.logs)
                .map(|(layer, logs)| layer.bytes.saturating_add(logs.bytes)),
            Resource::Inodes | Resource::Pids => None,
        };
        let requests = own.resources.as_ref().and_then(|r| r.requests.as_ref());
        let request = requests.and_then(|requests| requests.get(name));
        let request = request.map(|text| parsed(&text.0)).unwrap_or_default();
        if let Some(used) = used.map(|used| resource.quantity(used))
            && used > request
        {
            let _ = write!(
                text,
                "Container {} was using {used}, request is {request}, has larger consumption of {name}. ",
                own.name
            );
        }
    }
    text
}

fn parsed(text: &str) -> Quantity {
    // Admission has read it before.
    Quantity::parse_amount(text).unwrap_or_default()
}

#[cfg(test)]
mod tests;
