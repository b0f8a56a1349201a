//! What pods are promised, and what becomes of it when their plugins are asked.

use std::sync::Arc;

use cri_proto::deviceplugin::ContainerAllocateResponse;
use k8s_openapi::api::core::v1::Container;

use super::{Inventory, Request, limits};
use crate::managers::NumaMask;
use crate::managers::devices::choice::{Choice, Offer};
use crate::managers::devices::holdings::{ByNode, Holding, Ids, NO_NODE};
use crate::managers::devices::plugin::Plugin;
use crate::pod::Pod;

impl Inventory {
    /// Promises the containers of a pod, one after the other, what they ask for.
    ///
    /// # Errors
    /// In upstream's words, when there is too little.
    pub(in crate::managers::devices) fn reserve(
        &mut self,
        uid: &str,
        pod: &Pod,
        container: &Container,
        affinity: Option<NumaMask>,
    ) -> Result<(), String> {
        for (resource, wanted) in limits(container) {
            if !self.is_known(resource) {
                continue;
            }
            let request = Request {
                container: container.name.clone(),
                resource: resource.to_owned(),
                wanted,
                affinity,
            };
            if self.was_promised(uid, &request) {
                continue;
            }
            let Some(choice) = self.choose(uid, pod, &request, true)? else {
                continue;
            };
            let ids = choice.made(&Ids::new())?;
            let pending = self.pending.entry(uid.to_owned()).or_default();
            let key = (request.container.clone(), request.resource.clone());
            pending.reserved.insert(key, ids);
            pending.requests.push(request);
        }
        Ok(())
    }

    fn was_promised(&self, uid: &str, request: &Request) -> bool {
        let pending = self.pending.get(uid);
        pending.is_some_and(|pending| pending.requests.contains(request))
    }

    /// Which devices `request` gets; none where its container has them. `own` counts what the pod was promised as taken.
    fn choose(
        &self,
        uid: &str,
        pod: &Pod,
        request: &Request,
        own: bool,
    ) -> Result<Option<Choice>, String> {
        let (name, wanted) = (&request.resource, request.wanted);
        let held = self.holdings.ids(uid, &request.container, name);
        if let Some(held) = &held
            && held.len() != wanted
        {
            return Err(format!(
                "pod {uid:?} container {:?} changed request for resource {name:?} from {} to {wanted}",
                request.container,
                held.len(),
            ));
        }
        let offered = self.resources.get(name).filter(|r| r.registered);
        let Some(offered) = offered else {
            return Err(format!("cannot allocate unregistered device {name}"));
        };
        if offered.healthy.is_empty() {
            return Err(format!(
                "no healthy devices present; cannot allocate unhealthy devices {name}"
            ));
        }
        if let Some(held) = &held {
            return match held.is_subset(&offered.healthy) {
                true => Ok(None),
                false => Err(format!(
                    "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {name}"
                )),
            };
        }
        if wanted == 0 {
            return Ok(None);
        }
        let choice = Choice::of(&Offer {
            resource: name,
            healthy: &offered.healthy,
            in_use: &self.in_use(uid, name, own),
            places: &offered.places(),
            reusable: &self.reusable(uid, pod, &request.container, name),
            wanted,
            affinity: request.affinity,
        });
        choice.map(Some)
    }

    /// Promises a container that has begun before what it is to have again.
    pub(in crate::managers::devices) fn ask_again(&mut self, uid: &str, request: Request) {
        let pending = self.pending.entry(uid.to_owned()).or_default();
        if !pending.requests.contains(&request) {
            pending.requests.push(request);
        }
    }

    /// What the pod was promised and does not have yet, first come.
    pub(in crate::managers::devices) fn next_request(&self, uid: &str) -> Option<Request> {
        self.pending.get(uid)?.requests.first().cloned()
    }

    /// Whether the pod was promised something that it does not have yet.
    pub(in crate::managers::devices) fn is_pending(&self, uid: &str) -> bool {
        self.next_request(uid).is_some()
    }

    /// Which devices `request`, the pod's next, is to have, and whom to ask for them; none where it has them.
    ///
    /// # Errors
    /// In upstream's words, when it cannot have them any more.
    pub(in crate::managers::devices) fn plan(
        &self,
        uid: &str,
        pod: &Pod,
        request: &Request,
    ) -> Result<Option<(Arc<Plugin>, Choice)>, String> {
        let Some(choice) = self.choose(uid, pod, request, false)? else {
            return Ok(None);
        };
        match self.plugin(&request.resource) {
            Some(plugin) => Ok(Some((plugin, choice))),
            None => Err(format!("unknown Device Plugin {}", request.resource)),
        }
    }

    /// `ids` are what the plugin is asked for: they are what the container is promised now. False where the pod has gone.
    pub(in crate::managers::devices) fn promise(
        &mut self,
        uid: &str,
        request: &Request,
        ids: Ids,
    ) -> bool {
        let Some(pending) = self.pending.get_mut(uid) else {
            return false;
        };
        let key = (request.container.clone(), request.resource.clone());
        pending.reserved.insert(key, ids);
        true
    }

    /// The container of `request` has `ids`, or needs none. False where the pod has gone meanwhile.
    pub(in crate::managers::devices) fn given(
        &mut self,
        uid: &str,
        request: &Request,
        given: Option<(Ids, ContainerAllocateResponse)>,
    ) -> bool {
        let Some(pending) = self.pending.get_mut(uid) else {
            return false;
        };
        pending.requests.retain(|one| one != request);
        let key = (request.container.clone(), request.resource.clone());
        pending.reserved.remove(&key);
        if pending.requests.is_empty() {
            self.pending.remove(uid);
        }
        if let Some((ids, response)) = given {
            let devices = self.by_node(&request.resource, ids);
            let held = Holding { devices, response };
            let (container, resource) = (&request.container, &request.resource);
            self.holdings.insert(uid, container, resource, held);
        }
        true
    }

    fn by_node(&self, resource: &str, ids: Ids) -> ByNode {
        let mut by_node = ByNode::default();
        let places = self.places(resource);
        for id in ids {
            let nodes = places.get(&id).filter(|nodes| !nodes.is_empty());
            for node in nodes.unwrap_or(&vec![NO_NODE]) {
                by_node.0.entry(*node).or_default().push(id.clone());
            }
        }
        by_node
    }
}
