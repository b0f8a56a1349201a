//! CPUs distributed evenly over NUMA nodes (KEP-2902). Pure.

use std::collections::BTreeMap;

use super::take::{Choice, nodes_in_order, packed};
use crate::managers::CpuSet;
use crate::managers::machine::Machine;

/// How many CPUs each NUMA node has left.
type Left = BTreeMap<u32, usize>;

/// A way to distribute.
struct Plan {
    /// What is given by each of these nodes.
    nodes: Vec<u32>,
    each: usize,
    /// Which of them give, a group at a time in turns, what cannot be divided.
    more: Vec<u32>,
    /// How uneven it leaves all nodes, thousandths of a CPU (standard deviation).
    imbalance: u64,
}

/// Takes `count` of `free`, in groups of `group`, evenly from the fewest NUMA nodes that allow it; none where no number of
/// nodes does.
pub(super) fn distributed(
    machine: &Machine,
    free: &CpuSet,
    count: usize,
    group: usize,
    choice: Choice,
) -> Option<CpuSet> {
    if !count.is_multiple_of(group) {
        return None;
    }
    let nodes = nodes_in_order(machine, free);
    let groups = machine.cpus.len().div_ceil(group);
    let groups_per_node = groups.div_ceil(machine.nodes_with_cpus().max(1)).max(1);
    let needed = count.div_ceil(group);
    let fewest = needed.div_ceil(groups_per_node);
    let left: Left = nodes
        .iter()
        .map(|node| (*node, in_node(machine, free, *node).len()))
        .collect();
    for size in fewest..=needed.min(nodes.len()) {
        let mut best: Option<Plan> = None;
        for nodes in combinations(&nodes, size) {
            let plan = plan(&left, nodes, count, group);
            let better = plan.filter(|plan| {
                best.as_ref()
                    .is_none_or(|best| plan.imbalance < best.imbalance)
            });
            if better.is_some() {
                best = better;
            }
            if best.as_ref().is_some_and(|best| best.imbalance == 0) {
                break;
            }
        }
        if let Some(best) = best {
            return Some(follow(machine, free, count, group, choice, &best));
        }
    }
    None
}

/// The most even way to take `count` from just these nodes.
fn plan(left: &Left, nodes: Vec<u32>, count: usize, group: usize) -> Option<Plan> {
    let has = |node: &u32| left.get(node).copied().unwrap_or(0);
    if nodes.iter().map(|node| has(node) / group).sum::<usize>() * group < count {
        return None;
    }
    let each = count / nodes.len() / group * group;
    if nodes.iter().any(|node| has(node) < each) {
        return None;
    }
    let mut after = left.clone();
    for node in &nodes {
        *after.entry(*node).or_default() -= each;
    }
    let rest = count - each * nodes.len();
    if rest == 0 {
        return Some(Plan {
            imbalance: imbalance(&after),
            more: Vec::new(),
            nodes,
            each,
        });
    }
    let can_give = |node: &&u32| after.get(node).is_some_and(|left| *left >= group);
    let givers: Vec<u32> = nodes.iter().filter(can_give).copied().collect();
    let mut best: Option<(u64, Vec<u32>)> = None;
    for size in (1..=givers.len()).rev() {
        for more in combinations(&givers, size) {
            let mut after = after.clone();
            if !hand_out(&mut after, &more, rest, group) {
                continue;
            }
            let imbalance = imbalance(&after);
            if best.as_ref().is_none_or(|(least, _)| imbalance < *least) {
                best = Some((imbalance, more));
            }
        }
    }
    let (imbalance, more) = best?;
    Some(Plan {
        nodes,
        each,
        more,
        imbalance,
    })
}

/// Takes `rest` from `givers` in turns; false where they do not have it in whole groups.
fn hand_out(after: &mut Left, givers: &[u32], mut rest: usize, group: usize) -> bool {
    while rest > 0 {
        let before = rest;
        for node in givers {
            if let Some(left) = after.get_mut(node)
                && *left >= group
                && rest > 0
            {
                *left -= group;
                rest -= group;
            }
        }
        if rest == before {
            return false;
        }
    }
    true
}

/// The standard deviation of what is left, in thousandths.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of CPUs, and not below zero"
)]
fn imbalance(left: &Left) -> u64 {
    let count = left.len().max(1) as f64;
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    let mean = rounded(left.values().sum::<usize>() as f64 / count);
    let squares: f64 = left
        .values()
        .map(|left| (*left as f64 - mean).powi(2))
        .sum();
    ((squares / count).sqrt() * 1000.0).round() as u64
}

fn follow(
    machine: &Machine,
    free: &CpuSet,
    count: usize,
    group: usize,
    choice: Choice,
    plan: &Plan,
) -> CpuSet {
    let mut taken = CpuSet::new();
    let from = |node: u32, count: usize, taken: &CpuSet| {
        let own = in_node(machine, &free.difference(taken), node);
        packed(machine, &own, count, choice)
    };
    for node in &plan.nodes {
        taken = taken.union(&from(*node, plan.each, &taken));
    }
    // The plan has made sure that they have it.
    while taken.len() < count && !plan.more.is_empty() {
        let before = taken.len();
        for node in &plan.more {
            let left = in_node(machine, &free.difference(&taken), *node).len();
            if taken.len() < count && left >= group {
                taken = taken.union(&from(*node, group, &taken));
            }
        }
        if taken.len() == before {
            break;
        }
    }
    taken
}

fn in_node(machine: &Machine, free: &CpuSet, node: u32) -> CpuSet {
    let own = |cpu: &u32| {
        machine
            .cpus
            .get(cpu)
            .is_some_and(|place| place.node == node)
    };
    free.iter().filter(own).collect()
}

/// Each choice of `size` of `of`, in their order.
fn combinations(of: &[u32], size: usize) -> Vec<Vec<u32>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in of.iter().enumerate() {
        for mut rest in combinations(&of[index + 1..], size - 1) {
            rest.insert(0, *first);
            all.push(rest);
        }
    }
    all
}
