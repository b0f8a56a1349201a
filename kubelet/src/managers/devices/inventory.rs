//! Which devices there are, who offers them, and who has or is about to have which. No await, no clock, no I/O.
//!
//! A container's devices are reserved when its pod is admitted, which takes no time; its plugin is asked for them after
//! that. What is reserved is nobody else's meanwhile.

mod promises;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::deviceplugin::Device;
use k8s_openapi::api::core::v1::Container;
use static_pods::quantity::Quantity;

use super::checkpoint::Kept;
use super::choice::Places;
use super::holdings::{Holdings, Ids};
use super::plugin::{HEALTHY, Plugin, nodes_of};
use crate::managers::NumaMask;
use crate::pod::{self, ContainerKind, Pod};

/// How long a resource is reported whose plugin has gone (upstream's `endpointStopGracePeriod`).
pub(super) const GRACE: Duration = Duration::from_secs(300);

/// A device as its plugin described it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) healthy: bool,
    /// Its NUMA nodes; none where the plugin does not say where it is.
    pub(super) nodes: Option<Vec<i64>>,
}

/// What is known of a resource.
#[derive(Debug, Default)]
struct Resource {
    /// The last list of its devices.
    devices: BTreeMap<String, Known>,
    /// Those that can be given: none while there is no plugin.
    healthy: Ids,
    unhealthy: Ids,
    /// Whether it is reported: there was a list, in this life of the agent or an earlier one.
    registered: bool,
    plugin: Option<Arc<Plugin>>,
    /// Since when there is no plugin.
    stopped: Option<Duration>,
}

impl Resource {
    fn places(&self) -> Places {
        let places = self.devices.iter();
        places
            .map(|(id, known)| (id.clone(), known.nodes.clone().unwrap_or_default()))
            .collect()
    }
}

/// How many devices of each resource the node reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// All of them.
    pub capacity: BTreeMap<String, u64>,
    /// Those that can be given, or are.
    pub allocatable: BTreeMap<String, u64>,
    /// Resources whose plugin has been gone for too long: there are none of them now.
    pub removed: BTreeSet<String>,
}

/// What one container is to be given of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) container: String,
    pub(super) resource: String,
    pub(super) wanted: usize,
    pub(super) affinity: Option<NumaMask>,
}

/// What a pod was promised, and does not have yet.
#[derive(Debug, Default)]
struct Pending {
    requests: Vec<Request>,
    /// By container and resource.
    reserved: BTreeMap<(String, String), Ids>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    resources: BTreeMap<String, Resource>,
    pub(super) holdings: Holdings,
    pending: BTreeMap<String, Pending>,
    /// Resources that are gone for good, and that the node's status is to say so of.
    removed: BTreeSet<String>,
    /// Pods whose devices' health has changed since somebody asked.
    changed: BTreeSet<String>,
    /// Something was given back that is still written down.
    unsaved: bool,
}

/// How many of each resource `container` asks for.
pub(super) fn limits(container: &Container) -> impl Iterator<Item = (&str, usize)> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    limits.into_iter().flatten().filter_map(|(name, amount)| {
        let amount = Quantity::parse_amount(&amount.0).ok()?.value();
        Some((name.as_str(), usize::try_from(amount).unwrap_or(0)))
    })
}

impl Inventory {
    /// What an earlier agent left. Its resources are reported without a device until their plugins come back.
    pub(super) fn new(kept: Kept, now: Duration) -> Self {
        let resources = kept.registered.into_keys().map(|name| {
            let resource = Resource {
                registered: true,
                stopped: Some(now),
                ..Resource::default()
            };
            (name, resource)
        });
        Self {
            resources: resources.collect(),
            holdings: kept.holdings,
            ..Self::default()
        }
    }

    /// What the next agent is to know.
    pub(super) fn kept(&self) -> Kept {
        let registered = self.resources.iter().filter(|(_, r)| r.registered);
        Kept {
            holdings: self.holdings.clone(),
            registered: registered
                .map(|(name, r)| (name.clone(), r.healthy.iter().cloned().collect()))
                .collect(),
        }
    }

