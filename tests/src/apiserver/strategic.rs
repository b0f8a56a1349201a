//! Strategic merge patch, by the merge keys of the types that are stored here.
//!
//! As <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md>
//! has it: lists with a merge key are merged element by element, others replaced; `$patch`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>` and `$retainKeys` are directives, and none of them is kept.

use serde_json::{Map, Value};

use super::answer::Refusal;

type Object = Map<String, Value>;

const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// How a list is merged.
#[derive(Clone, Copy, PartialEq)]
enum Lists {
    Replaced,
    ByKey(&'static str),
    OfPrimitives,
}

/// By the name of the list and of what it lies in: patchStrategy and patchMergeKey of `k8s.io/api` for pods, nodes,
/// services, service accounts, CSRs and all metadata.
fn lists(parent: &str, name: &str) -> Lists {
    match (parent, name) {
        ("metadata", "ownerReferences") => Lists::ByKey("uid"),
        ("metadata", "finalizers") | ("spec", "podCIDRs") => Lists::OfPrimitives,
        ("status", "conditions" | "addresses") => Lists::ByKey("type"),
        ("status", "podIPs" | "hostIPs") | ("spec", "hostAliases") => Lists::ByKey("ip"),
        ("status", "resourceClaimStatuses")
        | (
            "spec",
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "volumes"
            | "imagePullSecrets"
            | "resourceClaims"
            | "schedulingGates",
        )
        | ("containers" | "initContainers" | "ephemeralContainers", "env")
        | ("", "secrets" | "imagePullSecrets") => Lists::ByKey("name"),
        ("containers" | "initContainers" | "ephemeralContainers", "volumeMounts") => {
            Lists::ByKey("mountPath")
        }
        ("containers" | "initContainers" | "ephemeralContainers", "volumeDevices") => {
            Lists::ByKey("devicePath")
        }
        ("containers" | "initContainers" | "ephemeralContainers", "ports") => {
            Lists::ByKey("containerPort")
        }
        ("spec", "ports") => Lists::ByKey("port"),
        ("spec", "topologySpreadConstraints") => Lists::ByKey("topologyKey"),
        _ => Lists::Replaced,
    }
}

/// The object with the patch applied.
pub(super) fn merge(object: &Value, patch: &Value) -> Result<Value, Refusal> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(Refusal::bad_request("a strategic merge patch is an object"));
    };
    Ok(Value::Object(merge_maps("", object.clone(), patch)?))
}

fn merge_maps(name: &str, mut object: Object, patch: &Object) -> Result<Object, Refusal> {
    match patch.get("$patch").map(Value::as_str) {
        None => {}
        Some(Some("replace")) => {
            let mut fields = patch.clone();
            fields.remove("$patch");
            return Ok(fields);
        }
        Some(Some("delete")) => return Ok(Object::new()),
        Some(other) => {
            let why = format!("unknown patch type found: {other:?}");
            return Err(Refusal::bad_request(why));
        }
    }
    if let Some(keys) = patch.get("$retainKeys") {
        retain(&mut object, keys, patch)?;
    }
    // Lists with an order, which may be there without a patch of the list itself.
    for (key, order) in patch {
        let Some(list) = key.strip_prefix(ORDER) else {
            continue;
        };
        let order = items(order)?;
        let how = lists(name, list);
        let patched = match patch.get(list) {
            Some(patched) => items(patched)?,
            None => &[],
        };
        in_order(how, order, patched)?;
        let original = take(&mut object, list);
        if original.is_empty() && patched.is_empty() {
            continue;
        }
        let merged = merge_lists(list, how, original.clone(), patched)?;
        let merged = arrange(how, merged, order, &original);
        object.insert(list.to_owned(), Value::Array(merged));
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE) {
            let gone = items(value)?;
            if let Some(Value::Array(kept)) = object.get_mut(list) {
                kept.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') || patch.contains_key(&format!("{ORDER}{key}")) {
            continue;
        }
        match (object.get_mut(key), value) {
            (_, Value::Null) => drop(object.remove(key)),
            (Some(Value::Object(fields)), Value::Object(patch)) => {
                let merged = merge_maps(key, std::mem::take(fields), patch)?;
                object.insert(key.clone(), Value::Object(merged));
            }
            (Some(Value::Array(original)), Value::Array(patch)) => {
                let how = lists(name, key);
                let original = std::mem::take(original);
                let merged = merge_lists(key, how, original.clone(), patch)?;
                let merged = arrange(how, merged, patch, &original);
                object.insert(key.clone(), Value::Array(merged));
            }
            (_, new) => drop(object.insert(key.clone(), plain(new))),
        }
    }
    Ok(object)
}

