//! A volume that a driver is to mount: what of the pod's spec, or of a PersistentVolume, the driver is told. Pure.

use std::collections::BTreeMap;

use cri_proto::csi::VolumeCapability;
use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use cri_proto::csi::volume_capability::access_mode::Mode;
use cri_proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use k8s_openapi::api::core::v1::{SecretReference, Volume};
use static_pods::quantity::Quantity;

use super::data::Lifecycle;
use super::drivers::Driver;
use super::names;
use super::object::FsGroupPolicy;
use crate::claims::{ClaimedVolume, VolumeMode};
use crate::pod::{self, Pod, PodName, PodUid};

/// A secret that the driver is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A volume of a pod that a driver is to mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsiVolume {
    /// Its name in the pod's spec.
    pub name: String,
    /// What its directories are called: the same, or the PersistentVolume's name.
    pub spec_name: String,
    /// The driver's name.
    pub driver: String,
    /// What the driver calls it.
    pub handle: String,
    /// How it lives.
    pub lifecycle: Lifecycle,
    /// `fsType`; empty for the driver's choice.
    pub fs_type: String,
    /// Whether the pod may not write.
    pub read_only: bool,
    /// `volumeAttributes`.
    pub attributes: BTreeMap<String, String>,
    /// For publishing.
    pub publish_secret: Option<SecretRef>,
    /// For staging.
    pub stage_secret: Option<SecretRef>,
    /// For growing.
    pub expand_secret: Option<SecretRef>,
    /// `accessModes` of the PersistentVolume.
    pub access_modes: Vec<String>,
    /// `mountOptions` of the PersistentVolume.
    pub mount_options: Vec<String>,
    /// A raw device, without a file system.
    pub block: bool,
    /// The group that whoever uses it has to be in.
    pub gid: Option<i64>,
    /// What the PersistentVolume is to have, bytes; none where nobody says.
    pub capacity: Option<i64>,
    /// The claim behind it.
    pub claim: Option<ClaimName>,
}

/// A claim of the pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimName {
    /// Its name.
    pub name: String,
    /// What it is said to have, bytes.
    pub capacity: Option<i64>,
}

/// The storage in a list of resources.
fn bytes(capacity: Option<&BTreeMap<String, String>>) -> Option<i64> {
    let text = capacity?.get("storage")?;
    let amount = Quantity::parse_amount(text).ok()?;
    Some(amount.value())
}

impl CsiVolume {
    /// A volume that lives as long as its pod; none where `volume` is of another kind.
    #[must_use]
    pub fn of_pod(volume: &Volume, pod: &Pod, uid: &PodUid) -> Option<Self> {
        let source = volume.csi.as_ref()?;
        let namespace = PodName::of(pod).namespace;
        let secret = source.node_publish_secret_ref.as_ref();
        Some(Self {
            name: volume.name.clone(),
            spec_name: volume.name.clone(),
            driver: source.driver.clone(),
            handle: names::ephemeral_handle(uid.as_str(), &volume.name),
            lifecycle: Lifecycle::Ephemeral,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: source.read_only.unwrap_or(false),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            publish_secret: secret.map(|secret| SecretRef {
                namespace: namespace.to_string(),
                name: secret.name.clone(),
            }),
            ..Self::default()
        })
    }

