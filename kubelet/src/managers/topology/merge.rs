//! The one hint that all resources of a container, or a pod, agree on.

use std::collections::BTreeMap;

use super::{Hint, NumaMask, TopologyPolicy};

/// The machine's NUMA nodes, as the merge sees them.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    /// All of them.
    pub(super) all: NumaMask,
    /// How far each is from each other (ACPI SLIT, 10 for itself); empty unless the closest are preferred.
    pub(super) distances: BTreeMap<u32, Vec<u64>>,
}

impl Nodes {
    /// The mean distance between the nodes of `mask`, each with itself counted too.
    #[expect(
        clippy::cast_precision_loss,
        reason = "distances are at most 255, and there are at most 64 nodes"
    )]
    fn mean_distance(&self, mask: NumaMask) -> f64 {
        let between = |from: u32, to: u32| {
            let row = self.distances.get(&from);
            row.and_then(|row| row.get(to as usize))
                .copied()
                .unwrap_or(0)
        };
        let pairs = mask.nodes().flat_map(|a| mask.nodes().map(move |b| (a, b)));
        let sum: u64 = pairs.map(|(a, b)| between(a, b)).sum();
        let count = u64::from(mask.count()).pow(2);
        if count == 0 {
            return 0.0;
        }
        sum as f64 / count as f64
    }

    /// The better of two sets of nodes that both do.
    fn better(&self, a: NumaMask, b: NumaMask, closest: bool) -> NumaMask {
        let first = if closest && a.count() == b.count() {
            let (near, far) = (self.mean_distance(a), self.mean_distance(b));
            if near == far { a < b } else { near < far }
        } else {
            a.is_narrower_than(b)
        };
        if first { a } else { b }
    }
}

/// Merges `ways`, one list a resource, into one hint. `closest` prefers near nodes to low ones.
///
/// Each combination of one way a resource comes to the nodes that all of it shares; it is preferred where all of its ways
/// are, and name the same nodes. The best is taken: a preferred one of the fewest nodes, or else one of as many nodes as the
/// resource needs that needs most. Where no combination shares a node, it is every node, and not preferred.
pub(super) fn merge(
    policy: TopologyPolicy,
    nodes: &Nodes,
    mut ways: Vec<Vec<Hint>>,
    closest: bool,
) -> Hint {
    let single = policy == TopologyPolicy::SingleNumaNode;
    if single {
        for of_resource in &mut ways {
            of_resource.retain(|way| way.preferred && way.mask.is_none_or(|m| m.count() == 1));
        }
    }
    let search = Search {
        nodes,
        ways: &ways,
        closest: closest && !single,
        needed: needed(&ways),
    };
    let mut best = None;
    search.go(0, Combination::of(nodes.all), &mut best);
    let best = best.unwrap_or(Hint::over(nodes.all, false));
    // The whole machine is no single node, be it that it has only one.
    if single && best.mask == Some(nodes.all) {
        return Hint { mask: None, ..best };
    }
    best
}

/// How many nodes the resource needs that needs most of them.
fn needed(ways: &[Vec<Hint>]) -> u32 {
    let fewest = |of_resource: &Vec<Hint>| {
        let masks = of_resource.iter().filter_map(|way| way.mask);
        masks.map(NumaMask::count).min()
    };
    ways.iter().filter_map(fewest).max().unwrap_or(0)
}

/// What one way a resource, for the first few of them, comes to.
#[derive(Clone, Copy)]
struct Combination {
    shared: NumaMask,
    /// The nodes of the first way that names any.
    first: Option<NumaMask>,
    preferred: bool,
}

impl Combination {
    fn of(all: NumaMask) -> Self {
        Self {
            shared: all,
            first: None,
            preferred: true,
        }
    }

    fn with(mut self, way: Hint) -> Self {
        if let Some(mask) = way.mask {
            let first = *self.first.get_or_insert(mask);
            self.preferred &= mask == first;
            self.shared = self.shared.and(mask);
        }
        self.preferred &= way.preferred;
        self
    }
}

struct Search<'a> {
    nodes: &'a Nodes,
    ways: &'a [Vec<Hint>],
    closest: bool,
    needed: u32,
}

impl Search<'_> {
    fn go(&self, resource: usize, so_far: Combination, best: &mut Option<Hint>) {
        let Some(ways) = self.ways.get(resource) else {
            let candidate = Hint::over(so_far.shared, so_far.preferred);
            if !so_far.shared.is_empty() && best.is_none_or(|best| self.beats(candidate, best)) {
                *best = Some(candidate);
            }
            return;
        };
        for way in ways {
            self.go(resource + 1, so_far.with(*way), best);
        }
    }

    /// Whether `candidate` is better than the `best` so far.
    fn beats(&self, candidate: Hint, best: Hint) -> bool {
        if candidate.preferred != best.preferred {
            return candidate.preferred;
        }
        let (Some(new), Some(old)) = (candidate.mask, best.mask) else {
            return false;
        };
        let fitter = || new != old && self.nodes.better(old, new, self.closest) == new;
        if candidate.preferred {
            return fitter();
        }
        // As near to what is needed as can be, from above or, where nothing reaches it, from below.
        match old.count().cmp(&self.needed) {
            std::cmp::Ordering::Greater => fitter(),
            std::cmp::Ordering::Equal => new.count() == self.needed && fitter(),
            std::cmp::Ordering::Less => match new.count() {
                more if more > self.needed => false,
                same if same == self.needed => true,
                less if less != old.count() => less > old.count(),
                _ => fitter(),
            },
        }
    }
}
