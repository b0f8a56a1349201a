//! Which claims a pod has, and whether what the API server says of them will do. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Container;

use super::error::ClaimError;
use super::objects::{Claim, PersistentVolume, VolumeMode};
use crate::pod::{self, Pod, PodName};

/// Keeps a claim that is being deleted for as long as a pod has it (`PVCProtectionFinalizer`).
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// A volume of a pod that a claim stands behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its name in the pod's spec.
    pub(super) volume: String,
    /// The claim's name, in the pod's namespace.
    pub(super) claim: String,
    /// The claim is made for the pod (a generic ephemeral volume), and has to be owned by it.
    pub(super) ephemeral: bool,
    /// `persistentVolumeClaim.readOnly`.
    pub(super) read_only: bool,
}

/// The volumes that containers of a pod use, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// In `volumeMounts`.
    pub(super) mounted: BTreeSet<String>,
    /// In `volumeDevices`.
    pub(super) devices: BTreeSet<String>,
}

impl Used {
    pub(super) fn of(pod: &Pod) -> Self {
        let mut used = Self::default();
        let mut add = |container: &Container| {
            let mounts = container.volume_mounts.iter().flatten();
            used.mounted.extend(mounts.map(|mount| mount.name.clone()));
            let devices = container.volume_devices.iter().flatten();
            used.devices
                .extend(devices.map(|device| device.name.clone()));
        };
        for (_, container) in pod::containers(pod) {
            add(container);
        }
        for container in pod::ephemeral_containers(pod) {
            add(&container);
        }
        used
    }

    /// Whether some container uses the volume `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.mounted.contains(name) || self.devices.contains(name)
    }

    /// All of them, sorted.
    pub(super) fn all(&self) -> Vec<&str> {
        let all: BTreeSet<_> = self.mounted.union(&self.devices).collect();
        all.into_iter().map(String::as_str).collect()
    }
}

/// The claims behind the volumes that `pod` uses. As upstream, one that no container uses is not looked at.
pub(super) fn wanted(pod: &Pod, used: &Used) -> Vec<Wanted> {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    let volumes = volumes.filter(|volume| used.has(&volume.name));
    let of_claims = volumes.filter_map(|volume| {
        let wanted = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Wanted {
                volume: volume.name.clone(),
                claim: source.claim_name.clone(),
                ephemeral: false,
                read_only: source.read_only.unwrap_or(false),
            },
            (None, Some(_)) => Wanted {
                volume: volume.name.clone(),
                claim: format!("{}-{}", PodName::of(pod).name, volume.name),
                ephemeral: true,
                read_only: false,
            },
            (None, None) => return None,
        };
        Some(wanted)
    });
    of_claims.collect()
}

/// Whether the pod may go by `claim`; gives the name of the volume behind it.
pub(super) fn check_claim<'c>(
    pod: &Pod,
    wanted: &Wanted,
    claim: &'c Claim,
) -> Result<&'c str, ClaimError> {
    let metadata = &claim.metadata;
    let protected = metadata.finalizers.iter().flatten();
    let protected = protected.into_iter().any(|name| name == PROTECTION);
    if metadata.deletion_timestamp.is_some() && !protected {
        return Err(ClaimError::Deleted);
    }
    if claim.status.phase != "Bound" {
        return Err(ClaimError::NotBound);
    }
    if claim.spec.volume_name.is_empty() {
        return Err(ClaimError::NoVolumeName);
    }
    if wanted.ephemeral {
        let mut owners = metadata.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true));
        let uid = pod.metadata.uid.as_deref();
        if controller.is_none_or(|owner| Some(owner.uid.as_str()) != uid) {
            return Err(ClaimError::NotOwned);
        }
    }
    Ok(&claim.spec.volume_name)
}

/// Whether `volume`, the one that the claim of this `claim_uid` names, belongs to it.
pub(super) fn check_bound(volume: &PersistentVolume, claim_uid: &str) -> Result<(), ClaimError> {
    let name = || volume.metadata.name.clone();
    match &volume.spec.claim_ref {
        None => Err(ClaimError::NoClaimRef { volume: name() }),
        Some(of) if of.uid != claim_uid => Err(ClaimError::OtherClaim {
            volume: name(),
            uid: of.uid.clone(),
            wanted: claim_uid.to_owned(),
        }),
        Some(_) => Ok(()),
    }
}

/// Whether the pod uses `volume` as what it is.
pub(super) fn check_mode(
    volume: &PersistentVolume,
    wanted: &Wanted,
    used: &Used,
) -> Result<(), ClaimError> {
    let mode = volume.mode();
    let wrong = |field| ClaimError::Mode {
        volume: wanted.volume.clone(),
        mode: mode.as_str(),
        field,
    };
    if used.mounted.contains(&wanted.volume) && mode != VolumeMode::Filesystem {
        return Err(wrong("volumeMounts"));
    }
    if used.devices.contains(&wanted.volume) && mode != VolumeMode::Block {
        return Err(wrong("volumeDevices"));
    }
    Ok(())
}
