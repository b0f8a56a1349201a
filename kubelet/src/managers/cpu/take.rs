//! Which CPUs are taken out of those that are free. Pure.
//!
//! Packed, as upstream's best fit: whole NUMA nodes and sockets first, the larger of the two first of all; then whole caches
//! where that is wanted; then whole cores; then single CPUs of cores that are in use already. At each level the units with
//! the fewest free CPUs go first, so that the emptiest stay whole for those that need much. Distributed (KEP-2902): evenly
//! over the fewest NUMA nodes that allow it, packed on each.

use std::collections::BTreeMap;

use super::spread::distributed;
use crate::managers::CpuSet;
use crate::managers::machine::{Cpu, Machine};

/// Why CPUs cannot be taken. In upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough cpus available to satisfy request: requested={requested}, available={available}"
)]
pub(super) struct NotEnough {
    requested: usize,
    available: usize,
}

/// How CPUs are chosen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choice {
    /// Single CPUs, from core to core of a socket, instead of whole cores.
    pub(super) across_cores: bool,
    /// Whole shared caches, or else as much of one as is needed.
    pub(super) by_cache: bool,
    /// Evenly over NUMA nodes, so many CPUs at a time; none for packed.
    pub(super) distribute: Option<usize>,
}

/// Takes `count` of `free`.
///
/// # Errors
/// When there are fewer.
pub(super) fn take(
    machine: &Machine,
    free: &CpuSet,
    count: usize,
    choice: Choice,
) -> Result<CpuSet, NotEnough> {
    if count > free.len() {
        return Err(NotEnough {
            requested: count,
            available: free.len(),
        });
    }
    let by_cache = choice.by_cache && choice.distribute.is_none();
    let choice = Choice { by_cache, ..choice };
    let spread = choice.distribute.filter(|group| *group > 0 && count > 0);
    let spread = spread.and_then(|group| distributed(machine, free, count, group, choice));
    Ok(spread.unwrap_or_else(|| packed(machine, free, count, choice)))
}

/// What CPUs belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Node,
    Socket,
    Cache,
    Core,
}

impl Level {
    fn of(self, cpu: &Cpu) -> u32 {
        match self {
            Self::Node => cpu.node,
            Self::Socket => cpu.socket,
            Self::Cache => cpu.cache,
            Self::Core => cpu.core,
        }
    }
}

/// Takes `count` of `free`, which has as many, packed.
pub(super) fn packed(machine: &Machine, free: &CpuSet, count: usize, choice: Choice) -> CpuSet {
    let mut taking = Taking::new(machine, free, count);
    taking.whole(taking.outer);
    taking.whole(taking.inner);
    if choice.by_cache {
        taking.caches();
    }
    if !choice.across_cores {
        taking.whole(Level::Core);
    }
    taking.single(choice.across_cores);
    taking.taken
}

/// The NUMA nodes of `free` in the order in which they are taken from.
pub(super) fn nodes_in_order(machine: &Machine, free: &CpuSet) -> Vec<u32> {
    Taking::new(machine, free, 0).in_order(Level::Node)
}

struct Taking<'a> {
    machine: &'a Machine,
    free: BTreeMap<u32, Cpu>,
    needed: usize,
    taken: CpuSet,
    /// NUMA nodes where they hold sockets, else sockets.
    outer: Level,
    inner: Level,
}

impl<'a> Taking<'a> {
    fn new(machine: &'a Machine, free: &CpuSet, count: usize) -> Self {
        let (outer, inner) = match machine.sockets() >= machine.nodes_with_cpus() {
            true => (Level::Node, Level::Socket),
            false => (Level::Socket, Level::Node),
        };
        let known = machine.cpus.iter().filter(|(cpu, _)| free.has(**cpu));
        Self {
            machine,
            free: known.map(|(cpu, place)| (*cpu, *place)).collect(),
            needed: count,
            taken: CpuSet::new(),
            outer,
            inner,
        }
    }

    fn take(&mut self, cpus: impl IntoIterator<Item = u32>) {
        for cpu in cpus {
            if self.needed > 0 && self.free.remove(&cpu).is_some() {
                self.taken.insert(cpu);
                self.needed -= 1;
            }
        }
    }

