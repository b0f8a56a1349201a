//! Rules for what only a scheduler reads: tolerations, spread, gates, groups.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSpec, Toleration, TopologySpreadConstraint};

use super::shown::{Bare, Json, quoted};
use super::{Errors, names, selectors};

pub(super) fn check(spec: &PodSpec, errors: &mut Errors) {
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = format!("spec.readinessGates[{i}].conditionType");
        let condition = &gate.condition_type;
        errors.all(&path, condition, names::qualified(condition));
    }
    scheduling_gates(spec, errors);
    let constraints = spec
        .topology_spread_constraints
        .as_deref()
        .unwrap_or_default();
    for (i, constraint) in constraints.iter().enumerate() {
        let others = constraints.get(i + 1..).unwrap_or_default();
        let path = format!("spec.topologySpreadConstraints[{i}]");
        spread(&path, constraint, others, errors);
    }
    let list = spec.tolerations.as_deref().unwrap_or_default();
    tolerations("spec.tolerations", list, errors);
    if let Some(policy) = spec.preemption_policy.as_deref() {
        let supported = ["PreemptLowerPriority", "Never"];
        errors.one_of("spec.preemptionPolicy", policy, &supported);
    }
    if let Some(group) = &spec.scheduling_group {
        let path = "spec.schedulingGroup.podGroupName";
        match &group.pod_group_name {
            None => errors.invalid(path, Bare("null"), "must specify one of: `podGroupName`"),
            Some(name) => errors.all(path, name, names::subdomain(name)),
        }
    }
}

fn scheduling_gates(spec: &PodSpec, errors: &mut Errors) {
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let mut taken = BTreeSet::new();
    for (i, gate) in gates.iter().enumerate() {
        let path = format!("spec.schedulingGates[{i}]");
        errors.all(&path, &gate.name, names::qualified(&gate.name));
        if !taken.insert(&gate.name) {
            errors.duplicate(path, &gate.name);
        }
    }
    if !gates.is_empty() {
        // The node is this one, whatever the manifest says: what has to go is the gates.
        errors.pointing("spec.schedulingGates", |errors| {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.forbidden("spec.nodeName", detail);
        });
    }
}

fn spread(
    path: &str,
    constraint: &TopologySpreadConstraint,
    others: &[TopologySpreadConstraint],
    errors: &mut Errors,
) {
    let positive = "must be greater than zero";
    if constraint.max_skew <= 0 {
        errors.invalid(format!("{path}.maxSkew"), constraint.max_skew, positive);
    }
    if constraint.topology_key.is_empty() {
        errors.required(format!("{path}.topologyKey"), "can not be empty");
    }
    let action = constraint.when_unsatisfiable.as_str();
    let supported = ["DoNotSchedule", "ScheduleAnyway"];
    errors.unsupported(format!("{path}.whenUnsatisfiable"), action, &supported);
    let same = |other: &TopologySpreadConstraint| {
        other.topology_key == constraint.topology_key && other.when_unsatisfiable == action
    };
    if others.iter().any(same) {
        let path = format!("{path}.{{topologyKey, whenUnsatisfiable}}");
        errors.duplicate(path, &format!("{{{}, {action}}}", constraint.topology_key));
    }
    if let Some(domains) = constraint.min_domains {
        let path = format!("{path}.minDomains");
        if domains <= 0 {
            errors.invalid(path.as_str(), domains, positive);
        }
        if action != "DoNotSchedule" {
            let detail =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.invalid(path, domains, &detail);
        }
    }
    let policies = [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ];
    for (field, policy) in policies {
        if let Some(policy) = policy {
            errors.unsupported(format!("{path}.{field}"), policy, &["Honor", "Ignore"]);
        }
    }
    let selector = constraint.label_selector.as_ref();
    selectors::label_keys(
        path,
        constraint.match_label_keys.as_deref().unwrap_or_default(),
        &[],
        selector,
        errors,
    );
    selectors::check(&format!("{path}.labelSelector"), selector, errors);
}

/// Tolerations, in their field or in the annotation of old.
pub(super) fn tolerations(path: &str, tolerations: &[Toleration], errors: &mut Errors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        check_toleration(&format!("{path}[{i}]"), toleration, errors);
    }
}

fn check_toleration(path: &str, toleration: &Toleration, errors: &mut Errors) {
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    let (key, value) = (text(&toleration.key), text(&toleration.value));
    let (operator, effect) = (text(&toleration.operator), text(&toleration.effect));
    if !key.is_empty() {
        errors.all(&format!("{path}.key"), &key, names::qualified(&key));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(format!("{path}.operator"), Json(&operator), detail);
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(format!("{path}.effect"), Json(&effect), detail);
    }
    let at = format!("{path}.operator");
    match operator.as_str() {
        "" | "Equal" => {
            let messages = names::label_value(&value);
            if !messages.is_empty() {
                errors.pointing(&format!("{path}.value"), |errors| {
                    errors.invalid(at, value.as_str(), &messages.join(";"));
                });
            }
        }
        "Exists" => {
            if !value.is_empty() {
                errors.pointing(&format!("{path}.value"), |errors| {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.invalid(at, value.as_str(), detail);
                });
            }
        }
        // They wait behind the gate TaintTolerationComparisonOperators, off in 1.36.
        "Lt" | "Gt" => {
            let quoted = ["Equal", "Exists", "Lt", "Gt"].map(quoted);
            let detail = format!("supported values: {}", quoted.join(", "));
            errors.push(
                at,
                &format!("Unsupported value: {}", super::json(&operator)),
                &detail,
            );
        }
        other => errors.unsupported(at, other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        errors.unsupported(format!("{path}.effect"), &effect, &supported);
    }
}
