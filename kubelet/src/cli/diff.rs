//! `kubelet diff FILE`: what a manifest would change if it lay in the agent's manifest directory.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use static_pods::identity::NodeName;
use static_pods::manifest::{Manifest, Reading};
use static_pods::object::Objects;

use super::arguments::DiffArguments;
use super::pods::{self, Listed};
use super::{CliError, Streams};
use crate::server::overview::Overview;
use crate::validate::{STDIN, read_input};

/// Annotations that every pod of a file has, and that say nothing about it.
const OWN_ANNOTATIONS: &str = "kubernetes.io/config.";
/// What stands for a field that is not there.
const ABSENT: &str = "(none)";

/// Whether anything would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    None,
    Some,
}

pub(super) fn run(
    arguments: &DiffArguments,
    streams: &mut Streams<'_>,
) -> Result<Difference, CliError> {
    let socket = arguments.place.socket();
    let overview: Overview = pods::read(&socket, "/status")?;
    let Some(manifests) = &overview.manifests else {
        let why = "the agent reads no manifest directory: staticPodPath is not set";
        return Err(CliError::NotFound(why.to_owned()));
    };
    let running = pods::list(&socket)?;
    let node = NodeName::new(&overview.node);
    let mut found = Difference::None;
    for file in &arguments.files {
        let (bytes, _) = read_input(file, &mut io::stdin())
            .map_err(|error| CliError::File(file.clone(), error))?;
        let objects = Objects::from(&manifests.served);
        let reading = Reading {
            objects: &objects,
            ..Reading::new(&node)
        };
        let manifest = reading.read(&place(&manifests.path, file), &bytes);
        let (text, difference) = judge(file, &manifest, &running);
        if difference == Difference::Some {
            found = difference;
        }
        streams.print(&text)?;
    }
    Ok(found)
}

/// The path that the file would have: it enters the pod's UID.
fn place(directory: &Path, file: &Path) -> PathBuf {
    let name = match file == Path::new(STDIN) {
        true => None,
        false => file.file_name(),
    };
    directory.join(name.unwrap_or_else(|| "stdin.yaml".as_ref()))
}

fn judge(file: &Path, manifest: &Manifest, running: &[Listed]) -> (String, Difference) {
    let mut text = String::new();
    let mut difference = Difference::None;
    for problem in &manifest.problems {
        let place = format!("{}:{}", file.display(), problem.at);
        text.push_str(&format!("{place}: {}; it would not run\n", problem.problem));
        difference = Difference::Some;
    }
    for new in &manifest.pods {
        let meta = &new.pod.metadata;
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name) = (part(&meta.namespace), part(&meta.name));
        let old = running
            .iter()
            .find(|old| old.namespace() == namespace && old.name() == name);
        let pod = format!("pod {namespace}/{name}");
        let Some(old) = old else {
            text.push_str(&format!("{pod}: would be created\n"));
            difference = Difference::Some;
            continue;
        };
        if old.pod.metadata.uid == meta.uid {
            text.push_str(&format!("{pod}: unchanged\n"));
            continue;
        }
        let whole = serde_json::to_value(&*new.pod).unwrap_or_default();
        let changes = changes(&old.whole, &whole);
        // Its UID goes by objects, too, whose contents the agent tells nobody.
        if new.follows && changes.is_empty() {
            text.push_str(&format!("{pod}: unchanged\n"));
            continue;
        }
        difference = Difference::Some;
        text.push_str(&format!(
            "{pod}: would be replaced: its containers end, and new ones start\n"
        ));
        for (path, before, after) in &changes {
            text.push_str(&format!("  {path}: {before} -> {after}\n"));
        }
        if changes.is_empty() {
            text.push_str(
                "  nothing of the pod differs: the file's name, or how it is written, does\n",
            );
        }
    }
    for object in &manifest.objects {
        let key = &object.key;
        text.push_str(&format!("{key}: would be taken\n"));
    }
    if manifest.is_empty() && manifest.problems.is_empty() {
        text.push_str(&format!("{}: holds no pod\n", file.display()));
    }
    (text, difference)
}

/// The fields that differ, with both values.
fn changes(old: &Value, new: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for part in ["labels", "annotations"] {
        let of = |pod: &Value| {
            let mut map = pod["metadata"][part].clone();
            if let Value::Object(map) = &mut map {
                map.retain(|key, _| !key.starts_with(OWN_ANNOTATIONS));
            }
            map
        };
        compare(&format!("metadata.{part}"), &of(old), &of(new), &mut found);
    }
    compare("spec", &old["spec"], &new["spec"], &mut found);
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<(String, String, String)>) {
    let both = match (old, new) {
        _ if old == new => return,
        // An empty one and none at all are the same.
        _ if is_empty(old) && is_empty(new) => return,
        (Value::Object(_) | Value::Null, Value::Object(_) | Value::Null) => {
            (fields(old), fields(new))
        }
        (Value::Array(_) | Value::Null, Value::Array(_) | Value::Null) => (items(old), items(new)),
        _ => {
            found.push((path.to_owned(), shown(old), shown(new)));
            return;
        }
    };
    let mut keys: Vec<&String> = both.0.iter().chain(&both.1).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let of = |side: &[(String, Value)]| {
            let entry = side.iter().find(|(name, _)| name == key);
            entry.map_or(Value::Null, |(_, value)| value.clone())
        };
        let (old, new) = (of(&both.0), of(&both.1));
        let path = match key.starts_with('[') {
            true => format!("{path}{key}"),
            false => format!("{path}.{key}"),
        };
        match (&old, &new) {
            // A whole object that comes or goes is one change.
            (Value::Null, _) | (_, Value::Null) if !(is_empty(&old) && is_empty(&new)) => {
                found.push((path, shown(&old), shown(&new)));
            }
            _ => compare(&path, &old, &new, found),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn fields(value: &Value) -> Vec<(String, Value)> {
    let map = value.as_object().into_iter().flatten();
    map.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Items by their names, as the API merges them; by their places where they have none.
fn items(value: &Value) -> Vec<(String, Value)> {
    let items = value.as_array().into_iter().flatten().enumerate();
    let keyed = items.map(|(index, item)| {
        let name = item.get("name").and_then(Value::as_str);
        let key = name.map_or_else(|| format!("[{index}]"), |name| format!("[{name}]"));
        (key, item.clone())
    });
    keyed.collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => ABSENT.to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
