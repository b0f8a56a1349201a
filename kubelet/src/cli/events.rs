//! `kubelet events`: what has happened on this node, and what does, as kubectl would show it.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::arguments::{EventsArguments, EventsFormat};
use super::summary::since;
use super::table::{Columns, OF_DESCRIPTIONS, OF_LISTS, columns};
use super::watching::{Changes, Kind};
use super::{CliError, Streams, pods, socket};

pub(super) fn run(
    arguments: &EventsArguments,
    streams: &mut Streams<'_>,
    now: Timestamp,
) -> Result<(), CliError> {
    let (socket, request) = (arguments.place.socket(), request(arguments));
    if arguments.watch {
        let changes = Changes::of(&socket, &format!("/watch{request}"))?;
        return watch(changes, arguments, streams);
    }
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
    match items.is_empty() {
        true => "No events found.\n".to_owned(),
        false => columns(&rows(items, (with_namespace, true), now), OF_LISTS),
    }
}

fn rows(
    items: &[Item],
    (with_namespace, with_head): (bool, bool),
    now: Timestamp,
) -> Vec<Vec<String>> {
    let head = [
        "NAMESPACE",
        "LAST SEEN",
        "TYPE",
        "REASON",
        "OBJECT",
        "MESSAGE",
    ];
    let head = with_head.then(|| head.map(str::to_owned).to_vec());
    let items = items.iter().map(|item| {
        vec![
            item.metadata.namespace.clone(),
            item.seen(now),
            item.kind.clone(),
            item.reason.clone(),
            item.object(),
            item.message(),
        ]
    });
    let mut rows: Vec<Vec<String>> = head.into_iter().chain(items).collect();
    if !with_namespace {
        for row in &mut rows {
            row.remove(0);
        }
    }
    rows
}

/// Prints what has happened, and then what does, until the agent goes.
fn watch(
    mut changes: Changes,
    arguments: &EventsArguments,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let mut table = Columns::new(OF_LISTS);
    let (mut head, mut first) = (true, Some(Vec::new()));
    loop {
        let change = changes.next()?;
        let news = match change.kind {
            Kind::Bookmark => first.take().unwrap_or_default(),
            Kind::Error => {
                streams.remark(&change.object.to_string())?;
                continue;
            }
            _ if arguments.output == EventsFormat::Json => {
                streams.print(&format!("{}\n", change.object))?;
                continue;
            }
            _ => {
                let item = Item::deserialize(&change.object);
                let item = item.map_err(|error| CliError::Garbled(error.to_string()))?;
                if let Some(first) = &mut first {
                    first.push(item);
                    continue;
                }
                vec![item]
            }
        };
        if !news.is_empty() {
            let with = (arguments.namespace.is_none(), std::mem::take(&mut head));
            let rows = rows(&news, with, crate::clock::system_wall());
            streams.print(&table.lines(&rows))?;
        }
    }
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
