//! downwardAPI: what a pod is told of itself, as files.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource};

use super::SetUpError;
use super::keyed::DEFAULT_MODE;
use super::payload::{File, Payload};
use crate::cgroups::resources::ResourceList;
use crate::pod::Pod;
use crate::runtime::convert::{field_for_file, resource_for_file};

/// The kind's directory in `volumes/`.
pub(super) const PLUGIN: &str = "kubernetes.io~downward-api";

pub(super) fn payload(
    source: &DownwardAPIVolumeSource,
    pod: &Pod,
    allocatable: &ResourceList,
) -> Result<Payload, SetUpError> {
    let items = source.items.as_deref().unwrap_or_default();
    let default_mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    of_items(items, pod, allocatable, default_mode)
}

pub(super) fn of_items(
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    allocatable: &ResourceList,
    default_mode: i32,
) -> Result<Payload, SetUpError> {
    let mut payload = Payload::default();
    let mut failed = Vec::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_for_file(pod, &field.field_path),
            (None, Some(resource)) => resource_for_file(pod, resource, allocatable),
            (None, None) => Ok(String::new()),
        };
        match value {
            Ok(value) => {
                let mode = item.mode.unwrap_or(default_mode);
                payload.put(&item.path, File::new(value.into_bytes().into(), mode))?;
            }
            Err(error) => failed.push(error.into()),
        }
    }
    SetUpError::all(failed)?;
    Ok(payload)
}