    /// The volume behind a claim; none where that is of another kind.
    #[must_use]
    pub fn of_claim(claimed: &ClaimedVolume) -> Option<Self> {
        let volume = &claimed.volume;
        let source = volume.spec.csi.as_ref()?;
        let secret = |secret: &Option<SecretReference>| {
            let secret = secret.as_ref()?;
            Some(SecretRef {
                namespace: secret.namespace.clone().unwrap_or_default(),
                name: secret.name.clone().unwrap_or_default(),
            })
        };
        Some(Self {
            name: claimed.name.clone(),
            spec_name: volume.metadata.name.clone(),
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            lifecycle: Lifecycle::Persistent,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: claimed.read_only || source.read_only.unwrap_or(false),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            publish_secret: secret(&source.node_publish_secret_ref),
            stage_secret: secret(&source.node_stage_secret_ref),
            expand_secret: secret(&source.node_expand_secret_ref),
            access_modes: volume.spec.access_modes.clone().unwrap_or_default(),
            mount_options: volume.mount_options(),
            block: volume.mode() == VolumeMode::Block,
            gid: volume.gid(),
            capacity: bytes(volume.spec.capacity.as_ref()),
            claim: Some(ClaimName {
                name: claimed.claim.clone(),
                capacity: bytes(Some(&claimed.claim_capacity)),
            }),
        })
    }

    /// Whether it is staged for the node before it is published to a pod.
    pub(super) fn is_staged(&self, driver: &Driver) -> bool {
        self.lifecycle == Lifecycle::Persistent && driver.can(Ability::StageUnstageVolume)
    }

    /// What the driver is to make of it. `fs_group` is for drivers that see to that themselves.
    pub(super) fn capability(
        &self,
        driver: &Driver,
        mount_options: &[String],
        fs_group: Option<i64>,
    ) -> VolumeCapability {
        let mode = access_mode(self.access_modes.first(), driver);
        let access_type = match self.block {
            true => AccessType::Block(BlockVolume {}),
            false => AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: mount_options.to_vec(),
                volume_mount_group: fs_group.map(|id| id.to_string()).unwrap_or_default(),
            }),
        };
        VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    /// Whether the agent is to give the volume's files to the pod's group (upstream's `supportsFSGroup`).
    pub(super) fn is_given_to_group(&self, policy: FsGroupPolicy) -> bool {
        if self.read_only || self.block {
            return false;
        }
        match policy {
            FsGroupPolicy::None => false,
            FsGroupPolicy::File => true,
            FsGroupPolicy::ReadWriteOnceWithFsType => {
                let one_node =
                    |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
                !self.fs_type.is_empty()
                    && (self.lifecycle == Lifecycle::Ephemeral
                        || self.access_modes.iter().any(one_node))
            }
        }
    }
}

/// CSI's word for an access mode of Kubernetes; the default one is ReadWriteOnce.
fn access_mode(mode: Option<&String>, driver: &Driver) -> Mode {
    let tells_pods_apart = driver.can(Ability::SingleNodeMultiWriter);
    match mode.map_or("ReadWriteOnce", String::as_str) {
        "ReadWriteOnce" if tells_pods_apart => Mode::SingleNodeMultiWriter,
        "ReadWriteOncePod" if tells_pods_apart => Mode::SingleNodeSingleWriter,
        "ReadWriteOnce" | "ReadWriteOncePod" => Mode::SingleNodeWriter,
        "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
        "ReadWriteMany" => Mode::MultiNodeMultiWriter,
        _ => Mode::Unknown,
    }
}

