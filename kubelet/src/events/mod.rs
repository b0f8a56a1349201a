//! What happens to pods and to the node, said once each, in upstream's words.
//!
//! Owns: the form of an event, how repeated and similar ones are put together, the events kept in memory. Inputs: the
//! rooms that act, through [`About`]. Outputs: a log line for what is new, the list behind `GET /events`, and on a joined
//! node events at the API server. Tasks: none on a node of its own: an event is noted where it happens, which takes no
//! I/O. On a joined node one ([`run_sink`]) tells the API server what an [`Outbox`] has.
//!
//! As its log, the events are the process's: one process is one agent, and whatever task something happens in can say so
//! without having been handed a recorder ([`recorder`]).
//!
//! Deliberately not here: deciding what is worth an event, and keeping any across a restart of the agent (nor does an
//! upstream kubelet without an API server).

mod correlate;
mod event;
mod lru;
mod outbox;
mod recorder;
mod sink;
mod store;

use std::borrow::Cow;
use std::sync::LazyLock;

use crate::clock::Clock;
use crate::pod::{self, Pod, PodName};

pub use event::{Event, Kind, Object};
pub use outbox::Outbox;
pub use recorder::{Noted, Recorder};
pub use sink::run_sink;
pub use store::{MOST_BYTES, MOST_EVENTS};

use event::Draft;

/// The recorder of this process.
#[must_use]
pub fn recorder() -> &'static Recorder {
    static RECORDER: LazyLock<Recorder> = LazyLock::new(|| Recorder::new(Clock::system()));
    &RECORDER
}

/// The pod, the container of it, or the node, that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    subject: Subject<'a>,
    /// A container's id, which the container's name stands for in messages.
    id: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
enum Subject<'a> {
    Pod(&'a Pod),
    Container(&'a Pod, &'a str),
    Node(&'a str),
}

impl<'a> About<'a> {
    /// An event of the whole pod.
    #[must_use]
    pub fn pod(pod: &'a Pod) -> Self {
        Self::of(Subject::Pod(pod))
    }

    /// An event of one container, whichever list of the spec it is in.
    #[must_use]
    pub fn container(pod: &'a Pod, name: &'a str) -> Self {
        Self::of(Subject::Container(pod, name))
    }

    /// An event of the node called `name`.
    #[must_use]
    pub fn node(name: &'a str) -> Self {
        Self::of(Subject::Node(name))
    }

    fn of(subject: Subject<'a>) -> Self {
        Self { subject, id: None }
    }

    /// Writes the container's name wherever a message has `id`: a runtime's errors have it, and two failures that differ
    /// in nothing else are one event.
    #[must_use]
    pub fn without_id(self, id: &'a str) -> Self {
        Self {
            id: Some(id).filter(|id| !id.is_empty()),
            ..self
        }
    }

    /// Something went as it should. `reason` is upstream's word for it.
    pub fn normal(&self, reason: &str, message: &str) {
        self.record(false, reason, message);
    }

    /// Something did not. `reason` is upstream's word for it.
    pub fn warning(&self, reason: &str, message: &str) {
        self.record(true, reason, message);
    }

    fn record(&self, warning: bool, reason: &str, message: &str) {
        let message = self.named(message);
        let noted = recorder().note(&self.draft(warning, reason, &message));
        // A line for what is new, and for what upstream's API server would be told; of the rest --v=4 has more.
        let said = noted.count == 1 || noted.kept;
        match (said, warning) {
            (false, _) => tracing::debug!(reason, count = noted.count, "{message}"),
            (true, false) => self.say(reason, &message, noted.count),
            (true, true) => self.warn(reason, &message, noted.count),
        }
    }

    fn named<'m>(&self, message: &'m str) -> Cow<'m, str> {
        match (self.subject, self.id) {
            (Subject::Container(_, name), Some(id)) if message.contains(id) => {
                message.replace(id, name).into()
            }
            _ => message.into(),
        }
    }

    fn say(&self, reason: &str, message: &str, count: u32) {
        let count = (count > 1).then_some(count);
        match self.subject {
            Subject::Pod(of) => {
                let (pod, uid) = names(of);
                tracing::info!(%pod, uid, reason, count, "{message}");
            }
            Subject::Container(of, container) => {
                let (pod, uid) = names(of);
                tracing::info!(%pod, uid, container, reason, count, "{message}");
            }
            Subject::Node(node) => tracing::info!(node, reason, count, "{message}"),
        }
    }

    fn warn(&self, reason: &str, message: &str, count: u32) {
        let count = (count > 1).then_some(count);
        match self.subject {
            Subject::Pod(of) => {
                let (pod, uid) = names(of);
                tracing::warn!(%pod, uid, reason, count, "{message}");
            }
            Subject::Container(of, container) => {
                let (pod, uid) = names(of);
                tracing::warn!(%pod, uid, container, reason, count, "{message}");
            }
            Subject::Node(node) => tracing::warn!(node, reason, count, "{message}"),
        }
    }

    fn draft<'d>(&self, warning: bool, reason: &'d str, message: &'d str) -> Draft<'d>
    where
        'a: 'd,
    {
        let (kind, namespace, name, uid, field, host) = match self.subject {
            // As upstream: a node goes by its name for a UID nowhere but in its own registration.
            Subject::Node(name) => (Kind::Node, "", name, "", None, name),
            Subject::Pod(of) | Subject::Container(of, _) => {
                let container = match self.subject {
                    Subject::Container(_, name) => field_path(of, name),
                    _ => None,
                };
                let meta = &of.metadata;
                (
                    Kind::Pod,
                    meta.namespace.as_deref().unwrap_or("default"),
                    meta.name.as_deref().unwrap_or_default(),
                    meta.uid.as_deref().unwrap_or_default(),
                    container,
                    pod::spec(of).node_name.as_deref().unwrap_or_default(),
                )
            }
        };
        Draft {
            kind,
            namespace,
            name,
            uid,
            field_path: field,
            host,
            warning,
            reason,
            message,
        }
    }
}

fn names(pod: &Pod) -> (PodName, &str) {
    (
        PodName::of(pod),
        pod.metadata.uid.as_deref().unwrap_or_default(),
    )
}

/// Where in the spec the container called `name` is, as `involvedObject.fieldPath` has it.
fn field_path(pod: &Pod, name: &str) -> Option<String> {
    let spec = pod::spec(pod);
    let init = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let list = if spec.containers.iter().any(|c| c.name == name) {
        "containers"
    } else if init.into_iter().any(|c| c.name == name) {
        "initContainers"
    } else if ephemeral.into_iter().any(|c| c.name == name) {
        "ephemeralContainers"
    } else {
        return None;
    };
    Some(format!("spec.{list}{{{name}}}"))
}

#[cfg(test)]
mod tests;
