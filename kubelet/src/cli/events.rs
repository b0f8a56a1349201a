//! `kubelet events`: what has happened on this node, as kubectl would show it.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::arguments::{EventsArguments, EventsFormat};
use super::summary::since;
use super::table::{OF_DESCRIPTIONS, OF_LISTS, columns};
use super::{CliError, Streams, pods, socket};

pub(super) fn run(
    arguments: &EventsArguments,
    streams: &mut Streams<'_>,
    now: Timestamp,
) -> Result<(), CliError> {
    let (socket, request) = (arguments.place.socket(), request(arguments));
    if arguments.output == EventsFormat::Json {
        io::copy(&mut socket::get(&socket, &request)?, streams.output)?;
        return Ok(streams.output.flush()?);
    }
    let list: List = pods::read(&socket, &request)?;
    let items = list.items.unwrap_or_default();
    streams.print(&table(&items, arguments.namespace.is_none(), now))
}

/// All events of the node.
///
/// # Errors
/// When nobody answers, or nothing that can be understood.
pub(super) fn of_node(socket: &Path) -> Result<Vec<Item>, CliError> {
    let list: List = pods::read(socket, "/events")?;
    Ok(list.items.unwrap_or_default())
}

fn request(arguments: &EventsArguments) -> String {
    let wanted = [("namespace", &arguments.namespace), ("pod", &arguments.pod)];
    let wanted = wanted.iter().filter_map(|(key, value)| {
        let value = value.as_deref()?;
        Some(format!("{key}={value}"))
    });
    match wanted.collect::<Vec<_>>().join("&") {
        none if none.is_empty() => "/events".to_owned(),
        query => format!("/events?{query}"),
    }
}

#[derive(Deserialize)]
struct List {
    items: Option<Vec<Item>>,
}

/// One event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    metadata: Metadata,
    involved_object: Object,
    reason: String,
    message: String,
    first_timestamp: Timestamp,
    last_timestamp: Timestamp,
    count: u32,
    source: Option<Source>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    kind: String,
    name: String,
    uid: Option<String>,
    field_path: Option<String>,
}

#[derive(Deserialize)]
struct Source {
    component: Option<String>,
}

impl Item {
    fn seen(&self, now: Timestamp) -> String {
        let last = since(self.last_timestamp, now);
        match self.count {
            0 | 1 => last,
            many => format!("{last} (x{many} over {})", since(self.first_timestamp, now)),
        }
    }

    /// Whether it is of the pod with this UID; one without a UID, of the pod with this name.
    pub(super) fn is_of(&self, uid: Option<&str>, name: &str) -> bool {
        let object = &self.involved_object;
        object.kind == "Pod"
            && object.name == name
            && (uid.is_none() || object.uid.as_deref() == uid)
    }

    /// What it says, on one line.
    pub(super) fn message(&self) -> String {
        self.message.trim().replace('\n', "\\n")
    }

    /// Whether it tells of something that is wrong.
    pub(super) fn is_warning(&self) -> bool {
        self.kind == "Warning"
    }

    /// `5s ago FailedMount: …`.
    pub(super) fn told(&self, now: Timestamp) -> String {
        format!(
            "{} ago {}: {}",
            since(self.last_timestamp, now),
            self.reason,
            self.message()
        )
    }

    /// `pod/web-node{main}`: the object, and the container in braces.
    fn object(&self) -> String {
        let object = &self.involved_object;
        let path = object.field_path.as_deref().unwrap_or_default();
        let container = path.find('{').map_or("", |at| &path[at..]);
        let kind = object.kind.to_lowercase();
        format!("{kind}/{}{container}", object.name)
    }
}

/// kubectl's columns; the message on one line.
fn table(items: &[Item], with_namespace: bool, now: Timestamp) -> String {
    if items.is_empty() {
        return "No events found.\n".to_owned();
    }
    let mut rows = vec![
        ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(items.iter().map(|item| {
        vec![
            item.seen(now),
            item.kind.clone(),
            item.reason.clone(),
            item.object(),
            item.message(),
        ]
    }));
    if with_namespace {
        let namespaces = items.iter().map(|item| item.metadata.namespace.as_str());
        for (row, namespace) in rows
            .iter_mut()
            .zip(std::iter::once("NAMESPACE").chain(namespaces))
        {
            row.insert(0, namespace.to_owned());
        }
    }
    columns(&rows, OF_LISTS)
}

/// The end of a description: the events of one pod.
pub(super) fn of_pod(items: &[&Item], now: Timestamp) -> String {
    if items.is_empty() {
        return "Events:  <none>\n".to_owned();
    }
    let mut rows = vec![
        ["  Type", "Reason", "Age", "From", "Message"]
            .map(str::to_owned)
            .to_vec(),
        ["  ----", "------", "----", "----", "-------"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(items.iter().map(|item| {
        let from = item
            .source
            .as_ref()
            .and_then(|source| source.component.clone());
        vec![
            format!("  {}", item.kind),
            item.reason.clone(),
            item.seen(now),
            from.unwrap_or_default(),
            item.message(),
        ]
    }));
    format!("Events:\n{}", columns(&rows, OF_DESCRIPTIONS))
}

#[cfg(test)]
mod tests;
