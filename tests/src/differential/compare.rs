//! Two answers about one manifest.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use static_pods::identity::NodeName;
use static_pods::manifest::{Problem, read_manifest};

use super::Class;

/// A reader's answer, as the other reader sends it: one JSON object a line.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Answer {
    /// Whether the pod is taken.
    pub ok: bool,
    /// Why not, in one line.
    #[serde(default)]
    pub error: String,
    /// The fields that break a rule; empty when something else is wrong.
    #[serde(default)]
    pub fields: Vec<FieldAnswer>,
    /// The pod, defaulted and identified.
    #[serde(default)]
    pub pod: Value,
}

/// A field that breaks a rule.
#[derive(Clone, Debug, Deserialize)]
pub struct FieldAnswer {
    /// The path, the kind of error and its detail, in one line.
    pub text: String,
}

/// Our own answer about the manifest `text` of the file `path`.
#[must_use]
pub fn ours(path: &Path, text: &[u8], node: &NodeName) -> Answer {
    let manifest = read_manifest(path, text, node);
    let lines: Vec<_> = manifest.problems.iter().map(ToString::to_string).collect();
    let pod = manifest.pods.first().map(|pod| {
        // A type of the API that cannot be written as JSON shows as a difference.
        serde_json::to_value(&*pod.pod).unwrap_or_default()
    });
    let fields = manifest.problems.iter().filter_map(|p| match &p.problem {
        Problem::Field(error) => Some(FieldAnswer {
            text: error.to_string(),
        }),
        _ => None,
    });
    Answer {
        ok: lines.is_empty() && pod.is_some(),
        error: lines.join("; "),
        fields: fields.collect(),
        pod: pod.unwrap_or_default(),
    }
}

/// What differs between the answers: the class of each difference, and all of it.
#[must_use]
pub fn differences(ours: &Answer, theirs: &Answer) -> Vec<(Class, String)> {
    if ours.ok && theirs.ok {
        let mut found = Vec::new();
        pods("", &cleaned(&ours.pod), &cleaned(&theirs.pod), &mut found);
        return found;
    }
    let texts = |answer: &Answer| -> BTreeSet<String> {
        answer.fields.iter().map(|f| f.text.clone()).collect()
    };
    let (we, they) = (texts(ours), texts(theirs));
    let mut found: Vec<_> = they
        .difference(&we)
        .map(|text| (format!("rule missing: {}", general(text)), text.clone()))
        .collect();
    // Where the other one stopped before the rules, it has nothing to say of them.
    if !they.is_empty() || theirs.ok {
        let more = we.difference(&they);
        found.extend(more.map(|text| (format!("rule too many: {}", general(text)), text.clone())));
    }
    if found.is_empty() && ours.ok != theirs.ok {
        let (what, error) = match ours.ok {
            true => ("only we take it", &theirs.error),
            false => ("only they take it", &ours.error),
        };
        found.push((format!("{what}: {}", general(error)), error.clone()));
    }
    found
}

/// A pod without what differs by design (UID, marks of the source), and without what reads as not set, which the two
/// write differently.
fn cleaned(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let uid = pod["metadata"]["uid"].clone();
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        // A UID of the manifest's own is 32 digits long by accident only.
        if uid.as_str().is_some_and(|uid| uid.len() == 32) {
            metadata.remove("uid");
        }
        metadata.remove("creationTimestamp");
        let marks = metadata.get_mut("annotations");
        if let Some(marks) = marks.and_then(Value::as_object_mut) {
            marks.retain(|key, _| !key.starts_with("kubernetes.io/config."));
        }
    }
    if let Some(pod) = pod.as_object_mut() {
        pod.remove("status");
    }
    without_unset(&mut pod);
    pod
}

fn without_unset(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(without_unset);
            map.retain(|key, value| !(is_unset(value) || key == "divisor" && value == "0"));
        }
        Value::Array(items) => items.iter_mut().for_each(without_unset),
        _ => {}
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
    }
}