/// What a driver with `podInfoOnMount` is told of the pod.
pub(super) fn pod_info(pod: &Pod, lifecycle: Lifecycle) -> BTreeMap<String, String> {
    let name = PodName::of(pod);
    let account = pod::spec(pod).service_account_name.as_deref();
    let ephemeral = lifecycle == Lifecycle::Ephemeral;
    [
        ("pod.name", name.name.to_string()),
        ("pod.namespace", name.namespace.to_string()),
        ("pod.uid", pod.metadata.uid.clone().unwrap_or_default()),
        (
            "serviceAccount.name",
            account.unwrap_or_default().to_owned(),
        ),
        ("ephemeral", ephemeral.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::csi::drivers::some_driver;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u1"},
            "spec": {"containers": [], "serviceAccountName": "sa", "volumes": [{"name": "data", "csi": {
                "driver": "d.example", "fsType": "ext4", "volumeAttributes": {"size": "1"},
                "nodePublishSecretRef": {"name": "s"}}}]},
        }))
        .unwrap()
    }

    fn claimed(access: &[&str], fs_type: &str) -> CsiVolume {
        let volume = serde_json::from_value(
            json!({"name": "data", "claim": "c", "claim_uid": "u", "read_only": false,
                "claim_capacity": {"storage": "1Gi"}, "volume": {
                "metadata": {"name": "pv-1"},
                "spec": {"accessModes": access, "mountOptions": ["noatime"], "capacity": {"storage": "2Gi"}, "csi": {
                    "driver": "d.example", "volumeHandle": "vol-1", "fsType": fs_type,
                    "nodeStageSecretRef": {"namespace": "kube-system", "name": "s"}}},
            }}),
        );
        CsiVolume::of_claim(&volume.unwrap()).unwrap()
    }

    #[test]
    fn a_volume_of_a_pod_is_named_after_both() {
        let pod = pod();
        let uid = PodUid::parse("u1").unwrap();
        let volume = &pod::spec(&pod).volumes.as_ref().unwrap()[0];
        let volume = CsiVolume::of_pod(volume, &pod, &uid).unwrap();
        assert_eq!(volume.handle, names::ephemeral_handle("u1", "data"));
        assert_eq!(volume.lifecycle, Lifecycle::Ephemeral);
        let secret = volume.publish_secret.as_ref().unwrap();
        assert_eq!((&*secret.namespace, &*secret.name), ("ns", "s"));
        assert!(volume.is_given_to_group(FsGroupPolicy::ReadWriteOnceWithFsType));
        let told = pod_info(&pod, volume.lifecycle);
        assert_eq!(told["csi.storage.k8s.io/pod.name"], "p");
        assert_eq!(told["csi.storage.k8s.io/serviceAccount.name"], "sa");
        assert_eq!(told["csi.storage.k8s.io/ephemeral"], "true");
        assert_eq!(told.len(), 5);
    }

    #[test]
    fn a_claims_volume_is_its_drivers() {
        let volume = claimed(&["ReadWriteOnce"], "xfs");
        assert_eq!((&*volume.spec_name, &*volume.handle), ("pv-1", "vol-1"));
        assert_eq!(volume.capacity, Some(2 << 30));
        assert_eq!(volume.claim.as_ref().unwrap().capacity, Some(1 << 30));
        let mut driver = some_driver((1, 0, 0));
        assert!(!volume.is_staged(&driver));
        driver.abilities = [
            Ability::StageUnstageVolume.into(),
            Ability::SingleNodeMultiWriter.into(),
        ]
        .into();
        assert!(volume.is_staged(&driver));
        let wanted = volume.capability(&driver, &volume.mount_options, Some(7));
        let mode = wanted.access_mode.unwrap().mode();
        assert_eq!(mode, Mode::SingleNodeMultiWriter);
        let Some(AccessType::Mount(mount)) = wanted.access_type else {
            panic!("a mount");
        };
        assert_eq!(mount.mount_flags, ["noatime"]);
        assert_eq!((&*mount.fs_type, &*mount.volume_mount_group), ("xfs", "7"));
    }

    #[test]
    fn who_gives_files_to_the_group_is_the_policys_affair() {
        use FsGroupPolicy::{File, None, ReadWriteOnceWithFsType as Known};
        let cases = [
            (claimed(&["ReadWriteOnce"], "xfs"), [false, true, true]),
            (claimed(&["ReadWriteOncePod"], "xfs"), [false, true, true]),
            (claimed(&["ReadWriteMany"], "xfs"), [false, true, false]),
            (claimed(&["ReadWriteOnce"], ""), [false, true, false]),
            (claimed(&[], "xfs"), [false, true, false]),
        ];
        for (volume, expected) in cases {
            let given = [None, File, Known].map(|policy| volume.is_given_to_group(policy));
            assert_eq!(given, expected, "{volume:?}");
            let read_only = CsiVolume {
                read_only: true,
                ..volume
            };
            assert!(!read_only.is_given_to_group(File));
        }
    }
}
