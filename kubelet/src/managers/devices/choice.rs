//! Which devices a container gets. Pure.
//!
//! As upstream's `devicesToAllocate` and `filterByAffinity`: first those that an init container of the pod had, then those
//! of the NUMA nodes that the topology manager chose, then whichever the plugin prefers, then any.

use std::collections::BTreeMap;

use super::holdings::{Ids, NO_NODE};
use crate::managers::NumaMask;

/// Devices of a resource on this machine, and the NUMA nodes of each.
pub(super) type Places = BTreeMap<String, Vec<i64>>;

/// What there is to choose from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    /// The resource, for messages.
    pub(super) resource: &'a str,
    /// Devices that work.
    pub(super) healthy: &'a Ids,
    /// Devices that somebody has, the pod itself among them.
    pub(super) in_use: &'a Ids,
    /// Where devices are.
    pub(super) places: &'a Places,
    /// The devices that init containers of the pod had, and that nobody of it has now.
    pub(super) reusable: &'a Ids,
    /// How many are wanted.
    pub(super) wanted: usize,
    /// The NUMA nodes that they are to come from.
    pub(super) affinity: Option<NumaMask>,
}

/// A choice that is not made yet as far as the plugin may have a say in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// These in any case.
    pub(super) chosen: Ids,
    /// How many more.
    missing: usize,
    wanted: usize,
    /// Out of which the plugin may prefer some.
    preferable: Ids,
    /// From where the rest comes, in this order.
    rest: Vec<Ids>,
}

impl Choice {
    /// Of what `offer` has.
    ///
    /// # Errors
    /// In upstream's words where there is too little.
    pub(super) fn of(offer: &Offer<'_>) -> Result<Self, String> {
        let mut choice = Self {
            wanted: offer.wanted,
            missing: offer.wanted,
            ..Self::default()
        };
        choice.take(offer.reusable.clone());
        if choice.missing == 0 {
            return Ok(choice);
        }
        let taken = |id: &&String| !offer.in_use.contains(*id) && !choice.chosen.contains(*id);
        let available: Ids = offer.healthy.iter().filter(taken).cloned().collect();
        if available.len() < choice.missing {
            return Err(format!(
                "requested number of devices unavailable for {}. Requested: {}, Available: {}",
                offer.resource,
                choice.missing,
                available.len()
            ));
        }
        let groups = by_affinity(offer, &available);
        if choice.missing < groups.aligned.len() {
            choice.preferable = groups.aligned.clone();
            choice.rest = vec![groups.aligned];
            return Ok(choice);
        }
        choice.take(groups.aligned);
        if choice.missing > 0 {
            choice.preferable = available;
            choice.rest = vec![groups.unaligned, groups.anywhere];
        }
        Ok(choice)
    }

    fn take(&mut self, from: Ids) {
        for id in from {
            if self.missing == 0 {
                return;
            }
            if self.chosen.insert(id) {
                self.missing -= 1;
            }
        }
    }

    /// What the plugin is asked, where it has a say: out of which, what in any case, how many in all.
    pub(super) fn question(&self) -> Option<(Ids, Ids, usize)> {
        let open = self.missing > 0;
        open.then(|| {
            let all = self.preferable.union(&self.chosen).cloned().collect();
            (all, self.chosen.clone(), self.wanted)
        })
    }

    /// Makes it, with what the plugin prefers.
    ///
    /// # Errors
    /// In upstream's words, where it does not come out.
    pub(super) fn made(mut self, preferred: &Ids) -> Result<Ids, String> {
        let preferred = preferred.intersection(&self.preferable).cloned().collect();
        self.take(preferred);
        for group in std::mem::take(&mut self.rest) {
            self.take(group);
        }
        match self.missing {
            0 => Ok(self.chosen),
            missing => Err(format!(
                "unexpectedly allocated less resources than required. Requested: {}, Got: {}",
                self.wanted,
                self.wanted - missing
            )),
        }
    }
}

struct Groups {
    aligned: Ids,
    unaligned: Ids,
    /// Those for which it does not matter, or is not known.
    anywhere: Ids,
}

