//! What the agent says of its node. Pure.
//!
//! Reasons and messages are upstream's (`pkg/kubelet/nodestatus`).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::types::{
    Address, Condition, DaemonEndpoints, Endpoint, Features, Image, NodeInfo, NodeStatus,
    RuntimeHandler,
};
use crate::admission::{Amounts, Capacity};
use crate::eviction::Pressure;
use crate::managers::devices::DeviceCounts;

/// Names of an image that are reported (`MaxNamesPerImageInNodeStatus`).
const MOST_NAMES: usize = 5;

/// What is known of the machine, the runtime and the agent at one moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the machine has.
    pub capacity: Capacity,
    /// What of it is for pods, `pods` among it.
    pub allocatable: Amounts,
    /// Devices of plugins.
    pub devices: DeviceCounts,
    /// Addresses, in order; none where nobody can tell, and those that were there stay.
    pub addresses: Option<Vec<Address>>,
    /// Whether addresses that a cloud controller has set stay as they are.
    pub addresses_of_cloud: bool,
    /// Versions and identities; the runtime's is empty while it is away.
    pub info: NodeInfo,
    /// The port of the agent's API; 0 where it is closed.
    pub port: u16,
    /// The images to be reported; none where the runtime does not say, and those that were there stay.
    pub images: Option<Vec<Image>>,
    /// What the runtime says it can do; none while it is away.
    pub runtime: Option<RuntimeAbilities>,
    /// What is short.
    pub pressure: Pressure,
    /// Why the node is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// Attachable volumes that are, or are about to be, in use, sorted.
    pub volumes_in_use: Vec<String>,
}

/// What the runtime says it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeAbilities {
    /// Its handlers.
    pub handlers: Vec<RuntimeHandler>,
    /// Features; none where it does not say.
    pub features: Option<Features>,
}

/// Something of the node turned into something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The reason of the event.
    pub reason: &'static str,
}

/// What the status becomes, of what the API server has (`before`) and what is so now, and what turned with it.
#[must_use]
pub fn derive(before: &NodeStatus, facts: &Facts, now: Timestamp) -> (NodeStatus, Vec<Turn>) {
    let mut status = before.clone();
    let has = resources(facts);
    // Those that others advertise stay.
    status.capacity.retain(|name, _| !is_own(name));
    status.capacity.extend(has.capacity);
    status.capacity.extend(devices(&facts.devices.capacity));
    status.capacity.extend(no_more(&facts.devices));
    let capacity = &status.capacity;
    status
        .allocatable
        .retain(|name, _| !is_own(name) && (!is_extended(name) || capacity.contains_key(name)));
    for (name, amount) in &status.capacity {
        let unknown = !is_own(name) && !status.allocatable.contains_key(name);
        if unknown {
            status.allocatable.insert(name.clone(), amount.clone());
        }
    }
    status.allocatable.extend(has.allocatable);
    status
        .allocatable
        .extend(devices(&facts.devices.allocatable));
    status.allocatable.extend(no_more(&facts.devices));
    if let Some(addresses) = &facts.addresses
        && (!facts.addresses_of_cloud || before.addresses.is_empty())
    {
        status.addresses.clone_from(addresses);
    }
    status.node_info = facts.info.clone();
    if status.node_info.container_runtime_version.is_empty() {
        let known = &before.node_info.container_runtime_version;
        status.node_info.container_runtime_version.clone_from(known);
    }
    status.daemon_endpoints = DaemonEndpoints {
        kubelet_endpoint: Endpoint { port: facts.port },
    };
    if let Some(images) = &facts.images {
        status.images.clone_from(images);
    }
    status.volumes_in_use.clone_from(&facts.volumes_in_use);
    if let Some(runtime) = &facts.runtime {
        status.runtime_handlers.clone_from(&runtime.handlers);
        if runtime.features.is_some() {
            status.features = runtime.features;
        }
    }
    let mut turns = Vec::new();
    conditions(&mut status.conditions, facts, now, &mut turns);
    (status, turns)
}

fn devices(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (String, String)> {
    let counts = counts.iter();
    counts.map(|(resource, count)| (resource.clone(), count.to_string()))
}

/// Resources whose plugin has gone for good: none, which says that there were some once.
fn no_more(counts: &DeviceCounts) -> impl Iterator<Item = (String, String)> {
    let removed = counts.removed.iter();
    removed.map(|resource| (resource.clone(), "0".to_owned()))
}

struct Resources {
    capacity: BTreeMap<String, String>,
    allocatable: BTreeMap<String, String>,
}

fn resources(facts: &Facts) -> Resources {
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), facts.capacity.cores.to_string()),
        ("memory".to_owned(), binary(facts.capacity.memory_bytes)),
    ]);
    if let Some(bytes) = facts.capacity.ephemeral_bytes {
        capacity.insert("ephemeral-storage".to_owned(), binary(bytes));
    }
    for (size, bytes) in &facts.capacity.huge_pages {
        capacity.insert(format!("hugepages-{}", binary(*size)), binary(*bytes));
    }
    let mut allocatable = BTreeMap::new();
    for (name, amount) in &facts.allocatable {
        let amount = u64::try_from(*amount).unwrap_or(0);
        let text = match name.as_str() {
            "cpu" if amount.is_multiple_of(1000) => (amount / 1000).to_string(),
            "cpu" => format!("{amount}m"),
            "pods" => {
                capacity.insert(name.clone(), amount.to_string());
                amount.to_string()
            }
            _ => binary(amount),
        };
        allocatable.insert(name.clone(), text);
    }
    Resources {
        capacity,
        allocatable,
    }
}