fn items(value: &Value) -> Result<&[Value], Refusal> {
    let items = value.as_array().map(Vec::as_slice);
    items.ok_or_else(|| Refusal::bad_request(format!("not a list: {value}")))
}

fn take(object: &mut Object, list: &str) -> Vec<Value> {
    match object.remove(list) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// Only the named fields stay; what the patch brings must be among them.
fn retain(object: &mut Object, keys: &Value, patch: &Object) -> Result<(), Refusal> {
    let keys = items(keys)?;
    let kept = |key: &String| keys.iter().any(|k| k.as_str() == Some(key));
    let stray = patch
        .iter()
        .find(|(key, value)| !key.starts_with('$') && !value.is_null() && !kept(key));
    if let Some((stray, _)) = stray {
        let why = format!("invalid patch format of retainKeys: {stray} is not among them");
        return Err(Refusal::bad_request(why));
    }
    object.retain(|key, _| kept(key));
    Ok(())
}

fn identity(how: Lists, item: &Value) -> &Value {
    match how {
        Lists::ByKey(key) => item.get(key).unwrap_or(&Value::Null),
        Lists::OfPrimitives | Lists::Replaced => item,
    }
}

/// The real server refuses a patch whose list disagrees with the order that it gives.
fn in_order(how: Lists, order: &[Value], patched: &[Value]) -> Result<(), Refusal> {
    let place = |item: &Value| {
        let own = identity(how, item);
        order.iter().position(|o| identity(how, o) == own)
    };
    let mut last = 0;
    for item in patched.iter().filter(|i| i.get("$patch").is_none()) {
        match place(item) {
            Some(at) if at >= last => last = at,
            _ => {
                let why = format!(
                    "The order in patch list:\n{patched:?}\n doesn't match $setElementOrder list:\n{order:?}\n"
                );
                return Err(Refusal::bad_request(why));
            }
        }
    }
    Ok(())
}

fn merge_lists(
    name: &str,
    how: Lists,
    mut original: Vec<Value>,
    patch: &[Value],
) -> Result<Vec<Value>, Refusal> {
    let key = match how {
        Lists::Replaced => return Ok(patch.iter().map(plain).collect()),
        Lists::OfPrimitives => {
            for item in patch {
                if !original.contains(item) {
                    original.push(item.clone());
                }
            }
            return Ok(original);
        }
        Lists::ByKey(key) => key,
    };
    let mut replaces = false;
    let mut changes = Vec::new();
    for item in patch {
        match item.get("$patch").and_then(Value::as_str) {
            None => changes.push(item),
            Some("replace") => replaces = true,
            Some("delete") => {
                let gone = identity(how, item);
                original.retain(|item| identity(how, item) != gone);
            }
            Some(other) => {
                let why = format!("unknown patch type found: {other}");
                return Err(Refusal::bad_request(why));
            }
        }
    }
    if replaces {
        return Ok(changes.into_iter().map(plain).collect());
    }
    for change in changes {
        let own = identity(how, change);
        if own.is_null() {
            let why = format!("map: {change} does not contain declared merge key: {key} of {name}");
            return Err(Refusal::bad_request(why));
        }
        let there = original.iter().position(|i| identity(how, i) == own);
        match (there, change) {
            (Some(place), Value::Object(change)) => {
                let fields = original[place].as_object().cloned();
                let merged = merge_maps(name, fields.unwrap_or_default(), change)?;
                original[place] = Value::Object(merged);
            }
            (_, new) => original.push(plain(new)),
        }
    }
    Ok(original)
}

/// What the order names comes in that order; what it does not name keeps its place before what followed it.
fn arrange(how: Lists, merged: Vec<Value>, order: &[Value], original: &[Value]) -> Vec<Value> {
    if how == Lists::Replaced {
        return merged;
    }
    let index = |list: &[Value], item: &Value| {
        let own = identity(how, item);
        list.iter().position(|other| identity(how, other) == own)
    };
    let (mut named, others): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|item| index(order, item).is_some());
    named.sort_by_key(|item| index(order, item));
    let mut arranged = Vec::new();
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return arranged,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(named)) => match (index(original, other), index(original, named)) {
                (Some(other), Some(named)) => other < named,
                _ => false,
            },
        };
        let next = if other_first {
            others.next()
        } else {
            named.next()
        };
        arranged.extend(next);
    }
}