    /// The free CPUs of a unit.
    fn free_in(&self, level: Level, unit: u32) -> Vec<u32> {
        let own = self.free.iter().filter(|(_, cpu)| level.of(cpu) == unit);
        own.map(|(cpu, _)| *cpu).collect()
    }

    /// All CPUs of a unit, if each of them is free.
    fn wholly_free(&self, level: Level, unit: u32) -> Option<Vec<u32>> {
        let free = self.free_in(level, unit);
        let all = self.machine.cpus.values();
        let all = all.filter(|cpu| level.of(cpu) == unit).count();
        (free.len() == all).then_some(free)
    }

    /// The units of `level` with free CPUs (in the unit `within`), those with the fewest first.
    fn fewest_first(&self, level: Level, within: Option<(Level, u32)>) -> Vec<u32> {
        let mut units: BTreeMap<u32, usize> = BTreeMap::new();
        for cpu in self.free.values() {
            *units.entry(level.of(cpu)).or_default() += 1;
        }
        let inside = |unit: u32| {
            let own = |cpu: &&Cpu| level.of(cpu) == unit;
            within.is_none_or(|(outer, id)| {
                self.free
                    .values()
                    .filter(own)
                    .any(|cpu| outer.of(cpu) == id)
            })
        };
        let mut units: Vec<(usize, u32)> = units
            .into_iter()
            .filter(|(unit, _)| inside(*unit))
            .map(|(unit, free)| (free, unit))
            .collect();
        units.sort_unstable();
        units.into_iter().map(|(_, unit)| unit).collect()
    }

    /// The units of `level`, by those that hold them.
    fn in_order(&self, level: Level) -> Vec<u32> {
        let holder = match level {
            Level::Core => self.inner,
            Level::Cache => Level::Node,
            level if level == self.outer => return self.fewest_first(level, None),
            _ => self.outer,
        };
        let mut units = Vec::new();
        for holding in self.in_order(holder) {
            for unit in self.fewest_first(level, Some((holder, holding))) {
                if !units.contains(&unit) {
                    units.push(unit);
                }
            }
        }
        units
    }

    /// Takes units that are free as a whole, and needed as a whole.
    fn whole(&mut self, level: Level) {
        if self.needed == 0 {
            return;
        }
        for unit in self.in_order(level) {
            let cpus = self.wholly_free(level, unit);
            if let Some(cpus) = cpus.filter(|cpus| cpus.len() <= self.needed) {
                self.take(cpus);
            }
        }
    }

    /// Takes whole caches, and what is needed besides out of the first that has it all.
    fn caches(&mut self) {
        let all = self.machine.cpus.len();
        let per_cache = all / self.machine.caches().max(1);
        for cache in self.in_order(Level::Cache) {
            if self.needed >= per_cache {
                self.whole(Level::Cache);
            }
            if self.needed == 0 {
                return;
            }
            self.part_of_cache(cache);
        }
    }

    fn part_of_cache(&mut self, cache: u32) {
        let threads = self.machine.threads_per_core();
        let cores_needed = self.needed.div_ceil(threads);
        let mut cores: Vec<u32> = Vec::new();
        for cpu in self.free.values().filter(|cpu| cpu.cache == cache) {
            if !cores.contains(&cpu.core) {
                cores.push(cpu.core);
            }
        }
        cores.sort_unstable();
        cores.truncate(cores_needed);
        let free = self
            .free
            .iter()
            .filter(|(_, cpu)| cores.contains(&cpu.core));
        let mut cpus: Vec<u32> = free.map(|(cpu, _)| *cpu).collect();
        // Of the last core one CPU stays, where an odd number is needed.
        if !self.needed.is_multiple_of(2) && threads > 1 && cpus.len() > self.needed {
            cpus.pop();
        }
        if cpus.len() == self.needed {
            self.take(cpus);
        }
    }

    /// Takes single CPUs until there are enough.
    fn single(&mut self, across_cores: bool) {
        let level = if across_cores {
            Level::Socket
        } else {
            Level::Core
        };
        for unit in self.in_order(level) {
            self.take(self.free_in(level, unit));
        }
    }
}

#[cfg(test)]
mod tests;
