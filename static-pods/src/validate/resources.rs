//! Rules for resource names and amounts.

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

use super::{Bare, Errors, names};
use crate::defaults::Amounts;
use crate::quantity::{InvalidQuantity, Quantity};

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether requests of this resource may stay below its limit.
fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource of some vendor: a domain of its own, and a name that quota can take with `requests.` before it.
fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified(&format!("requests.{name}")).is_empty()
}

pub(super) fn check(path: &str, resources: &ResourceRequirements, errors: &mut Errors) {
    let limits = read(&format!("{path}.limits"), resources.limits.as_ref(), errors);
    let requests = read(
        &format!("{path}.requests"),
        resources.requests.as_ref(),
        errors,
    );
    for name in limits
        .iter()
        .map(|(name, _)| (name, "limits"))
        .chain(requests.iter().map(|(name, _)| (name, "requests")))
    {
        container_name(&format!("{path}.{}[{}]", name.1, name.0), name.0, errors);
    }
    within_limits(path, &limits, &requests, errors);
    let names = || {
        limits
            .iter()
            .chain(&requests)
            .map(|(name, _)| name.as_str())
    };
    if names().any(is_huge_page) && !names().any(|n| matches!(n, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    for (index, claim) in resources.claims.iter().flatten().enumerate() {
        let path = format!("{path}.claims[{index}].name");
        match claim.name.as_str() {
            "" => errors.required(path, ""),
            name => errors.not_found(path, name),
        }
    }
}

/// The resources of the pod as a whole (KEP-2837).
pub(super) fn check_pod(spec: &PodSpec, errors: &mut Errors) {
    if let Some(resources) = &spec.resources {
        let path = "spec.resources";
        let limits = read("spec.resources.limits", resources.limits.as_ref(), errors);
        let requests = read(
            "spec.resources.requests",
            resources.requests.as_ref(),
            errors,
        );
        for (part, amounts) in [("limits", &limits), ("requests", &requests)] {
            for (name, _) in amounts {
                if !matches!(name.as_str(), "cpu" | "memory") && !is_huge_page(name) {
                    let path = format!("{path}.{part}[{name}]");
                    errors.one_of(path, name, &["cpu", "hugepages-", "memory"]);
                }
            }
        }
        if resources.claims.is_some() {
            let detail = "claims may not be set for Resources at pod-level";
            errors.forbidden("spec.resources.claims", detail);
        }
        within_limits(path, &limits, &requests, errors);
    }
}

/// The amounts that are quantities; what is none, negative or broken is reported.
fn read(path: &str, amounts: Option<&Amounts>, errors: &mut Errors) -> Vec<(String, Quantity)> {
    let mut found = Vec::new();
    for (name, amount) in amounts.into_iter().flatten() {
        let path = format!("{path}[{name}]");
        match Quantity::parse(&amount.0) {
            Ok(quantity) => {
                if quantity.milli() < 0 {
                    let detail = "must be greater than or equal to 0";
                    errors.invalid(path.as_str(), quantity.to_string().as_str(), detail);
                }
                let whole_only = !is_native(name) || is_huge_page(name);
                if whole_only && quantity.milli() % 1000 != 0 {
                    let shown = format!("{:?}", quantity.to_string());
                    errors.invalid(path.as_str(), Bare(shown), "must be an integer");
                }
                found.push((name.clone(), quantity));
            }
            Err(e @ InvalidQuantity) => {
                errors.invalid(path.as_str(), amount.0.as_str(), &e.to_string());
            }
        }
    }
    found
}

fn container_name(path: &str, name: &str, errors: &mut Errors) {
    let messages = names::qualified(name);
    let legal = messages.is_empty();
    errors.all(path, name, messages);
    if !name.contains('/') {
        let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name);
        if !standard {
            // Upstream asks twice, once for any object and once for containers.
            let quota = matches!(
                name,
                "pods"
                    | "services"
                    | "replicationcontrollers"
                    | "resourcequotas"
                    | "secrets"
                    | "configmaps"
                    | "persistentvolumeclaims"
                    | "storage"
            ) || name.starts_with("requests.")
                || name.starts_with("limits.");
            if legal && !quota {
                let detail = "must be a standard resource type or fully qualified";
                errors.invalid(path, name, detail);
            }
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn within_limits(
    path: &str,
    limits: &[(String, Quantity)],
    requests: &[(String, Quantity)],
    errors: &mut Errors,
) {
    for (name, request) in requests {
        let Some((_, limit)) = limits.iter().find(|(n, _)| n == name) else {
            if !may_overcommit(name) {
                let detail = "Limit must be set for non overcommitable resources";
                errors.required(format!("{path}.limits"), detail);
            }
            continue;
        };
        let relation = match may_overcommit(name) {
            false if request != limit => "equal to",
            true if request > limit => "less than or equal to",
            _ => continue,
        };
        let detail = format!("must be {relation} {name} limit of {limit}");
        errors.invalid(
            format!("{path}.requests"),
            request.to_string().as_str(),
            &detail,
        );
    }
}
