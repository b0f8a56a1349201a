//! Rules for label selectors, and for label keys that join one.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::shown::Json;
use super::{Errors, metadata, names};

pub(super) fn check(path: &str, selector: Option<&LabelSelector>, errors: &mut Errors) {
    let Some(selector) = selector else {
        return;
    };
    metadata::labels(
        &format!("{path}.matchLabels"),
        selector.match_labels.as_ref(),
        errors,
    );
    for (i, wanted) in selector.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let values = wanted.values.as_deref().unwrap_or_default();
        match wanted.operator.as_str() {
            operator @ ("In" | "NotIn" | "Exists" | "DoesNotExist") => {
                count(&path, operator, values, errors);
            }
            other => no_operator(&path, other, errors),
        }
        errors.all(
            &format!("{path}.key"),
            &wanted.key,
            names::qualified(&wanted.key),
        );
        label_values(&path, values, errors);
    }
}

/// Operators that compare need values, those that look for the key alone take none.
pub(super) fn count(path: &str, operator: &str, values: &[String], errors: &mut Errors) {
    let path = format!("{path}.values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(path, detail);
        }
        _ => {}
    }
}

pub(super) fn no_operator(path: &str, operator: &str, errors: &mut Errors) {
    let detail = "not a valid selector operator";
    errors.invalid(format!("{path}.operator"), Json(operator), detail);
}

pub(super) fn label_values(path: &str, values: &[String], errors: &mut Errors) {
    for (i, value) in values.iter().enumerate() {
        let path = format!("{path}.values[{i}]");
        errors.all(&path, value, names::label_value(value));
    }
}

/// Keys whose values the pod gives, of the thing at `path`: to match (`matchLabelKeys`) and to differ in
/// (`mismatchLabelKeys`).
pub(super) fn label_keys(
    path: &str,
    matching: &[String],
    differing: &[String],
    selector: Option<&LabelSelector>,
    errors: &mut Errors,
) {
    for (field, keys) in [
        ("matchLabelKeys", matching),
        ("mismatchLabelKeys", differing),
    ] {
        let path = format!("{path}.{field}");
        if !keys.is_empty() && selector.is_none() {
            errors.forbidden(path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            errors.all(&format!("{path}[{i}]"), key, names::qualified(key));
        }
    }
    if let Some(selector) = selector {
        // A key there twice counts where it stands last.
        let places: BTreeMap<_, _> = matching.iter().enumerate().map(|(i, k)| (k, i)).collect();
        let mut selected: BTreeSet<_> = selector
            .match_labels
            .iter()
            .flatten()
            .map(|l| l.0)
            .collect();
        for (i, wanted) in selector.match_expressions.iter().flatten().enumerate() {
            // The API turns each match key into an expression; only what selects by the key besides is one too many.
            if let Some(place) = places.get(&wanted.key)
                && selected.contains(&wanted.key)
            {
                errors.pointing(
                    &format!("{path}.labelSelector.matchExpressions[{i}].key"),
                    |errors| {
                        let detail = "exists in both matchLabelKeys and labelSelector";
                        errors.invalid(format!("{path}[{place}]"), wanted.key.as_str(), detail);
                    },
                );
            }
            selected.insert(&wanted.key);
        }
    }
    for (i, key) in matching.iter().enumerate() {
        if differing.contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(format!("{path}.matchLabelKeys[{i}]"), key.as_str(), detail);
        }
    }
}
