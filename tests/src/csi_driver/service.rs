//! The calls.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cri_proto::csi::node_server::Node;
use cri_proto::csi::volume_capability::AccessType;
use cri_proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
    NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest,
    NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology, VolumeCapability,
    VolumeCondition, VolumeUsage, node_service_capability, volume_usage,
};
use cri_proto::pluginregistration::registration_server::Registration;
use cri_proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use tonic::{Request, Response, Status};

use super::{Call, Shared};

/// What both servers are made of.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) endpoint: String,
}

type Answer<T> = Result<Response<T>, Status>;

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Status {
    Status::internal(format!("{what} {}: {error}", path.display()))
}

/// Whether something is mounted at `path`, in this thread's namespace. Test directories have no blanks in their names.
fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.any(|point| Path::new(point) == path)
}

impl Service {
    /// Writes a call down; does what the test has ordered for its method.
    async fn enter(&self, call: Call) -> Result<(), Status> {
        let method = call.method;
        let failing = {
            let mut state = self.shared.state();
            state.calls.push(call);
            state.failing.get(method).copied()
        };
        let mut hanging = self.shared.hanging.subscribe();
        // The sender is in `self`.
        let _ = hanging.wait_for(|all| !all.contains(method)).await;
        match failing {
            Some(code) => Err(Status::new(code, format!("{method} fails in this test"))),
            None => Ok(()),
        }
    }

    /// The directory of a volume's own files, with its name in one of them.
    fn data(&self, volume: &str) -> Result<std::path::PathBuf, Status> {
        let dir = self.shared.data.join(volume);
        let made = fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join("volume"), volume));
        made.map_err(|error| failed("make", &dir, &error))?;
        Ok(dir)
    }

    fn mount(&self, from: &Path, at: &Path, read_only: bool) -> Result<(), Status> {
        fs::create_dir_all(at).map_err(|error| failed("make", at, &error))?;
        if is_mounted(at) {
            return Ok(());
        }
        mount_bind(from, at).map_err(|errno| failed("mount", at, &errno.into()))?;
        self.shared.state().mounted.insert(at.to_owned());
        if read_only {
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            mount_remount(at, flags, c"").map_err(|errno| failed("remount", at, &errno.into()))?;
        }
        Ok(())
    }

    fn unmount(&self, at: &Path) -> Result<(), Status> {
        if is_mounted(at) {
            unmount(at, UnmountFlags::empty())
                .map_err(|errno| failed("unmount", at, &errno.into()))?;
        }
        self.shared.state().mounted.remove(at);
        Ok(())
    }
}

/// What a call wants a volume as.
fn with_capability(mut call: Call, capability: Option<&VolumeCapability>) -> Call {
    let Some(capability) = capability else {
        return call;
    };
    call.access_mode = capability.access_mode.as_ref().map_or(0, |mode| mode.mode);
    match &capability.access_type {
        Some(AccessType::Mount(mount)) => {
            call.flags.clone_from(&mount.mount_flags);
            call.group.clone_from(&mount.volume_mount_group);
        }
        Some(AccessType::Block(_)) => call.block = true,
        None => {}
    }
    call
}

