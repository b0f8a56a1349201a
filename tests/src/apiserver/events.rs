//! Events of the core group and of `events.k8s.io` are one thing, stored as the former.

use serde_json::{Map, Value};

use super::answer::Refusal;
use super::resource::Resource;
use super::selector::text;

/// The names of a field in the core group and in `events.k8s.io`.
const NAMES: [(&str, &str); 8] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

fn renamed(event: Value, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = event else {
        return event;
    };
    let fields: Map<String, Value> = fields
        .into_iter()
        .map(|(key, value)| match name(&key) {
            Some(other) => (other.to_owned(), value),
            None => (key, value),
        })
        .collect();
    Value::Object(fields)
}

/// As it is stored.
pub(super) fn to_core(event: Value) -> Value {
    renamed(event, |key| {
        NAMES
            .iter()
            .find(|(_, new)| *new == key)
            .map(|(old, _)| *old)
    })
}

/// As `events.k8s.io` shows it.
pub(super) fn to_new(event: Value) -> Value {
    let mut event = renamed(event, |key| {
        NAMES
            .iter()
            .find(|(old, _)| *old == key)
            .map(|(_, new)| *new)
    });
    event["apiVersion"] = "events.k8s.io/v1".into();
    event
}

/// What the server demands of an event.
pub(super) fn check(resource: &Resource, event: &Value) -> Result<(), Refusal> {
    let name = text(event, "metadata.name");
    let namespace = text(event, "metadata.namespace");
    let involved = text(event, "involvedObject.namespace");
    let fits = if involved.is_empty() {
        // Those of global objects.
        ["default", "kube-system"].contains(&namespace)
    } else {
        involved == namespace
    };
    if fits {
        return Ok(());
    }
    let why = "involvedObject.namespace: Invalid value: does not match event.namespace";
    Err(Refusal::invalid(resource, name, why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn there_and_back_is_the_same() {
        let core = json!({
            "apiVersion": "v1", "involvedObject": { "kind": "Pod" }, "message": "m", "count": 2,
            "reportingComponent": "kubelet", "reason": "R",
        });
        let new = to_new(core.clone());
        assert_eq!(
            (&new["note"], &new["deprecatedCount"]),
            (&json!("m"), &json!(2))
        );
        let mut back = to_core(new);
        back["apiVersion"] = "v1".into();
        assert_eq!(back, core);
    }
}
