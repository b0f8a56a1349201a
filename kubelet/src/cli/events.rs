//! `kubelet events`: what has happened on this node, as kubectl would show it.

use std::io::{self, Read};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;

use super::{CliError, age, socket};
use crate::config::SOCKET_NAME;

/// The word that asks for it.
pub const NAME: &str = "events";

const HELP: &str = "\
Shows what has happened on this node: the events that the running agent keeps, what happened last at the end.

Usage:
  kubelet events [flags]

An agent keeps the last thousand events, none from before it started. A repeated event counts up: \"5s (x3 over 2m)\".

Flags:
  -h, --help
        Print this text
  -n, --namespace NAME
        Only of this namespace
  -o, --output FORMAT
        text, or json for a v1 EventList (default text)
      --pod NAME
        Only of the pod with this name, as it is in the manifest or with the node's name behind it
      --root-dir DIR
        The root directory of the agent to ask (default /var/lib/kubelet)
      --socket PATH
        The agent's socket, when its configuration has it elsewhere than agent.sock in the root directory

Exit status: 0 when the agent has answered, 1 when it has not, 64 when the command line is wrong.
";
const DEFAULT_ROOT: &str = "/var/lib/kubelet";

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    help: bool,
    json: bool,
    namespace: Option<String>,
    pod: Option<String>,
    root: Option<PathBuf>,
    socket: Option<PathBuf>,
}

impl Arguments {
    fn parse(arguments: &[String]) -> Result<Self, CliError> {
        let usage = |message: String| CliError::Usage {
            command: NAME,
            message,
        };
        let mut found = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            if matches!(name, "-h" | "--help") && value.is_none() {
                found.help = true;
                return Ok(found);
            }
            if !name.starts_with('-') {
                return Err(usage(format!(
                    "unexpected argument {argument:?}; a pod is named with --pod"
                )));
            }
            let known = [
                "-n",
                "--namespace",
                "-o",
                "--output",
                "--pod",
                "--root-dir",
                "--socket",
            ];
            if !known.contains(&name) {
                return Err(usage(format!("unknown flag: {argument}")));
            }
            let value = match value.or_else(|| rest.next().cloned()) {
                Some(value) if !value.is_empty() => value,
                _ => return Err(usage(format!("flag needs an argument: {name}"))),
            };
            match name {
                "--root-dir" => found.root = Some(value.into()),
                "--socket" => found.socket = Some(value.into()),
                "--pod" => found.pod = Some(a_name(name, value).map_err(usage)?),
                "-n" | "--namespace" => found.namespace = Some(a_name(name, value).map_err(usage)?),
                _ => {
                    found.json = match value.as_str() {
                        "text" => false,
                        "json" => true,
                        _ => {
                            let message = format!("{name} takes text or json, not {value:?}");
                            return Err(usage(message));
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    fn socket(&self) -> PathBuf {
        match (&self.socket, &self.root) {
            (Some(socket), _) => socket.clone(),
            (None, Some(root)) => root.join(SOCKET_NAME),
            (None, None) => PathBuf::from(DEFAULT_ROOT).join(SOCKET_NAME),
        }
    }

    fn request(&self) -> String {
        let wanted = [("namespace", &self.namespace), ("pod", &self.pod)];
        let wanted = wanted.iter().filter_map(|(key, value)| {
            let value = value.as_deref()?;
            Some(format!("{key}={value}"))
        });
        match wanted.collect::<Vec<_>>().join("&") {
            none if none.is_empty() => "/events".to_owned(),
            query => format!("/events?{query}"),
        }
    }
}

/// What a namespace or a pod can be called.
fn a_name(flag: &str, value: String) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    match value.chars().all(fits) {
        true => Ok(value),
        false => Err(format!(
            "{flag}: nothing is called {value:?}: names are of lower case letters, digits, '-' and '.'"
        )),
    }
}

pub(super) fn run(
    arguments: &[String],
    output: &mut dyn io::Write,
    now: Timestamp,
) -> Result<(), CliError> {
    let arguments = Arguments::parse(arguments)?;
    if arguments.help {
        return output.write_all(HELP.as_bytes()).map_err(CliError::Write);
    }
    let mut answer = socket::get(&arguments.socket(), &arguments.request())?;
    if arguments.json {
        io::copy(&mut answer, output).map_err(CliError::Write)?;
        return output.flush().map_err(CliError::Write);
    }
    let mut text = String::new();
    let read = answer.read_to_string(&mut text);
    read.map_err(|error| CliError::Silent(arguments.socket(), error))?;
    let list: List =
        serde_json::from_str(&text).map_err(|error| CliError::Garbled(error.to_string()))?;
    let shown = table(
        &list.items.unwrap_or_default(),
        arguments.namespace.is_none(),
        now,
    );
    output
        .write_all(shown.as_bytes())
        .and_then(|()| output.flush())
        .map_err(CliError::Write)
}

#[derive(Deserialize)]
struct List {
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    metadata: Metadata,
    involved_object: Object,
    reason: String,
    message: String,
    first_timestamp: Timestamp,
    last_timestamp: Timestamp,
    count: u32,
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
    field_path: Option<String>,
}

impl Item {
    fn seen(&self, now: Timestamp) -> String {
        let since = |time: Timestamp| age::short(now.duration_since(time).as_secs());
        let last = since(self.last_timestamp);
        match self.count {
            0 | 1 => last,
            many => format!("{last} (x{many} over {})", since(self.first_timestamp)),
        }
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

/// Columns as wide as what is in them, three spaces between, the message last and on one line.
fn table(items: &[Item], with_namespace: bool, now: Timestamp) -> String {
    if items.is_empty() {
        return "No events found.\n".to_owned();
    }
    let head = [
        "NAMESPACE",
        "LAST SEEN",
        "TYPE",
        "REASON",
        "OBJECT",
        "MESSAGE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(items.iter().map(|item| {
        [
            item.metadata.namespace.clone(),
            item.seen(now),
            item.kind.clone(),
            item.reason.clone(),
            item.object(),
            item.message.trim().replace('\n', "\\n"),
        ]
    }));
    let first = usize::from(!with_namespace);
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for row in &rows {
        for column in first..head.len() - 1 {
            let cell = &row[column];
            let gap = widths[column] + 3 - cell.chars().count();
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', gap));
        }
        text.push_str(&row[head.len() - 1]);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
