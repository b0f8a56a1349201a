//! Mounts of volumes, and volumes used as block devices.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, VolumeDevice, VolumeMount};

use super::super::volumes::Volumes;
use super::super::{Errors, paths};

pub(super) fn check(path: &str, container: &Container, volumes: &Volumes<'_>, errors: &mut Errors) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|c| c.privileged) == Some(true);
    let list = format!("{path}.volumeMounts");
    // Of several with one name the last counts, as upstream.
    let placed: BTreeMap<&str, &str> = (devices.iter())
        .map(|d| (d.name.as_str(), d.device_path.as_str()))
        .collect();
    let mut taken = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let path = format!("{list}[{i}]");
        let (name, target) = (mount.name.as_str(), mount.mount_path.as_str());
        errors.present(&path, "name", name);
        if volumes.get(name).is_none() {
            errors.not_found(format!("{path}.name"), name);
        }
        errors.present(&path, "mountPath", target);
        if !taken.insert(target) {
            errors.invalid(format!("{path}.mountPath"), target, "must be unique");
        }
        if placed.contains_key(name) {
            let detail = "must not already exist in volumeDevices";
            errors.invalid(format!("{path}.name"), name, detail);
        }
        if placed.values().any(|device| *device == target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(format!("{path}.mountPath"), target, detail);
        }
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
        if !sub_path.is_empty() && !expression.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(format!("{path}.subPathExpr"), expression, detail);
        }
        // The paths of these lack the index, upstream.
        errors.standing_at(&list, &path, |errors| {
            paths::descending(&format!("{list}.subPath"), sub_path, errors);
            paths::descending(&format!("{list}.subPathExpr"), expression, errors);
            propagation(
                &format!("{list}.mountPropagation"),
                mount,
                privileged,
                errors,
            );
            recursive_read_only(&format!("{list}.recursiveReadOnly"), mount, errors);
        });
    }
    let placed = mounts
        .iter()
        .map(|m| (m.name.as_str(), m.mount_path.as_str()))
        .collect();
    block_devices(
        &format!("{path}.volumeDevices"),
        devices,
        &placed,
        volumes,
        errors,
    );
}

fn propagation(path: &str, mount: &VolumeMount, privileged: bool, errors: &mut Errors) {
    let Some(propagation) = mount.mount_propagation.as_deref() else {
        return;
    };
    errors.unsupported(
        path,
        propagation,
        &["Bidirectional", "HostToContainer", "None"],
    );
    if propagation == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(path, detail);
    }
}

fn recursive_read_only(path: &str, mount: &VolumeMount, errors: &mut Errors) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if mount
                .mount_propagation
                .as_deref()
                .is_some_and(|p| p != "None")
            {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(path, detail);
            }
        }
        Some(other) => errors.unsupported(path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn block_devices(
    list: &str,
    devices: &[VolumeDevice],
    mounts: &BTreeMap<&str, &str>,
    volumes: &Volumes<'_>,
    errors: &mut Errors,
) {
    let (mut names, mut targets) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in devices.iter().enumerate() {
        let path = format!("{list}[{i}]");
        let (name, target) = (device.name.as_str(), device.device_path.as_str());
        let name_path = format!("{path}.name");
        let name_path = name_path.as_str();
        errors.present(&path, "name", name);
        if !name.is_empty() && !names.insert(name) {
            errors.invalid(name_path, name, "must be unique");
        }
        match volumes.get(name) {
            None => errors.not_found(name_path, name),
            Some(v) if v.persistent_volume_claim.is_some() || v.ephemeral.is_some() => {}
            Some(_) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(name_path, name, detail);
            }
        }
        errors.present(&path, "devicePath", target);
        let target_path = format!("{path}.devicePath");
        let target_path = target_path.as_str();
        if targets.contains(target) {
            errors.invalid(target_path, target, "must be unique");
        }
        if target.split('/').any(|part| part == "..") {
            errors.invalid(target_path, target, "can not contain backsteps ('..')");
        } else {
            targets.insert(target);
        }
        if mounts.contains_key(name) {
            let detail = "must not already exist in volumeMounts";
            errors.invalid(name_path, name, detail);
        }
        if mounts.values().any(|mount| *mount == target) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid(target_path, target, detail);
        }
    }
}
