//! Real containers: two pods that want one port of the node.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::agent::PodView as _;
use tests::images::INDEX_HTML;
use tests::scenario::with_agent;
use tests::wait::{Never, eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// A web server on port 8080 of the node.
fn web(name: &str, network: &str, listen: u16, port: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, {network} \
         containers: [{{name: web, image: 'busybox:1.36', command: [httpd, -f, -p, '{listen}', -h, /www], ports: [{port}]}}]}}}}"
    )
}

#[test]
fn a_taken_host_port_refuses_a_pod_until_it_is_free() {
    with_agent(async |node, agent| {
        let mapped = web("first", "", 80, "{containerPort: 80, hostPort: 8080}");
        node.put("first.yaml", &mapped)?;
        let first = agent.ready("first", LIMIT).await?;
        node.put(
            "second.yaml",
            &web(
                "second",
                "hostNetwork: true,",
                8080,
                "{containerPort: 8080}",
            ),
        )?;
        let second = agent.phase("second", "Failed", LIMIT).await?;
        let status = second.status.as_ref().context("no status")?;
        ensure!(
            status.reason.as_deref() == Some("NodePorts"),
            "{}",
            second.describe()
        );
        let message = status.message.clone().unwrap_or_default();
        let words = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        ensure!(message.starts_with(words), "{message}");
        ensure!(node.running_of(second.uid())?.is_empty(), "it runs");
        ensure!(node.http_get("127.0.0.1:8080", "/")?.body == INDEX_HTML);
        if agent.is_foreign() {
            return Ok(());
        }
        // What follows is this agent's own.
        ensure!(
            message.ends_with("host port 8080/TCP is held by default/first-node"),
            "{message}"
        );
        // The one that runs keeps its port under another agent, whoever's manifest comes first.
        agent.kill()?;
        agent.start().await?;
        let again = agent.ready("first", LIMIT).await?;
        ensure!(
            again.instances() == first.instances(),
            "{}",
            again.describe()
        );
        agent.phase("second", "Failed", LIMIT).await?;

        node.remove("first.yaml")?;
        agent.gone(&first, LIMIT).await?;
        let second = agent.ready("second", LIMIT).await?;
        ensure!(
            second.container("web")?.restart_count == 0,
            "{}",
            second.describe()
        );
        eventually("the second one serves", LIMIT, async || {
            let answer = node.http_get("127.0.0.1:8080", "/")?;
            if answer.status != 200 {
                return Err(Never(format!("it answers {}", answer.status)).into());
            }
            Ok(())
        })
        .await
    });
}