/// A new value without directives and nulls.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .filter(|(key, value)| !key.starts_with('$') && !value.is_null());
            Value::Object(kept.map(|(k, v)| (k.clone(), plain(v))).collect())
        }
        Value::Array(items) => {
            let kept = items.iter().filter(|item| item.get("$patch").is_none());
            Value::Array(kept.map(plain).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(object: &Value, patch: &Value) -> Value {
        merge(object, patch).unwrap()
    }

    #[test]
    fn conditions_merge_by_type_and_others_keep_their_place() {
        let pod = json!({ "status": { "phase": "Pending", "conditions": [
            { "type": "Gate", "status": "True" },
            { "type": "Ready", "status": "False", "reason": "x" },
        ] } });
        let patch = json!({ "metadata": { "uid": "u" }, "status": {
            "phase": "Running",
            "$setElementOrder/conditions": [{ "type": "Initialized" }, { "type": "Ready" }],
            "conditions": [
                { "type": "Initialized", "status": "True" },
                { "type": "Ready", "status": "True", "reason": null },
            ],
        } });
        let expected = json!({ "metadata": { "uid": "u" }, "status": {
            "phase": "Running",
            "conditions": [
                { "type": "Initialized", "status": "True" },
                { "type": "Gate", "status": "True" },
                { "type": "Ready", "status": "True" },
            ],
        } });
        assert_eq!(merged(&pod, &patch), expected);
    }

    #[test]
    fn container_statuses_are_replaced_whole() {
        let pod = json!({ "status": { "containerStatuses": [{ "name": "a" }, { "name": "b" }] } });
        let patch = json!({ "status": { "containerStatuses": [{ "name": "b", "ready": true }] } });
        assert_eq!(merged(&pod, &patch), patch);
    }

    #[test]
    fn an_address_list_with_replace_is_taken_as_it_is() {
        let node = json!({ "status": { "addresses": [
            { "type": "InternalIP", "address": "10.0.0.1" },
            { "type": "Hostname", "address": "n" },
        ] } });
        let patch = json!({ "status": {
            "$setElementOrder/addresses": [{ "type": "InternalIP" }, { "type": "InternalIP" }],
            "addresses": [
                { "$patch": "replace" },
                { "type": "InternalIP", "address": "10.0.0.2" },
                { "type": "InternalIP", "address": "fd00::2" },
            ],
        } });
        let expected = json!({ "status": { "addresses": [
            { "type": "InternalIP", "address": "10.0.0.2" },
            { "type": "InternalIP", "address": "fd00::2" },
        ] } });
        assert_eq!(merged(&node, &patch), expected);
    }

    #[test]
    fn elements_are_deleted_by_key_and_primitives_by_value() {
        let object = json!({
            "metadata": {
                "finalizers": ["a", "b"],
                "ownerReferences": [{ "uid": "1" }, { "uid": "2" }],
            },
            "spec": { "containers": [{ "name": "a", "image": "x", "env": [{ "name": "E", "value": "1" }] }] },
        });
        let patch = json!({
            "metadata": {
                "$deleteFromPrimitiveList/finalizers": ["a"],
                "finalizers": ["c"],
                "ownerReferences": [{ "$patch": "delete", "uid": "1" }],
            },
            "spec": { "containers": [{ "name": "a", "env": [{ "name": "F", "value": "2" }] }] },
        });
        let result = merged(&object, &patch);
        let mut finalizers = result["metadata"]["finalizers"].as_array().unwrap().clone();
        finalizers.sort_by_key(Value::to_string);
        assert_eq!(finalizers, [json!("b"), json!("c")]);
        assert_eq!(
            result["metadata"]["ownerReferences"],
            json!([{ "uid": "2" }])
        );
        let container = &result["spec"]["containers"][0];
        assert_eq!(container["image"], "x");
        assert_eq!(container["env"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn retain_keys_and_replaced_maps() {
        let object = json!({ "spec": { "volumes": [{ "name": "v", "emptyDir": {} }] } });
        let patch = json!({ "spec": { "volumes": [
            { "name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": { "path": "/" } },
        ] } });
        let expected =
            json!({ "spec": { "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] } });
        assert_eq!(merged(&object, &patch), expected);
        let labels = json!({ "metadata": { "labels": { "a": "1" } } });
        let patch = json!({ "metadata": { "labels": { "$patch": "replace", "b": "2" } } });
        assert_eq!(
            merged(&labels, &patch),
            json!({ "metadata": { "labels": { "b": "2" } } })
        );
    }

    #[test]
    fn a_patch_that_contradicts_itself_is_refused() {
        let node = json!({ "status": {} });
        let patch = json!({ "status": {
            "$setElementOrder/conditions": [{ "type": "Ready" }],
            "conditions": [{ "type": "Other", "status": "True" }],
        } });
        assert_eq!(merge(&node, &patch).unwrap_err().code, 400);
        let keyless = json!({ "status": { "conditions": [{ "status": "True" }] } });
        let node = json!({ "status": { "conditions": [{ "type": "Ready" }] } });
        assert_eq!(merge(&node, &keyless).unwrap_err().code, 400);
    }
}
