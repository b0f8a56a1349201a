//! What of the machine is for pods. Pure: the machine is read where the agent is built.
//!
//! Source: the Kubernetes document "Reserve compute resources for system daemons": capacity less what is reserved for
//! Kubernetes and for the system, less what hard eviction thresholds keep free; of memory also less all huge pages.

use std::collections::BTreeMap;

use static_pods::quantity::Quantity;

use super::claim::{Amounts, CPU, PODS};

/// What the machine has.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    /// Logical cores.
    pub cores: u32,
    /// All memory, bytes.
    pub memory_bytes: u64,
    /// The file system of the agent's root directory, bytes; none where local storage is not accounted for.
    pub ephemeral_bytes: Option<u64>,
    /// Huge pages, bytes of all pages by bytes of one.
    pub huge_pages: BTreeMap<u64, u64>,
}

/// What of it is kept from pods, in the words of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Reserved<'a> {
    /// `systemReserved`.
    pub system: &'a BTreeMap<String, String>,
    /// `kubeReserved`.
    pub kube: &'a BTreeMap<String, String>,
    /// `evictionHard`: signal to quantity or percentage.
    pub eviction: &'a BTreeMap<String, String>,
    /// `maxPods`.
    pub max_pods: u32,
    /// `podsPerCore`.
    pub pods_per_core: Option<u32>,
}

/// What pods may ask for in sum. Texts that are no quantities count as nothing: the configuration was checked.
#[must_use]
pub fn allocatable(capacity: &Capacity, reserved: &Reserved<'_>) -> Amounts {
    let memory = signed(capacity.memory_bytes);
    let mut amounts = Amounts::from([
        (CPU.to_owned(), i64::from(capacity.cores) * 1000),
        ("memory".to_owned(), memory),
    ]);
    if let Some(bytes) = capacity.ephemeral_bytes {
        amounts.insert("ephemeral-storage".to_owned(), signed(bytes));
    }
    for (resource, amount) in &mut amounts {
        let whole = *amount;
        for list in [reserved.system, reserved.kube] {
            *amount = amount.saturating_sub(reservation(list, resource));
        }
        *amount -= held_free(reserved.eviction, resource, whole);
        *amount = (*amount).max(0);
    }
    for (size, bytes) in &capacity.huge_pages {
        let name = format!("hugepages-{}", binary(*size));
        let (bytes, memory) = (signed(*bytes), amounts.get_mut("memory"));
        if let Some(memory) = memory {
            *memory = memory.saturating_sub(bytes).max(0);
        }
        amounts.insert(name, bytes);
    }
    let most = match reserved.pods_per_core {
        Some(each) => reserved.max_pods.min(each.saturating_mul(capacity.cores)),
        None => reserved.max_pods,
    };
    amounts.insert(PODS.to_owned(), i64::from(most));
    amounts
}

/// Memory that is reserved, or that the hard eviction threshold keeps free, bytes.
#[must_use]
pub fn reserved_memory(capacity_bytes: u64, reserved: &Reserved<'_>) -> u64 {
    const MEMORY: &str = "memory";
    let lists = [reserved.system, reserved.kube];
    let sum = lists.map(|list| reservation(list, MEMORY)).into_iter();
    let sum = sum.fold(0_i64, i64::saturating_add);
    let free = held_free(reserved.eviction, MEMORY, signed(capacity_bytes));
    sum.saturating_add(free).max(0).unsigned_abs()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn reservation(list: &BTreeMap<String, String>, resource: &str) -> i64 {
    let read = |text: &String| Quantity::parse_amount(text).ok();
    match list.get(resource).and_then(read) {
        Some(amount) if resource == CPU => amount.milli(),
        Some(amount) => amount.value(),
        None => 0,
    }
}

/// What the hard eviction threshold of `resource` keeps free of `whole`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a percentage of bytes, cut off as upstream does"
)]
fn held_free(thresholds: &BTreeMap<String, String>, resource: &str, whole: i64) -> i64 {
    let signal = match resource {
        "memory" => "memory.available",
        "ephemeral-storage" => "nodefs.available",
        _ => return 0,
    };
    let Some(text) = thresholds.get(signal) else {
        return 0;
    };
    let Some(percentage) = text.strip_suffix('%') else {
        return Quantity::parse_amount(text).map_or(0, |amount| amount.value());
    };
    match percentage.parse::<f32>() {
        // Both switch the signal off.
        Ok(0.0 | 100.0) | Err(_) => 0,
        // In the precision that upstream keeps it in, so that the bytes are the same.
        Ok(percentage) => (whole as f64 * f64::from(percentage / 100.0)) as i64,
    }
}

/// A size as resource names spell it: `2Mi`, `1Gi`.
fn binary(bytes: u64) -> String {
    let mut size = bytes;
    let mut unit = 0;
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    while size > 0 && size.is_multiple_of(1024) && unit + 1 < units.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", units[unit])
}
