//! Rules for fields of the pod itself that belong to no family.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodResourceClaim, PodSpec};

use super::shown::{Bare, json};
use super::{Errors, metadata, names, security};

pub(super) fn check(spec: &PodSpec, errors: &mut Errors) {
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    errors.one_of(
        "spec.restartPolicy",
        &text(&spec.restart_policy),
        &["Always", "OnFailure", "Never"],
    );
    metadata::labels("spec.nodeSelector", spec.node_selector.as_ref(), errors);
    claims(spec.resource_claims.as_deref().unwrap_or_default(), errors);
    host_users(spec, errors);
    let names = [
        ("spec.serviceAccountName", &spec.service_account_name),
        ("spec.nodeName", &spec.node_name),
        ("spec.priorityClassName", &spec.priority_class_name),
    ];
    for (path, field) in names {
        let value = text(field);
        if !value.is_empty() {
            errors.all(path, &value, names::subdomain(&value));
        }
    }
    if let Some(class) = &spec.runtime_class_name {
        errors.all("spec.runtimeClassName", class, names::subdomain(class));
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.invalid("spec.activeDeadlineSeconds", seconds, &detail);
    }
    if spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|c| !c.is_empty())
    {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
}

/// A pod with users of its own shares no other namespace with its node.
fn host_users(spec: &PodSpec, errors: &mut Errors) {
    if spec.host_users != Some(false) {
        return;
    }
    let detail = "when `hostUsers` is false";
    // Two of upstream's paths are those of its own types.
    let shared = [
        ("hostNetwork", "hostNetwork", spec.host_network),
        ("HostPID", "hostPID", spec.host_pid),
        ("HostIPC", "hostIPC", spec.host_ipc),
    ];
    for (theirs, ours, set) in shared {
        if set == Some(true) {
            errors.pointing(&format!("spec.{ours}"), |errors| {
                errors.forbidden(format!("spec.{theirs}"), detail);
            });
        }
    }
    for container in security::of_containers(spec) {
        if container.has_devices {
            errors.forbidden(format!("{}.volumeDevices", container.path), detail);
        }
    }
}

fn claims(claims: &[PodResourceClaim], errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = format!("spec.resourceClaims[{i}]");
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if taken.insert(name) {
            errors.all(&format!("{path}.name"), name, names::label(name));
        } else {
            errors.duplicate(format!("{path}.name"), name);
        }
        let sources = [
            ("resourceClaimName", &claim.resource_claim_name),
            (
                "resourceClaimTemplateName",
                &claim.resource_claim_template_name,
            ),
        ];
        let detail = match sources.iter().filter(|s| s.1.is_some()).count() {
            0 => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            1 => "",
            _ => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
        };
        if !detail.is_empty() {
            errors.invalid(path.as_str(), Bare(as_json(claim)), detail);
        }
        for (field, source) in sources {
            if let Some(source) = source {
                errors.all(&format!("{path}.{field}"), source, names::subdomain(source));
            }
        }
    }
}

/// A claim as upstream's own types write it.
fn as_json(claim: &PodResourceClaim) -> String {
    let or_null = |name: &Option<String>| name.as_deref().map_or_else(|| "null".into(), json);
    format!(
        "{{\"Name\":{},\"ResourceClaimName\":{},\"ResourceClaimTemplateName\":{}}}",
        json(&claim.name),
        or_null(&claim.resource_claim_name),
        or_null(&claim.resource_claim_template_name)
    )
}
