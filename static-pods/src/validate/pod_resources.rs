//! Rules for the resources of the pod as a whole against those of its containers (KEP-2837), and for its overhead.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

use super::{Errors, resources};
use crate::defaults::{self, Amounts};
use crate::quantity::Quantity;

pub(super) fn check(spec: &PodSpec, errors: &mut Errors) {
    if let Some(of_pod) = &spec.resources {
        if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
            errors.forbidden("spec.resources", "may not be set for a windows pod");
        } else {
            resources::check_pod(spec, errors);
            against_containers(spec, of_pod, errors);
        }
    }
    overhead(spec, errors);
}

fn read(amounts: Option<&Amounts>) -> BTreeMap<&str, Quantity> {
    let amounts = amounts.into_iter().flatten();
    amounts
        .filter_map(|(name, amount)| Some((name.as_str(), Quantity::parse(&amount.0).ok()?)))
        .collect()
}

fn against_containers(spec: &PodSpec, of_pod: &ResourceRequirements, errors: &mut Errors) {
    let (limits, requests) = (read(of_pod.limits.as_ref()), read(of_pod.requests.as_ref()));
    let together = defaults::aggregate(spec, |r| r.requests.as_ref());
    let mut at_least = |part: &str, name: &str, sum: &Quantity, amount: Option<&Quantity>| {
        if let Some(amount) = amount.filter(|a| sum > *a) {
            let detail =
                format!("must be greater than or equal to aggregate container {part} of {sum}");
            let path = format!("spec.resources.{part}[{name}]");
            errors.invalid(path, amount.to_string().as_str(), &detail);
        }
    };
    for (name, sum) in read(Some(&together)) {
        at_least("requests", name, &sum, requests.get(name));
    }
    let together = defaults::aggregate(spec, |r| r.limits.as_ref());
    for (name, sum) in read(Some(&together)) {
        // Huge pages cannot be lent out, so that their limits add up as requests do.
        if name.starts_with("hugepages-") {
            at_least("limits", name, &sum, limits.get(name));
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let of_container = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        for (name, limit) in read(of_container) {
            let Some(most) = limits.get(name).filter(|most| limit > **most) else {
                continue;
            };
            let at = format!("spec.containers[{i}].resources.limits[{name}]");
            errors.pointing(&at, |errors| {
                let path = format!("spec.resources.containers[{i}][{name}].limits");
                let detail = format!("must be less than or equal to pod limits of {most}");
                errors.invalid(path, limit.to_string().as_str(), &detail);
            });
        }
    }
}

/// Overhead is judged as limits of a container, and upstream's paths say so.
fn overhead(spec: &PodSpec, errors: &mut Errors) {
    let Some(overhead) = &spec.overhead else {
        return;
    };
    let as_limits = ResourceRequirements {
        limits: Some(overhead.clone()),
        ..ResourceRequirements::default()
    };
    let before = errors.0.len();
    resources::check("spec.overhead", &as_limits, errors);
    for error in errors.0.iter_mut().skip(before) {
        error.at = Some(error.path.replace(".limits", ""));
    }
}
