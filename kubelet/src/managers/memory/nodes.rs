//! What NUMA nodes have and give. Pure.

use super::request::Request;
use super::state::{Block, NodeState, Nodes, Table};
use super::{MEMORY, ReservedMemory};
use crate::managers::machine::NumaNode;
use crate::managers::topology::{Hint, NumaMask};
use crate::node::status::binary;

/// The nodes of the machine, of which nothing is given yet.
pub(super) fn fresh(machine: &[NumaNode], reserved: &ReservedMemory) -> Nodes {
    let table = |node: u32, resource: &str, total: u64, other: u64| {
        let of_node = reserved.get(&node);
        let reserved = of_node.and_then(|of_node| of_node.get(resource));
        let system_reserved = reserved.copied().unwrap_or(0);
        let allocatable = total.saturating_sub(system_reserved).saturating_sub(other);
        Table {
            total,
            system_reserved,
            allocatable,
            reserved: 0,
            free: allocatable,
        }
    };
    let state = |node: &NumaNode| {
        let mut state = NodeState {
            cells: vec![node.id],
            ..NodeState::default()
        };
        let mut huge = 0;
        for (size, count) in &node.huge_pages {
            let name = format!("hugepages-{}", binary(*size));
            let total = size * count;
            huge += total;
            let table = table(node.id, &name, total, 0);
            state.memory_map.insert(name, table);
        }
        let memory = table(node.id, MEMORY, node.memory_bytes, huge);
        state.memory_map.insert(MEMORY.to_owned(), memory);
        (node.id, state)
    };
    machine.iter().map(state).collect()
}

/// Takes `size` bytes for `block` from its nodes, each as much as it has, in order.
///
/// # Errors
/// When there is no such node, or no such resource on it.
pub(super) fn add_block(nodes: &mut Nodes, block: &Block, size: u64) -> Result<(), &'static str> {
    let mut left = size;
    for id in &block.numa_affinity {
        let node = nodes.get_mut(id).ok_or("the NUMA")?;
        node.number_of_assignments += 1;
        node.cells.clone_from(&block.numa_affinity);
        let table = node.memory_map.get_mut(&block.resource);
        let table = table.ok_or("memory resource")?;
        let taken = left.min(table.free);
        table.free -= taken;
        table.reserved += taken;
        left -= taken;
    }
    Ok(())
}

/// Gives `block` back to its nodes.
pub(super) fn remove_block(nodes: &mut Nodes, block: &Block) {
    let mut left = block.size;
    for id in &block.numa_affinity {
        let Some(node) = nodes.get_mut(id) else {
            continue;
        };
        node.number_of_assignments -= 1;
        if node.number_of_assignments == 0 {
            node.cells = vec![*id];
        }
        if let Some(table) = node.memory_map.get_mut(&block.resource) {
            let given = left.min(table.reserved);
            table.reserved -= given;
            table.free += given;
            left -= given;
        }
    }
}

/// Whether both say the same: of each node all but how a group's memory is spread over its nodes.
pub(super) fn same(a: &Nodes, b: &Nodes) -> bool {
    let sum = |nodes: &Nodes, group: NumaMask, resource: &str, of: fn(&Table) -> u64| -> u64 {
        let own = group.nodes().filter_map(|id| nodes.get(&id));
        own.map(|node| of(&node.table(resource))).sum()
    };
    let same_node = |(id, one): (&u32, &NodeState)| {
        let Some(other) = b.get(id) else {
            return false;
        };
        let group = one.group();
        one.number_of_assignments == other.number_of_assignments
            && group == other.group()
            && one.memory_map.len() == other.memory_map.len()
            && one.memory_map.iter().all(|(resource, table)| {
                let fixed = |table: &Table| (table.total, table.system_reserved, table.allocatable);
                let known = other.memory_map.get(resource);
                known.is_some_and(|known| fixed(known) == fixed(table))
                    && [|t: &Table| t.free, |t: &Table| t.reserved]
                        .into_iter()
                        .all(|of| sum(a, group, resource, of) == sum(b, group, resource, of))
            })
    };
    a.len() == b.len() && a.iter().all(same_node)
}

/// The sets of nodes that `request` can come from, with what may be used again besides (`reusable`). Preferred are those of
/// as few nodes as the empty machine would need.
pub(super) fn ways(
    nodes: &Nodes,
    request: &Request,
    reusable: impl Fn(NumaMask, &str) -> u64,
) -> Vec<Hint> {
    let all = NumaMask::of(nodes.keys().copied());
    let mut fewest = all.count();
    let mut masks = Vec::new();
    for mask in all.subsets() {
        let sum = |resource: &str, of: fn(&Table) -> u64| -> u64 {
            let own = mask.nodes().filter_map(|id| nodes.get(&id));
            own.map(|node| of(&node.table(resource))).sum()
        };
        if request
            .iter()
            .any(|(name, size)| sum(name, |t| t.allocatable) < *size)
        {
            continue;
        }
        fewest = fewest.min(mask.count());
        let enough = request
            .iter()
            .all(|(name, size)| sum(name, |t| t.free) + reusable(mask, name) >= *size);
        if enough && !gives_otherwise(nodes, mask) {
            masks.push(mask);
        }
    }
    let ways = masks.into_iter();
    ways.map(|mask| Hint::over(mask, mask.count() == fewest))
        .collect()
}

/// Whether one of the nodes gives its memory in another group, or by itself, already. One that is to give by itself may do
/// so beside others.
fn gives_otherwise(nodes: &Nodes, mask: NumaMask) -> bool {
    let mut own = mask.nodes().filter_map(|id| nodes.get(&id));
    match mask.count() {
        1 => own.any(|node| node.cells.len() > 1),
        _ => own.any(|node| node.number_of_assignments > 0 && node.group() != mask),
    }
}

/// Whether a group would take from nodes that give otherwise already.
pub(super) fn violates(nodes: &Nodes, mask: NumaMask) -> bool {
    mask.count() > 1 && gives_otherwise(nodes, mask)
}

/// Whether the nodes have `request` free.
pub(super) fn fits(nodes: &Nodes, mask: NumaMask, request: &Request) -> bool {
    request.iter().all(|(name, size)| {
        let own = mask.nodes().filter_map(|id| nodes.get(&id));
        own.map(|node| node.table(name).free).sum::<u64>() >= *size
    })
}

/// A preferred way, or else any; of the fewest nodes.
pub(super) fn best(ways: Vec<Hint>) -> Option<Hint> {
    let rank = |way: &Hint| {
        let mask = way.mask.unwrap_or_default();
        (!way.preferred, mask.count(), mask)
    };
    ways.into_iter().min_by_key(rank)
}
