//! From two statuses of a node to the strategic merge patch that makes one of the other. Pure.

use serde_json::{Map, Value, json};

use super::types::{Address, Condition, NodeStatus};

/// The patch of `status` that makes `after` of `before`; none where they are the same.
///
/// Conditions are merged by their type. Addresses are replaced as a whole: their published merge key would lose their order
/// (and upstream does so).
#[must_use]
pub(super) fn of_status(before: &NodeStatus, after: &NodeStatus) -> Option<Value> {
    let bare = |status: &NodeStatus| {
        let status = NodeStatus {
            conditions: Vec::new(),
            addresses: Vec::new(),
            ..status.clone()
        };
        serde_json::to_value(status).unwrap_or_default()
    };
    let mut patch = match of_values(&bare(before), &bare(after)) {
        Some(Value::Object(patch)) => patch,
        _ => Map::new(),
    };
    if before.addresses != after.addresses {
        patch.insert("addresses".to_owned(), of_addresses(&after.addresses));
    }
    let conditions = of_conditions(&before.conditions, &after.conditions);
    if !conditions.is_empty() {
        let order: Vec<Value> = after
            .conditions
            .iter()
            .map(|one| json!({"type": one.kind}))
            .collect();
        patch.insert("$setElementOrder/conditions".to_owned(), order.into());
        patch.insert("conditions".to_owned(), conditions.into());
    }
    (!patch.is_empty()).then(|| patch.into())
}

fn of_addresses(addresses: &[Address]) -> Value {
    let mut list: Vec<Value> = addresses
        .iter()
        .map(|one| json!({"type": one.kind, "address": one.address}))
        .collect();
    list.push(json!({"$patch": "replace"}));
    list.into()
}

/// Each that changed, with what changed of it.
fn of_conditions(before: &[Condition], after: &[Condition]) -> Vec<Value> {
    let changed = after.iter().filter_map(|new| {
        let value = |condition: &Condition| serde_json::to_value(condition).unwrap_or_default();
        let Some(old) = before.iter().find(|old| old.kind == new.kind) else {
            return Some(value(new));
        };
        let mut patch = of_values(&value(old), &value(new))?;
        patch["type"] = new.kind.clone().into();
        Some(patch)
    });
    changed.collect()
}

/// A merge patch: what differs of an object, null for what is gone; anything else as a whole.
fn of_values(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return Some(after.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        let was = old.get(key).unwrap_or(&Value::Null);
        if let Some(change) = of_values(was, value) {
            patch.insert(key.clone(), change);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Some(patch.into())
}