/// Whether a resource is the agent's to report.
fn is_own(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage" | "pods")
        || name.starts_with("hugepages-")
}

/// Whether a resource is in somebody's domain (upstream's `IsExtendedResourceName`).
pub(super) fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// An amount with the largest binary unit that divides it, as a quantity's canonical form: `16303428Ki`.
#[must_use]
pub fn binary(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes, 0);
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    while amount > 0 && amount.is_multiple_of(1024) && unit + 1 < units.len() {
        amount /= 1024;
        unit += 1;
    }
    format!("{amount}{}", units[unit])
}

/// A condition of pressure: its type, and status, reason, message and event for either case.
struct PressureWords {
    kind: &'static str,
    short: (&'static str, &'static str, &'static str),
    enough: (&'static str, &'static str, &'static str),
}

const MEMORY: PressureWords = PressureWords {
    kind: "MemoryPressure",
    short: (
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "NodeHasInsufficientMemory",
    ),
    enough: (
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
        "NodeHasSufficientMemory",
    ),
};
const DISK: PressureWords = PressureWords {
    kind: "DiskPressure",
    short: (
        "KubeletHasDiskPressure",
        "kubelet has disk pressure",
        "NodeHasDiskPressure",
    ),
    enough: (
        "KubeletHasNoDiskPressure",
        "kubelet has no disk pressure",
        "NodeHasNoDiskPressure",
    ),
};
const PID: PressureWords = PressureWords {
    kind: "PIDPressure",
    short: (
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
        "NodeHasInsufficientPID",
    ),
    enough: (
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
        "NodeHasSufficientPID",
    ),
};

fn conditions(all: &mut Vec<Condition>, facts: &Facts, now: Timestamp, turns: &mut Vec<Turn>) {
    let pressures = [
        (MEMORY, facts.pressure.memory),
        (DISK, facts.pressure.disk),
        (PID, facts.pressure.pid),
    ];
    for (words, short) in pressures {
        let (status, (reason, message, event)) = match short {
            true => ("True", words.short),
            false => ("False", words.enough),
        };
        let turned = match all.iter_mut().find(|one| one.kind == words.kind) {
            Some(known) if known.status == status => {
                known.last_heartbeat_time = Some(now);
                false
            }
            found => {
                let condition = condition(words.kind, status, reason, message, now);
                match found {
                    Some(known) => *known = condition,
                    None => all.push(condition),
                }
                true
            }
        };
        if turned {
            turns.push(Turn { reason: event });
        }
    }
    let mut ready = match facts.not_ready.as_slice() {
        [] => condition(
            "Ready",
            "True",
            "KubeletReady",
            "kubelet is posting ready status",
            now,
        ),
        why => condition("Ready", "False", "KubeletNotReady", &aggregate(why), now),
    };
    // Upstream's order has it last of the agent's own, which it is where nothing was there before.
    match all.iter_mut().find(|one| one.kind == ready.kind) {
        Some(known) => {
            if known.status == ready.status {
                ready.last_transition_time = known.last_transition_time;
            } else {
                turns.push(Turn {
                    reason: match facts.not_ready.is_empty() {
                        true => "NodeReady",
                        false => "NodeNotReady",
                    },
                });
            }
            *known = ready;
        }
        None => all.push(ready),
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        last_heartbeat_time: Some(now),
        last_transition_time: Some(now),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// Several errors as Go's aggregate shows them: one alone by itself, more in brackets, none twice.
fn aggregate(errors: &[String]) -> String {
    let mut once: Vec<&str> = Vec::new();
    for error in errors {
        if !once.contains(&error.as_str()) {
            once.push(error);
        }
    }
    match once.as_slice() {
        [one] => (*one).to_owned(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// Whether two statuses differ in more than when the agent said so.
#[must_use]
pub fn differ(before: &NodeStatus, after: &NodeStatus) -> bool {
    let unheard = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in &mut status.conditions {
            condition.last_heartbeat_time = None;
        }
        // A condition is found by its type, wherever it stands.
        status.conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
        status
    };
    unheard(before) != unheard(after)
}

/// What is reported of the images there are: the largest, with at most five names each, digests before tags.
#[must_use]
pub fn reported_images(mut images: Vec<Image>, most: Option<u32>) -> Vec<Image> {
    images.sort_by(|a, b| {
        let by_size = b.size_bytes.cmp(&a.size_bytes);
        by_size.then_with(|| a.names.cmp(&b.names))
    });
    if let Some(most) = most {
        images.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    }
    for image in &mut images {
        image.names.truncate(MOST_NAMES);
    }
    images
}
