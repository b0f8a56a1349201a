//! From which NUMA nodes CPUs could come.

use super::CpuManager;
use super::request::{has_pod_level, pod_cpus, whole_cpus};
use crate::managers::CpuSet;
use crate::managers::topology::{Asking, Hint, Hints, NumaMask};
use crate::pod::{self, Pod, PodUid};

const CPU: &str = "cpu";

impl CpuManager {
    pub(super) fn hints_of_container(&self, asking: &Asking<'_>) -> Hints {
        let count = whole_cpus(asking.pod, asking.container);
        if count == 0 || has_pod_level(asking.pod) {
            return Hints::new();
        }
        let ways = match self.own(asking.uid, &asking.container.name) {
            // Given another number, as before a change of the manifest.
            Some(own) if own.len() != count => Vec::new(),
            Some(own) => self.ways(own, &CpuSet::new(), count),
            None => self.ways(&self.available(), &self.reusable(asking.uid), count),
        };
        vec![(CPU.to_owned(), Some(ways))]
    }

    pub(super) fn hints_of_pod(&self, uid: &PodUid, pod: &Pod) -> Hints {
        let count = pod_cpus(pod);
        if count == 0 || has_pod_level(pod) {
            return Hints::new();
        }
        let mut own = CpuSet::new();
        for (_, container) in pod::containers(pod) {
            if let Some(cpus) = self.own(uid, &container.name) {
                if cpus.len() != whole_cpus(pod, container) {
                    return vec![(CPU.to_owned(), Some(Vec::new()))];
                }
                own = own.union(cpus);
            }
        }
        let ways = if own.len() == count {
            self.ways(&own, &CpuSet::new(), count)
        } else {
            let reusable = self.reusable(uid).union(&own);
            self.ways(&self.available(), &reusable, count)
        };
        vec![(CPU.to_owned(), Some(ways))]
    }

    /// The nodes that have `count` CPUs out of `free` and `reusable`, each with all of `reusable`. Preferred are those that are
    /// as few as the whole machine would need for so many.
    fn ways(&self, free: &CpuSet, reusable: &CpuSet, count: usize) -> Vec<Hint> {
        let nodes = NumaMask::of(self.machine.cpus.values().map(|cpu| cpu.node));
        let in_mask = |cpu: u32, mask: NumaMask| {
            let place = self.machine.cpus.get(&cpu);
            place.is_some_and(|place| mask.has(place.node))
        };
        let mut fewest = nodes.count();
        let mut masks = Vec::new();
        for mask in nodes.subsets() {
            let all = self.machine.cpus.values().filter(|cpu| mask.has(cpu.node));
            if all.count() >= count {
                fewest = fewest.min(mask.count());
            }
            let has_reusable = reusable.iter().all(|cpu| in_mask(cpu, mask));
            let has = free.union(reusable);
            let has = has.iter().filter(|cpu| in_mask(*cpu, mask)).count();
            if has_reusable && has >= count {
                masks.push(mask);
            }
        }
        let preferred = |mask: NumaMask| {
            mask.count() == fewest || self.options.by_socket && self.is_by_socket(mask, fewest)
        };
        let ways = masks.into_iter();
        ways.map(|mask| Hint::over(mask, preferred(mask))).collect()
    }

    /// Whether the nodes are in no more sockets than `fewest` nodes need.
    fn is_by_socket(&self, mask: NumaMask, fewest: u32) -> bool {
        let per_socket = self.machine.nodes_with_cpus() / self.machine.sockets().max(1);
        if per_socket == 0 {
            return false;
        }
        self.sockets_of(mask).len() == (fewest as usize).div_ceil(per_socket)
    }

    fn sockets_of(&self, mask: NumaMask) -> Vec<u32> {
        let own = self.machine.cpus.values().filter(|cpu| mask.has(cpu.node));
        let mut sockets: Vec<u32> = own.map(|cpu| cpu.socket).collect();
        sockets.sort_unstable();
        sockets.dedup();
        sockets
    }

    /// Those of `free` that are in the nodes of `mask`, or in their sockets where these do as well.
    pub(super) fn near(&self, mask: NumaMask, free: &CpuSet) -> CpuSet {
        let sockets = match self.options.by_socket {
            true => self.sockets_of(mask),
            false => Vec::new(),
        };
        let near = self
            .machine
            .cpus
            .iter()
            .filter(|(_, place)| match self.options.by_socket {
                true => sockets.contains(&place.socket),
                false => mask.has(place.node),
            });
        free.intersection(&near.map(|(cpu, _)| *cpu).collect())
    }
}
