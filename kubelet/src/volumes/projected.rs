//! projected: several sources in one volume, the token of a service account among them.

use k8s_openapi::api::core::v1::{
    ProjectedVolumeSource, ServiceAccountTokenProjection, VolumeProjection,
};

use super::SetUpError;
use super::contents::Inputs;
use super::keyed::{self, DEFAULT_MODE, Selection};
use super::payload::{File, Payload};
use super::{downward_api, ownership};
use crate::objects::{Kind, TokenWish};
use crate::pod;

/// The kind's directory in `volumes/`.
pub(super) const PLUGIN: &str = "kubernetes.io~projected";
/// A token's file where it belongs to a user or a group: `fsGroup` lets the group read it afterwards.
const PRIVATE_MODE: i32 = 0o600;

/// The files of all sources. Of two at the same path the later one is there.
pub(super) fn payload(
    source: &ProjectedVolumeSource,
    inputs: &Inputs<'_>,
) -> Result<Payload, SetUpError> {
    let default_mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let mut payload = Payload::default();
    let mut failed = Vec::new();
    for source in source.sources.iter().flatten() {
        match of_source(source, inputs, default_mode) {
            Ok(files) => payload.extend(files),
            Err(error) => failed.push(error),
        }
    }
    SetUpError::all(failed)?;
    Ok(payload)
}

fn of_source(
    source: &VolumeProjection,
    inputs: &Inputs<'_>,
    default_mode: i32,
) -> Result<Payload, SetUpError> {
    if let Some(source) = &source.secret {
        return keyed::payload(
            &Selection {
                kind: Kind::Secret,
                name: &source.name,
                items: source.items.as_deref().unwrap_or_default(),
                optional: source.optional.unwrap_or(false),
                default_mode,
            },
            inputs.objects,
        );
    }
    if let Some(source) = &source.config_map {
        return keyed::payload(
            &Selection {
                kind: Kind::ConfigMap,
                name: &source.name,
                items: source.items.as_deref().unwrap_or_default(),
                optional: source.optional.unwrap_or(false),
                default_mode,
            },
            inputs.objects,
        );
    }
    if let Some(source) = &source.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        return downward_api::of_items(items, inputs.pod, inputs.allocatable, default_mode);
    }
    if let Some(source) = &source.service_account_token {
        return token(source, inputs, default_mode);
    }
    if source.cluster_trust_bundle.is_some() {
        return Err(SetUpError::SourceNotBuilt("clusterTrustBundle"));
    }
    if source.pod_certificate.is_some() {
        return Err(SetUpError::SourceNotBuilt("podCertificate"));
    }
    Ok(Payload::default())
}

fn token(
    source: &ServiceAccountTokenProjection,
    inputs: &Inputs<'_>,
    default_mode: i32,
) -> Result<Payload, SetUpError> {
    let token = inputs.objects.token(&TokenWish::of(source))?;
    let owner = ownership::only_user(inputs.pod);
    let context = pod::spec(inputs.pod).security_context.as_ref();
    let has_group = context.is_some_and(|context| context.fs_group.is_some());
    let mode = match owner.is_some() || has_group {
        true => PRIVATE_MODE,
        false => default_mode,
    };
    let mut file = File::new(token.reveal().clone(), mode);
    file.owner = owner;
    let mut payload = Payload::default();
    payload.put(&source.path, file)?;
    Ok(payload)
}
