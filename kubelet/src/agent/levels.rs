//! The cgroups above the pods, from the start of the agent on: which driver, the levels, the limits of the node.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::RuntimeClient;
use tokio::sync::oneshot;

use super::AgentError;
use super::driver::{self, Choice};
use crate::cgroups::{Cgroups, Driver, NodeLimits};
use crate::errors::error_chain;
use crate::events::About;

/// The runtime's answer is waited for this long before the agent goes on without: most answer within milliseconds, and
/// what does not fit is better refused before the agent calls itself ready.
const AT_START: Duration = Duration::from_secs(2);
/// One attempt later on. A runtime that hangs and then goes on answers the next.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Between attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Between attempts at limits that the kernel refuses, as upstream.
const LIMIT_AGAIN: Duration = Duration::from_secs(60);

/// What is needed for it.
pub(super) struct NodeLevels {
    pub(super) cgroups: Arc<Cgroups>,
    pub(super) runtime: RuntimeClient,
    /// `cgroupDriver`.
    pub(super) configured: Driver,
    /// `cgroupsPerQOS`.
    pub(super) per_qos: bool,
    pub(super) reserved: Vec<ReservedLevel>,
    pub(super) node_name: String,
}

/// A cgroup of daemons that is held to what is reserved for them.
pub(super) struct ReservedLevel {
    /// The word of `enforceNodeAllocatable`: `kube-reserved`.
    pub(super) word: &'static str,
    /// `kubeReservedCgroup` or `systemReservedCgroup`.
    pub(super) cgroup: String,
    /// None where nothing is reserved.
    pub(super) limits: Option<NodeLimits>,
}

impl NodeLevels {
    /// Makes the levels, if the runtime says at once with which driver. Whether it did.
    ///
    /// # Errors
    /// When the driver does not fit, or a level cannot be made.
    pub(super) async fn at_start(&self) -> Result<bool, AgentError> {
        let why = match tokio::time::timeout(AT_START, self.ask()).await {
            Ok(Ok(choice)) => return self.begin(choice?).await.map(|()| true),
            Ok(Err(error)) => error_chain(&error),
            Err(_) => format!("no answer within {AT_START:?}"),
        };
        tracing::warn!(
            why,
            "the runtime does not answer; pods wait until it says which cgroup driver it uses"
        );
        Ok(false)
    }

    async fn ask(&self) -> Result<Result<Choice, AgentError>, cri_proto::CriError> {
        let answer = driver::ask(&self.runtime, self.configured).await?;
        Ok(answer.map_err(AgentError::from))
    }

    async fn begin(&self, choice: Choice) -> Result<(), AgentError> {
        choice.log(self.configured);
        self.cgroups.begin(choice.driver).await?;
        for level in &self.reserved {
            self.limit_daemons(level).await?;
        }
        Ok(())
    }

    /// Limits the cgroup of daemons, with upstream's events.
    async fn limit_daemons(&self, level: &ReservedLevel) -> Result<(), AgentError> {
        let (cgroup, node) = (&level.cgroup, About::node(&self.node_name));
        let limited = match &level.limits {
            Some(limits) => self.cgroups.limit_reserved(cgroup, limits).await,
            None => {
                let why =
                    format!("cgroup {cgroup:?} is not configured properly: nothing is reserved");
                return Err(refused(&node, level, &why));
            }
        };
        limited.map_err(|error| refused(&node, level, &error_chain(&error)))?;
        let whose = level.word.split('-').next().unwrap_or_default();
        node.normal(
            "NodeAllocatableEnforced",
            &format!("Updated limits on {whose} reserved cgroup {cgroup}"),
        );
        Ok(())
    }

    /// Lives as long as the agent: makes the levels when the runtime answers, if it did not at the start, and sees that
    /// the node's limits are set. What does not fit goes to `refused`, once, and ends the agent.
    pub(super) async fn keep(self, begun: bool, refused: oneshot::Sender<AgentError>) {
        if !begun && let Err(error) = self.when_answered().await {
            // Nobody listens where the agent is ending already.
            let _ = refused.send(error);
        } else {
            self.limit_node().await;
        }
        std::future::pending().await
    }

    async fn when_answered(&self) -> Result<(), AgentError> {
        loop {
            if let Ok(Ok(choice)) = tokio::time::timeout(ATTEMPT, self.ask()).await {
                return self.begin(choice?).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Limits all pods together, with upstream's events. Pods that use more already may keep the kernel from it.
    async fn limit_node(&self) {
        if !self.per_qos {
            return;
        }
        let node = About::node(&self.node_name);
        while let Err(error) = self.cgroups.limit_node().await {
            let error = error_chain(&error);
            node.warning(
                "FailedNodeAllocatableEnforcement",
                &format!("Failed to update Node Allocatable Limits [\"kubepods\"]: {error}"),
            );
            tokio::time::sleep(LIMIT_AGAIN).await;
        }
        node.normal(
            "NodeAllocatableEnforced",
            "Updated Node Allocatable limit across pods",
        );
    }
}

/// Says why the cgroup of daemons is not limited: the agent does not go on without.
fn refused(node: &About, level: &ReservedLevel, why: &str) -> AgentError {
    // As upstream writes it: `System Reserved Compressible`.
    let words = level.word.split('-').map(|word| {
        let (first, rest) = word.split_at(1);
        format!("{}{rest}", first.to_uppercase())
    });
    let what = words.collect::<Vec<_>>().join(" ");
    let message = format!(
        "Failed to enforce {what} Cgroup Limits on {:?}: {why}",
        level.cgroup
    );
    node.warning("FailedNodeAllocatableEnforcement", &message);
    AgentError::ReservedCgroup(message)
}
