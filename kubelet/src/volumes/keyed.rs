//! configMap and secret: the values of an object as files.

use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, KeyToPath, SecretVolumeSource};

use super::SetUpError;
use super::payload::{File, Payload};
use crate::objects::{Kind, ObjectData, PodSnapshot};

/// The directory of a configMap's volumes in `volumes/`.
pub(super) const CONFIG_MAP_PLUGIN: &str = "kubernetes.io~configmap";
/// The same of a secret's.
pub(super) const SECRET_PLUGIN: &str = "kubernetes.io~secret";
/// What files have that say nothing of their own (`defaultMode`, v1 API default).
pub(super) const DEFAULT_MODE: i32 = 0o644;

/// Which values of which object, and how.
pub(super) struct Selection<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a str,
    pub(super) items: &'a [KeyToPath],
    pub(super) optional: bool,
    pub(super) default_mode: i32,
}

pub(super) fn config_map(
    source: &ConfigMapVolumeSource,
    objects: &PodSnapshot,
) -> Result<Payload, SetUpError> {
    payload(
        &Selection {
            kind: Kind::ConfigMap,
            name: &source.name,
            items: source.items.as_deref().unwrap_or_default(),
            optional: source.optional.unwrap_or(false),
            default_mode: source.default_mode.unwrap_or(DEFAULT_MODE),
        },
        objects,
    )
}

pub(super) fn secret(
    source: &SecretVolumeSource,
    objects: &PodSnapshot,
) -> Result<Payload, SetUpError> {
    payload(
        &Selection {
            kind: Kind::Secret,
            name: source.secret_name.as_deref().unwrap_or_default(),
            items: source.items.as_deref().unwrap_or_default(),
            optional: source.optional.unwrap_or(false),
            default_mode: source.default_mode.unwrap_or(DEFAULT_MODE),
        },
        objects,
    )
}

/// The files of a selection: all values under their keys, or those that it names.
pub(super) fn payload(
    selection: &Selection<'_>,
    objects: &PodSnapshot,
) -> Result<Payload, SetUpError> {
    let found = objects.get_optional(selection.kind, selection.name, selection.optional)?;
    let none = ObjectData::default();
    let data = found.as_deref().unwrap_or(&none);
    let mut payload = Payload::default();
    if selection.items.is_empty() {
        for (key, value) in data.all() {
            payload.put(key, File::new(value.clone(), selection.default_mode))?;
        }
        return Ok(payload);
    }
    for item in selection.items {
        match data.get_any(&item.key) {
            Some(value) => {
                let mode = item.mode.unwrap_or(selection.default_mode);
                payload.put(&item.path, File::new(value.clone(), mode))?;
            }
            None if selection.optional => {}
            None => {
                return Err(SetUpError::NoKey {
                    kind: selection.kind,
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(payload)
}
