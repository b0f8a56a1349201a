//! A registry that fails, and whom that concerns.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::registry::{DIRECT, PASSWORD, Registry, docker_config};
use tests::scenario::with_node;
use tests::wait::{eventually, throughout};

use super::{
    AFTER_BACKOFF, LIMIT, has_failed, image, named, node_credentials, pod, seen, sees, waiting,
};

/// How long a pod may take to go whose image is being pulled: its grace period is a second, and nothing of it runs.
const PROMPT: Duration = Duration::from_secs(15);
/// Into the middle of the layer of an image, of [`super::LAYER`] bytes.
const MIDWAY: u64 = 4 << 20;
/// An image that is on the node.
const PRESENT: &str = "docker.io/library/busybox:1.36";

/// An agent on a node that may pull, with `at_once` pulls at a time.
async fn agent<'n>(node: &'n Node, at_once: u32) -> Result<Agent<'n>> {
    let agent = Agent::new(node)?;
    agent.configure("serializeImagePulls", json!(at_once == 1))?;
    if at_once > 1 {
        agent.configure("maxParallelImagePulls", json!(at_once))?;
    }
    agent.start().await?;
    node_credentials(node, Some(&docker_config(PASSWORD)))?;
    Ok(agent)
}

/// Waits until the line has done what was ordered for later: a pull is under way then, and hangs.
async fn hangs(registry: &Registry<'_>) -> Result<()> {
    eventually("the pull hangs", LIMIT, async || {
        ensure!(!registry.line().is_open());
        Ok(())
    })
    .await
}

/// For a while the container is being made: no pull has failed.
async fn keeps_pulling(agent: &Agent<'_>, name: &str) -> Result<()> {
    throughout("the pull goes on", Duration::from_secs(4), async || {
        let pod = agent.pod(name)?;
        let reason = waiting(&pod)?.reason;
        ensure!(
            reason.as_deref() == Some("ContainerCreating"),
            "{}",
            pod.describe()
        );
        Ok(())
    })
    .await
}

#[test]
fn a_registry_that_is_down_cuts_or_lies_fails_its_own_pods_and_these_recover() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        let lie = image("lie")?;
        for (name, image) in [
            ("down", &image("down")?),
            ("cut", &image("cut")?),
            ("lie", &lie),
        ] {
            registry.put(name, "1", image)?;
        }
        let agent = agent(node, 3).await?;

        registry.kill()?;
        node.put("down.yaml", &pod("down", &named("down"), None))?;
        node.put("present.yaml", &pod("present", PRESENT, None))?;
        let present = agent.ready("present", LIMIT).await?;
        has_failed(&agent, "down", &named("down"), &["registry.test/down:1"]).await?;
        registry.line().refuse();
        node.put("refused.yaml", &pod("refused", &named("down"), None))?;
        has_failed(&agent, "refused", &named("down"), &["connection refused"]).await?;
        registry.serve().await?;
        registry.line().open();
        for name in ["down", "refused"] {
            agent.ready(name, AFTER_BACKOFF).await?;
        }

        registry.line().close_after(MIDWAY);
        node.put("cut.yaml", &pod("cut", &named("cut"), None))?;
        has_failed(&agent, "cut", &named("cut"), &["registry.test/cut:1"]).await?;
        registry.line().open();
        agent.ready("cut", AFTER_BACKOFF).await?;

        let right = registry.spoil(&lie.layer)?;
        node.put("lie.yaml", &pod("lie", &named("lie"), None))?;
        let promised = format!("sha256:{}", lie.layer);
        let words = ["unexpected commit digest", promised.as_str()];
        has_failed(&agent, "lie", &named("lie"), &words).await?;
        registry.mend(&lie.layer, &right)?;
        agent.ready("lie", AFTER_BACKOFF).await?;

        let after = agent.ready("present", LIMIT).await?;
        ensure!(
            after.instances() == present.instances(),
            "{}",
            after.describe()
        );
        Ok(())
    });
}

