//! Claims and persistent volumes with no more than the agent uses of them, as the API server has them and as they are kept.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, HostPathVolumeSource, LocalVolumeSource, NFSVolumeSource,
    VolumeNodeAffinity,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::{Deserialize, Serialize};

/// Where a volume of old names its mount options, before `spec.mountOptions` was (`v1.MountOptionAnnotation`).
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
/// The group that may use a volume (`VolumeGidAnnotationKey`).
const GID: &str = "pv.beta.kubernetes.io/gid";

/// A PersistentVolumeClaim (`v1`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Claim {
    pub(super) metadata: ClaimMetadata,
    pub(super) spec: ClaimSpec,
    pub(super) status: ClaimStatus,
}

/// `metadata` of a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ClaimMetadata {
    pub(super) uid: String,
    pub(super) deletion_timestamp: Option<String>,
    pub(super) finalizers: Option<Vec<String>>,
    pub(super) owner_references: Option<Vec<OwnerReference>>,
}

/// `spec` of a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ClaimSpec {
    pub(super) volume_name: String,
}

/// `status` of a claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ClaimStatus {
    pub(super) phase: String,
    /// What it has been given; `storage` above all.
    pub(super) capacity: Option<BTreeMap<String, String>>,
}

/// A PersistentVolume (`v1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistentVolume {
    /// `metadata`.
    pub metadata: VolumeMetadata,
    /// `spec`.
    pub spec: VolumeSpec,
}

/// `metadata` of a persistent volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMetadata {
    /// `name`.
    pub name: String,
    /// `annotations`.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// `spec` of a persistent volume. At most one of the sources is set; none, where it is of a kind that is not built.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeSpec {
    /// `accessModes`: `ReadWriteOnce` …
    pub access_modes: Option<Vec<String>>,
    /// `capacity`: `storage` as a quantity.
    pub capacity: Option<BTreeMap<String, String>>,
    /// `claimRef`: the claim it belongs to.
    pub claim_ref: Option<ClaimReference>,
    /// `mountOptions`; see [`PersistentVolume::mount_options`].
    pub mount_options: Option<Vec<String>>,
    /// `nodeAffinity`.
    pub node_affinity: Option<VolumeNodeAffinity>,
    /// `volumeMode`; see [`PersistentVolume::mode`].
    pub volume_mode: Option<String>,
    /// A volume of a CSI driver.
    pub csi: Option<CSIPersistentVolumeSource>,
    /// A directory or file of the node.
    pub host_path: Option<HostPathVolumeSource>,
    /// A directory or block device of the node.
    pub local: Option<LocalVolumeSource>,
    /// An export of an NFS server.
    pub nfs: Option<NFSVolumeSource>,
}

/// `claimRef` of a persistent volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimReference {
    /// The claim's `metadata.uid`.
    pub uid: String,
}

/// What a volume is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeMode {
    /// Files, mounted (`volumeMounts`).
    Filesystem,
    /// A block device without a file system (`volumeDevices`).
    Block,
}

impl VolumeMode {
    /// As the API has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filesystem => "Filesystem",
            Self::Block => "Block",
        }
    }
}

impl PersistentVolume {
    /// `spec.volumeMode`; files where it does not say.
    #[must_use]
    pub fn mode(&self) -> VolumeMode {
        match self.spec.volume_mode.as_deref() {
            Some("Block") => VolumeMode::Block,
            _ => VolumeMode::Filesystem,
        }
    }

    /// What it is to be mounted with: its annotation's word where there is one, else `spec.mountOptions`.
    #[must_use]
    pub fn mount_options(&self) -> Vec<String> {
        match self.annotation(MOUNT_OPTIONS) {
            Some(options) => options.split(',').map(str::to_owned).collect(),
            None => self.spec.mount_options.clone().unwrap_or_default(),
        }
    }

    /// The group that its user has to be in, as its annotation has it; none where that is no group id.
    #[must_use]
    pub fn gid(&self) -> Option<i64> {
        self.annotation(GID)?.parse().ok()
    }

    /// Whether only one pod at a time may use it: where there is another access mode, nobody knows which one is meant.
    #[must_use]
    pub fn is_for_one_pod(&self) -> bool {
        let modes = self.spec.access_modes.as_deref();
        matches!(modes, Some([only]) if only == "ReadWriteOncePod")
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata
            .annotations
            .as_ref()?
            .get(key)
            .map(String::as_str)
    }
}
