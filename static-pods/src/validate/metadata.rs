//! Rules for metadata that every object has: names, labels, annotations, owners, finalizers, managers of fields.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    ManagedFieldsEntry, ObjectMeta, OwnerReference,
};

use super::shown::{self, Bare, Json};
use super::{Errors, names};

/// Most bytes of all annotations together (Kubernetes API, 256 KiB).
pub(super) const ANNOTATION_BYTES: usize = 256 << 10;
/// Longest name of a field manager in bytes.
const MANAGER: usize = 128;
/// Longest name of a subresource in bytes.
const SUBRESOURCE: usize = 256;

pub(super) fn check(meta: &ObjectMeta, errors: &mut Errors) {
    let prefix = meta.generate_name.as_deref().unwrap_or_default();
    if !prefix.is_empty() {
        let messages = names::subdomain(&as_if_completed(prefix));
        errors.all("metadata.generateName", prefix, messages);
    }
    let name = meta.name.as_deref().unwrap_or_default();
    errors.all("metadata.name", name, names::subdomain(name));
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    errors.all("metadata.namespace", namespace, names::label(namespace));
    if let Some(generation) = meta.generation.filter(|g| *g < 0) {
        let detail = "must be greater than or equal to 0";
        errors.invalid("metadata.generation", generation, detail);
    }
    labels("metadata.labels", meta.labels.as_ref(), errors);
    annotations("metadata.annotations", meta.annotations.as_ref(), errors);
    owners(meta.owner_references.as_deref().unwrap_or_default(), errors);
    finalizers(meta.finalizers.as_deref().unwrap_or_default(), errors);
    for (i, entry) in meta.managed_fields.iter().flatten().enumerate() {
        manager(&format!("metadata.managedFields[{i}]"), entry, errors);
    }
}

pub(super) fn annotations(
    path: &str,
    annotations: Option<&BTreeMap<String, String>>,
    errors: &mut Errors,
) {
    let mut bytes = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Upstream looks at annotation keys in lower case.
        errors.pointing(&format!("{path}[{key}]"), |errors| {
            errors.all(path, key, names::qualified(&key.to_lowercase()));
        });
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATION_BYTES {
        errors.too_long(path, ANNOTATION_BYTES);
    }
}

/// A prefix may end with the dash that a suffix makes good.
fn as_if_completed(prefix: &str) -> String {
    // Upstream takes one byte more away than it means to; a character that it cuts so was none of a name's.
    let kept = prefix.len().checked_sub(2).and_then(|n| prefix.get(..n));
    match kept {
        Some(kept) if prefix.ends_with('-') => format!("{kept}a"),
        _ => prefix.to_owned(),
    }
}

pub(super) fn labels(path: &str, labels: Option<&BTreeMap<String, String>>, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.pointing(&format!("{path}[{key}]"), |errors| {
            errors.all(path, key, names::qualified(key));
            errors.all(path, value, names::label_value(value));
        });
    }
}

/// Upstream's paths have no index; the lines do.
fn owners(references: &[OwnerReference], errors: &mut Errors) {
    let path = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for (i, owner) in references.iter().enumerate() {
        let version = match owner.api_version.split_once('/') {
            Some((_, version)) if version.contains('/') => "",
            Some((_, version)) => version,
            None => &owner.api_version,
        };
        let texts = [
            (version, "apiVersion", &owner.api_version),
            (&owner.kind, "kind", &owner.kind),
            (&owner.name, "name", &owner.name),
            (&owner.uid, "uid", &owner.uid),
        ];
        for (needed, field, value) in texts {
            if needed.is_empty() {
                let detail = match field {
                    "apiVersion" => "version must not be empty",
                    _ => "must not be empty",
                };
                errors.pointing(&format!("{path}[{i}].{field}"), |errors| {
                    errors.invalid(format!("{path}.{field}"), value.as_str(), detail);
                });
            }
        }
        errors.pointing(&format!("{path}[{i}]"), |errors| {
            if matches!(owner.api_version.as_str(), "v1" | "/v1") && owner.kind == "Event" {
                let detail = "/v1, Kind=Event is disallowed from being an owner";
                errors.invalid(path, Bare(as_json(owner)), detail);
            }
            if owner.controller != Some(true) {
                return;
            }
            let this = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let all: Vec<_> = references.iter().map(as_json).collect();
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for \
                         {first} and {this}"
                    );
                    errors.invalid(path, Bare(format!("[{}]", all.join(","))), &detail);
                }
            }
        });
    }
}

/// An owner as upstream's types write it.
fn as_json(owner: &OwnerReference) -> String {
    let mut fields = vec![
        format!("\"apiVersion\":{}", shown::json(&owner.api_version)),
        format!("\"kind\":{}", shown::json(&owner.kind)),
        format!("\"name\":{}", shown::json(&owner.name)),
        format!("\"uid\":{}", shown::json(&owner.uid)),
    ];
    let flags = [
        ("controller", owner.controller),
        ("blockOwnerDeletion", owner.block_owner_deletion),
    ];
    for (name, flag) in flags {
        fields.extend(flag.map(|flag| format!("\"{name}\":{flag}")));
    }
    format!("{{{}}}", fields.join(","))
}

fn finalizers(finalizers: &[String], errors: &mut Errors) {
    let path = "metadata.finalizers";
    for (i, finalizer) in finalizers.iter().enumerate() {
        errors.pointing(&format!("{path}[{i}]"), |errors| {
            errors.all(path, finalizer, names::qualified(finalizer));
        });
        let standard = ["kubernetes", "orphan", "foregroundDeletion"];
        if !finalizer.contains('/') && !standard.contains(&finalizer.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(format!("{path}[{i}]"), finalizer.as_str(), detail);
        }
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, finalizers, detail);
    }
}

fn manager(path: &str, entry: &ManagedFieldsEntry, errors: &mut Errors) {
    let operation = entry.operation.as_deref().unwrap_or_default();
    if !matches!(operation, "Apply" | "Update") {
        let detail = "must be `Apply` or `Update`";
        errors.invalid(format!("{path}.operation"), Json(operation), detail);
    }
    let kind = entry.fields_type.as_deref().unwrap_or_default();
    if !matches!(kind, "" | "FieldsV1") {
        errors.invalid(format!("{path}.fieldsType"), kind, "must be `FieldsV1`");
    }
    let name = entry.manager.as_deref().unwrap_or_default();
    let name_path = format!("{path}.manager");
    if name.len() > MANAGER {
        errors.too_long(name_path.as_str(), MANAGER);
    }
    for (at, c) in name.char_indices().filter(|c| !shown::is_printable(c.1)) {
        let detail = format!(
            "invalid character U+{:04X} (at position {at})",
            u32::from(c)
        );
        errors.invalid(name_path.as_str(), name, &detail);
    }
    if entry.subresource.as_deref().unwrap_or_default().len() > SUBRESOURCE {
        errors.too_long(format!("{path}.subresource"), SUBRESOURCE);
    }
}
