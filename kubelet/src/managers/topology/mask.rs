//! A set of NUMA nodes.

use std::fmt;

/// NUMA nodes by number, 0 to 63.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumaMask(u64);

impl NumaMask {
    /// The highest number that a node may have here.
    pub const MAX_NODE: u32 = 63;

    /// The nodes with these numbers; those above [`NumaMask::MAX_NODE`] are left out.
    #[must_use]
    pub fn of(nodes: impl IntoIterator<Item = u32>) -> Self {
        let bits = nodes.into_iter().filter(|node| *node <= Self::MAX_NODE);
        Self(bits.fold(0, |mask, node| mask | 1 << node))
    }

    /// How many nodes are in it.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether no node is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `node` is in it.
    #[must_use]
    pub fn has(self, node: u32) -> bool {
        node <= Self::MAX_NODE && self.0 & (1 << node) != 0
    }

    /// The nodes in it, in order.
    pub fn nodes(self) -> impl Iterator<Item = u32> {
        (0..=Self::MAX_NODE).filter(move |node| self.has(*node))
    }

    /// The nodes in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The nodes in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has fewer nodes than `other`, or as many and lower ones.
    #[must_use]
    pub fn is_narrower_than(self, other: Self) -> bool {
        (self.count(), self.0) < (other.count(), other.0)
    }

    /// Every set that can be made of its nodes, but for the empty one: those of one node first, then those of two, and
    /// so on, each group in the order of its nodes.
    #[must_use]
    pub fn subsets(self) -> Vec<Self> {
        let nodes: Vec<u32> = self.nodes().collect();
        let mut all = Vec::new();
        for size in 1..=nodes.len() {
            choose(&nodes, size, Self(0), &mut all);
        }
        all
    }
}

/// Adds `taken` with each choice of `size` of `nodes`.
fn choose(nodes: &[u32], size: usize, taken: NumaMask, into: &mut Vec<NumaMask>) {
    if size == 0 {
        into.push(taken);
        return;
    }
    for (index, node) in nodes.iter().enumerate() {
        let rest = &nodes[index + 1..];
        if rest.len() + 1 < size {
            return;
        }
        choose(rest, size - 1, NumaMask(taken.0 | 1 << node), into);
    }
}

impl fmt::Debug for NumaMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.nodes()).finish()
    }
}

/// As a list of nodes, the way the kernel reads it: `0,2`.
impl fmt::Display for NumaMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.nodes().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{node}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_come_by_size_and_then_by_node() {
        let subsets = NumaMask::of([0, 1, 3]).subsets();
        let texts: Vec<String> = subsets.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["0", "1", "3", "0,1", "0,3", "1,3", "0,1,3"]);
        assert!(NumaMask::default().subsets().is_empty());
    }

    #[test]
    fn the_narrower_has_fewer_nodes_or_lower_ones() {
        let mask = |nodes: &[u32]| NumaMask::of(nodes.iter().copied());
        assert!(mask(&[3]).is_narrower_than(mask(&[0, 1])));
        assert!(mask(&[0, 1]).is_narrower_than(mask(&[0, 2])));
        assert!(!mask(&[0]).is_narrower_than(mask(&[0])));
        assert!(!mask(&[64]).has(0) && mask(&[64]).is_empty());
        assert!(mask(&[63]).has(63));
    }
}
