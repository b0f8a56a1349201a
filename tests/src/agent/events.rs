//! The events that an agent records: asked over its socket, or, of another kubelet, read out of its log.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Agent;

/// The socket in our agent's root directory.
pub const SOCKET: &str = "kubelet/agent.sock";

/// What another kubelet logs of each event, with `logging.verbosity` 3.
const LOGGED: &str = "] \"Event occurred\" ";

/// An event, as far as tests compare them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `Pod` or `Node`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// `spec.containers{main}`, or empty.
    pub field_path: String,
    /// `Normal` or `Warning`.
    pub event_type: String,
    /// The reason.
    pub reason: String,
    /// The message.
    pub message: String,
    /// How often.
    pub count: u32,
}

impl fmt::Display for Seen {
    /// All but the object's name and the count.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match &*self.field_path {
            "" => "-",
            path => path.strip_prefix("spec.").unwrap_or(path),
        };
        let (event_type, reason, message) = (&self.event_type, &self.reason, &self.message);
        write!(f, "{event_type} {reason} {path} {message}")
    }
}

#[derive(Deserialize)]
struct List {
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    involved_object: Object,
    #[serde(rename = "type")]
    event_type: String,
    reason: String,
    message: String,
    count: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    kind: String,
    name: String,
    #[serde(default)]
    field_path: String,
}

impl From<Item> for Seen {
    fn from(item: Item) -> Self {
        Self {
            kind: item.involved_object.kind,
            name: item.involved_object.name,
            field_path: item.involved_object.field_path,
            event_type: item.event_type,
            reason: item.reason,
            message: item.message,
            count: item.count,
        }
    }
}

impl Agent<'_> {
    /// The answer of our agent's socket to GET `path`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn ask_socket(&self, path: &str) -> Result<crate::http::Response> {
        crate::http::get_unix(&self.node.path(SOCKET), path)
    }

    /// The events recorded so far, each once with how often it was.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn events(&self) -> Result<Vec<Seen>> {
        if self.is_foreign() {
            return logged(&self.log()?);
        }
        let answer = self.ask_socket("/events")?;
        ensure!(answer.status == 200, "/events: {}", answer.status);
        let list: List = serde_json::from_str(&answer.body).context("read /events")?;
        Ok(list.items.into_iter().flatten().map(Seen::from).collect())
    }

    /// Those of the pod called `name` in its manifest.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn events_of(&self, name: &str) -> Result<Vec<Seen>> {
        let full = format!("{name}-{}", super::NODE_NAME);
        let mut events = self.events()?;
        events.retain(|event| event.kind == "Pod" && event.name == full);
        Ok(events)
    }
}

/// The events in a log, in the order in which each was there first.
fn logged(log: &str) -> Result<Vec<Seen>> {
    let mut events: Vec<Seen> = Vec::new();
    for line in log.lines() {
        let Some((_, fields)) = line.split_once(LOGGED) else {
            continue;
        };
        let object = value(fields, "object")?;
        let name = object.rsplit('/').next().unwrap_or_default().to_owned();
        let event = Seen {
            kind: value(fields, "kind")?,
            name,
            field_path: value(fields, "fieldPath")?,
            event_type: value(fields, "type")?,
            reason: value(fields, "reason")?,
            message: value(fields, "message")?,
            count: 1,
        };
        let known = events.iter_mut().find(|known| {
            known.name == event.name
                && known.kind == event.kind
                && known.to_string() == event.to_string()
        });
        match known {
            Some(known) => known.count += 1,
            None => events.push(event),
        }
    }
    Ok(events)
}

/// The value of `key="…"`, as Go quotes it.
fn value(fields: &str, key: &str) -> Result<String> {
    let missing = || format!("no {key} in {fields:?}");
    let start = match fields.strip_prefix(&format!("{key}=")) {
        Some(rest) => rest,
        None => {
            fields
                .split_once(&format!(" {key}="))
                .with_context(missing)?
                .1
        }
    };
    let mut values = serde_json::Deserializer::from_str(start).into_iter::<String>();
    values.next().with_context(missing)?.with_context(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_out_of_a_log_and_counted() {
        let line = r#"I1121 12:03:07.4 25166 event.go:389] "Event occurred" object="default/a-node" fieldPath="spec.containers{main}" kind="Pod" apiVersion="v1" type="Warning" reason="Failed" message="image \"b\" kind=\"x\"""#;
        let events = logged(&format!("{line}\nsomething else\n{line}\n")).unwrap();
        let [event] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(
            (&*event.kind, &*event.name, event.count),
            ("Pod", "a-node", 2)
        );
        assert_eq!(
            event.to_string(),
            r#"Warning Failed containers{main} image "b" kind="x""#
        );
    }
}