    /// Whether `resource` is, or was, one of a device plugin.
    pub(super) fn is_known(&self, resource: &str) -> bool {
        let registered = self.resources.get(resource).is_some_and(|r| r.registered);
        registered || self.holdings.knows(resource)
    }

    /// All such resources.
    pub(super) fn known(&self) -> BTreeSet<String> {
        let held = self.holdings.iter().map(|(_, _, resource, _)| resource);
        let registered = self.resources.iter().filter(|(_, r)| r.registered);
        let registered = registered.map(|(name, _)| name.as_str());
        registered.chain(held).map(str::to_owned).collect()
    }

    /// Whether a container of `pod` asks for devices.
    pub(super) fn is_asked_by(&self, pod: &Pod) -> bool {
        let mut containers = pod::containers(pod);
        containers.any(|(_, c)| limits(c).any(|(resource, _)| self.is_known(resource)))
    }

    /// A plugin has come, be it in the place of another.
    pub(super) fn connected(&mut self, plugin: Arc<Plugin>) {
        let resource = self.resources.entry(plugin.resource.clone()).or_default();
        resource.plugin = Some(plugin);
        resource.stopped = None;
    }

    fn of_plugin(&mut self, plugin: &Arc<Plugin>) -> Option<&mut Resource> {
        let resource = self.resources.get_mut(&plugin.resource)?;
        let own = resource.plugin.as_ref();
        own.is_some_and(|own| Arc::ptr_eq(own, plugin))
            .then_some(resource)
    }

    /// A plugin has listed its devices: whether they are other ones than before. Nothing where another has taken its place.
    pub(super) fn listed(&mut self, plugin: &Arc<Plugin>, devices: Vec<Device>) -> Option<bool> {
        let resource = self.of_plugin(plugin)?;
        let mut news = Ids::new();
        let mut list = BTreeMap::new();
        for device in devices {
            let nodes = nodes_of(&device);
            let healthy = device.health == HEALTHY;
            let before = resource.devices.get(&device.id);
            // One that was away and is back may be somebody's.
            if before.is_none_or(|before| before.healthy != healthy) {
                news.insert(device.id.clone());
            }
            list.insert(device.id, Known { healthy, nodes });
        }
        let healthy = |wanted: bool| -> Ids {
            let ids = list.iter().filter(|(_, known)| known.healthy == wanted);
            ids.map(|(id, _)| id.clone()).collect()
        };
        let (works, broken) = (healthy(true), healthy(false));
        let changed = !resource.registered || resource.devices != list || resource.healthy != works;
        (resource.healthy, resource.unhealthy) = (works, broken);
        resource.devices = list;
        resource.registered = true;
        self.removed.remove(&plugin.resource);
        let concerned = self.holdings.having(&plugin.resource, &news);
        self.changed.extend(concerned);
        Some(changed)
    }

    /// A plugin has gone: none of its devices is to be given. False where another has taken its place.
    pub(super) fn disconnected(&mut self, plugin: &Arc<Plugin>, now: Duration) -> bool {
        let Some(resource) = self.of_plugin(plugin) else {
            return false;
        };
        let healthy = std::mem::take(&mut resource.healthy);
        resource.unhealthy.extend(healthy);
        resource.plugin = None;
        resource.stopped = Some(now);
        true
    }

    /// What the node reports at `now`. A resource whose plugin has been gone for too long is forgotten with it, and stays
    /// among those that are removed until it comes back. True where that has just been.
    pub(super) fn counts(&mut self, now: Duration) -> (DeviceCounts, bool) {
        let mut forgotten = false;
        for (name, resource) in &mut self.resources {
            let since = resource.stopped.map(|since| now.saturating_sub(since));
            if resource.registered && since.is_some_and(|since| since > GRACE) {
                resource.registered = false;
                resource.unhealthy.clear();
                self.removed.insert(name.clone());
                forgotten = true;
            }
        }
        let mut counts = DeviceCounts {
            removed: self.removed.clone(),
            ..DeviceCounts::default()
        };
        for (name, resource) in self.resources.iter().filter(|(_, r)| r.registered) {
            let (healthy, all) = (
                resource.healthy.len() as u64,
                (resource.healthy.len() + resource.unhealthy.len()) as u64,
            );
            counts.capacity.insert(name.clone(), all);
            counts.allocatable.insert(name.clone(), healthy);
        }
        (counts, forgotten)
    }

