//! One document against a table of fields: unknown fields, wrong types, each with its place.

use static_pods::quantity::Quantity;
use static_pods::tree::{Document, Mapping, Node, Position, Value};

use super::durations::GoDuration;
use super::fields::{Field, Kind};
use super::nearest::nearest;

/// What a document holds.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// The known fields that are set, and where.
    pub(super) fields: Vec<(&'static Field, Position)>,
    /// Fields that are unknown or stand twice.
    pub(super) strangers: Vec<(Position, String)>,
    /// Fields that hold something else than they should.
    pub(super) mistyped: Vec<(Position, String)>,
    /// The paths of those, as far as the table's own fields and groups of fields go.
    pub(super) unusable: Vec<String>,
}

/// Checks `document` against `table`. The root must be a mapping; anything else is one mistyped value.
pub(super) fn check(document: &Document, table: &'static [Field]) -> Checked {
    let mut checked = Checked::default();
    match &document.root.value {
        Value::Mapping(map) => walk(map, "", table, &mut checked),
        _ => checked.mistyped.push((
            document.root.at,
            format!(
                "expected a mapping of fields, found {}",
                document.root.kind()
            ),
        )),
    }
    for twice in &document.duplicates {
        checked.strangers.push((
            twice.second,
            format!(
                "field {:?} already set at {}; this one counts",
                twice.path, twice.first
            ),
        ));
    }
    checked
}

fn walk(map: &Mapping, prefix: &str, table: &'static [Field], checked: &mut Checked) {
    for entry in map.iter() {
        let path = if prefix.is_empty() {
            entry.key.clone()
        } else {
            format!("{prefix}.{}", entry.key)
        };
        if let Some(field) = table.iter().find(|field| field.path == path) {
            if entry.value.value != Value::Null {
                checked.fields.push((field, entry.value.at));
                let before = checked.mistyped.len();
                value(&entry.value, field.kind, &path, checked);
                if checked.mistyped.len() > before {
                    checked.unusable.push(path);
                }
            }
            continue;
        }
        let below = format!("{path}.");
        if table.iter().any(|field| field.path.starts_with(&below)) {
            match &entry.value.value {
                Value::Mapping(map) => walk(map, &path, table, checked),
                Value::Null => {}
                _ => {
                    mistyped(&entry.value, &path, "a mapping of fields", checked);
                    checked.unusable.push(path);
                }
            }
            continue;
        }
        checked
            .strangers
            .push((entry.key_at, unknown(&path, prefix, &entry.key, table)));
    }
}

/// The message for a field that is not in `table`, with the sibling it is most like.
fn unknown(path: &str, prefix: &str, key: &str, table: &'static [Field]) -> String {
    let siblings = table.iter().filter_map(|field| {
        let rest = match prefix {
            "" => field.path,
            prefix => field.path.strip_prefix(prefix)?.strip_prefix('.')?,
        };
        rest.split('.').next()
    });
    let hint =
        nearest(key, siblings).map_or_else(String::new, |n| format!("; did you mean {n:?}?"));
    format!("unknown field {path:?}{hint}")
}

fn mistyped(node: &Node, path: &str, expected: &str, checked: &mut Checked) {
    let found = match &node.value {
        Value::String(text) => format!("the text {text:?}"),
        Value::Bool(value) => format!("{value}"),
        Value::Int(value) => format!("the number {value}"),
        Value::Uint(value) => format!("the number {value}"),
        Value::Float(value) => format!("the number {value}"),
        _ => node.kind().to_owned(),
    };
    let quotes = match (&node.value, expected) {
        (Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Bool(_), "text") => {
            "; put it in quotes"
        }
        _ => "",
    };
    checked.mistyped.push((
        node.at,
        format!("{path} must be {expected}, found {found}{quotes}"),
    ));
}

fn value(node: &Node, kind: Kind, path: &str, checked: &mut Checked) {
    let int = |least: i64, most: i64| match node.value {
        Value::Int(n) => (least..=most).contains(&n),
        _ => false,
    };
    let fits = match kind {
        Kind::Bool => matches!(node.value, Value::Bool(_)),
        Kind::Int32 => int(i64::from(i32::MIN), i64::from(i32::MAX)),
        Kind::Int64 => int(i64::MIN, i64::MAX),
        Kind::Uint32 => int(0, i64::from(u32::MAX)),
        Kind::Float => matches!(node.value, Value::Int(_) | Value::Uint(_) | Value::Float(_)),
        Kind::Text | Kind::Path => node.as_str().is_some(),
        Kind::Ip => node
            .as_str()
            .is_some_and(|text| text.is_empty() || text.parse::<std::net::IpAddr>().is_ok()),
        Kind::Duration => is_duration(node),
        Kind::DurationOrNanos => is_duration(node) || int(i64::MIN, i64::MAX),
        Kind::Quantity => is_quantity(node),
        Kind::TextList => return list(node, Kind::Text, kind, path, checked),
        Kind::Int32List => return list(node, Kind::Int32, kind, path, checked),
        Kind::TextMap => return entries(node, Kind::Text, kind, path, checked),
        Kind::BoolMap => return entries(node, Kind::Bool, kind, path, checked),
        Kind::QuantityMap => return entries(node, Kind::Quantity, kind, path, checked),
        Kind::TextListMap => return entries(node, Kind::TextList, kind, path, checked),
        Kind::Objects(table) => return objects(node, table, kind, path, checked),
    };
    if !fits {
        mistyped(node, path, kind.describe(), checked);
    }
}

fn is_duration(node: &Node) -> bool {
    node.as_str()
        .is_some_and(|text| GoDuration::parse(text).is_ok())
}

fn is_quantity(node: &Node) -> bool {
    match &node.value {
        Value::String(text) => Quantity::parse(text).is_ok(),
        Value::Int(_) | Value::Uint(_) | Value::Float(_) => true,
        _ => false,
    }
}

fn list(node: &Node, item: Kind, kind: Kind, path: &str, checked: &mut Checked) {
    match node.as_sequence() {
        Some(items) => {
            for (index, each) in items.iter().enumerate() {
                value(each, item, &format!("{path}[{index}]"), checked);
            }
        }
        None => mistyped(node, path, kind.describe(), checked),
    }
}

fn entries(node: &Node, item: Kind, kind: Kind, path: &str, checked: &mut Checked) {
    match node.as_mapping() {
        Some(map) => {
            for entry in map.iter().filter(|entry| entry.value.value != Value::Null) {
                value(
                    &entry.value,
                    item,
                    &format!("{path}[{}]", entry.key),
                    checked,
                );
            }
        }
        None => mistyped(node, path, kind.describe(), checked),
    }
}

fn objects(node: &Node, table: &'static [Field], kind: Kind, path: &str, checked: &mut Checked) {
    let Some(items) = node.as_sequence() else {
        return mistyped(node, path, kind.describe(), checked);
    };
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(map) = item.as_mapping() else {
            mistyped(item, &path, "a mapping of fields", checked);
            continue;
        };
        for entry in map.iter() {
            let below = format!("{path}.{}", entry.key);
            match table.iter().find(|field| field.path == entry.key) {
                Some(_) if entry.value.value == Value::Null => {}
                Some(field) => value(&entry.value, field.kind, &below, checked),
                None => {
                    checked
                        .strangers
                        .push((entry.key_at, unknown(&below, "", &entry.key, table)));
                }
            }
        }
    }
}
