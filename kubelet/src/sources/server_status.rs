//! What is kept of the status that the API server shows of a pod.

use k8s_openapi::api::core::v1 as api;
use kube::ResourceExt;

use crate::pod::Pod;
use crate::status::{self, Phase};

/// The API server's copy of a pod's status, cut down to what the publisher goes by. Made when the object arrives, so that
/// the copy itself, most of which the agent has written, need not be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// `metadata.resourceVersion`, which counts up with each change of the object (the Kubernetes document "API
    /// Concepts", since 1.35); 0 where it is no number.
    pub version: u64,
    /// `status.phase`, where it is one that a node writes.
    pub phase: Option<Phase>,
    /// `status.reason`.
    pub reason: Option<Box<str>>,
    /// `status.message`.
    pub message: Option<Box<str>>,
    /// The types of all conditions, in their order.
    pub conditions: Box<[Box<str>]>,
    /// [`status::fingerprint`] of all that the node writes.
    pub print: u64,
    /// The containers that have ended, by name, with their exit codes.
    pub ended: Box<[(Box<str>, i32)]>,
}

impl ServerStatus {
    /// What is kept of `pod`'s status.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let version = pod.resource_version();
        let version = version.and_then(|text| text.parse().ok()).unwrap_or(0);
        let Some(shown) = &pod.status else {
            return Self {
                version,
                ..Self::default()
            };
        };
        let text = |text: &Option<String>| -> Option<Box<str>> {
            text.as_deref().filter(|t| !t.is_empty()).map(Into::into)
        };
        let conditions = shown.conditions.iter().flatten();
        Self {
            version,
            phase: shown.phase.as_deref().and_then(Phase::parse),
            reason: text(&shown.reason),
            message: text(&shown.message),
            conditions: conditions.map(|c| c.type_.as_str().into()).collect(),
            print: status::fingerprint(shown),
            ended: ended(shown).collect(),
        }
    }

    /// Whether the API server shows a phase that is never left.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.phase.is_some_and(Phase::is_terminal)
    }
}

fn ended(shown: &api::PodStatus) -> impl Iterator<Item = (Box<str>, i32)> {
    let inits = shown.init_container_statuses.iter().flatten();
    let all = inits.chain(shown.container_statuses.iter().flatten());
    all.filter_map(|c| {
        let end = c.state.as_ref()?.terminated.as_ref()?;
        Some((c.name.as_str().into(), end.exit_code))
    })
}
