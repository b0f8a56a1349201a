//! Volumes behind a claim: one that exists, or one made for the pod.

use k8s_openapi::api::core::v1::{
    EphemeralVolumeSource, PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate,
    PersistentVolumeClaimVolumeSource,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::{Errors, metadata, names, selectors};
use crate::quantity::Quantity;

pub(super) fn reference(
    path: &str,
    claim: &PersistentVolumeClaimVolumeSource,
    errors: &mut Errors,
) {
    errors.present(path, "claimName", &claim.claim_name);
}

pub(super) fn ephemeral(path: &str, source: &EphemeralVolumeSource, errors: &mut Errors) {
    let path = format!("{path}.volumeClaimTemplate");
    match &source.volume_claim_template {
        Some(template) => check_template(&path, template, errors),
        None => errors.required(path, ""),
    }
}

fn check_template(path: &str, template: &PersistentVolumeClaimTemplate, errors: &mut Errors) {
    if let Some(meta) = &template.metadata {
        let path = format!("{path}.metadata");
        metadata::annotations(
            &format!("{path}.annotations"),
            meta.annotations.as_ref(),
            errors,
        );
        metadata::labels(&format!("{path}.labels"), meta.labels.as_ref(), errors);
        for field in other_metadata(meta) {
            errors.forbidden(format!("{path}.{field}"), "cannot be set");
        }
    }
    claim(&format!("{path}.spec"), &template.spec, errors);
}

/// What else the template says of itself, by the names that upstream's own fields have.
fn other_metadata(meta: &ObjectMeta) -> impl Iterator<Item = &'static str> {
    let text = |field: &Option<String>| field.as_ref().is_some_and(|f| !f.is_empty());
    let all = [
        ("name", text(&meta.name)),
        ("generateName", text(&meta.generate_name)),
        ("namespace", text(&meta.namespace)),
        ("selfLink", text(&meta.self_link)),
        ("uID", text(&meta.uid)),
        ("resourceVersion", text(&meta.resource_version)),
        ("generation", meta.generation.is_some_and(|g| g != 0)),
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        (
            "deletionGracePeriodSeconds",
            meta.deletion_grace_period_seconds.is_some(),
        ),
        ("ownerReferences", meta.owner_references.is_some()),
        ("finalizers", meta.finalizers.is_some()),
        ("managedFields", meta.managed_fields.is_some()),
    ];
    all.into_iter()
        .filter(|(_, set)| *set)
        .map(|(field, _)| field)
}

/// In the order of the message.
const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

fn claim(path: &str, claim: &PersistentVolumeClaimSpec, errors: &mut Errors) {
    let modes = claim.access_modes.as_deref().unwrap_or_default();
    let field = format!("{path}.accessModes");
    if modes.is_empty() {
        errors.required(field.as_str(), "at least 1 access mode is required");
    }
    if let Some(selector) = &claim.selector {
        selectors::check(&format!("{path}.selector"), Some(selector), errors);
    }
    for mode in modes {
        errors.unsupported(field.as_str(), mode, ACCESS_MODES);
    }
    let alone = |mode: &String| mode == "ReadWriteOncePod";
    let shared = |mode: &String| !alone(mode) && ACCESS_MODES.contains(&mode.as_str());
    if modes.iter().any(alone) && modes.iter().any(shared) {
        errors.forbidden(
            field,
            "may not use ReadWriteOncePod with other access modes",
        );
    }
    size(path, claim, errors);
    if let Some(mode) = &claim.volume_mode {
        errors.unsupported(format!("{path}.volumeMode"), mode, &["Block", "Filesystem"]);
    }
    data_source(path, claim, errors);
    let classes = [
        ("storageClassName", &claim.storage_class_name),
        (
            "volumeAttributesClassName",
            &claim.volume_attributes_class_name,
        ),
    ];
    for (field, class) in classes {
        if let Some(class) = class.as_deref().filter(|c| !c.is_empty()) {
            errors.all(&format!("{path}.{field}"), class, names::subdomain(class));
        }
    }
}

fn size(path: &str, claim: &PersistentVolumeClaimSpec, errors: &mut Errors) {
    let requests = claim.resources.as_ref().and_then(|r| r.requests.as_ref());
    let shown = format!("{path}.resources[storage]");
    let real = format!("{path}.resources.requests[storage]");
    errors.standing_at(&shown, &real, |errors| {
        let Some(size) = requests.and_then(|r| r.get("storage")) else {
            return errors.required(shown.as_str(), "");
        };
        match Quantity::parse(&size.0) {
            Ok(size) if size.milli() <= 0 => {
                let value = size.to_string();
                errors.invalid(shown.as_str(), value.as_str(), "must be greater than zero");
            }
            Ok(_) => {}
            Err(e) => errors.invalid(shown.as_str(), size.0.as_str(), &e.to_string()),
        }
    });
}

/// What the volume is filled from, said in the older way, the newer one, or both alike.
fn data_source(path: &str, claim: &PersistentVolumeClaimSpec, errors: &mut Errors) {
    let older = claim.data_source.as_ref();
    let newer = claim.data_source_ref.as_ref();
    if let Some(s) = older {
        let path = format!("{path}.dataSource");
        object(&path, s.api_group.as_deref(), &s.kind, &s.name, errors);
    }
    let namespace = newer
        .and_then(|s| s.namespace.as_deref())
        .unwrap_or_default();
    if let Some(s) = newer {
        let path = format!("{path}.dataSourceRef");
        object(&path, s.api_group.as_deref(), &s.kind, &s.name, errors);
        if !namespace.is_empty() {
            errors.all(
                &format!("{path}.namespace"),
                namespace,
                names::label(namespace),
            );
        }
    }
    let (Some(older), Some(newer)) = (older, newer) else {
        return;
    };
    let same =
        older.api_group == newer.api_group && older.kind == newer.kind && older.name == newer.name;
    let detail = match namespace {
        "" if same => return,
        "" => "must match dataSourceRef",
        _ => "may not be specified when dataSourceRef.namespace is specified",
    };
    // Upstream gives a path for the value, which has no text.
    errors.invalid_json(path, "{}".into(), detail);
}

fn object(path: &str, group: Option<&str>, kind: &str, name: &str, errors: &mut Errors) {
    errors.present(path, "name", name);
    errors.present(path, "kind", kind);
    match group.unwrap_or_default() {
        "" if kind != "PersistentVolumeClaim" => {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(path, kind, detail);
        }
        "" => {}
        group => errors.all(&format!("{path}.apiGroup"), group, names::subdomain(group)),
    }
}
