//! Rules for resource names and amounts, of containers and of the pod as a whole.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSpec, ResourceClaim, ResourceRequirements};

use super::shown::{Json, quoted};
use super::{Errors, names};
use crate::defaults::Amounts;
use crate::quantity::{InvalidQuantity, Quantity};

const HUGE_PAGES: &str = "hugepages-";

/// Resources that are counted in whole things, and that only a quota can limit.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Resources that a quota can limit and that are measured.
const MEASURED: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "storage",
];

fn is_huge_page(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// What a container can ask for without a vendor's name.
fn is_of_containers(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

/// What has no vendor's name at all.
fn is_standard(name: &str) -> bool {
    is_of_containers(name)
        || COUNTED.contains(&name)
        || MEASURED.contains(&name)
        || name.strip_prefix("requests.").is_some_and(is_huge_page)
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

/// What a container asks for.
pub(super) fn check(path: &str, resources: &ResourceRequirements, errors: &mut Errors) {
    requirements(path, resources, container_name, errors);
}

/// The resources of the pod as a whole (KEP-2837).
pub(super) fn check_pod(spec: &PodSpec, errors: &mut Errors) {
    let Some(resources) = &spec.resources else {
        return;
    };
    let path = "spec.resources";
    if let Some(found) = &resources.claims {
        let list = format!("{path}.claims");
        let detail = "claims may not be set for Resources at pod-level";
        errors.forbidden(list.as_str(), detail);
        claims(&list, found, &claim_names(spec), errors);
    }
    requirements(path, resources, pod_name, errors);
}

type NameRule = fn(&str, &str, &mut Errors);

fn requirements(path: &str, of: &ResourceRequirements, rule: NameRule, errors: &mut Errors) {
    let mut part = |field: &str, amounts: Option<&Amounts>| {
        let path = format!("{path}.{field}");
        let read = |(name, amount): (&String, &_)| {
            let path = format!("{path}[{name}]");
            rule(&path, name, errors);
            let quantity = amount_of(&path, name, amount, errors)?;
            Some((name.clone(), quantity))
        };
        amounts
            .into_iter()
            .flatten()
            .filter_map(read)
            .collect::<Vec<_>>()
    };
    let limits = part("limits", of.limits.as_ref());
    let requests = part("requests", of.requests.as_ref());
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
}

/// The amount, when it is a quantity at all.
fn amount_of(
    path: &str,
    name: &str,
    amount: &k8s_openapi::apimachinery::pkg::api::resource::Quantity,
    errors: &mut Errors,
) -> Option<Quantity> {
    let quantity = match Quantity::parse(&amount.0) {
        Ok(quantity) => quantity,
        Err(e @ InvalidQuantity) => {
            errors.invalid(path, amount.0.as_str(), &e.to_string());
            return None;
        }
    };
    let text = quantity.to_string();
    if quantity < Quantity::default() {
        let detail = "must be greater than or equal to 0";
        errors.invalid(path, text.as_str(), detail);
    }
    let whole_only = COUNTED.contains(&name) || is_extended(name);
    if whole_only && quantity.milli() % 1000 != 0 {
        errors.invalid(path, Json(&text), "must be an integer");
    }
    if let Some(page) = name.strip_prefix(HUGE_PAGES)
        && !divides(page, &quantity)
    {
        let detail = format!("{text} is not positive integer multiple of {name}");
        errors.invalid(path, text.as_str(), &detail);
    }
    Some(quantity)
}

/// Whether `quantity` is so many pages of this size.
fn divides(page: &str, quantity: &Quantity) -> bool {
    Quantity::parse(page).is_ok_and(|page| {
        page > Quantity::default()
            && page.milli() % 1000 == 0
            && quantity.value() % page.value() == 0
    })
}

/// What is wrong with `name` as the name of any resource.
fn name_messages(name: &str) -> Vec<String> {
    let mut messages = names::qualified(name);
    if messages.is_empty() && !name.contains('/') && !is_standard(name) {
        messages.push("must be a standard resource type or fully qualified".into());
    }
    messages
}

fn container_name(path: &str, name: &str, errors: &mut Errors) {
    let mut messages = name_messages(name);
    if !name.contains('/') {
        if !is_of_containers(name) {
            messages.push("must be a standard resource for containers".into());
        }
    } else if !is_native(name) && !is_extended(name) {
        messages.push("doesn't follow extended resource name standard".into());
    }
    for message in messages {
        errors.invalid(path, Json(name), &message);
    }
}

fn pod_name(path: &str, name: &str, errors: &mut Errors) {
    let messages = name_messages(name);
    if messages.is_empty() && !is_huge_page(name) {
        errors.unsupported(path, name, &["cpu", HUGE_PAGES, "memory"]);
    }
    for message in messages {
        errors.invalid(path, Json(name), &message);
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
        errors.pointing(&format!("{path}.requests[{name}]"), |errors| {
            let value = request.to_string();
            errors.invalid(format!("{path}.requests"), value.as_str(), &detail);
        });
    }
}

/// The names of the pod's claims.
pub(super) fn claim_names(spec: &PodSpec) -> BTreeSet<&str> {
    let names = spec
        .resource_claims
        .iter()
        .flatten()
        .map(|c| c.name.as_str());
    names.filter(|name| !name.is_empty()).collect()
}

/// References to claims of the pod: each claim whole once, or each of its requests once.
pub(super) fn claims(
    list: &str,
    claims: &[ResourceClaim],
    of_pod: &BTreeSet<&str>,
    errors: &mut Errors,
) {
    let mut taken: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = format!("{list}[{i}]");
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.required(path, "");
            continue;
        }
        let request = claim.request.as_deref().unwrap_or_default();
        if taken.contains(&(name, "")) {
            errors.duplicate(path.as_str(), name);
        } else {
            if !request.is_empty() {
                errors.all(&format!("{path}.request"), request, names::label(request));
                if taken.contains(&(name, request)) {
                    errors.duplicate(path.as_str(), &format!("{name}/{request}"));
                }
            } else {
                for _ in taken.iter().filter(|(other, _)| *other == name) {
                    errors.duplicate(path.as_str(), name);
                }
            }
            taken.insert((name, request));
        }
        if !of_pod.contains(name) {
            let names: Vec<_> = of_pod.iter().copied().collect();
            let which = match names.as_slice() {
                [] => " which is empty".to_owned(),
                names => format!(": {}", names.join(", ")),
            };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{which}");
            errors.push(path, &format!("Not found: {}", quoted(name)), &detail);
        }
    }
}
