//! Real containers: the agent and the runtime go away and come back.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::scenario::{with_agent, with_nothing};
use tests::wait::{eventually, throughout};

const LIMIT: Duration = Duration::from_secs(60);

fn pod(name: &str) -> String {
    include_str!("../../examples/web.yaml").replace("name: web", &format!("name: {name}"))
}

/// Starts two pods and waits for them.
async fn two_pods(node: &Node, agent: &Agent<'_>) -> Result<[Pod; 2]> {
    node.put("a.yaml", &pod("a"))?;
    node.put("b.yaml", &pod("b"))?;
    Ok([
        agent.ready("a", LIMIT).await?,
        agent.ready("b", LIMIT).await?,
    ])
}

/// Every container, with its start time, as before; for as long as a mistaken restart would take.
async fn unchanged(agent: &Agent<'_>, before: &[Pod]) -> Result<()> {
    throughout(
        "every container is the same",
        Duration::from_secs(5),
        async || {
            for old in before {
                let name = old.metadata.name.as_deref().unwrap_or_default();
                let new = agent.pod(name.trim_end_matches("-node"))?;
                ensure!(
                    new.instances() == old.instances() && new.uid() == old.uid(),
                    "was {}, is {}",
                    old.describe(),
                    new.describe()
                );
                ensure!(new.statuses().iter().all(|s| s.restart_count == 0));
            }
            Ok(())
        },
    )
    .await
}

/// Waits until `/pods` shows the pods' containers again, as a fresh agent does once it has asked the runtime.
async fn seen_again(agent: &Agent<'_>, before: &[Pod]) -> Result<()> {
    for old in before {
        let name = old.metadata.name.as_deref().unwrap_or_default();
        agent.ready(name.trim_end_matches("-node"), LIMIT).await?;
    }
    Ok(())
}

#[test]
fn a_killed_agent_comes_back_to_the_same_containers() {
    with_agent(async |node, agent| {
        let before = two_pods(node, agent).await?;
        let running = node.running()?;
        agent.kill()?;
        ensure!(node.running()? == running, "they ended with the agent");
        agent.start().await?;
        seen_again(agent, &before).await?;
        unchanged(agent, &before).await?;
        ensure!(node.running()? == running);
        Ok(())
    });
}

#[test]
fn a_terminated_agent_leaves_its_containers_running() {
    with_agent(async |node, agent| {
        let before = two_pods(node, agent).await?;
        let running = node.running()?;
        agent.terminate().await?;
        ensure!(node.running()? == running, "they ended with the agent");
        agent.start().await?;
        seen_again(agent, &before).await?;
        unchanged(agent, &before).await
    });
}

#[test]
fn a_manifest_deleted_while_the_agent_was_down_takes_its_pod_along() {
    with_agent(async |node, agent| {
        let [gone, stays] = two_pods(node, agent).await?;
        agent.kill()?;
        node.remove("a.yaml")?;
        agent.start().await?;
        agent.gone(&gone, LIMIT).await?;
        agent.ready("b", LIMIT).await?;
        unchanged(agent, &[stays]).await
    });
}

#[test]
fn a_manifest_broken_while_the_agent_was_down_keeps_its_pod() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            // docs/deviations.md: upstream ends the pod of a file that it cannot read.
            return Ok(());
        }
        let before = two_pods(node, agent).await?;
        eventually("copies of both manifests", LIMIT, async || {
            let copies = std::fs::read_dir(node.path("kubelet/manifests"))?.count();
            ensure!(copies == 2, "{copies}");
            Ok(())
        })
        .await?;
        agent.kill()?;
        node.put("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: [}\n")?;
        agent.start().await?;
        seen_again(agent, &before).await?;
        unchanged(agent, &before).await
    });
}

#[test]
fn an_agent_before_its_runtime_waits_and_says_so() {
    with_nothing(async |node, agent| {
        node.put("a.yaml", &pod("a"))?;
        agent.spawn()?;
        let socket = node.socket().display().to_string();
        eventually("the log names the missing socket", LIMIT, async || {
            let log = agent.log()?;
            ensure!(log.contains(&socket), "{log}");
            Ok(())
        })
        .await?;
        if agent.is_foreign() {
            // Upstream ends instead, and its unit starts it again.
            eventually("it ends", LIMIT, async || {
                ensure!(agent.ended()?.is_some(), "it runs");
                Ok(())
            })
            .await?;
        } else {
            throughout("it waits", Duration::from_secs(3), async || {
                ensure!(agent.ended()?.is_none(), "{:?}", agent.ended()?);
                Ok(())
            })
            .await?;
        }
        node.start_containerd().await?;
        if agent.is_foreign() {
            agent.spawn()?;
        }
        agent.ready("a", LIMIT).await?;
        Ok(())
    });
}

#[test]
fn a_killed_containerd_costs_no_container() {
    with_agent(async |node, agent| {
        let before = two_pods(node, agent).await?;
        node.kill_containerd()?;
        // Without a runtime nothing is known, and nothing may be concluded from that.
        tokio::time::sleep(Duration::from_secs(3)).await;
        ensure!(agent.ended()?.is_none(), "the agent ended with containerd");
        node.start_containerd().await?;
        seen_again(agent, &before).await?;
        unchanged(agent, &before).await?;
        // And it works again.
        node.put("c.yaml", &pod("c"))?;
        agent.ready("c", LIMIT).await?;
        Ok(())
    });
}
