//! Asks plugins for what pods were promised.

use crate::metrics;
use crate::pod::{Pod, PodUid};

use super::Devices;
use super::holdings::Ids;
use super::inventory::{Request, limits};
use crate::errors::error_chain;

/// Why a container does not get its devices, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub(super) String);

impl DeviceError {
    /// The task that asked for devices ended with `error`.
    pub(crate) fn failed(error: &dyn std::error::Error) -> Self {
        Self(error_chain(error))
    }
}

impl Devices {
    /// Whether the pod was promised devices that its plugins have not been asked for yet.
    #[must_use]
    pub fn is_pending(&self, uid: &PodUid) -> bool {
        self.inventory().is_pending(uid.as_str())
    }

    /// Asks the plugins for what the pod was promised, one container after the other. May take as long as they take, within
    /// limits.
    ///
    /// # Errors
    /// When one of them does not give it, or the pod's devices cannot be written down. The pod keeps what it was promised
    /// until it is told to give it back.
    pub async fn fetch(&self, uid: &PodUid, pod: &Pod) -> Result<(), DeviceError> {
        let mut any = false;
        loop {
            let next = self.inventory().next_request(uid.as_str());
            let Some(request) = next else { break };
            self.fetch_one(uid.as_str(), pod, &request).await?;
            any = true;
        }
        match any {
            true => self.save().map_err(|error| {
                let error = error_chain(&error);
                DeviceError(format!(
                    "failed to write checkpoint file {:?}: {error}",
                    super::NAME
                ))
            }),
            false => Ok(()),
        }
    }

    async fn fetch_one(&self, uid: &str, pod: &Pod, request: &Request) -> Result<(), DeviceError> {
        let plan = || {
            self.inventory()
                .plan(uid, pod, request)
                .map_err(DeviceError)
        };
        let Some((plugin, mut choice)) = plan()? else {
            self.inventory().given(uid, request, None);
            return Ok(());
        };
        let resource = &request.resource;
        let mut preferred = Ids::new();
        if plugin.options.get_preferred_allocation_available
            && let Some((available, sure, wanted)) = choice.question()
        {
            let asked = plugin.preferred(available, sure, wanted).await;
            preferred = asked.map_err(|error| {
                DeviceError(format!(
                    "device plugin GetPreferredAllocation rpc failed with err: {error}"
                ))
            })?;
            // Others may have been promised some meanwhile.
            match plan()? {
                Some((_, again)) => choice = again,
                None => return Ok(()),
            }
        }
        let ids = {
            let mut inventory = self.inventory();
            let ids = choice.made(&preferred).map_err(DeviceError)?;
            if !inventory.promise(uid, request, ids.clone()) {
                return Err(gone(uid));
            }
            ids
        };
        let began = self.0.clock.monotonic();
        let answer = plugin.allocate(&ids).await;
        let took = self.0.clock.monotonic().saturating_sub(began);
        let metrics = metrics::kubelet();
        metrics
            .managers
            .device_allocations
            .observe(&[resource], took);
        let answer = answer.map_err(|error| DeviceError(error.to_string()))?;
        let Some(response) = answer else {
            return Err(DeviceError(
                "no containers return in allocation response ".to_owned(),
            ));
        };
        let mut inventory = self.inventory();
        match inventory.given(uid, request, Some((ids, response))) {
            true => Ok(()),
            false => Err(gone(uid)),
        }
    }

    /// Makes ready what a container about to be made has: tells plugins that want to know, and gets what it should have
    /// and does not, as after a checkpoint was lost.
    ///
    /// # Errors
    /// In upstream's words, when a plugin does not do it.
    pub async fn before_start(
        &self,
        uid: &PodUid,
        pod: &Pod,
        container: &str,
    ) -> Result<(), DeviceError> {
        let Some(spec) = crate::pod::containers(pod).find(|(_, c)| c.name == container) else {
            return Ok(());
        };
        let wanted: Vec<(&str, usize)> = {
            let inventory = self.inventory();
            let wanted = limits(spec.1).filter(|(_, wanted)| *wanted > 0);
            wanted
                .filter(|(name, _)| inventory.is_known(name))
                .collect()
        };
        for (resource, wanted) in &wanted {
            let mut inventory = self.inventory();
            let held = inventory.holdings.ids(uid.as_str(), container, resource);
            if held.is_none() {
                let request = Request {
                    container: container.to_owned(),
                    resource: (*resource).to_owned(),
                    wanted: *wanted,
                    affinity: None,
                };
                inventory.ask_again(uid.as_str(), request);
            }
        }
        self.fetch(uid, pod).await?;
        for (resource, _) in wanted {
            self.pre_start(uid.as_str(), container, resource).await?;
        }
        Ok(())
    }

    async fn pre_start(
        &self,
        uid: &str,
        container: &str,
        resource: &str,
    ) -> Result<(), DeviceError> {
        let (plugin, held, offered) = {
            let inventory = self.inventory();
            let held = inventory.holdings.ids(uid, container, resource);
            let offered = inventory.is_offered(resource);
            (inventory.plugin(resource), held, offered)
        };
        if !offered {
            return Err(DeviceError(format!(
                "endpoint not found in cache for a registered resource: {resource}"
            )));
        }
        let Some(plugin) = plugin.filter(|plugin| plugin.options.pre_start_required) else {
            return Ok(());
        };
        let Some(held) = held else {
            return Err(DeviceError(format!(
                "no devices found allocated in local cache for pod {uid}, container {container}, resource {resource}"
            )));
        };
        plugin.pre_start(&held).await.map_err(|error| {
            DeviceError(format!(
                "device plugin PreStartContainer rpc failed with err: {error}"
            ))
        })
    }
}

fn gone(uid: &str) -> DeviceError {
    DeviceError(format!("pod {uid} is gone"))
}
