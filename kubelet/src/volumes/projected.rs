//! projected: several sources in one volume, the token of a service account among them.

use k8s_openapi::api::core::v1::{
    ProjectedVolumeSource, ServiceAccountTokenProjection, VolumeProjection,
};

use super::SetUpError;
use super::contents::Inputs;
use super::keyed::{self, DEFAULT_MODE, Selection};
use super::payload::{File, Payload};
use super::{downward_api, ownership};
use crate::objects::{Bytes, Kind, TokenWish, TrustWish};
use crate::pod::{self, Pod};

/// The kind's directory in `volumes/`.
pub(super) const PLUGIN: &str = "kubernetes.io~projected";
/// A token's file where it belongs to a user or a group: `fsGroup` lets the group read it afterwards.
const PRIVATE_MODE: i32 = 0o600;

/// The files of all sources of the volume called `volume`. Of two at the same path the later one is there.
pub(super) fn payload(
    volume: &str,
    source: &ProjectedVolumeSource,
    inputs: &Inputs<'_>,
) -> Result<Payload, SetUpError> {
    let default_mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let mut payload = Payload::default();
    let mut failed = Vec::new();
    for (index, source) in source.sources.iter().flatten().enumerate() {
        match of_source((volume, index), source, inputs, default_mode) {
            Ok(files) => payload.extend(files),
            Err(error) => failed.push(error),
        }
    }
    SetUpError::all(failed)?;
    Ok(payload)
}

fn of_source(
    place: (&str, usize),
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
    if let Some(source) = &source.cluster_trust_bundle {
        let wish = TrustWish::of(source).ok_or(SetUpError::NoTrustWish)?;
        let optional = source.optional.unwrap_or(false);
        let anchors = inputs.objects.trust(&wish, optional)?;
        return private([(source.path.as_str(), anchors)], inputs.pod, default_mode);
    }
    if let Some(source) = &source.pod_certificate {
        let credential = inputs.objects.certificate(place.0, place.1)?;
        let bundle = [&*credential.key, &*credential.chain].concat();
        let files = [
            (source.credential_bundle_path.as_deref(), bundle.into()),
            (source.key_path.as_deref(), credential.key),
            (source.certificate_chain_path.as_deref(), credential.chain),
        ];
        let asked = files.into_iter().filter_map(|(path, data)| {
            let path = path.filter(|path| !path.is_empty())?;
            Some((path, data))
        });
        return private(asked, inputs.pod, default_mode);
    }
    Ok(Payload::default())
}

fn token(
    source: &ServiceAccountTokenProjection,
    inputs: &Inputs<'_>,
    default_mode: i32,
) -> Result<Payload, SetUpError> {
    let token = inputs.objects.token(&TokenWish::of(source))?;
    let file = (source.path.as_str(), token.reveal().clone());
    private([file], inputs.pod, default_mode)
}

/// Files for the one user that the pod has, or its group, alone; where it has neither, with `default_mode`.
fn private<'a>(
    files: impl IntoIterator<Item = (&'a str, Bytes)>,
    pod: &Pod,
    default_mode: i32,
) -> Result<Payload, SetUpError> {
    let owner = ownership::only_user(pod);
    let context = pod::spec(pod).security_context.as_ref();
    let has_group = context.is_some_and(|context| context.fs_group.is_some());
    let mode = match owner.is_some() || has_group {
        true => PRIVATE_MODE,
        false => default_mode,
    };
    let mut payload = Payload::default();
    for (path, data) in files {
        let mut file = File::new(data, mode);
        file.owner = owner;
        payload.put(path, file)?;
    }
    Ok(payload)
}
