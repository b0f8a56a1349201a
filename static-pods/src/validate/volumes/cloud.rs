//! Disks and shares of clouds. No kubelet mounts most of them itself any more; a manifest may still name them.

use k8s_openapi::api::core::v1::{
    AWSElasticBlockStoreVolumeSource, AzureDiskVolumeSource, AzureFileVolumeSource,
    CinderVolumeSource, GCEPersistentDiskVolumeSource, PhotonPersistentDiskVolumeSource,
    PortworxVolumeSource, VsphereVirtualDiskVolumeSource,
};

use super::super::Errors;
use super::network::secret_name;

/// Upstream takes 0, none, as well.
fn partition(path: &str, partition: Option<i32>, errors: &mut Errors) {
    if let Some(number) = partition.filter(|p| !(0..=255).contains(p)) {
        let detail = "must be between 1 and 255, inclusive";
        errors.invalid(format!("{path}.partition"), number, detail);
    }
}

pub(super) fn gce_disk(path: &str, disk: &GCEPersistentDiskVolumeSource, errors: &mut Errors) {
    errors.present(path, "pdName", &disk.pd_name);
    partition(path, disk.partition, errors);
}

pub(super) fn aws_disk(path: &str, disk: &AWSElasticBlockStoreVolumeSource, errors: &mut Errors) {
    errors.present(path, "volumeID", &disk.volume_id);
    partition(path, disk.partition, errors);
}

pub(super) fn cinder(path: &str, volume: &CinderVolumeSource, errors: &mut Errors) {
    errors.present(path, "volumeID", &volume.volume_id);
    secret_name(path, "secretRef", volume.secret_ref.as_ref(), errors);
}

pub(super) fn vsphere(path: &str, disk: &VsphereVirtualDiskVolumeSource, errors: &mut Errors) {
    errors.present(path, "volumePath", &disk.volume_path);
}

pub(super) fn photon(path: &str, disk: &PhotonPersistentDiskVolumeSource, errors: &mut Errors) {
    errors.present(path, "pdID", &disk.pd_id);
}

pub(super) fn portworx(path: &str, volume: &PortworxVolumeSource, errors: &mut Errors) {
    errors.present(path, "volumeID", &volume.volume_id);
}

pub(super) fn azure_file(path: &str, share: &AzureFileVolumeSource, errors: &mut Errors) {
    errors.present(path, "secretName", &share.secret_name);
    errors.present(path, "shareName", &share.share_name);
}

pub(super) fn azure_disk(path: &str, disk: &AzureDiskVolumeSource, errors: &mut Errors) {
    const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str =
        "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    errors.present(path, "diskName", &disk.disk_name);
    errors.present(path, "diskURI", &disk.disk_uri);
    if let Some(mode) = &disk.caching_mode {
        let supported = ["None", "ReadOnly", "ReadWrite"];
        errors.unsupported(format!("{path}.cachingMode"), mode, &supported);
    }
    let Some(kind) = disk.kind.as_deref() else {
        return;
    };
    errors.unsupported(
        format!("{path}.kind"),
        kind,
        &["Dedicated", "Managed", "Shared"],
    );
    let (begin, form) = match kind {
        "Managed" => ("/subscriptions/", MANAGED),
        _ => ("https://", BLOB),
    };
    if !disk.disk_uri.starts_with(begin) {
        errors.unsupported_text(format!("{path}.diskURI"), disk.disk_uri.as_str(), &[form]);
    }
}
