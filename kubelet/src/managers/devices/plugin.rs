//! One device plugin: what it said it can do, and the calls to it.

use std::path::Path;
use std::time::Duration;

use cri_proto::deviceplugin::device_plugin_client::DevicePluginClient;
use cri_proto::deviceplugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, Device, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerRequest, PreferredAllocationRequest,
};
use cri_proto::plugin_channel;
use tokio::sync::Notify;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::holdings::Ids;
use crate::csi::CallError;

/// How long a plugin may take to say what it can do, connection and all (upstream: ten seconds for the connection alone).
const OPTIONS_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to begin its list.
const LIST_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to give devices, or to say which it prefers. (Upstream waits for ever.)
const ALLOCATE_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take before the start of a container (upstream's `KubeletPreStartContainerRPCTimeoutInSecs`).
const PRE_START_LIMIT: Duration = Duration::from_secs(30);

/// A plugin that offers devices of one resource. The connection lives as long as it does.
#[derive(Debug)]
pub(super) struct Plugin {
    /// What it offers.
    pub(super) resource: String,
    /// What it said.
    pub(super) options: DevicePluginOptions,
    /// Whoever follows its list is to leave it.
    pub(super) left: Notify,
    client: DevicePluginClient<Channel>,
}

/// Sends one call, and waits for `limit` at most.
async fn timed<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    // On the heap, and only while in flight.
    match tokio::time::timeout(limit, Box::pin(call)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(CallError::of(&status)),
        Err(_) => Err(CallError::late(limit)),
    }
}

impl Plugin {
    /// Asks the plugin at `endpoint` what it can do.
    ///
    /// # Errors
    /// In upstream's words, when it does not say.
    pub(super) async fn connect(resource: &str, endpoint: &Path) -> Result<Self, String> {
        let client = DevicePluginClient::new(plugin_channel(endpoint));
        let mut asked = client.clone();
        let call = asked.get_device_plugin_options(Empty {});
        let options = timed(OPTIONS_LIMIT, call).await;
        let options =
            options.map_err(|error| format!("failed to get device plugin options: {error}"))?;
        Ok(Self {
            resource: resource.to_owned(),
            options,
            left: Notify::new(),
            client,
        })
    }

    /// Its devices, again whenever one changes.
    pub(super) async fn list(&self) -> Result<Streaming<ListAndWatchResponse>, CallError> {
        timed(LIST_LIMIT, self.client.clone().list_and_watch(Empty {})).await
    }

    /// Which of `available` it would give, those of `sure` among them, `wanted` in all.
    pub(super) async fn preferred(
        &self,
        available: Ids,
        sure: Ids,
        wanted: usize,
    ) -> Result<Ids, CallError> {
        let request = ContainerPreferredAllocationRequest {
            available_device_i_ds: available.into_iter().collect(),
            must_include_device_i_ds: sure.into_iter().collect(),
            allocation_size: i32::try_from(wanted).unwrap_or(i32::MAX),
        };
        let message = PreferredAllocationRequest {
            container_requests: vec![request],
        };
        let mut client = self.client.clone();
        let answer = timed(ALLOCATE_LIMIT, client.get_preferred_allocation(message)).await?;
        let first = answer.container_responses.into_iter().next();
        Ok(first
            .map(|first| first.device_i_ds.into_iter().collect())
            .unwrap_or_default())
    }

    /// What a container is made with that has `devices`; none where the plugin does not say.
    pub(super) async fn allocate(
        &self,
        devices: &Ids,
    ) -> Result<Option<ContainerAllocateResponse>, CallError> {
        let request = ContainerAllocateRequest {
            devices_ids: devices.iter().cloned().collect(),
        };
        let message = AllocateRequest {
            container_requests: vec![request],
        };
        let mut client = self.client.clone();
        let answer = timed(ALLOCATE_LIMIT, client.allocate(message)).await?;
        Ok(answer.container_responses.into_iter().next())
    }

    /// Tells it that a container with `devices` is about to start.
    pub(super) async fn pre_start(&self, devices: &Ids) -> Result<(), CallError> {
        let message = PreStartContainerRequest {
            devices_ids: devices.iter().cloned().collect(),
        };
        let mut client = self.client.clone();
        let call = client.pre_start_container(message);
        timed(PRE_START_LIMIT, call).await.map(drop)
    }
}

/// What a plugin calls a device that works (`v1beta1`'s constants).
pub(super) const HEALTHY: &str = "Healthy";

/// The NUMA nodes of a device; none where the plugin does not say where it is.
pub(super) fn nodes_of(device: &Device) -> Option<Vec<i64>> {
    let topology = device.topology.as_ref()?;
    Some(topology.nodes.iter().map(|node| node.id).collect())
}

#[cfg(test)]
impl Plugin {
    /// One that nobody has asked anything, nor can.
    pub(super) fn unasked(resource: &str) -> Self {
        let endpoint = Path::new("/nowhere");
        Self {
            resource: resource.to_owned(),
            options: DevicePluginOptions::default(),
            left: Notify::new(),
            client: DevicePluginClient::new(plugin_channel(endpoint)),
        }
    }
}
