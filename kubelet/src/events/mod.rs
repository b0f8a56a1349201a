//! What happens to pods, said once each, in upstream's words.
//!
//! Owns: the form of an event. Inputs: the rooms that act. Outputs: one log line an event; the sinks of a joined node
//! stand behind the same call. Tasks: none. Does not: decide, or repeat itself.

use crate::pod::{Pod, PodName};

/// The pod, and the container where there is one, that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pod: &'a Pod,
    container: Option<&'a str>,
}

impl<'a> About<'a> {
    /// An event of the whole pod.
    #[must_use]
    pub fn pod(pod: &'a Pod) -> Self {
        Self {
            pod,
            container: None,
        }
    }

    /// An event of one container.
    #[must_use]
    pub fn container(pod: &'a Pod, name: &'a str) -> Self {
        Self {
            pod,
            container: Some(name),
        }
    }

    /// Something went as it should. `reason` is upstream's word for it.
    pub fn normal(&self, reason: &str, message: &str) {
        let (pod, uid) = self.names();
        match self.container {
            Some(container) => tracing::info!(%pod, uid, container, reason, "{message}"),
            None => tracing::info!(%pod, uid, reason, "{message}"),
        }
    }

    /// Something did not. `reason` is upstream's word for it.
    pub fn warning(&self, reason: &str, message: &str) {
        let (pod, uid) = self.names();
        match self.container {
            Some(container) => tracing::warn!(%pod, uid, container, reason, "{message}"),
            None => tracing::warn!(%pod, uid, reason, "{message}"),
        }
    }

    fn names(&self) -> (PodName, &'a str) {
        (
            PodName::of(self.pod),
            self.pod.metadata.uid.as_deref().unwrap_or_default(),
        )
    }
}
