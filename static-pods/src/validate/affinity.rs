//! Rules for affinity to nodes and to pods. Nothing schedules a static pod, but upstream refuses a wrong one all the
//! same.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    WeightedPodAffinityTerm,
};

use super::{Errors, names, selectors};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn check(affinity: Option<&Affinity>, errors: &mut Errors) {
    let Some(affinity) = affinity else {
        return;
    };
    if let Some(node) = &affinity.node_affinity {
        of_node("spec.affinity.nodeAffinity", node, errors);
    }
    if let Some(pods) = &affinity.pod_affinity {
        of_pods(
            "spec.affinity.podAffinity",
            pods.required_during_scheduling_ignored_during_execution
                .as_deref(),
            pods.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
            errors,
        );
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        of_pods(
            "spec.affinity.podAntiAffinity",
            pods.required_during_scheduling_ignored_during_execution
                .as_deref(),
            pods.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
            errors,
        );
    }
}

fn of_node(path: &str, affinity: &NodeAffinity, errors: &mut Errors) {
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = format!("{path}.{REQUIRED}.nodeSelectorTerms");
        if required.node_selector_terms.is_empty() {
            errors.required(path.as_str(), "must have at least one node selector term");
        }
        for (i, term) in required.node_selector_terms.iter().enumerate() {
            node_term(&format!("{path}[{i}]"), term, true, errors);
        }
    }
    let preferred = affinity
        .preferred_during_scheduling_ignored_during_execution
        .iter()
        .flatten();
    for (i, preferred) in preferred.enumerate() {
        let path = format!("{path}.{PREFERRED}[{i}]");
        weight(&path, preferred.weight, errors);
        // A preference for a label that no node can have does no harm.
        node_term(
            &format!("{path}.preference"),
            &preferred.preference,
            false,
            errors,
        );
    }
}

fn weight(path: &str, weight: i32, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(
            format!("{path}.weight"),
            weight,
            "must be in the range 1-100",
        );
    }
}

fn node_term(path: &str, term: &NodeSelectorTerm, strict_values: bool, errors: &mut Errors) {
    for (i, wanted) in term.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let values = wanted.values.as_deref().unwrap_or_default();
        match wanted.operator.as_str() {
            operator @ ("In" | "NotIn" | "Exists" | "DoesNotExist") => {
                selectors::count(&path, operator, values, errors);
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.required(format!("{path}.values"), detail);
                }
            }
            other => selectors::no_operator(&path, other, errors),
        }
        errors.all(
            &format!("{path}.key"),
            &wanted.key,
            names::qualified(&wanted.key),
        );
        if strict_values {
            selectors::label_values(&path, values, errors);
        }
    }
    for (i, wanted) in term.match_fields.iter().flatten().enumerate() {
        node_field(&format!("{path}.matchFields[{i}]"), wanted, errors);
    }
}

fn node_field(path: &str, wanted: &NodeSelectorRequirement, errors: &mut Errors) {
    let values = wanted.values.as_deref().unwrap_or_default();
    match wanted.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(format!("{path}.values"), detail);
            }
        }
        other => selectors::no_operator(path, other, errors),
    }
    if wanted.key == "metadata.name" {
        for (i, value) in values.iter().enumerate() {
            errors.all(
                &format!("{path}.values[{i}]"),
                value,
                names::subdomain(value),
            );
        }
    } else {
        let detail = "not a valid field selector key";
        errors.invalid(format!("{path}.key"), wanted.key.as_str(), detail);
    }
}

fn of_pods(
    path: &str,
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    errors: &mut Errors,
) {
    for (i, term) in required.into_iter().flatten().enumerate() {
        pod_term(&format!("{path}.{REQUIRED}[{i}]"), term, errors);
    }
    for (i, preferred) in preferred.into_iter().flatten().enumerate() {
        let path = format!("{path}.{PREFERRED}[{i}]");
        weight(&path, preferred.weight, errors);
        pod_term(
            &format!("{path}.podAffinityTerm"),
            &preferred.pod_affinity_term,
            errors,
        );
    }
}

fn pod_term(path: &str, term: &PodAffinityTerm, errors: &mut Errors) {
    selectors::check(
        &format!("{path}.labelSelector"),
        term.label_selector.as_ref(),
        errors,
    );
    selectors::check(
        &format!("{path}.namespaceSelector"),
        term.namespace_selector.as_ref(),
        errors,
    );
    for (i, namespace) in term.namespaces.iter().flatten().enumerate() {
        // Upstream's path has the list's name in the singular, and no index.
        errors.pointing(&format!("{path}.namespaces[{i}]"), |errors| {
            errors.all(
                &format!("{path}.namespace"),
                namespace,
                names::label(namespace),
            );
        });
    }
    selectors::label_keys(
        path,
        term.match_label_keys.as_deref().unwrap_or_default(),
        term.mismatch_label_keys.as_deref().unwrap_or_default(),
        term.label_selector.as_ref(),
        errors,
    );
    let path = format!("{path}.topologyKey");
    if term.topology_key.is_empty() {
        errors.required(path.as_str(), "can not be empty");
    }
    errors.all(
        &path,
        &term.topology_key,
        names::qualified(&term.topology_key),
    );
}
