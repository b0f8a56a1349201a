//! Which devices the containers of pods have, and what their plugins said that goes with them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::deviceplugin::ContainerAllocateResponse;

/// Device ids.
pub(super) type Ids = BTreeSet<String>;

/// What a device without a NUMA node is listed under (upstream's `nodeWithoutTopology`).
pub(super) const NO_NODE: i64 = -1;

/// Devices of one resource, by NUMA node; one of several nodes is listed with each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ByNode(pub(super) BTreeMap<i64, Vec<String>>);

impl ByNode {
    /// All of them.
    pub(super) fn ids(&self) -> Ids {
        self.0.values().flatten().cloned().collect()
    }

    /// The nodes of each device; none of one that has no node.
    pub(super) fn nodes(&self) -> BTreeMap<&str, Vec<i64>> {
        let mut nodes: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (node, ids) in &self.0 {
            for id in ids {
                let of_device = nodes.entry(id).or_default();
                if *node != NO_NODE {
                    of_device.push(*node);
                }
            }
        }
        nodes
    }
}

/// What one container was given of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Holding {
    /// The devices.
    pub(super) devices: ByNode,
    /// What the container is made with for them.
    pub(super) response: ContainerAllocateResponse,
}

/// By resource.
pub(super) type OfContainer = BTreeMap<String, Holding>;

/// What all containers were given, by pod and container.
#[derive(Clone, Debug, Default)]
pub(super) struct Holdings {
    pods: BTreeMap<String, BTreeMap<String, OfContainer>>,
}

impl Holdings {
    /// What a container has; none where it was given nothing.
    pub(super) fn of(&self, pod: &str, container: &str) -> Option<&OfContainer> {
        self.pods.get(pod)?.get(container)
    }

    /// The devices of one resource that a container has.
    pub(super) fn ids(&self, pod: &str, container: &str, resource: &str) -> Option<Ids> {
        let held = self.of(pod, container)?.get(resource)?;
        Some(held.devices.ids())
    }

    /// The devices of one resource that all containers of a pod have.
    pub(super) fn of_pod(&self, pod: &str, resource: &str) -> Ids {
        let containers = self.pods.get(pod).into_iter().flat_map(BTreeMap::values);
        let held = containers.filter_map(|container| container.get(resource));
        held.flat_map(|held| held.devices.ids()).collect()
    }

    pub(super) fn insert(&mut self, pod: &str, container: &str, resource: &str, held: Holding) {
        let pod = self.pods.entry(pod.to_owned()).or_default();
        let container = pod.entry(container.to_owned()).or_default();
        container.insert(resource.to_owned(), held);
    }

    /// True where the pod had something.
    pub(super) fn remove_pod(&mut self, pod: &str) -> bool {
        self.pods.remove(pod).is_some()
    }

    /// The pods that have something.
    pub(super) fn pods(&self) -> impl Iterator<Item = &str> {
        self.pods.keys().map(String::as_str)
    }

    /// The devices of `resource` that somebody other than `pod` has.
    pub(super) fn taken_by_others(&self, pod: &str, resource: &str) -> Ids {
        let others = self.pods.iter().filter(|(uid, _)| *uid != pod);
        let held = others.flat_map(|(_, containers)| containers.values());
        let held = held.filter_map(|container| container.get(resource));
        held.flat_map(|held| held.devices.ids()).collect()
    }

    /// Whether somebody has devices of `resource`.
    pub(super) fn knows(&self, resource: &str) -> bool {
        let mut containers = self.pods.values().flat_map(BTreeMap::values);
        containers.any(|container| container.contains_key(resource))
    }

    /// The pods that have one of `devices` of `resource`.
    pub(super) fn having(&self, resource: &str, devices: &Ids) -> BTreeSet<String> {
        let has = |containers: &BTreeMap<String, OfContainer>| {
            let mut held = containers.values().filter_map(|c| c.get(resource));
            held.any(|held| !held.devices.ids().is_disjoint(devices))
        };
        let pods = self.pods.iter().filter(|(_, containers)| has(containers));
        pods.map(|(uid, _)| uid.clone()).collect()
    }

    /// Pod, container, resource, and what is held.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str, &str, &Holding)> {
        self.pods.iter().flat_map(|(pod, containers)| {
            containers.iter().flat_map(move |(container, held)| {
                held.iter().map(move |(resource, held)| {
                    (pod.as_str(), container.as_str(), resource.as_str(), held)
                })
            })
        })
    }
}
