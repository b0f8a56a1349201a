//! Who a static pod is: its UID, its name on this node, and the marks of its source. Pure.
//!
//! The UID is a hash of the document as the user wrote it, taken from the located tree before any defaulting, so that
//! neither a new version of the API types nor of the agent changes it and restarts pods. Comments, key order and
//! notation do not enter it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};

use crate::fnv::Fnv128;
use crate::tree::{Node, Value};

/// Annotation that names the source of a pod.
pub const CONFIG_SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// Annotation with the pod's UID as first computed: one value for each version of a manifest.
pub const CONFIG_HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Annotation with the time the agent first saw the pod, RFC 3339 with nanoseconds.
pub const CONFIG_SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
/// Annotation of mirror pods, which no manifest may claim to be.
pub const CONFIG_MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// What [`CONFIG_SOURCE_ANNOTATION`] says of a pod from a file.
pub const FILE_SOURCE: &str = "file";

/// The node's name. It ends every static pod's name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Wraps `name` as it is.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The UID of the pod that `document` describes, read from `path` on `node`.
#[must_use]
pub fn uid_of(document: &Node, node: &NodeName, path: &Path) -> String {
    let mut hash = Fnv128::default();
    let mut text = String::new();
    canonical_json(document, &mut text);
    hash.write(text.as_bytes());
    hash.write(b"host:");
    hash.write(node.as_str().as_bytes());
    hash.write(b"file:");
    hash.write(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    format!("{:032x}", hash.value())
}

/// The UID of a pod whose document has `uid`, and that is replaced whenever `version`, which stands for the objects that
/// it refers to, is another.
#[must_use]
pub fn versioned_uid(uid: &str, version: u128) -> String {
    let mut hash = Fnv128::default();
    hash.write(uid.as_bytes());
    hash.write(b"objects:");
    hash.write(&version.to_be_bytes());
    format!("{:032x}", hash.value())
}

/// Gives `pod` another UID.
pub fn set_uid(pod: &mut Pod, uid: &str) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH_ANNOTATION.into(), uid.to_owned());
    pod.metadata.uid = Some(uid.to_owned());
}

/// JSON without spaces and with sorted keys. This text decides UIDs on every node there is: it never changes.
fn canonical_json(node: &Node, out: &mut String) {
    match &node.value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(n) => push(out, n),
        Value::Uint(n) => push(out, n),
        Value::Float(n) => push(out, n),
        Value::String(text) => canonical_text(text, out),
        Value::Sequence(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical_json(item, out);
            }
            out.push(']');
        }
        Value::Mapping(mapping) => {
            let mut entries: Vec<_> = mapping.iter().collect();
            entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            out.push('{');
            for (index, entry) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical_text(&entry.key, out);
                out.push(':');
                canonical_json(&entry.value, out);
            }
            out.push('}');
        }
    }
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = write!(out, "{value}");
}

fn canonical_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => push(out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Gives `pod`, read from `path`, its identity on `node`: UID unless it has one, name, namespace, node, annotations,
/// toleration and phase. `document` is the pod's part of the file.
pub fn apply(pod: &mut Pod, document: &Node, node: &NodeName, path: &Path) {
    let meta = &mut pod.metadata;
    let uid = match meta.uid.take() {
        Some(uid) if !uid.is_empty() => uid,
        _ => uid_of(document, node, path),
    };
    let name = meta.name.take().unwrap_or_default();
    meta.name = Some(format!("{name}-{}", node.as_str().to_lowercase()));
    if meta.namespace.as_deref().unwrap_or_default().is_empty() {
        meta.namespace = Some("default".into());
    }
    let annotations = meta.annotations.get_or_insert_default();
    annotations.remove(CONFIG_MIRROR_ANNOTATION);
    annotations.remove(CONFIG_SEEN_ANNOTATION);
    annotations.insert(CONFIG_HASH_ANNOTATION.into(), uid.clone());
    annotations.insert(CONFIG_SOURCE_ANNOTATION.into(), FILE_SOURCE.into());
    meta.uid = Some(uid);

    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.as_str().to_owned());
    let stays = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    match tolerations.iter_mut().find(|t| same_taint(t, &stays)) {
        Some(toleration) => *toleration = stays,
        None => tolerations.push(stays),
    }
    // What a manifest says of the status of its pod is not so.
    pod.status = Some(PodStatus {
        phase: Some("Pending".into()),
        ..PodStatus::default()
    });
}

/// Whether two tolerations differ in nothing but their seconds.
fn same_taint(a: &Toleration, b: &Toleration) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    text(&a.key) == text(&b.key)
        && text(&a.operator) == text(&b.operator)
        && text(&a.effect) == text(&b.effect)
        && text(&a.value) == text(&b.value)
}

/// Records when the agent first saw the pod.
pub fn set_seen(pod: &mut Pod, rfc3339: &str) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SEEN_ANNOTATION.into(), rfc3339.to_owned());
}

/// Whether `uid` may name a directory: the rule of the agent's own pod UIDs.
#[must_use]
pub fn is_path_component(uid: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=128).contains(&uid.len())
        && uid.bytes().all(legal)
        && uid.as_bytes()[0].is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> String {
        let document = crate::tree::parse(text.as_bytes()).remove(0).unwrap();
        uid_of(&document.root, &NodeName::new("n"), Path::new("/m/a.yaml"))
    }

    #[test]
    fn notation_does_not_enter_the_uid() {
        let first = uid("a: 1\nb: [x, 'z']\n");
        assert_eq!(first, uid("# comment\nb:\n- \"x\"   # more\n- z\na: 0x1\n"));
        assert_eq!(first, uid("{\"b\": [\"x\", \"z\"], \"a\": 1}"));
        assert_ne!(first, uid("a: 2\nb: [x, 'z']\n"));
        assert_ne!(first, uid("a: '1'\nb: [x, 'z']\n"));
        assert_ne!(first, uid("a: 1\nb: [z, x]\n"));
    }

    #[test]
    fn canonical_text_has_no_two_readings() {
        let mut out = String::new();
        let document = crate::tree::parse(br#"{"b":{"z":1.5,"a":null},"a":["x\"\\\n",true]}"#);
        canonical_json(&document[0].as_ref().unwrap().root, &mut out);
        assert_eq!(out, r#"{"a":["x\"\\\u000a",true],"b":{"a":null,"z":1.5}}"#);
    }

    #[test]
    fn a_toleration_of_the_same_taint_is_replaced() {
        let mut pod = Pod::default();
        let limited = Toleration {
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: Some(60),
            ..Toleration::default()
        };
        pod.spec.get_or_insert_default().tolerations = Some(vec![limited]);
        let document = crate::tree::parse(b"a: 1").remove(0).unwrap();
        apply(
            &mut pod,
            &document.root,
            &NodeName::new("N1"),
            Path::new("/m"),
        );
        let tolerations = pod.spec.unwrap().tolerations.unwrap();
        assert_eq!(tolerations.len(), 1);
        assert_eq!(tolerations[0].toleration_seconds, None);
        assert_eq!(pod.metadata.name.as_deref(), Some("-n1"));
    }
}
