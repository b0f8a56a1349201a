//! The frame of a test with real containers: a private node, an agent on it, the logs of both when it fails.

use anyhow::{Context as _, Result};

use crate::agent::Agent;
use crate::containerd::Node;

/// Runs `test` on a private node with an agent that serves.
///
/// # Panics
/// When the node or the agent does not start, or `test` fails; the logs' ends go to standard error.
pub fn with_agent(test: impl AsyncFnOnce(&Node, &Agent<'_>) -> Result<()>) {
    run(async || {
        let node = Node::start().await?;
        let agent = Agent::new(&node)?;
        agent.start().await?;
        report(test(&node, &agent).await);
        Ok(())
    });
}

/// Runs `test` on a private node with a containerd and no agent.
///
/// # Panics
/// As [`with_agent`].
pub fn with_node(test: impl AsyncFnOnce(&Node) -> Result<()>) {
    run(async || {
        let node = Node::start().await?;
        report(test(&node).await);
        Ok(())
    });
}

/// Runs `test` on a private node on which neither containerd nor an agent has been started.
///
/// # Panics
/// As [`with_agent`].
pub fn with_nothing(test: impl AsyncFnOnce(&Node, &Agent<'_>) -> Result<()>) {
    run(async || {
        let node = Node::without_containerd()?;
        let agent = Agent::new(&node)?;
        report(test(&node, &agent).await);
        Ok(())
    });
}

fn run(test: impl AsyncFnOnce() -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a tokio runtime");
    report(runtime.and_then(|runtime| runtime.block_on(test())));
}

/// Panics while the node is still there: it prints its logs when it is dropped by a panic.
fn report(result: Result<()>) {
    if let Err(error) = result {
        panic!("{error:?}");
    }
}