fn pods(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<(Class, String)>) {
    match (ours, theirs) {
        (Value::Object(we), Value::Object(they)) => {
            let keys: BTreeSet<_> = we.keys().chain(they.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
                let below = format!("{path}.{key}");
                match (of(we), of(they)) {
                    (Some(a), Some(b)) => pods(&below, &a, &b, found),
                    (a, b) => differ(&below, a.as_ref(), b.as_ref(), found),
                }
            }
        }
        (Value::Array(we), Value::Array(they)) if we.len() == they.len() => {
            for (a, b) in we.iter().zip(they) {
                pods(&format!("{path}[]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => differ(path, Some(a), Some(b), found),
    }
}

fn differ(
    path: &str,
    ours: Option<&Value>,
    theirs: Option<&Value>,
    found: &mut Vec<(Class, String)>,
) {
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    let how = match (ours, theirs) {
        (Some(_), None) => "only ours",
        (None, Some(_)) => "only theirs",
        _ => "other value",
    };
    let detail = format!("{path}: ours {}, theirs {}", shown(ours), shown(theirs));
    found.push((format!("pod {how}: {path}"), detail));
}

/// A message without the values in it: what is in quotes, in brackets after a field, and numbers.
#[must_use]
pub fn general(text: &str) -> String {
    // A file's name and a place lead many messages.
    let text = text.split_once(".yaml:").map_or(text, |(_, rest)| {
        rest.trim_start_matches(|c: char| c == ' ' || c == ':' || c.is_ascii_digit())
    });
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                let mut escaped = false;
                for c in rest.by_ref() {
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
                out.push_str("\"…\"");
            }
            '[' if out.ends_with(|c: char| c.is_ascii_alphanumeric()) => {
                for c in rest.by_ref() {
                    if c == ']' {
                        break;
                    }
                }
                out.push_str("[]");
            }
            c if c.is_ascii_digit() => {
                while rest.next_if(|c| c.is_ascii_digit() || *c == '.').is_some() {}
                out.push('0');
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(fields: &[&str]) -> Answer {
        let field = |text: &&str| FieldAnswer {
            text: (*text).to_owned(),
        };
        Answer {
            fields: fields.iter().map(field).collect(),
            error: "refused".into(),
            ..Answer::default()
        }
    }

    fn taken(pod: Value) -> Answer {
        Answer {
            ok: true,
            pod,
            ..Answer::default()
        }
    }

    fn classes(ours: &Answer, theirs: &Answer) -> Vec<Class> {
        differences(ours, theirs).into_iter().map(|d| d.0).collect()
    }

    #[test]
    fn equal_answers_do_not_differ() {
        let pod =
            |uid: &str| json!({"metadata": {"uid": uid.repeat(32), "labels": null}, "status": {}});
        assert_eq!(classes(&taken(pod("a")), &taken(pod("b"))), [""; 0]);
        assert_eq!(classes(&refused(&["a: x"]), &refused(&["a: x"])), [""; 0]);
    }

    #[test]
    fn each_kind_of_difference_has_its_class() {
        let field = "spec.containers[3].ports[1]: Invalid value: \"a \\\" b\": at most 63";
        assert_eq!(
            classes(&refused(&[]), &refused(&[field])),
            ["rule missing: spec.containers[].ports[]: Invalid value: \"…\": at most 0"]
        );
        assert_eq!(
            classes(&refused(&["a: x"]), &taken(Value::Null)),
            ["rule too many: a: x"]
        );
        assert_eq!(
            classes(&taken(Value::Null), &refused(&[])),
            ["only we take it: refused"]
        );
        assert_eq!(general("/tmp/a1/0002.yaml:3:14: x 17 y"), "x 0 y");
        assert_eq!(
            classes(
                &taken(json!({"spec": {"a": [{"b": 1}], "c": 1}})),
                &taken(json!({"spec": {"a": [{"b": 2}], "d": 1}}))
            ),
            [
                "pod other value: .spec.a[].b",
                "pod only ours: .spec.c",
                "pod only theirs: .spec.d"
            ]
        );
    }
}
