//! Manifests with something changed, the same ones for the same seed.

use serde_json::{Map, Value, json};

use super::table::FIELDS;
use crate::random::Random;

/// Scalars as they may stand in YAML, each of which the two readers might take differently.
const SCALARS: &[&str] = &[
    "0644",
    "0o17",
    "0x1F",
    "0b11",
    "1_000",
    "1e3",
    "1.0",
    "1.5",
    ".5",
    "-0",
    "+1",
    ".inf",
    ".NaN",
    "~",
    "null",
    "Null",
    "yes",
    "No",
    "on",
    "OFF",
    "y",
    "true",
    "TRUE",
    "\"1\"",
    "'yes'",
    "!!str 1",
    "!!int \"1\"",
    "!!binary YQ==",
    "2001-01-01",
    "1:30",
    "[]",
    "{}",
    "[a]",
    "{a: b}",
    "\"\"",
    "''",
    "''''",
    "\"\\u00e9\"",
    "é",
    "=",
    "<<",
    "|-\n",
    "99999999999999999999",
    "-2147483649",
    "9223372036854775808",
    "1e400",
    "4294967296",
    "\"a\\tb\"",
    "a b",
    "a:b",
    "- x",
    "@x",
    "`x",
    "%x",
    "&x y",
    "*x",
    "? x",
    "!x y",
    "0.1e-3",
    "1E3",
    "0755 ",
    "08",
    "-0x10",
    "+.5",
    "12e03",
    "190:20:30",
    "0o8",
];

/// Values for any field.
fn any_value(random: &mut Random) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(65536),
        json!(2_147_483_648_u64),
        json!(1.5),
        json!(""),
        json!("a"),
        json!("1"),
        json!("A_b"),
        json!("-a"),
        json!("a.b"),
        json!("a/b/c"),
        json!("../x"),
        json!("/abs"),
        json!("x".repeat(64)),
        json!("x".repeat(254)),
        json!("100m"),
        json!("1Gi"),
        json!("-1"),
        json!("0.5"),
        json!("1e3"),
        json!("true"),
        json!("é"),
        json!([]),
        json!([null]),
        json!(["a", "a"]),
        json!([{}]),
        json!({}),
        json!({"a": "b"}),
        json!({"a": 1}),
        json!({"": ""}),
        json!({"a_b/": "x"}),
    ];
    random.any(&values).cloned().unwrap_or_default()
}

/// `text`, a manifest in YAML, with one to three things changed; as YAML or as JSON.
#[must_use]
pub fn mutate(text: &str, tree: &Value, random: &mut Random) -> String {
    if random.below(4) == 0 {
        return mutate_text(text, random);
    }
    let mut tree = tree.clone();
    for _ in 0..=random.below(3) {
        mutate_tree(&mut tree, random);
    }
    match random.below(2) {
        0 => tree.to_string(),
        // The other way to read the same: no longer JSON, but YAML.
        _ => format!("# YAML\n{tree}\n"),
    }
}

fn mutate_text(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = random.index(lines.len());
    if lines.is_empty() {
        return String::new();
    }
    let scalar = random.any(SCALARS).copied().unwrap_or_default();
    match random.below(6) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[at].clone()),
        2 => lines[at].insert_str(0, "  "),
        3 => {
            let key = lines[at].split(": ").next().unwrap_or_default();
            lines[at] = key.to_owned();
        }
        _ => {
            if let Some((key, _)) = lines[at].split_once(": ") {
                lines[at] = format!("{key}: {scalar}");
            } else {
                let indent: String = lines[at].chars().take_while(|c| *c == ' ').collect();
                lines[at] = format!("{indent}- {scalar}");
            }
        }
    }
    lines.join("\n") + "\n"
}

fn mutate_tree(tree: &mut Value, random: &mut Random) {
    // Most of what there is to find lies in fields that the seeds do not have.
    if random.below(3) > 0 {
        return put_field(tree, random);
    }
    let mut pointers = Vec::new();
    collect(tree, String::new(), &mut pointers);
    let Some(pointer) = random.any(&pointers).cloned() else {
        return;
    };
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return;
    };
    let (parent, key) = (parent.to_owned(), key.replace("~1", "/").replace("~0", "~"));
    let choice = random.below(6);
    let value = any_value(random);
    match tree.pointer_mut(&parent) {
        Some(Value::Object(map)) => match choice {
            0 => drop(map.remove(&key)),
            1 => {
                let moved = map.remove(&key).unwrap_or_default();
                map.insert(format!("{key}x"), moved);
            }
            _ => drop(map.insert(key, value)),
        },
        Some(Value::Array(items)) => {
            let Some(index) = key.parse::<usize>().ok().filter(|i| *i < items.len()) else {
                return;
            };
            match choice {
                0 => drop(items.remove(index)),
                1 | 2 => items.push(items[index].clone()),
                _ => items[index] = value,
            }
        }
        _ => {}
    }
}

/// Sets a field of the table, in a place that is there.
fn put_field(tree: &mut Value, random: &mut Random) {
    let Some((place, field, values)) = random.any(FIELDS) else {
        return;
    };
    let values: Vec<Value> = serde_json::from_str(values).unwrap_or_default();
    let mut value = random.any(&values).cloned().unwrap_or_default();
    if random.below(6) == 0 {
        value = any_value(random);
    }
    let mut node = tree;
    for step in place.split('.').filter(|step| !step.is_empty()) {
        let (name, list) = match step.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (step, false),
        };
        if !node.is_object() {
            return;
        }
        let below = &mut node[name];
        if below.is_null() {
            *below = if list {
                json!([{"name": "made", "image": "i"}])
            } else {
                Value::Object(Map::new())
            };
        }
        node = match (list, below) {
            (false, below) => below,
            (true, Value::Array(items)) if !items.is_empty() => {
                let index = random.index(items.len());
                &mut items[index]
            }
            _ => return,
        };
    }
    if let Value::Object(map) = node {
        map.insert((*field).to_owned(), value);
    }
}

fn collect(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                collect(below, format!("{pointer}/{key}"), found);
            }
        }
        Value::Array(items) => {
            for (index, below) in items.iter().enumerate() {
                collect(below, format!("{pointer}/{index}"), found);
            }
        }
        _ => {}
    }
    if !pointer.is_empty() {
        found.push(pointer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_json() {
        for (place, field, values) in FIELDS {
            let read: Result<Vec<Value>, _> = serde_json::from_str(values);
            assert!(read.is_ok_and(|v| !v.is_empty()), "{place}.{field}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_manifests_and_many() {
        let text = "kind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n";
        let tree = json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}});
        let all = |seed| -> Vec<String> {
            let mut random = Random::new(seed);
            (0..200).map(|_| mutate(text, &tree, &mut random)).collect()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let different: std::collections::BTreeSet<_> = all(1).into_iter().collect();
        assert!(different.len() > 150, "{}", different.len());
    }
}
