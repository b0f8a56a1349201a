//! Rules for volumes: names, one source each, and what each kind of source asks for.
//!
//! `files` has the kinds whose content comes from the node or the API, `projected` those that are put together,
//! `network` and `cloud` the ones that a storage system serves, `claim` the ones behind a claim.

mod claim;
mod cloud;
mod files;
mod network;
mod projected;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::shown::quoted;
use super::{Errors, names};

/// The volumes that containers may name.
pub(super) struct Volumes<'a>(BTreeMap<&'a str, &'a Volume>);

impl<'a> Volumes<'a> {
    /// The volume of this name.
    pub(super) fn get(&self, name: &str) -> Option<&'a Volume> {
        self.0.get(name).copied()
    }
}

/// Checks all volumes of the pod that `meta` names; those without an error may be mounted.
pub(super) fn check<'a>(meta: &ObjectMeta, spec: &'a PodSpec, errors: &mut Errors) -> Volumes<'a> {
    let pod = meta.name.as_deref().unwrap_or_default();
    let volumes = || spec.volumes.iter().flatten();
    let made: BTreeSet<String> = volumes()
        .filter(|v| v.ephemeral.is_some() && !pod.is_empty())
        .map(|v| format!("{pod}-{}", v.name))
        .collect();
    let mut good = BTreeMap::new();
    for (i, volume) in volumes().enumerate() {
        let path = format!("spec.volumes[{i}]");
        let before = errors.0.len();
        source(&path, volume, pod, errors);
        let name = volume.name.as_str();
        errors.named(&format!("{path}.name"), name, names::label);
        if good.contains_key(name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        if errors.0.len() == before {
            good.insert(name, volume);
        }
        let claim = volume.persistent_volume_claim.as_ref();
        if let Some(claim) = claim.filter(|c| made.contains(&c.claim_name)) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            let path = format!("{path}.persistentVolumeClaim.claimName");
            errors.invalid(path, claim.claim_name.as_str(), detail);
        }
    }
    service_account_tokens(spec, errors);
    Volumes(good)
}

/// The sources of one volume as they are met: the first is checked, the others are too many.
struct Sources<'a> {
    path: &'a str,
    errors: &'a mut Errors,
    met: bool,
}

impl Sources<'_> {
    fn kind<T>(&mut self, field: &str, source: &Option<T>, check: fn(&str, &T, &mut Errors)) {
        self.kind_as(field, field, field, source, check);
    }

    /// A kind whose errors upstream reports at `own` and, when it comes second, at `second`, though its field is
    /// `field`.
    fn kind_as<T>(
        &mut self,
        field: &str,
        own: &str,
        second: &str,
        source: &Option<T>,
        check: fn(&str, &T, &mut Errors),
    ) {
        let Some(source) = source else {
            return;
        };
        let real = format!("{}.{field}", self.path);
        let shown = |name: &str| format!("{}.{name}", self.path);
        if self.met {
            let (path, detail) = (shown(second), "may not specify more than 1 volume type");
            let report = |errors: &mut Errors| errors.forbidden(path.as_str(), detail);
            self.errors.standing_at(&path, &real, report);
        } else {
            let path = shown(own);
            let check = |errors: &mut Errors| check(&path, source, errors);
            self.errors.standing_at(&path, &real, check);
        }
        self.met = true;
    }
}

fn source(path: &str, v: &Volume, pod: &str, errors: &mut Errors) {
    let mut sources = Sources {
        path,
        errors,
        met: false,
    };
    let s = &mut sources;
    s.kind("emptyDir", &v.empty_dir, files::empty_dir);
    s.kind("hostPath", &v.host_path, files::host_path);
    s.kind("gitRepo", &v.git_repo, files::git_repo);
    s.kind_as(
        "gcePersistentDisk",
        "persistentDisk",
        "gcePersistentDisk",
        &v.gce_persistent_disk,
        cloud::gce_disk,
    );
    s.kind(
        "awsElasticBlockStore",
        &v.aws_elastic_block_store,
        cloud::aws_disk,
    );
    s.kind("secret", &v.secret, files::secret);
    s.kind("nfs", &v.nfs, network::nfs);
    s.kind("iscsi", &v.iscsi, network::iscsi);
    if let Some(iscsi) = &v.iscsi {
        network::iscsi_name(path, &v.name, iscsi, s.errors);
    }
    s.kind("glusterfs", &v.glusterfs, network::glusterfs);
    s.kind("flocker", &v.flocker, network::flocker);
    s.kind(
        "persistentVolumeClaim",
        &v.persistent_volume_claim,
        claim::reference,
    );
    s.kind("rbd", &v.rbd, network::rbd);
    s.kind("cinder", &v.cinder, cloud::cinder);
    s.kind_as("cephfs", "cephfs", "cephFS", &v.cephfs, network::cephfs);
    s.kind("quobyte", &v.quobyte, network::quobyte);
    s.kind_as(
        "downwardAPI",
        "downwardAPI",
        "downwarAPI",
        &v.downward_api,
        files::downward_api,
    );
    s.kind("fc", &v.fc, network::fibre_channel);
    s.kind("flexVolume", &v.flex_volume, network::flex);
    s.kind("configMap", &v.config_map, files::config_map);
    s.kind("azureFile", &v.azure_file, cloud::azure_file);
    s.kind("vsphereVolume", &v.vsphere_volume, cloud::vsphere);
    s.kind(
        "photonPersistentDisk",
        &v.photon_persistent_disk,
        cloud::photon,
    );
    s.kind("portworxVolume", &v.portworx_volume, cloud::portworx);
    s.kind("azureDisk", &v.azure_disk, cloud::azure_disk);
    s.kind("storageos", &v.storageos, network::storage_os);
    s.kind("projected", &v.projected, projected::check);
    s.kind("scaleIO", &v.scale_io, network::scale_io);
    s.kind("csi", &v.csi, network::csi);
    let claims_own = v.ephemeral.is_some() && !s.met;
    s.kind("ephemeral", &v.ephemeral, claim::ephemeral);
    if claims_own && !pod.is_empty() && !v.name.is_empty() {
        let claim = format!("{pod}-{}", v.name);
        for message in names::subdomain(&claim) {
            let detail = format!("PVC name {}: {message}", quoted(&claim));
            s.errors
                .invalid(format!("{path}.name"), v.name.as_str(), &detail);
        }
    }
    s.kind("image", &v.image, files::image);
    if !s.met {
        s.errors.required(path, "must specify a volume type");
    }
}

/// A token is some service account's.
fn service_account_tokens(spec: &PodSpec, errors: &mut Errors) {
    let account = spec.service_account_name.as_deref().unwrap_or_default();
    if !account.is_empty() {
        return;
    }
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let projected = volume.projected.iter();
        let sources = projected.flat_map(|p| p.sources.iter().flatten());
        for (j, source) in sources.enumerate() {
            if source.service_account_token.is_some() {
                let path = format!("spec.volumes[{i}].projected.sources[{j}].serviceAccountToken");
                let detail = "must not be specified when serviceAccountName is not set";
                errors.forbidden(path, detail);
            }
        }
    }
}
