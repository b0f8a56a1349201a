//! The agent's own socket, which a node of a cluster has only where it is configured.

use std::fs;

use anyhow::{Result, anyhow, ensure};

use super::FakeNode;
use crate::http::get_unix;
use crate::prometheus::{self, Metrics};

/// Its name in the node's directory.
const SOCKET: &str = "agent.sock";

impl FakeNode {
    /// Has agents started from now on answer at `agent.sock` in the node's directory. `more` is of their own settings too, a
    /// line each.
    ///
    /// # Errors
    /// When the file of the settings, `agent.yaml` in that directory, cannot be written.
    pub fn with_socket(&self, more: &str) -> Result<()> {
        let socket = self.path(SOCKET);
        let text = format!(
            "apiVersion: agent.kubelet/v1alpha1\nkind: AgentConfiguration\nsocket: {}\n{more}",
            socket.display()
        );
        let file = self.path("agent.yaml");
        fs::write(&file, text)?;
        self.set_flag("--agent-config", &file.display().to_string());
        Ok(())
    }

    /// What the agent answers to GET `path` there.
    ///
    /// # Errors
    /// When it does not, or says that it cannot.
    pub async fn ask(&self, path: &str) -> Result<String> {
        let (socket, wanted) = (self.path(SOCKET), path.to_owned());
        // Whoever waits for an answer may be served by this thread.
        let ask = move || get_unix(&socket, &wanted);
        let answer = tokio::task::spawn_blocking(ask).await??;
        ensure!(answer.status == 200, "{path}: {}", answer.body);
        Ok(answer.body)
    }

    /// What the agent counts.
    ///
    /// # Errors
    /// As [`FakeNode::ask`], and when it is no text that Prometheus takes.
    pub async fn metrics(&self) -> Result<Metrics> {
        let text = self.ask("/metrics").await?;
        prometheus::parse(&text).map_err(|error| anyhow!("{error}"))
    }
}