fn by_affinity(offer: &Offer<'_>, available: &Ids) -> Groups {
    let mut groups = Groups {
        aligned: Ids::new(),
        unaligned: Ids::new(),
        anywhere: Ids::new(),
    };
    let mask = match offer.affinity {
        Some(mask) if has_places(offer.places) => mask,
        _ => {
            groups.anywhere.clone_from(available);
            return groups;
        }
    };
    for id in available {
        let nodes = offer.places.get(id).map(Vec::as_slice).unwrap_or_default();
        let group = match nodes {
            [] => &mut groups.anywhere,
            nodes if nodes.iter().any(|node| on(mask, *node)) => &mut groups.aligned,
            _ => &mut groups.unaligned,
        };
        group.insert(id.clone());
    }
    groups
}

/// Whether it matters at all where the devices of a resource are.
pub(super) fn has_places(places: &Places) -> bool {
    places.values().any(|nodes| !nodes.is_empty())
}

/// Whether `node`, as a plugin counts them, is one of `mask`.
pub(super) fn on(mask: NumaMask, node: i64) -> bool {
    node != NO_NODE && u32::try_from(node).is_ok_and(|node| mask.has(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &str) -> Ids {
        names.split_whitespace().map(str::to_owned).collect()
    }

    struct Case {
        healthy: Ids,
        in_use: Ids,
        reusable: Ids,
        places: Places,
    }

    impl Case {
        /// a and b on node 0, c and d on node 1, e on both, f nowhere.
        fn new() -> Self {
            let places = [
                ("a", vec![0]),
                ("b", vec![0]),
                ("c", vec![1]),
                ("d", vec![1]),
                ("e", vec![0, 1]),
                ("f", vec![]),
            ];
            Self {
                healthy: ids("a b c d e f"),
                in_use: Ids::new(),
                reusable: Ids::new(),
                places: places.map(|(id, nodes)| (id.to_owned(), nodes)).into(),
            }
        }

        fn choose(&self, wanted: usize, nodes: Option<&[u32]>) -> Result<Choice, String> {
            Choice::of(&Offer {
                resource: "example.com/dev",
                healthy: &self.healthy,
                in_use: &self.in_use,
                places: &self.places,
                reusable: &self.reusable,
                wanted,
                affinity: nodes.map(|nodes| NumaMask::of(nodes.iter().copied())),
            })
        }
    }

    #[test]
    fn without_affinity_the_plugin_has_its_say_among_all() {
        let mut case = Case::new();
        case.in_use = ids("a");
        let choice = case.choose(2, None).unwrap();
        let question = choice.question().unwrap();
        assert_eq!(question, (ids("b c d e f"), Ids::new(), 2));
        // It prefers more than are wanted, and one that is taken.
        assert_eq!(choice.clone().made(&ids("a d f")).unwrap(), ids("d f"));
        assert_eq!(choice.made(&ids("d")).unwrap(), ids("b d"));
        assert_eq!(
            case.choose(6, None).unwrap_err(),
            "requested number of devices unavailable for example.com/dev. Requested: 6, Available: 5"
        );
    }

    #[test]
    fn aligned_ones_go_first() {
        let case = Case::new();
        let choice = case.choose(1, Some(&[1])).unwrap();
        assert_eq!(choice.question().unwrap().0, ids("c d e"));
        assert_eq!(choice.made(&ids("a d")).unwrap(), ids("d"));
        // As many as there are: nothing is left to prefer.
        let choice = case.choose(3, Some(&[1])).unwrap();
        assert_eq!(choice.question(), None);
        assert_eq!(choice.made(&Ids::new()).unwrap(), ids("c d e"));
        // More: the rest comes from the other node before one that is nowhere.
        let choice = case.choose(5, Some(&[1])).unwrap();
        let question = choice.question().unwrap();
        assert_eq!(question, (ids("a b c d e f"), ids("c d e"), 5));
        assert_eq!(choice.made(&Ids::new()).unwrap(), ids("a b c d e"));
    }

    #[test]
    fn what_init_containers_had_is_used_again() {
        let mut case = Case::new();
        case.in_use = ids("a b");
        case.reusable = ids("a b");
        let choice = case.choose(1, None).unwrap();
        assert_eq!(choice.question(), None);
        assert_eq!(choice.made(&Ids::new()).unwrap(), ids("a"));
        let choice = case.choose(3, None).unwrap();
        let question = choice.question().unwrap();
        assert_eq!(question, (ids("a b c d e f"), ids("a b"), 3));
        assert_eq!(choice.made(&ids("e")).unwrap(), ids("a b e"));
    }
}