#[test]
fn a_pull_that_hangs_holds_up_the_queue_alone_and_goes_with_its_pod() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        for name in ["slow", "other"] {
            registry.put(name, "1", &image(name)?)?;
        }
        let agent = agent(node, 1).await?;
        registry.line().hold_after(MIDWAY);
        node.put("slow.yaml", &pod("slow", &named("slow"), None))?;
        hangs(&registry).await?;
        node.put(
            "other.yaml",
            &pod("other", &format!("{DIRECT}/other:1"), None),
        )?;
        sees(&agent, "other", "Normal Pulling containers{main} ", 1).await?;
        // Its image is there, so that it waits for nobody.
        node.put("present.yaml", &pod("present", PRESENT, None))?;
        agent.ready("present", LIMIT).await?;
        for name in ["slow", "other"] {
            keeps_pulling(&agent, name).await?;
        }
        let asked = registry.asked("/v2/other/")?;
        ensure!(asked == 0, "asked {asked} times out of turn");

        if agent.is_foreign() {
            eprintln!(
                "not held to how soon a pod goes whose pull hangs: upstream's waits for the pull"
            );
            return Ok(());
        }
        let slow = agent.pod("slow")?;
        node.remove("slow.yaml")?;
        agent.gone(&slow, PROMPT).await?;
        agent.ready("other", LIMIT).await?;
        // The one that comes after it finds a registry that is well.
        registry.line().open();
        node.put("slow.yaml", &pod("slow", &named("slow"), None))?;
        agent.ready("slow", AFTER_BACKOFF).await.map(drop)
    });
}

#[test]
fn parallel_pulls_pass_one_that_is_slow() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        for name in ["slow", "other"] {
            registry.put(name, "1", &image(name)?)?;
        }
        let agent = agent(node, 2).await?;
        registry.line().hold_after(MIDWAY);
        node.put("slow.yaml", &pod("slow", &named("slow"), None))?;
        hangs(&registry).await?;
        node.put(
            "other.yaml",
            &pod("other", &format!("{DIRECT}/other:1"), None),
        )?;
        agent.ready("other", LIMIT).await?;
        keeps_pulling(&agent, "slow").await?;
        registry.line().open();
        let slow = agent.ready("slow", LIMIT).await?;
        let events = agent.events_of("slow")?;
        let pulled = events.iter().find(|event| event.reason == "Pulled");
        pulled.context("it was pulled")?;
        ensure!(
            events.iter().all(|event| event.event_type == "Normal"),
            "{events:?}"
        );
        let main = slow.container("main")?;
        ensure!(main.restart_count == 0, "{}", slow.describe());
        Ok(())
    });
}

#[test]
fn pulls_beyond_the_limit_wait_for_their_turn() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        // Those that lost try again together, after 10 and 30 seconds, and each time one of them has its turn.
        let names = ["first", "second", "third"];
        for name in names {
            registry.put(name, "1", &image(name)?)?;
        }
        let agent = Agent::new(node)?;
        agent.configure("serializeImagePulls", json!(false))?;
        agent.configure("registryPullQPS", json!(1))?;
        agent.configure("registryBurst", json!(1))?;
        agent.start().await?;
        node_credentials(node, Some(&docker_config(PASSWORD)))?;
        for name in names {
            node.put(&format!("{name}.yaml"), &pod(name, &named(name), None))?;
        }
        for name in names {
            agent.ready(name, AFTER_BACKOFF).await?;
        }
        let mut exceeded = 0;
        for name in names {
            let image = named(name);
            let event = format!(
                "Warning Failed containers{{main}} Failed to pull image \"{image}\": pull QPS exceeded"
            );
            exceeded += seen(&agent, name, &event)?;
        }
        ensure!(exceeded > 0, "all of them were pulled at once");
        Ok(())
    });
}
