//! Whether the runtime can give pods a network of their own.
//!
//! A sandbox that is tried without one fails and leaves traces, so it is asked for first: once each time the runtime
//! comes up, and before each attempt that follows a failure. A network that goes later shows in the next failure.

use std::sync::atomic::{AtomicU64, Ordering};

use cri_proto::{RuntimeClient, v1};

use crate::observe::RuntimeState;

/// The name of the condition (CRI `RuntimeStatus`).
const CONDITION: &str = "NetworkReady";

/// What is known of it. One for the whole agent.
#[derive(Debug, Default)]
pub struct Network {
    /// The number of the runtime's return after which it was ready; 0 before the first.
    ready_since: AtomicU64,
}

impl Network {
    /// Why there is no network, in upstream's words; none where there is one, or the runtime does not say.
    pub(super) async fn trouble(
        &self,
        runtime: &RuntimeClient,
        state: &RuntimeState,
        failed_before: bool,
    ) -> Option<String> {
        let since = match state {
            RuntimeState::Up(times) => *times,
            RuntimeState::NeverSeen | RuntimeState::Away => 0,
        };
        if !failed_before && since > 0 && self.ready_since.load(Ordering::Relaxed) == since {
            return None;
        }
        let status = runtime.status(false).await.ok()?.status?;
        let trouble = trouble_of(status);
        if trouble.is_none() {
            self.ready_since.store(since, Ordering::Relaxed);
        }
        trouble
    }
}

fn trouble_of(status: v1::RuntimeStatus) -> Option<String> {
    let mut conditions = status.conditions.into_iter();
    let network = conditions.find(|condition| condition.r#type == CONDITION)?;
    (!network.status).then(|| {
        format!(
            "container runtime network not ready: {CONDITION}=false reason:{} message:{}",
            network.reason, network.message
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_is_false_is_told_as_upstream_does() {
        let status = |ready, name: &str| v1::RuntimeStatus {
            conditions: vec![v1::RuntimeCondition {
                r#type: name.to_owned(),
                status: ready,
                reason: "NetworkPluginNotReady".to_owned(),
                message: "cni plugin not initialized".to_owned(),
            }],
        };
        assert_eq!(trouble_of(status(true, CONDITION)), None);
        assert_eq!(trouble_of(status(false, "RuntimeReady")), None);
        assert_eq!(
            trouble_of(status(false, CONDITION)).as_deref(),
            Some(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
            )
        );
    }
}
