//! Persistent volumes, which pods have by way of claims.

use super::present::{HOST_PATH, qualified};
use super::{HostVolume, SetUpError, host_path};
use crate::claims::{ClaimedVolume, VolumeMode};

/// Makes the volume behind a claim ready for the pod that has it, and says where it lies.
pub(super) fn set_up(claimed: &ClaimedVolume) -> Result<HostVolume, SetUpError> {
    let volume = &claimed.volume;
    let place = |path| HostVolume {
        path,
        read_only: claimed.read_only,
        device: false,
        gid: volume.gid(),
    };
    match (&volume.spec.host_path, volume.mode()) {
        (Some(source), VolumeMode::Filesystem) => {
            if !volume.mount_options().is_empty() {
                return Err(SetUpError::NoMountOptions);
            }
            host_path::check(source).map(place)
        }
        _ => Err(SetUpError::NoPlugin),
    }
}

/// What upstream calls the kind of the volume behind a claim; none for one that is not built.
pub(super) fn plugin(claimed: &ClaimedVolume) -> Option<String> {
    let spec = &claimed.volume.spec;
    spec.host_path.as_ref().map(|_| qualified(HOST_PATH))
}
