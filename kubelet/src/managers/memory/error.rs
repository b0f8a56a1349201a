//! Why the static policy cannot be had.

use std::collections::BTreeSet;

use static_pods::quantity::Quantity;

use super::{MEMORY, ReservedMemory};
use crate::managers::machine::NumaNode;
use crate::managers::state_file::StateError;

/// Why the agent cannot start with the static memory policy. In upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A NUMA node that there is not.
    #[error(
        "the reserved memory configuration references a NUMA node {0} that does not exist on this machine"
    )]
    NoSuchNode(u32),
    /// What is reserved on NUMA nodes is not what is reserved in all.
    #[error(
        "the total amount \"{}\" of type {resource:?} is not equal to the value \"{}\" determined by Node Allocatable feature",
        Quantity::of_bytes(*.reserved),
        Quantity::of_bytes(*.expected)
    )]
    NotEqual {
        /// In sum over the nodes, bytes.
        reserved: u64,
        /// `memory`, or huge pages of a size.
        resource: String,
        /// By `kubeReserved`, `systemReserved` and the hard eviction threshold, bytes.
        expected: u64,
    },
    /// Nothing is reserved.
    #[error("[memorymanager] you should specify the system reserved memory")]
    NothingReserved,
    /// A text that is no amount of bytes.
    #[error("reservedMemory: {0:?} is no amount of memory")]
    NoAmount(String),
    /// The state file.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Whether what is reserved on single nodes comes to `to_reserve` bytes of memory, and to nothing of huge pages: those are
/// reserved nowhere else.
pub(super) fn check_reserved(
    machine: &[NumaNode],
    reserved: &ReservedMemory,
    to_reserve: u64,
) -> Result<(), MemoryError> {
    let known = |id: &&u32| machine.iter().any(|node| node.id == **id);
    if let Some(unknown) = reserved.keys().find(|id| !known(id)) {
        return Err(MemoryError::NoSuchNode(*unknown));
    }
    let mut resources: BTreeSet<&str> = BTreeSet::from([MEMORY]);
    resources.extend(
        reserved
            .values()
            .flat_map(|node| node.keys())
            .map(String::as_str),
    );
    for resource in resources {
        let of_nodes = reserved.values().filter_map(|node| node.get(resource));
        let sum = of_nodes.fold(0_u64, |sum, size| sum.saturating_add(*size));
        let expected = match resource {
            MEMORY => to_reserve,
            _ => 0,
        };
        if sum != expected {
            return Err(MemoryError::NotEqual {
                reserved: sum,
                resource: resource.to_owned(),
                expected,
            });
        }
    }
    match to_reserve {
        0 => Err(MemoryError::NothingReserved),
        _ => Ok(()),
    }
}
