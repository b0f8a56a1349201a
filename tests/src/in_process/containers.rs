//! What the runtime was asked for, and what runs in it.

use anyhow::{Context as _, Result, ensure};

use super::{FakeNode, LIMIT};
use crate::agent::NODE_NAME;
use crate::fake_runtime::Container;
use crate::wait::eventually;

impl FakeNode {
    /// Waits until exactly `count` instances of `container` (`pod/container` of the manifest) run, and gives them.
    ///
    /// # Errors
    /// When it is not so within [`LIMIT`].
    pub async fn running(&self, container: &str, count: usize) -> Result<Vec<Container>> {
        let what = format!("{count} of {container} run");
        eventually(&what, LIMIT, async || {
            let running = self.running_now(container);
            ensure!(running.len() == count, "{} run", running.len());
            Ok(running)
        })
        .await
    }

    /// The instances of `container` (`pod/container` of the manifest) that run.
    #[must_use]
    pub fn running_now(&self, container: &str) -> Vec<Container> {
        self.runtime.running(&subject(container))
    }

    /// Waits until one instance of `container` (`pod/container` of the manifest) runs, and gives it.
    ///
    /// # Errors
    /// As [`FakeNode::running`].
    pub async fn only(&self, container: &str) -> Result<Container> {
        self.running(container, 1).await?.pop().context("none runs")
    }

    /// Waits until one instance of `main` of a pod of the API server runs, and gives it.
    ///
    /// # Errors
    /// As [`FakeNode::running`].
    pub async fn main_of(&self, pod: &str) -> Result<Container> {
        eventually(&format!("{pod} runs once"), LIMIT, async || {
            let mut running = self.runtime.running(&format!("default/{pod}/main"));
            ensure!(running.len() == 1, "{} run", running.len());
            running.pop().context("none runs")
        })
        .await
    }

    /// The changes asked of the runtime about one pod, as `Method` or `Method container`.
    #[must_use]
    pub fn changes_of(&self, pod: &str) -> Vec<String> {
        let subject = format!("default/{pod}-{NODE_NAME}");
        let changes = self.runtime.changes().into_iter();
        changes
            .filter_map(|change| {
                let (method, about) = change.split_once(' ')?;
                let rest = about.strip_prefix(&subject)?;
                match rest.strip_prefix('/') {
                    Some(container) => Some(format!("{method} {container}")),
                    None => rest.is_empty().then(|| method.to_owned()),
                }
            })
            .collect()
    }
}

/// How the runtime names a container of a static pod: `pod/container` is `pod-node/container`.
#[must_use]
pub fn subject(container: &str) -> String {
    match container.split_once('/') {
        Some((pod, container)) => format!("{pod}-{NODE_NAME}/{container}"),
        None => format!("{container}-{NODE_NAME}"),
    }
}