#[tonic::async_trait]
impl Node for Service {
    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        let call = Call {
            method: "NodeGetInfo",
            ..Call::default()
        };
        self.enter(call).await?;
        let traits = &self.shared.traits;
        let segments = traits.topology.clone();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: format!("id-of-{}", traits.name),
            max_volumes_per_node: traits.most_volumes,
            accessible_topology: (!segments.is_empty()).then_some(Topology { segments }),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        let all = self.shared.traits.abilities.iter();
        let capabilities = all.map(|ability| NodeServiceCapability {
            r#type: Some(node_service_capability::Type::Rpc(
                node_service_capability::Rpc {
                    r#type: (*ability).into(),
                },
            )),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities.collect(),
        }))
    }

    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        let call = Call {
            method: "NodeStageVolume",
            volume: request.volume_id.clone(),
            staged_at: request.staging_target_path.clone(),
            context: request.volume_context,
            publish_context: request.publish_context,
            secrets: request.secrets,
            ..Call::default()
        };
        let call = with_capability(call, request.volume_capability.as_ref());
        let block = call.block;
        self.enter(call).await?;
        let data = self.data(&request.volume_id)?;
        if !block {
            self.mount(&data, Path::new(&request.staging_target_path), false)?;
        }
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        let call = Call {
            method: "NodeUnstageVolume",
            volume: request.volume_id,
            staged_at: request.staging_target_path.clone(),
            ..Call::default()
        };
        self.enter(call).await?;
        self.unmount(Path::new(&request.staging_target_path))?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        let call = Call {
            method: "NodePublishVolume",
            volume: request.volume_id.clone(),
            target: request.target_path.clone(),
            staged_at: request.staging_target_path.clone(),
            context: request.volume_context,
            publish_context: request.publish_context,
            secrets: request.secrets,
            read_only: request.readonly,
            ..Call::default()
        };
        let call = with_capability(call, request.volume_capability.as_ref());
        let block = call.block;
        self.enter(call).await?;
        let target = Path::new(&request.target_path);
        if block {
            if !is_mounted(target) {
                let made = fs::write(target, "");
                made.map_err(|error| failed("make", target, &error))?;
                mount_bind("/dev/null", target)
                    .map_err(|errno| failed("mount", target, &errno.into()))?;
                self.shared.state().mounted.insert(target.to_owned());
            }
            return Ok(Response::new(NodePublishVolumeResponse {}));
        }
        let staged = Path::new(&request.staging_target_path);
        let from = match request.staging_target_path.is_empty() {
            true => self.data(&request.volume_id)?,
            false if is_mounted(staged) => staged.to_owned(),
            false => {
                return Err(Status::failed_precondition(format!(
                    "nothing is staged at {}",
                    staged.display()
                )));
            }
        };
        self.mount(&from, target, request.readonly)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        let call = Call {
            method: "NodeUnpublishVolume",
            volume: request.volume_id,
            target: request.target_path.clone(),
            ..Call::default()
        };
        self.enter(call).await?;
        let target = Path::new(&request.target_path);
        self.unmount(target)?;
        let removed = match fs::symlink_metadata(target) {
            Ok(entry) if entry.is_dir() => fs::remove_dir(target),
            Ok(_) => fs::remove_file(target),
            Err(_) => Ok(()),
        };
        removed.map_err(|error| failed("remove", target, &error))?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Answer<NodeGetVolumeStatsResponse> {
        let request = request.into_inner();
        let call = Call {
            method: "NodeGetVolumeStats",
            volume: request.volume_id,
            target: request.volume_path,
            ..Call::default()
        };
        self.enter(call).await?;
        let usage = |unit: volume_usage::Unit, total: i64, used: i64| VolumeUsage {
            total,
            used,
            available: total - used,
            unit: unit.into(),
        };
        let condition = self.shared.state().condition.clone();
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: vec![
                usage(volume_usage::Unit::Bytes, 1 << 30, 1 << 20),
                usage(volume_usage::Unit::Inodes, 1000, 7),
            ],
            volume_condition: Some(VolumeCondition {
                abnormal: condition.is_some(),
                message: condition.unwrap_or_default(),
            }),
        }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let bytes = request.capacity_range.map_or(0, |r| r.required_bytes);
        let call = Call {
            method: "NodeExpandVolume",
            volume: request.volume_id,
            target: request.volume_path,
            staged_at: request.staging_target_path,
            secrets: request.secrets,
            bytes,
            ..Call::default()
        };
        self.enter(call).await?;
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: bytes,
        }))
    }
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        let traits = &self.shared.traits;
        let (kind, versions) = traits.plugin.clone();
        Ok(Response::new(PluginInfo {
            r#type: kind,
            name: traits.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: versions,
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        let status = request.into_inner();
        let mut state = self.shared.state();
        state.told.push((status.plugin_registered, status.error));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
