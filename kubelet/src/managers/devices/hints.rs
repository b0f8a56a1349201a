//! From which NUMA nodes devices could come. Pure.
//!
//! As upstream's `topology_hints.go`.

use std::collections::BTreeMap;

use super::choice::{Places, has_places, on};
use super::holdings::Ids;
use super::inventory::{Inventory, limits};
use crate::managers::{Asking, Hint, Hints, NumaMask};
use crate::pod::{self, ContainerKind, Pod};

/// What could be given, and what of it is the pod's already.
struct Supply<'a> {
    places: &'a Places,
    available: Ids,
    reusable: Ids,
    wanted: usize,
}

impl Inventory {
    /// For one container. `machine` are the NUMA nodes there are.
    pub(super) fn container_hints(&self, asking: &Asking<'_>, machine: NumaMask) -> Hints {
        let (uid, container) = (asking.uid.as_str(), asking.container);
        let known = limits(container).filter(|(resource, _)| self.is_known(resource));
        let hints = known.map(|(resource, wanted)| {
            let held = self.holdings.ids(uid, &container.name, resource);
            let reusable = self.reusable(uid, asking.pod, &container.name, resource);
            let hints = self.hints(uid, resource, wanted, (held, reusable), machine);
            (resource.to_owned(), hints)
        });
        hints.collect()
    }

    /// For all containers of a pod together.
    pub(super) fn pod_hints(&self, uid: &str, pod: &Pod, machine: NumaMask) -> Hints {
        let wanted = of_pod(pod).into_iter();
        let known = wanted.filter(|(resource, _)| self.is_known(resource));
        let hints = known.map(|(resource, wanted)| {
            let held = self.holdings.of_pod(uid, resource);
            let held = (!held.is_empty()).then_some(held);
            let hints = self.hints(uid, resource, wanted, (held, Ids::new()), machine);
            (resource.to_owned(), hints)
        });
        hints.collect()
    }

    /// None where it does not matter from where they come.
    fn hints(
        &self,
        uid: &str,
        resource: &str,
        wanted: usize,
        (held, reusable): (Option<Ids>, Ids),
        machine: NumaMask,
    ) -> Option<Vec<Hint>> {
        let places = self.places(resource);
        if !has_places(&places) {
            return None;
        }
        let supply = match held {
            Some(held) if held.len() != wanted => return Some(Vec::new()),
            Some(held) => Supply {
                places: &places,
                available: held,
                reusable: Ids::new(),
                wanted,
            },
            None => Supply {
                places: &places,
                available: self.available(uid, resource),
                reusable,
                wanted,
            },
        };
        if supply.available.union(&supply.reusable).count() < wanted {
            return Some(Vec::new());
        }
        Some(ways(&supply, machine))
    }
}

/// What the containers of `pod` need of each resource, as they follow each other.
fn of_pod(pod: &Pod) -> BTreeMap<&str, usize> {
    let mut lasting: BTreeMap<&str, usize> = BTreeMap::new();
    let mut most: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, container) in pod::containers(pod) {
        for (resource, wanted) in limits(container) {
            let before = lasting.entry(resource).or_default();
            let now = *before + wanted;
            if kind != ContainerKind::Init {
                *before = now;
            }
            let most = most.entry(resource).or_default();
            *most = now.max(*most);
        }
    }
    most
}

/// Each set of nodes that has enough; preferred where no smaller one could have it on an empty machine.
fn ways(supply: &Supply<'_>, machine: NumaMask) -> Vec<Hint> {
    let of_devices = supply.places.values().flatten();
    let of_devices = NumaMask::of(of_devices.filter_map(|node| u32::try_from(*node).ok()));
    let nodes = match of_devices.and(machine) {
        none if none.is_empty() => machine,
        nodes => nodes,
    };
    let is_in = |id: &String, mask: NumaMask| {
        let nodes = supply.places.get(id);
        nodes.is_some_and(|nodes| nodes.iter().any(|node| on(mask, *node)))
    };
    let mut fewest = nodes.count();
    let mut masks = Vec::new();
    for mask in nodes.subsets() {
        let there = supply.places.keys().filter(|id| is_in(id, mask)).count();
        if there >= supply.wanted {
            fewest = fewest.min(mask.count());
        }
        let placed = supply.reusable.iter().filter(|id| {
            let nodes = supply.places.get(*id);
            nodes.is_some_and(|nodes| !nodes.is_empty())
        });
        let placed: Vec<&String> = placed.collect();
        if !placed.iter().all(|id| is_in(id, mask)) {
            continue;
        }
        let free = supply.available.iter().filter(|id| is_in(id, mask)).count();
        if placed.len() + free >= supply.wanted {
            masks.push(mask);
        }
    }
    let hint = |mask: NumaMask| Hint::over(mask, mask.count() == fewest);
    masks.into_iter().map(hint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &str) -> Ids {
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn shown(available: &str, reusable: &str, wanted: usize) -> Vec<String> {
        let places = [
            ("a", vec![0]),
            ("b", vec![0]),
            ("c", vec![1]),
            ("d", vec![1]),
            ("f", vec![]),
        ];
        let places: Places = places.map(|(id, nodes)| (id.to_owned(), nodes)).into();
        let supply = Supply {
            places: &places,
            available: ids(available),
            reusable: ids(reusable),
            wanted,
        };
        let hints = ways(&supply, NumaMask::of([0, 1, 2]));
        let shown = hints.iter().map(|hint| {
            let mask = hint.mask.map(|mask| mask.to_string()).unwrap_or_default();
            format!("{mask}{}", if hint.preferred { "!" } else { "" })
        });
        shown.collect()
    }

    #[test]
    fn each_set_of_nodes_that_has_enough_is_a_way() {
        assert_eq!(shown("a b c d", "", 2), ["0!", "1!", "0,1"]);
        // What is taken makes a way worse, not the machine smaller.
        assert_eq!(shown("a c", "", 2), ["0,1"]);
        assert_eq!(shown("a b c d", "", 3), ["0,1!"]);
        // One that is nowhere counts for no node.
        assert_eq!(shown("a f", "", 2), [""; 0]);
        // What init containers had has to be within.
        assert_eq!(shown("b c d", "a", 1), ["0!", "0,1"]);
    }

    #[test]
    fn a_pod_needs_the_most_that_is_there_at_a_time() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {
                "initContainers": [
                    {"name": "a", "resources": {"limits": {"example.com/d": "3"}}},
                    {"name": "b", "restartPolicy": "Always", "resources": {"limits": {"example.com/d": "1"}}},
                    {"name": "c", "resources": {"limits": {"example.com/d": "3"}}}
                ],
                "containers": [
                    {"name": "d", "resources": {"limits": {"example.com/d": "1", "example.com/e": "1"}}},
                    {"name": "e", "resources": {"limits": {"example.com/d": "1"}}}
                ]
            }
        }))
        .unwrap();
        let wanted = of_pod(&pod);
        assert_eq!(wanted["example.com/d"], 4);
        assert_eq!(wanted["example.com/e"], 1);
    }
}