    /// Pods whose devices' health has changed since the last time this was asked.
    pub(super) fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Whether a device works, as its plugin said last; one that no plugin has spoken of does.
    pub(super) fn is_healthy(&self, resource: &str, id: &str) -> bool {
        let known = self.resources.get(resource).and_then(|r| r.devices.get(id));
        known.is_none_or(|known| known.healthy)
    }

    /// The devices that can be given, or are, with their places.
    pub(super) fn allocatable(&self) -> impl Iterator<Item = (&str, &str, Option<&[i64]>)> {
        self.resources.iter().flat_map(|(name, resource)| {
            resource.healthy.iter().filter_map(move |id| {
                let known = resource.devices.get(id)?;
                Some((name.as_str(), id.as_str(), known.nodes.as_deref()))
            })
        })
    }

    /// Where the devices of `resource` are.
    pub(super) fn places(&self, resource: &str) -> Places {
        let resource = self.resources.get(resource);
        resource.map(Resource::places).unwrap_or_default()
    }

    /// The plugin of a resource; none while there is none, which [`Self::is_offered`] tells from a resource that nobody
    /// offers.
    pub(super) fn plugin(&self, resource: &str) -> Option<Arc<Plugin>> {
        self.resources.get(resource)?.plugin.clone()
    }

    /// Whether `resource` has, or lately had, a plugin.
    pub(super) fn is_offered(&self, resource: &str) -> bool {
        self.resources
            .get(resource)
            .is_some_and(|r| r.registered || r.plugin.is_some())
    }

    /// Devices that somebody has or was promised; of `uid`'s promises only where `own` says so.
    pub(super) fn in_use(&self, uid: &str, resource: &str, own: bool) -> Ids {
        let mut ids = self.holdings.taken_by_others("", resource);
        for (pod, pending) in &self.pending {
            if pod == uid && !own {
                continue;
            }
            let reserved = pending.reserved.iter().filter(|((_, r), _)| r == resource);
            ids.extend(reserved.flat_map(|(_, ids)| ids.iter().cloned()));
        }
        ids
    }

    /// The healthy devices of `resource` that nobody has or was promised.
    pub(super) fn available(&self, uid: &str, resource: &str) -> Ids {
        let in_use = self.in_use(uid, resource, true);
        let healthy = self.resources.get(resource).map(|r| &r.healthy);
        let healthy = healthy.into_iter().flatten();
        healthy
            .filter(|id| !in_use.contains(*id))
            .cloned()
            .collect()
    }

    /// The devices that `container` may take over from init containers of its pod.
    pub(super) fn reusable(&self, uid: &str, pod: &Pod, container: &str, resource: &str) -> Ids {
        let mut reusable = Ids::new();
        for (kind, one) in pod::containers(pod) {
            if one.name == container {
                break;
            }
            let key = (one.name.clone(), resource.to_owned());
            let reserved = || self.pending.get(uid)?.reserved.get(&key).cloned();
            let has = self
                .holdings
                .ids(uid, &one.name, resource)
                .or_else(reserved);
            for id in has.into_iter().flatten() {
                match kind {
                    ContainerKind::Init => reusable.insert(id),
                    _ => reusable.remove(&id),
                };
            }
        }
        reusable
    }

    /// The pod has nothing any more.
    pub(super) fn release(&mut self, uid: &str) {
        self.pending.remove(uid);
        self.changed.remove(uid);
        self.unsaved |= self.holdings.remove_pod(uid);
    }

    /// Whether something was given back since this was last asked.
    pub(super) fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// The pods that have something, or were promised it.
    pub(super) fn holders(&self) -> BTreeSet<String> {
        let promised = self.pending.keys().map(String::as_str);
        self.holdings
            .pods()
            .chain(promised)
            .map(str::to_owned)
            .collect()
    }
}
