//! Label and field selectors, and reading of fields by a dotted path.

use serde_json::Value;

use super::answer::Refusal;
use super::resource::Resource;

/// What a list or a watch is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    pub(super) namespace: String,
    fields: Vec<Requirement>,
    labels: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

/// The value at a dotted path; null where there is none.
pub(super) fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    let mut here = value;
    for part in path.split('.') {
        here = here.get(part).unwrap_or(&Value::Null);
    }
    here
}

/// The string at a dotted path; empty where there is none.
pub(super) fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    at(value, path).as_str().unwrap_or_default()
}

impl Selector {
    pub(super) fn new(
        resource: &Resource,
        namespace: &str,
        fields: &str,
        labels: &str,
    ) -> Result<Self, Refusal> {
        let fields = parse(fields)?;
        let known = known_fields(resource);
        if let Some(other) = fields.iter().find(|f| !known.contains(&f.key.as_str())) {
            let why = format!("field label not supported: {}", other.key);
            return Err(Refusal::bad_request(why));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            fields,
            labels: parse(labels)?,
        })
    }

    /// The one value that a field must have.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|f| f.key == name)?;
        match &found.test {
            Test::In(values) => values.first().map(String::as_str),
            _ => None,
        }
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let namespace = text(object, "metadata.namespace");
        (self.namespace.is_empty() || self.namespace == namespace)
            && self.fields.iter().all(|field| {
                // A field that is not set is the empty string.
                let value = at(object, &field.key);
                let value = match value {
                    Value::Bool(flag) => flag.to_string(),
                    other => other.as_str().unwrap_or_default().to_owned(),
                };
                field.meets(Some(&value))
            })
            && self.labels.iter().all(|label| {
                let labels = at(object, "metadata.labels");
                label.meets(labels.get(&label.key).and_then(Value::as_str))
            })
    }
}

fn known_fields(resource: &Resource) -> &'static [&'static str] {
    match resource.plural {
        "pods" => &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "nodes" => &["metadata.name", "spec.unschedulable"],
        "secrets" => &["metadata.name", "metadata.namespace", "type"],
        "services" => &[
            "metadata.name",
            "metadata.namespace",
            "spec.clusterIP",
            "spec.type",
        ],
        "events" => &[
            "metadata.name",
            "metadata.namespace",
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "reason",
            "type",
        ],
        "certificatesigningrequests" | "clustertrustbundles" => {
            &["metadata.name", "spec.signerName"]
        }
        "podcertificaterequests" => &["metadata.name", "metadata.namespace", "spec.nodeName"],
        _ => &["metadata.name", "metadata.namespace"],
    }
}

impl Requirement {
    fn meets(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
        }
    }
}

/// Parts are split at commas outside of parentheses.
fn parse(text: &str) -> Result<Vec<Requirement>, Refusal> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for letter in text.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
    }
    let parts = parts.iter().map(|part| part.trim());
    let parts = parts.filter(|part| !part.is_empty());
    parts
        .map(|part| {
            requirement(part).ok_or_else(|| {
                Refusal::bad_request(format!("unable to parse requirement: {part:?}"))
            })
        })
        .collect()
}

fn requirement(part: &str) -> Option<Requirement> {
    let of = |key: &str, test| {
        let key = key.trim().to_owned();
        (!key.is_empty()).then_some(Requirement { key, test })
    };
    let set = |text: &str| {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|v| v.trim().to_owned()).collect())
    };
    let one = |text: &str| vec![text.trim().to_owned()];
    if let Some((key, value)) = part.split_once("!=") {
        return of(key, Test::NotIn(one(value)));
    }
    if let Some((key, value)) = part.split_once("==") {
        return of(key, Test::In(one(value)));
    }
    if let Some((key, value)) = part.split_once('=') {
        return of(key, Test::In(one(value)));
    }
    if let Some((key, values)) = part.split_once(" notin ") {
        return of(key, Test::NotIn(set(values)?));
    }
    if let Some((key, values)) = part.split_once(" in ") {
        return of(key, Test::In(set(values)?));
    }
    match part.strip_prefix('!') {
        Some(key) => of(key, Test::Missing),
        None => of(part, Test::Exists),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::resource::RESOURCES;
    use super::*;

    #[test]
    fn fields_and_labels_narrow_down() {
        let pod = json!({
            "metadata": { "name": "a", "namespace": "x", "labels": { "app": "web" } },
            "spec": { "nodeName": "n" },
        });
        let yes = |fields: &str, labels: &str| {
            let selector = Selector::new(&RESOURCES[0], "", fields, labels).unwrap();
            selector.matches(&pod)
        };
        assert!(yes(
            "spec.nodeName=n,status.phase!=Failed",
            "app in (db, web),!old"
        ));
        assert!(yes("metadata.namespace==x", "app"));
        assert!(!yes("spec.nodeName=m", ""));
        assert!(!yes("", "app notin (web)"));
        assert!(!yes("", "app!=web"));
        assert!(yes("", "tier!=db"));
        assert!(Selector::new(&RESOURCES[0], "", "spec.priority=1", "").is_err());
        let elsewhere = Selector::new(&RESOURCES[0], "y", "", "").unwrap();
        assert!(!elsewhere.matches(&pod));
    }
}
