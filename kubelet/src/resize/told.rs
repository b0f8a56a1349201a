//! The words for a resize: events and conditions, as upstream has them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use serde::Serialize;

use crate::pod::{self, Pod};

/// Why a pod has not been given what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// In a word.
    pub reason: PendingReason,
    /// In a sentence.
    pub message: Arc<str>,
}

/// How far a pod has come with the resources that it asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Why it has not been given them.
    pub pending: Option<Arc<Pending>>,
    /// It was given some that its containers do not have yet; with what went wrong.
    pub actuating: Option<Option<Arc<str>>>,
}

/// Whether it may be given later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingReason {
    /// When there is room.
    Deferred,
    /// It will not.
    Infeasible,
}

impl PendingReason {
    /// As the condition spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deferred => "Deferred",
            Self::Infeasible => "Infeasible",
        }
    }

    /// The reason of the event.
    #[must_use]
    pub fn event(self) -> &'static str {
        match self {
            Self::Deferred => "ResizeDeferred",
            Self::Infeasible => "ResizeInfeasible",
        }
    }
}

/// The message of `ResizeStarted`.
#[must_use]
pub fn started(pod: &Pod) -> String {
    message("Pod resize started", pod, "")
}

/// The message of `ResizeCompleted`.
#[must_use]
pub fn completed(pod: &Pod) -> String {
    message("Pod resize completed", pod, "")
}

/// The message of `ResizeError`.
#[must_use]
pub fn failed(pod: &Pod, error: &str) -> String {
    message("Pod resize error", pod, error)
}

/// The message of `ResizeDeferred` and `ResizeInfeasible`.
#[must_use]
pub fn pending(pod: &Pod, why: &Pending) -> String {
    let prefix = format!("Pod resize {}", why.reason.as_str());
    message(&prefix, pod, &why.message)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Item<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Item<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

fn message(prefix: &str, pod: &Pod, error: &str) -> String {
    fn item(container: &Container) -> Item<'_> {
        Item {
            name: &container.name,
            resources: container.resources.clone().unwrap_or_default(),
        }
    }
    let spec = pod::spec(pod);
    let summary = Summary {
        init_containers: spec.init_containers.iter().flatten().map(item).collect(),
        containers: spec.containers.iter().map(item).collect(),
        generation: pod.metadata.generation.unwrap_or(0),
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(summary) => format!("{prefix}: {summary}"),
        Err(_) => prefix.to_owned(),
    }
}
