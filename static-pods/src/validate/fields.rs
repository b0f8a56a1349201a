//! Rules for references to the pod's own fields (the downward API), which variables and volumes share.

use k8s_openapi::api::core::v1::{ObjectFieldSelector, ResourceFieldSelector};

use super::{Errors, names};
use crate::quantity::Quantity;

/// What a variable may refer to, in the order of the message.
pub(super) const OF_VARIABLES: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What a file may refer to, in the order of the message.
pub(super) const OF_FILES: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Fields that have a name in the downward API, whoever may use them.
const KNOWN: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Amounts that can be referred to, beside those of huge pages; in the order of the message.
const AMOUNTS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Splits `metadata.labels['key']`.
fn subscripted(field: &str) -> Option<(&str, &str)> {
    let (map, key) = field.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

/// A reference to a field of the pod, one of `allowed` or a label or annotation.
pub(super) fn of_pod(
    path: &str,
    selector: &ObjectFieldSelector,
    allowed: &[&str],
    errors: &mut Errors,
) {
    let version = selector.api_version.as_deref().unwrap_or_default();
    if version.is_empty() {
        return errors.required(format!("{path}.apiVersion"), "");
    }
    let written = selector.field_path.as_str();
    let field_path = format!("{path}.fieldPath");
    if written.is_empty() {
        return errors.required(field_path, "");
    }
    let unconvertible = match subscripted(written) {
        _ if version != "v1" => format!("unsupported pod version: {version}"),
        Some(("metadata.annotations", key)) => {
            return errors.all(
                path,
                &key.to_lowercase(),
                names::qualified(&key.to_lowercase()),
            );
        }
        Some(("metadata.labels", key)) => return errors.all(path, key, names::qualified(key)),
        Some(_) => format!("field label does not support subscript: {written}"),
        None => {
            // Its name in clients older than v1.
            let field = if written == "spec.host" {
                "spec.nodeName"
            } else {
                written
            };
            if KNOWN.contains(&field) {
                if !allowed.contains(&field) {
                    errors.unsupported_text(field_path, field, allowed);
                }
                return;
            }
            format!("field label not supported: {written}")
        }
    };
    let detail = format!("error converting fieldPath: {unconvertible}");
    errors.invalid(field_path, written, &detail);
}

/// A reference to a request or limit. A file, other than a variable, belongs to no container and must name one.
pub(super) fn of_container(
    path: &str,
    selector: &ResourceFieldSelector,
    must_name_container: bool,
    errors: &mut Errors,
) {
    let resource = selector.resource.as_str();
    let container = selector.container_name.as_deref().unwrap_or_default();
    let huge =
        resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if must_name_container && container.is_empty() {
        errors.required(format!("{path}.containerName"), "");
    } else if resource.is_empty() {
        errors.required(format!("{path}.resource"), "");
    } else if !AMOUNTS.contains(&resource) && !huge {
        errors.unsupported_text(format!("{path}.resource"), resource, AMOUNTS);
    }
    let Some(divisor) = &selector.divisor else {
        return;
    };
    let path = format!("{path}.divisor");
    match Quantity::parse(&divisor.0) {
        Ok(quantity) => check_divisor(&path, resource, &quantity, errors),
        Err(e) => errors.invalid(path, divisor.0.as_str(), &e.to_string()),
    }
}

fn check_divisor(path: &str, resource: &str, divisor: &Quantity, errors: &mut Errors) {
    const BYTES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let what = match resource.split_once('.') {
        Some(("limits" | "requests", "cpu")) => "cpu",
        Some(("limits" | "requests", "memory")) => "memory",
        Some(("limits" | "requests", "ephemeral-storage")) => "local ephemeral storage",
        Some(("limits" | "requests", name)) if name.starts_with("hugepages-") => "hugepages",
        _ => return,
    };
    let allowed = if what == "cpu" { "1m, 1" } else { BYTES };
    let written = divisor.to_string();
    if divisor.is_zero() || allowed.split(", ").any(|a| a == written) {
        return;
    }
    let allowed = if what == "cpu" { "1m and 1" } else { BYTES };
    let detail = format!("only divisor's values {allowed} are supported with the {what} resource");
    errors.invalid(path, resource, &detail);
}
