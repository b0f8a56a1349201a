//! Volumes whose content comes from the node, an image or the API.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource,
    GitRepoVolumeSource, HostPathVolumeSource, ImageVolumeSource, KeyToPath, SecretVolumeSource,
};

use super::super::{Errors, fields, paths};
use crate::quantity::Quantity;

pub(super) fn empty_dir(path: &str, source: &EmptyDirVolumeSource, errors: &mut Errors) {
    let Some(size) = &source.size_limit else {
        return;
    };
    let path = format!("{path}.sizeLimit");
    match Quantity::parse(&size.0) {
        Ok(size) if size.milli() < 0 => {
            errors.forbidden(path, "SizeLimit field must be a valid resource quantity");
        }
        Ok(_) => {}
        Err(e) => errors.invalid(path, size.0.as_str(), &e.to_string()),
    }
}

/// In the order of the message.
const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

pub(super) fn host_path(path: &str, source: &HostPathVolumeSource, errors: &mut Errors) {
    if source.path.is_empty() {
        return errors.required(format!("{path}.path"), "");
    }
    paths::no_backsteps(&format!("{path}.path"), &source.path, errors);
    let kind = source.type_.as_deref().unwrap_or_default();
    errors.unsupported(format!("{path}.type"), kind, HOST_PATH_TYPES);
}

pub(super) fn git_repo(path: &str, source: &GitRepoVolumeSource, errors: &mut Errors) {
    errors.present(path, "repository", &source.repository);
    let directory = source.directory.as_deref().unwrap_or_default();
    paths::descending(&format!("{path}.directory"), directory, errors);
}

/// Upstream takes one without a reference here, for controllers to fill in; its pull fails.
pub(super) fn image(path: &str, source: &ImageVolumeSource, errors: &mut Errors) {
    let policy = source.pull_policy.as_deref().unwrap_or_default();
    let supported = ["Always", "IfNotPresent", "Never"];
    errors.one_of(format!("{path}.pullPolicy"), policy, &supported);
}

pub(super) fn secret(path: &str, source: &SecretVolumeSource, errors: &mut Errors) {
    let name = source.secret_name.as_deref().unwrap_or_default();
    errors.present(path, "secretName", name);
    paths::mode(&format!("{path}.defaultMode"), source.default_mode, errors);
    items(path, source.items.as_deref(), errors);
}

pub(super) fn config_map(path: &str, source: &ConfigMapVolumeSource, errors: &mut Errors) {
    errors.present(path, "name", &source.name);
    paths::mode(&format!("{path}.defaultMode"), source.default_mode, errors);
    items(path, source.items.as_deref(), errors);
}

/// The keys that become files.
pub(super) fn items(path: &str, items: Option<&[KeyToPath]>, errors: &mut Errors) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let path = format!("{path}.items[{i}]");
        errors.present(&path, "key", &item.key);
        errors.present(&path, "path", &item.path);
        paths::unreserved(&format!("{path}.path"), &item.path, errors);
        paths::mode(&format!("{path}.mode"), item.mode, errors);
    }
}

pub(super) fn downward_api(path: &str, source: &DownwardAPIVolumeSource, errors: &mut Errors) {
    paths::mode(&format!("{path}.defaultMode"), source.default_mode, errors);
    downward_files(path, source.items.as_deref(), errors);
}

/// The fields that become files. Upstream's paths do not say which of them.
pub(super) fn downward_files(
    path: &str,
    files: Option<&[DownwardAPIVolumeFile]>,
    errors: &mut Errors,
) {
    for (i, file) in files.into_iter().flatten().enumerate() {
        let real = format!("{path}.items[{i}]");
        errors.standing_at(path, &real, |errors| downward_file(path, file, errors));
    }
}

fn downward_file(path: &str, file: &DownwardAPIVolumeFile, errors: &mut Errors) {
    errors.present(path, "path", &file.path);
    paths::unreserved(&format!("{path}.path"), &file.path, errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), amount) => {
            fields::of_pod(&format!("{path}.fieldRef"), field, fields::OF_FILES, errors);
            if amount.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        }
        (None, Some(amount)) => {
            fields::of_container(&format!("{path}.resourceFieldRef"), amount, true, errors);
        }
        (None, None) => {
            errors.required(path, "one of fieldRef and resourceFieldRef is required");
        }
    }
    paths::mode(&format!("{path}.mode"), file.mode, errors);
}
