//! Rules for metadata: name, namespace, labels, annotations.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Errors, names};

/// Most bytes of all annotations together (Kubernetes API, 256 KiB).
const ANNOTATION_BYTES: usize = 256 << 10;

pub(super) fn check(meta: &ObjectMeta, errors: &mut Errors) {
    let name = meta.name.as_deref().unwrap_or_default();
    errors.all("metadata.name", name, names::subdomain(name));
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    errors.all("metadata.namespace", namespace, names::label(namespace));
    labels("metadata.labels", meta.labels.as_ref(), errors);
    let mut bytes = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        // Upstream looks at annotation keys in lower case.
        for message in names::qualified(&key.to_lowercase()) {
            errors.invalid("metadata.annotations", key.as_str(), &message);
        }
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATION_BYTES {
        let detail = format!("may not be more than {ANNOTATION_BYTES} bytes");
        errors.push("metadata.annotations", "Too long", &detail);
    }
}

pub(super) fn labels(path: &str, labels: Option<&BTreeMap<String, String>>, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.all(path, key, names::qualified(key));
        errors.all(path, value, names::label_value(value));
    }
}
