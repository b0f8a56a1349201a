//! The form of an event: `core/v1` `Event`, as client-go's recorder fills it in.

use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

/// `source.component` and `reportingComponent`.
const COMPONENT: &str = "kubelet";
/// Where events of objects without a namespace go.
const DEFAULT_NAMESPACE: &str = "default";
/// Characters of a name at the most (RFC 1123, a subdomain).
const MOST_NAME: usize = 253;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A pod, or a container of it.
    Pod,
    /// The node.
    Node,
}

impl Kind {
    /// As `involvedObject.kind` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Node => "Node",
        }
    }
}

/// An event about to be noted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    /// Empty for a node.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
    pub(super) field_path: Option<String>,
    /// The node that says so.
    pub(super) host: &'a str,
    pub(super) warning: bool,
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
}

/// `involvedObject`, shared by the events about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Empty for a node.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its UID; empty for a node that is not registered.
    pub uid: Box<str>,
    /// `spec.containers{name}` and the like; none for the whole.
    pub field_path: Option<Box<str>>,
    /// The node that says so.
    pub host: Box<str>,
}

impl Object {
    pub(super) fn of(draft: &Draft<'_>) -> Self {
        Self {
            kind: draft.kind,
            namespace: draft.namespace.into(),
            name: draft.name.into(),
            uid: draft.uid.into(),
            field_path: draft.field_path.as_deref().map(Into::into),
            host: draft.host.into(),
        }
    }

    pub(super) fn is_of(&self, draft: &Draft<'_>) -> bool {
        self.kind == draft.kind
            && *self.uid == *draft.uid
            && *self.name == *draft.name
            && *self.namespace == *draft.namespace
            && self.field_path.as_deref() == draft.field_path.as_deref()
            && *self.host == *draft.host
    }
}

/// An event that is kept.
#[derive(Clone, Debug)]
pub struct Event {
    /// Tells one event from another: nanoseconds of the wall clock at its first time, made unique.
    pub id: i64,
    /// What it is about.
    pub object: Arc<Object>,
    /// Whether its type is `Warning` rather than `Normal`.
    pub warning: bool,
    /// Upstream's word for what happened.
    pub reason: Box<str>,
    /// The same in a sentence; that of the last time.
    pub message: Box<str>,
    /// Whether it stands for several that differ in their messages.
    pub combined: bool,
    /// When it happened first.
    pub first: Timestamp,
    /// When it happened last.
    pub last: Timestamp,
    /// How often it has happened.
    pub count: u32,
}

/// The whole of it. A list's item is without `apiVersion` and `kind`, as those of the list say it for all.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    metadata: Metadata<'a>,
    involved_object: Reference<'a>,
    reason: &'a str,
    message: &'a str,
    source: Source<'a>,
    first_timestamp: String,
    last_timestamp: String,
    count: u32,
    #[serde(rename = "type")]
    event_type: &'static str,
    /// Null, as upstream's recorder leaves it.
    event_time: Option<()>,
    reporting_component: &'static str,
    reporting_instance: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    name: String,
    namespace: &'a str,
    /// An API server sets its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_timestamp: Option<String>,
}

/// What changes when an event happens again.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Patch<'a> {
    count: u32,
    last_timestamp: String,
    message: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    api_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field_path: Option<&'a str>,
}

#[derive(Serialize)]
struct Source<'a> {
    component: &'static str,
    host: &'a str,
}

impl Event {
    /// `metadata.name`: the object's name and the time in hexadecimal.
    #[must_use]
    pub fn name(&self) -> String {
        let time = format!(".{:x}", self.id);
        let object = &*self.object.name;
        // Upstream has a random name where this one would be too long.
        let most = MOST_NAME.saturating_sub(time.len()).min(object.len());
        let mut end = most;
        while !object.is_char_boundary(end) {
            end -= 1;
        }
        let begin = object[..end].trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        match end < object.len() {
            true => format!("{begin}{time}"),
            false => format!("{object}{time}"),
        }
    }

    /// `metadata.namespace`: the object's, `default` for a node's.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match &*self.object.namespace {
            "" => DEFAULT_NAMESPACE,
            namespace => namespace,
        }
    }

    /// Bytes that it takes, near enough; those of the object are counted with each of its events.
    pub(super) fn bytes(&self) -> usize {
        let object = &self.object;
        let texts = [
            &object.namespace,
            &object.name,
            &object.uid,
            &object.host,
            &self.reason,
            &self.message,
        ];
        let fixed = size_of::<Self>() + size_of::<Object>();
        let path = object.field_path.as_ref().map_or(0, |path| path.len());
        fixed + path + texts.iter().map(|text| text.len()).sum::<usize>()
    }

    /// Writes it as an item of a `v1` `EventList`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: impl io::Write) -> io::Result<()> {
        let mut item = self.item(&self.object.host);
        item.metadata.creation_timestamp = Some(seconds(self.first));
        Ok(serde_json::to_writer(out, &item)?)
    }

    /// What an API server is sent to create it, by the node called `host`.
    pub(super) fn body(&self, host: &str) -> serde_json::Result<Vec<u8>> {
        let mut item = self.item(host);
        item.api_version = Some("v1");
        item.kind = Some("Event");
        serde_json::to_vec(&item)
    }

    /// What an API server is sent when it happens again: a strategic merge patch.
    pub(super) fn patch(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Patch {
            count: self.count,
            last_timestamp: seconds(self.last),
            message: &self.message,
        })
    }

    fn item<'a>(&'a self, host: &'a str) -> Item<'a> {
        let object = &*self.object;
        // As upstream: one that stands for several was not reported by anybody.
        let (component, instance) = match self.combined {
            true => ("", ""),
            false => (COMPONENT, host),
        };
        Item {
            api_version: None,
            kind: None,
            metadata: Metadata {
                name: self.name(),
                namespace: self.namespace(),
                creation_timestamp: None,
            },
            involved_object: Reference {
                kind: object.kind.as_str(),
                namespace: &object.namespace,
                name: &object.name,
                uid: &object.uid,
                api_version: "v1",
                field_path: object.field_path.as_deref(),
            },
            reason: &self.reason,
            message: &self.message,
            source: Source {
                component: COMPONENT,
                host,
            },
            first_timestamp: seconds(self.first),
            last_timestamp: seconds(self.last),
            count: self.count,
            event_type: match self.warning {
                true => "Warning",
                false => "Normal",
            },
            event_time: None,
            reporting_component: component,
            reporting_instance: instance,
        }
    }
}

/// As `metav1.Time` is written: whole seconds.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
