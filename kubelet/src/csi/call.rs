//! Calls to a driver: each over a connection of its own, as upstream has it, so that a driver that has begun anew is
//! asked like any other, and one that rests costs nothing.

use std::path::Path;
use std::time::Duration;

use cri_proto::csi::node_client::NodeClient;
use cri_proto::csi::{
    NodeExpandVolumeRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    node_service_capability,
};
use cri_proto::plugin_channel;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::error::CallError;

/// How long a call may take (upstream's `csiTimeout`).
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// A driver to be asked.
pub(super) struct Calls(NodeClient<Channel>);

/// Sends `message`, and waits for [`LIMIT`] at most; the driver is told so.
async fn timed<M, T, F>(message: M, call: impl FnOnce(Request<M>) -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(LIMIT);
    // On the heap, and only while in flight.
    match tokio::time::timeout(LIMIT, Box::pin(call(request))).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(CallError::of(&status)),
        Err(_) => Err(CallError::late(LIMIT)),
    }
}

impl Calls {
    /// To the driver that serves at `endpoint`. Nothing is opened yet.
    pub(super) fn to(endpoint: &Path) -> Self {
        Self(NodeClient::new(plugin_channel(endpoint)))
    }

    pub(super) async fn info(&mut self) -> Result<NodeGetInfoResponse, CallError> {
        timed(NodeGetInfoRequest {}, |request| {
            self.0.node_get_info(request)
        })
        .await
    }

    /// What it can do, by number.
    pub(super) async fn abilities(&mut self) -> Result<impl Iterator<Item = i32>, CallError> {
        let call = timed(NodeGetCapabilitiesRequest {}, |request| {
            self.0.node_get_capabilities(request)
        });
        let all = call.await?.capabilities.into_iter();
        let rpc = |node_service_capability::Type::Rpc(rpc)| rpc.r#type;
        Ok(all.filter_map(move |one| one.r#type.map(rpc)))
    }

    pub(super) async fn stage(&mut self, message: NodeStageVolumeRequest) -> Result<(), CallError> {
        let call = timed(message, |request| self.0.node_stage_volume(request));
        call.await.map(drop)
    }

    pub(super) async fn unstage(&mut self, volume: &str, staged_at: &str) -> Result<(), CallError> {
        let message = NodeUnstageVolumeRequest {
            volume_id: volume.to_owned(),
            staging_target_path: staged_at.to_owned(),
        };
        let call = timed(message, |request| self.0.node_unstage_volume(request));
        call.await.map(drop)
    }

    pub(super) async fn publish(
        &mut self,
        message: NodePublishVolumeRequest,
    ) -> Result<(), CallError> {
        let call = timed(message, |request| self.0.node_publish_volume(request));
        call.await.map(drop)
    }

    pub(super) async fn unpublish(&mut self, volume: &str, target: &str) -> Result<(), CallError> {
        let message = NodeUnpublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: target.to_owned(),
        };
        let call = timed(message, |request| self.0.node_unpublish_volume(request));
        call.await.map(drop)
    }

    /// The size afterwards, bytes.
    pub(super) async fn expand(
        &mut self,
        message: NodeExpandVolumeRequest,
    ) -> Result<i64, CallError> {
        let call = timed(message, |request| self.0.node_expand_volume(request));
        Ok(call.await?.capacity_bytes)
    }

    pub(super) async fn stats(
        &mut self,
        volume: &str,
        path: &str,
    ) -> Result<NodeGetVolumeStatsResponse, CallError> {
        let message = NodeGetVolumeStatsRequest {
            volume_id: volume.to_owned(),
            volume_path: path.to_owned(),
            staging_target_path: String::new(),
        };
        timed(message, |request| self.0.node_get_volume_stats(request)).await
    }
}
