//! Node selector, required node affinity and node name: what holds for a pod that no scheduler placed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};

use super::{NodeFeatures, Rejection};
use crate::pod::{self, Pod};

pub(super) fn admit(pod: &Pod, node: &NodeFeatures) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    if !matches(spec, node) {
        return Err(Rejection::new(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ));
    }
    if spec
        .node_name
        .as_deref()
        .is_some_and(|name| !name.is_empty() && name != node.node_name)
    {
        return Err(Rejection::new(
            "NodeName",
            "Predicate NodeName failed: node(s) didn't match the requested node name",
        ));
    }
    Ok(())
}

fn matches(spec: &PodSpec, node: &NodeFeatures) -> bool {
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| node.labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected
        && required.is_none_or(|selector| {
            let mut terms = selector.node_selector_terms.iter();
            terms.any(|term| term_matches(term, &node.labels, &node.node_name))
        })
}

/// Whether `selector` selects a node with these `labels`. As upstream, where it is a volume's: by labels alone.
pub(crate) fn selects(selector: &NodeSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut terms = selector.node_selector_terms.iter();
    terms.any(|term| term_matches(term, labels, ""))
}

/// Terms are alternatives; an empty one selects nothing.
fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    // The one field of a node that may be selected by.
    let node_fields = BTreeMap::from([("metadata.name".to_owned(), name.to_owned())]);
    expressions.iter().all(|e| holds(e, labels)) && fields.iter().all(|f| holds(f, &node_fields))
}

fn holds(requirement: &NodeSelectorRequirement, of: &BTreeMap<String, String>) -> bool {
    let value = of.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let compared = |holds: fn(i64, i64) -> bool| {
        let (Some(value), [bound]) = (value, values) else {
            return false;
        };
        matches!((value.parse(), bound.parse()), (Ok(value), Ok(bound)) if holds(value, bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|value, bound| value > bound),
        "Lt" => compared(|value, bound| value < bound),
        // Sources refuse other operators; one that slipped through selects no node.
        _ => false,
    }
}
