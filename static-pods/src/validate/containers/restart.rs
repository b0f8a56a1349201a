//! When a container restarts: its own policy, its rules by exit code, and what a change of its resources does.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule};

use super::super::Errors;
use super::super::shown::{Json, json};

/// Most rules of one container (KEP-5307).
const RULES: usize = 20;
/// Most exit codes of one rule (KEP-5307).
const EXIT_CODES: usize = 255;

pub(super) fn check(path: &str, container: &Container, errors: &mut Errors) {
    let rules = container
        .restart_policy_rules
        .as_deref()
        .unwrap_or_default();
    let field = format!("{path}.restartPolicy");
    match container.restart_policy.as_deref() {
        Some(policy) => errors.unsupported(field, policy, &["Always", "Never", "OnFailure"]),
        None if rules.is_empty() => {}
        None => {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.required(field, detail);
            // Upstream leaves it at that for init containers.
            if path.starts_with("spec.initContainers") {
                return;
            }
        }
    }
    if rules.len() > RULES {
        errors.too_many(format!("{path}.restartPolicyRules"), rules.len(), RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        check_rule(&format!("{path}.restartPolicyRules[{i}]"), rule, errors);
    }
}

fn check_rule(path: &str, rule: &ContainerRestartRule, errors: &mut Errors) {
    let actions = ["Restart", "RestartAllContainers"];
    errors.unsupported(format!("{path}.action"), &rule.action, &actions);
    let path = format!("{path}.exitCodes");
    let Some(codes) = &rule.exit_codes else {
        return errors.required(path, "must be specified");
    };
    let operators = ["In", "NotIn"];
    errors.unsupported(format!("{path}.operator"), &codes.operator, &operators);
    let count = codes.values.as_ref().map_or(0, Vec::len);
    if count > EXIT_CODES {
        errors.too_many(format!("{path}.values"), count, EXIT_CODES);
    }
}

/// What a container does when its resources change. Upstream's paths do not say which entry is meant.
pub(super) fn resize(path: &str, container: &Container, never: bool, errors: &mut Errors) {
    let list = format!("{path}.resizePolicy");
    let mut taken = BTreeSet::new();
    for (i, entry) in container.resize_policy.iter().flatten().enumerate() {
        let path = format!("{list}[{i}]");
        let (resource, policy) = (entry.resource_name.as_str(), entry.restart_policy.as_str());
        if !taken.insert(resource) {
            errors.push(
                path.as_str(),
                &format!("Duplicate value: {}", json(resource)),
                "",
            );
        }
        errors.pointing(&format!("{path}.resourceName"), |errors| {
            errors.one_of(list.as_str(), resource, &["cpu", "memory"]);
        });
        errors.pointing(&format!("{path}.restartPolicy"), |errors| {
            errors.one_of(list.as_str(), policy, &["NotRequired", "RestartContainer"]);
            if never && policy != "NotRequired" {
                let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
                errors.invalid(list.as_str(), Json(policy), detail);
            }
        });
    }
}

/// An init container that runs to its end is not restarted for its resources.
pub(super) fn no_resize_restarts(path: &str, container: &Container, errors: &mut Errors) {
    for (i, entry) in container.resize_policy.iter().flatten().enumerate() {
        if entry.restart_policy == "RestartContainer" {
            let path = format!("{path}.resizePolicy[{i}].restartPolicy");
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.invalid(path, Json(&entry.restart_policy), detail);
        }
    }
}
