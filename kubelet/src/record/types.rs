//! The record itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::stamp::Stamp;
use crate::pod::QosClass;
use crate::resize::{Actuated, Allocation};
use crate::status::{Condition, ConditionKind, Phase, PodStatus};

/// Bytes of a phase's reason and message that a record keeps.
const MAX_TEXT: usize = 4096;

/// What is remembered of one pod. Fields that are missing from a file read as empty, and fields that this agent does not
/// know are passed over: an older agent reads what a newer one has written, and the other way round. So fields are only
/// ever added, and none changes what it means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// `status.startTime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When the pod became active, by a wall clock that is followed where it is stepped: what an active deadline is
    /// counted from. Only of a pod that has one; at first the same as `start_time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_since: Option<Timestamp>,
    /// By container name: what was established of the instance that ran.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub containers: BTreeMap<String, ContainerRecord>,
    /// The conditions that were published. One that this agent does not know, from a newer one, is passed over.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "known_conditions"
    )]
    pub conditions: BTreeMap<ConditionKind, ConditionRecord>,
    /// By container name: its crash back-off.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub backoffs: BTreeMap<String, BackoffRecord>,
    /// The termination under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination: Option<Termination>,
    /// The terminal phase that was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// Ids of the containers whose postStart hook is done.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub post_start_done: BTreeSet<String>,
    /// Ids of the running containers whose preStop hook has begun: it is not run a second time.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub pre_stop_begun: BTreeSet<String>,
    /// What the containers of a pod of the API server were given; the spec may ask for something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated: Option<Allocation>,
    /// By container name: what the running instance was made with, or changed to.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub actuated: BTreeMap<String, Actuated>,
    /// The clocks that the times of waits go by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Stamp>,
}

/// What was established of a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The instance it was established of.
    pub id: String,
    /// Its startup probe had passed.
    pub started: bool,
    /// Its readiness probe passed.
    pub ready: bool,
}

/// A condition that was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionRecord {
    /// True or False.
    pub status: bool,
    /// When it last flipped.
    pub since: Timestamp,
}

/// The crash back-off of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackoffRecord {
    /// What the container was made of, hexadecimal: a change of image or resources ends the back-off.
    pub fingerprint: String,
    /// The delay that follows the next exit, milliseconds.
    pub delay_ms: u64,
    /// When the container was last started again, by the wall clock.
    pub since: Timestamp,
    /// The last exit that was seen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_exit: Option<ExitRecord>,
}

/// An exit of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// The instance.
    pub id: String,
    /// When it ended, by the wall clock.
    pub finished_at: Timestamp,
}

/// A termination under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// The grace period it was begun with, or shortened to, seconds.
    pub grace_seconds: i64,
    /// When the grace period ends, by the wall clock.
    pub deadline_wall: Timestamp,
}

/// A terminal phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// `Succeeded` or `Failed`.
    pub phase: Phase,
    /// `status.reason`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// `status.message`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

impl Record {
    /// Takes over from a status that is being published what a later run of the agent could not derive again: start
    /// time, conditions, started and ready of what runs, the terminal phase. Forgets postStart hooks of instances that
    /// no container has any more.
    pub fn take_status(&mut self, status: &PodStatus) {
        self.start_time = status.start_time;
        self.conditions = status
            .conditions
            .iter()
            .map(|c| {
                let record = ConditionRecord {
                    status: c.status,
                    since: c.last_transition,
                };
                (c.kind, record)
            })
            .collect();
        let all = || status.all_containers();
        self.containers = all()
            .filter(|c| c.state.is_running())
            .filter_map(|c| {
                let record = ContainerRecord {
                    id: c.id.as_ref()?.as_str().to_owned(),
                    started: c.started,
                    ready: c.ready,
                };
                Some((c.name.to_string(), record))
            })
            .collect();
        let current = |id: &String| all().any(|c| c.id.as_ref().is_some_and(|i| i.as_str() == id));
        self.post_start_done.retain(current);
        self.terminal = status.phase.is_terminal().then(|| Terminal {
            phase: status.phase,
            reason: status.reason.as_deref().map(bounded),
            message: status.message.as_deref().map(bounded),
        });
    }

    /// The status to derive the first one of this run from: everything that was remembered, and no containers, which
    /// the runtime shows. `None` when there is nothing to go by.
    #[must_use]
    pub fn previous_status(&self, qos: QosClass) -> Option<PodStatus> {
        if self.start_time.is_none() && self.conditions.is_empty() && self.terminal.is_none() {
            return None;
        }
        let text = |text: Option<&String>| text.map(|t| Arc::from(t.as_str()));
        let terminal = self.terminal.as_ref();
        let ran = !self.containers.is_empty();
        let phase = terminal.map_or(if ran { Phase::Running } else { Phase::Pending }, |t| {
            t.phase
        });
        let conditions = self.conditions.iter().map(|(kind, record)| Condition {
            kind: *kind,
            status: record.status,
            reason: None,
            message: None,
            last_transition: record.since,
        });
        Some(PodStatus {
            phase,
            reason: text(terminal.and_then(|t| t.reason.as_ref())),
            message: text(terminal.and_then(|t| t.message.as_ref())),
            start_time: self.start_time,
            conditions: conditions.collect(),
            init_containers: Vec::new(),
            containers: Vec::new(),
            ephemeral_containers: Vec::new(),
            pod_ips: Vec::new(),
            host_ips: Vec::new(),
            qos,
        })
    }
}

fn known_conditions<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<BTreeMap<ConditionKind, ConditionRecord>, D::Error> {
    let all = BTreeMap::<String, ConditionRecord>::deserialize(input)?;
    let known = all
        .into_iter()
        .filter_map(|(name, record)| Some((ConditionKind::parse(&name)?, record)));
    Ok(known.collect())
}

fn bounded(text: &str) -> String {
    let edge = (0..=MAX_TEXT.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text[..edge.unwrap_or(0)].to_owned()
}
