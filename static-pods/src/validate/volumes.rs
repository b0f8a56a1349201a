//! Rules for volumes: names, one source each, paths.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use super::{Errors, names};
use crate::quantity::Quantity;

/// The volumes that mounts may name.
pub(super) struct Volumes<'a>(BTreeSet<&'a str>);

impl Volumes<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// Checks all volumes; those without an error may be mounted.
pub(super) fn check<'a>(spec: &'a PodSpec, errors: &mut Errors) -> Volumes<'a> {
    let mut good = BTreeSet::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("spec.volumes[{i}]");
        let before = errors.0.len();
        source(&path, volume, errors);
        let name = volume.name.as_str();
        match name {
            "" => errors.required(format!("{path}.name"), ""),
            name => errors.all(&format!("{path}.name"), name, names::label(name)),
        }
        if good.contains(name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        if errors.0.len() == before {
            good.insert(name);
        }
    }
    Volumes(good)
}

fn source(path: &str, volume: &Volume, errors: &mut Errors) {
    let sources = sources_of(volume);
    for extra in sources.iter().skip(1) {
        errors.forbidden(
            format!("{path}.{extra}"),
            "may not specify more than 1 volume type",
        );
    }
    if let Some(host_path) = &volume.host_path {
        let path = format!("{path}.hostPath");
        if host_path.path.is_empty() {
            errors.required(format!("{path}.path"), "");
        } else {
            no_backsteps(&format!("{path}.path"), &host_path.path, errors);
            let kind = host_path.type_.as_deref().unwrap_or_default();
            let supported = [
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            errors.one_of(format!("{path}.type"), kind, &supported);
        }
    }
    if let Some(size) = volume
        .empty_dir
        .as_ref()
        .and_then(|e| e.size_limit.as_ref())
    {
        let path = format!("{path}.emptyDir.sizeLimit");
        match Quantity::parse(&size.0) {
            Ok(size) if size.milli() < 0 => {
                errors.forbidden(path, "SizeLimit field must be a valid resource quantity");
            }
            Ok(_) => {}
            Err(e) => errors.invalid(path, size.0.as_str(), &e.to_string()),
        }
    }
    if let Some(nfs) = &volume.nfs {
        if nfs.server.is_empty() {
            errors.required(format!("{path}.nfs.server"), "");
        }
        if nfs.path.is_empty() {
            errors.required(format!("{path}.nfs.path"), "");
        } else if !nfs.path.starts_with('/') {
            errors.invalid(
                format!("{path}.nfs.path"),
                nfs.path.as_str(),
                "must be an absolute path",
            );
        }
    }
}

/// The names of the sources that are set, in the order of the API's fields.
fn sources_of(volume: &Volume) -> Vec<&'static str> {
    let v = volume;
    let all = [
        ("emptyDir", v.empty_dir.is_some()),
        ("hostPath", v.host_path.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("secret", v.secret.is_some()),
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("flocker", v.flocker.is_some()),
        ("persistentVolumeClaim", v.persistent_volume_claim.is_some()),
        ("rbd", v.rbd.is_some()),
        ("cinder", v.cinder.is_some()),
        ("cephFS", v.cephfs.is_some()),
        ("quobyte", v.quobyte.is_some()),
        ("downwardAPI", v.downward_api.is_some()),
        ("fc", v.fc.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("configMap", v.config_map.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("storageos", v.storageos.is_some()),
        ("projected", v.projected.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("csi", v.csi.is_some()),
        ("ephemeral", v.ephemeral.is_some()),
        ("image", v.image.is_some()),
    ];
    all.into_iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| name)
        .collect()
}

pub(super) fn no_backsteps(path: &str, value: &str, errors: &mut Errors) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}
