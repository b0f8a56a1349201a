//! Persistent volumes, which pods have by way of claims.

use std::path::Path;

use k8s_openapi::api::core::v1::Volume;

use super::device::Devices;
use super::present::{HOST_PATH, qualified};
use super::{HostVolume, SetUpError, block, host_path, local, nfs};
use crate::claims::{ClaimedVolume, VolumeMode};
use crate::pod::{Pod, PodUid};
use crate::poddir::PodDir;

/// What a volume that is mounted is set up with.
pub(super) struct Work<'a> {
    pub(super) pod: &'a Pod,
    pub(super) uid: &'a PodUid,
    /// The pod's directory.
    pub(super) dir: &'a PodDir,
    /// The directory of all pods.
    pub(super) pods: &'a Path,
    /// The agent's root directory.
    pub(super) root: &'a Path,
    pub(super) devices: &'a Devices,
    /// `mounter` of the configuration.
    pub(super) mounter: Option<&'a Path>,
    /// Whether anybody still waits for it.
    pub(super) is_awaited: &'a dyn Fn() -> bool,
}

/// Makes the volume behind a claim ready for the pod that has it, and says where it lies.
pub(super) fn set_up(work: &Work<'_>, claimed: &ClaimedVolume) -> Result<HostVolume, SetUpError> {
    let volume = &claimed.volume;
    let device = volume.mode() == VolumeMode::Block;
    let spec = &volume.spec;
    let path = if let Some(source) = &spec.host_path {
        match (device, volume.mount_options().is_empty()) {
            (true, _) => Err(SetUpError::NoBlock),
            (false, false) => Err(SetUpError::NoMountOptions),
            (false, true) => host_path::check(source),
        }
    } else if let Some(source) = &spec.local {
        match device {
            true => block::map_local(work, &volume.metadata.name, source),
            false => local::set_up(work, claimed, source),
        }
    } else if let Some(source) = &spec.nfs {
        let (name, options) = (&volume.metadata.name, volume.mount_options());
        match device {
            true => Err(SetUpError::NoBlock),
            false => nfs::set_up(work, name, source, claimed.read_only, options),
        }
    } else {
        Err(SetUpError::NoPlugin)
    };
    Ok(HostVolume {
        path: path?,
        read_only: claimed.read_only,
        device,
        gid: volume.gid(),
    })
}

/// What upstream calls the kind of the volume behind a claim; none for one that is not built.
pub(super) fn plugin(claimed: &ClaimedVolume) -> Option<String> {
    let spec = &claimed.volume.spec;
    let directory = if spec.host_path.is_some() {
        HOST_PATH
    } else if spec.local.is_some() {
        local::PLUGIN
    } else if spec.nfs.is_some() {
        nfs::PLUGIN
    } else {
        return None;
    };
    Some(qualified(directory))
}

/// Whether setting `volume` up may take as long as somebody else likes.
pub(super) fn may_hang(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || volume.nfs.is_some()
}
