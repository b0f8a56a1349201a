//! Holds a pod against the tables of [`fields`](super::fields).

use serde_json::{Map, Value};

use super::fields::{Asked, Field, POD_SPEC, Table, UNSUPPORTED};
use super::{NodeFeatures, Rejection};
use crate::pod::{self, Pod};

/// What a walk found of note at one field.
enum Finding<'a> {
    Warned { path: &'a str, what: &'static str },
    Refused(Rejection),
}

pub(super) fn admit(pod: &Pod, node: &NodeFeatures) -> Result<(), Rejection> {
    let mut first = None;
    visit(pod, node, &mut |finding| {
        if let (None, Finding::Refused(rejection)) = (&first, finding) {
            first = Some(rejection);
        }
    });
    first.map_or(Ok(()), Err)
}

/// Everything in `pod` that this version does not have, and refuses the pod for. [`admit_features`] stops at the first
/// such field, and looks at more than fields.
///
/// [`admit_features`]: super::admit_features
#[must_use]
pub fn refusals(pod: &Pod, node: &NodeFeatures) -> Vec<Rejection> {
    let mut all = Vec::new();
    visit(pod, node, &mut |finding| {
        if let Finding::Refused(rejection) = finding {
            all.push(rejection);
        }
    });
    all
}

/// What `pod` asks for and does not get in this version, though it runs: a line for each such field. Empty for a
/// pod whose every field takes effect.
#[must_use]
pub fn warnings(pod: &Pod, node: &NodeFeatures) -> Vec<String> {
    let mut lines = Vec::new();
    visit(pod, node, &mut |finding| {
        if let Finding::Warned { path, what } = finding {
            lines.push(format!("{path} {what}"));
        }
    });
    lines
}

fn visit(pod: &Pod, node: &NodeFeatures, found: &mut dyn FnMut(Finding<'_>)) {
    // The tree, not the types: a field that a newer API crate adds is met here without a change to this code.
    match serde_json::to_value(pod::spec(pod)) {
        Ok(Value::Object(spec)) => object(&spec, POD_SPEC, &mut "spec".to_owned(), node, found),
        _ => found(Finding::Refused(Rejection::new(
            UNSUPPORTED,
            "spec cannot be written as JSON",
        ))),
    }
}

fn object(
    fields: &Map<String, Value>,
    table: &Table,
    path: &mut String,
    node: &NodeFeatures,
    found: &mut dyn FnMut(Finding<'_>),
) {
    for (name, value) in fields {
        let parent = path.len();
        path.push('.');
        path.push_str(name);
        match table.iter().find(|(known, _)| known == name) {
            Some((_, field)) => one(field, value, path, node, found),
            None => found(unsupported(path, "is not known to this version")),
        }
        path.truncate(parent);
    }
}

fn one(
    field: &Field,
    value: &Value,
    path: &mut String,
    node: &NodeFeatures,
    found: &mut dyn FnMut(Finding<'_>),
) {
    match field {
        Field::Built | Field::NoEffect => {}
        Field::Refused(refusal) => {
            if (refusal.when)(value, node) {
                let message = sentence(path, value, refusal.why);
                found(Finding::Refused(Rejection::new(refusal.reason, message)));
            }
        }
        Field::Object(table) => {
            if let Value::Object(fields) = value {
                object(fields, table, path, node, found);
            }
        }
        Field::List(table) => {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                let parent = path.len();
                path.push_str(&format!("[{index}]"));
                if let Value::Object(fields) = item {
                    object(fields, table, path, node, found);
                }
                path.truncate(parent);
            }
        }
        Field::Resources(ask) => {
            for (resource, quantity) in value.as_object().into_iter().flatten() {
                // A quantity of zero asks for nothing.
                if quantity.as_str() == Some("0") {
                    continue;
                }
                let path = &format!("{path}[{resource}]");
                match ask(resource, node) {
                    Asked::Built => {}
                    Asked::Warned(what) => found(Finding::Warned { path, what }),
                    Asked::Refused(why) => found(unsupported(path, why)),
                }
            }
        }
    }
}

fn unsupported(path: &str, why: &str) -> Finding<'static> {
    Finding::Refused(Rejection::new(UNSUPPORTED, format!("{path} {why}")))
}

/// `path: value why` for a scalar, `path why` for what would be too long to repeat.
fn sentence(path: &str, value: &Value, why: &str) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => format!("{path}: {value} {why}"),
        Value::String(text) if text.len() <= 64 => format!("{path}: {text:?} {why}"),
        _ => format!("{path} {why}"),
    }
}
