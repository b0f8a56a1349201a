//! The three kinds of patch: JSON patch (RFC 6902), merge patch (RFC 7386), and strategic merge.

use serde_json::Value;

use super::answer::Refusal;
use super::strategic;

/// Applies a patch of this content type.
///
/// # Errors
/// An unknown type, a patch that is none, or one that does not apply.
pub(super) fn apply(content_type: &str, object: &Value, patch: &Value) -> Result<Value, Refusal> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    match kind {
        "application/json-patch+json" => json_patch(object, patch),
        "application/merge-patch+json" => {
            let mut merged = object.clone();
            merge(&mut merged, patch);
            Ok(merged)
        }
        "application/strategic-merge-patch+json" => strategic::merge(object, patch),
        other => Err(Refusal::unsupported_patch(other)),
    }
}

/// Merge patch: null takes away, objects are merged, everything else takes the place.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in fields {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn json_patch(object: &Value, patch: &Value) -> Result<Value, Refusal> {
    let invalid = |why: String| Refusal::new(422, "Invalid", why);
    let steps = patch
        .as_array()
        .ok_or_else(|| Refusal::bad_request("a JSON patch is a list"))?;
    let mut object = object.clone();
    for step in steps {
        let field = |name: &str| step.get(name).and_then(Value::as_str);
        let path = field("path").unwrap_or_default();
        let value = || step.get("value").cloned().unwrap_or(Value::Null);
        let missing = || {
            invalid(format!(
                "the server rejected our request due to an error in our request: nothing at {path}"
            ))
        };
        match field("op").unwrap_or_default() {
            "test" => {
                if object.pointer(path) != Some(&value()) {
                    return Err(invalid(format!("testing value {path} failed")));
                }
            }
            "add" => add(&mut object, path, value()).ok_or_else(missing)?,
            "replace" => *object.pointer_mut(path).ok_or_else(missing)? = value(),
            "remove" => drop(remove(&mut object, path).ok_or_else(missing)?),
            "move" => {
                let moved = remove(&mut object, field("from").unwrap_or_default());
                add(&mut object, path, moved.ok_or_else(missing)?).ok_or_else(missing)?;
            }
            "copy" => {
                let from = field("from").unwrap_or_default();
                let copied = object.pointer(from).cloned().ok_or_else(missing)?;
                add(&mut object, path, copied).ok_or_else(missing)?;
            }
            other => return Err(Refusal::bad_request(format!("unexpected kind: {other}"))),
        }
    }
    Ok(object)
}

/// The pointer's parent and its last part, unescaped.
fn parent<'v>(object: &'v mut Value, path: &str) -> Option<(&'v mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    Some((object.pointer_mut(parent)?, last))
}

fn add(object: &mut Value, path: &str, value: Value) -> Option<()> {
    match parent(object, path)? {
        (Value::Object(fields), name) => drop(fields.insert(name, value)),
        (Value::Array(items), last) if last == "-" => items.push(value),
        (Value::Array(items), index) => {
            let index: usize = index.parse().ok().filter(|i| *i <= items.len())?;
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(object: &mut Value, path: &str) -> Option<Value> {
    match parent(object, path)? {
        (Value::Object(fields), name) => fields.remove(&name),
        (Value::Array(items), index) => {
            let index: usize = index.parse().ok().filter(|i| *i < items.len())?;
            Some(items.remove(index))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(kind: &str, object: &Value, patch: &Value) -> Result<Value, u16> {
        let kind = format!("application/{kind}+json; charset=utf-8");
        apply(&kind, object, patch).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_drops_nulls() {
        let object = json!({ "a": { "b": 1, "c": 2 }, "l": [1, 2] });
        let patch = json!({ "a": { "b": null, "d": { "e": null } }, "l": [3] });
        let expected = json!({ "a": { "c": 2, "d": {} }, "l": [3] });
        assert_eq!(patched("merge-patch", &object, &patch), Ok(expected));
    }

    #[test]
    fn a_json_patch_goes_step_by_step() {
        let object = json!({ "a": { "x/y": 1 }, "l": [1, 2] });
        let patch = json!([
            { "op": "test", "path": "/a/x~1y", "value": 1 },
            { "op": "add", "path": "/l/1", "value": 9 },
            { "op": "add", "path": "/l/-", "value": 3 },
            { "op": "remove", "path": "/l/0" },
            { "op": "move", "from": "/a/x~1y", "path": "/m" },
            { "op": "copy", "from": "/m", "path": "/c" },
            { "op": "replace", "path": "/m", "value": 2 },
        ]);
        let expected = json!({ "a": {}, "l": [9, 2, 3], "m": 2, "c": 1 });
        assert_eq!(patched("json-patch", &object, &patch), Ok(expected));
        let failing = json!([{ "op": "test", "path": "/l/0", "value": 7 }]);
        assert_eq!(patched("json-patch", &object, &failing), Err(422));
        let nowhere = json!([{ "op": "replace", "path": "/z", "value": 7 }]);
        assert_eq!(patched("json-patch", &object, &nowhere), Err(422));
        assert_eq!(patched("apply-patch", &object, &failing), Err(415));
    }
}
