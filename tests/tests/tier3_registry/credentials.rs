//! Who may pull, and who may not.

use anyhow::ensure;
use serde_json::json;
use tests::agent::{Agent, PodView as _};
use tests::cluster::{Cluster, bound_pod};
use tests::registry::{PASSWORD, Registry, docker_config, pull_secret};
use tests::scenario::with_node;
use tests::wait::eventually;

use super::{
    AFTER_BACKOFF, LIMIT, has_failed, image, named, node_credentials, pod, put_private, sees,
    waiting,
};

/// What containerd says of a pull that the registry refuses, with and without credentials.
const REFUSED: &str = "401 Unauthorized";

#[test]
fn a_good_secret_pulls_a_wrong_one_and_none_do_not() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        for name in ["good", "wrong", "none"] {
            registry.put(name, "1", &image(name)?)?;
        }
        let agent = Agent::ours(node)?;
        agent.start().await?;
        put_private(node, "right.json", &pull_secret("right", PASSWORD))?;
        put_private(node, "bad.json", &pull_secret("bad", "a guess"))?;
        node.put("none.yaml", &pod("none", &named("none"), None))?;
        let wrong = pod("wrong", &named("wrong"), Some("bad"));
        node.put("wrong.yaml", &wrong)?;
        node.put("good.yaml", &pod("good", &named("good"), Some("right")))?;

        let good = agent.ready("good", LIMIT).await?;
        let pulled = format!(
            "Normal Pulled containers{{main}} Successfully pulled image \"{}\" in ",
            named("good")
        );
        sees(&agent, "good", &pulled, 1).await?;
        let image_id = good.container("main")?.image_id.clone();
        ensure!(
            image_id.starts_with("registry.test/good@sha256:"),
            "{image_id}"
        );
        has_failed(&agent, "wrong", &named("wrong"), &[REFUSED]).await?;
        has_failed(&agent, "none", &named("none"), &[REFUSED]).await?;

        // What was wrong is put right, each before its next pull: the pod's secret, and after one more in vain the node's own
        // file. (That each wait is twice as long as the one before shows without waiting for it: `images/backoff`.)
        put_private(node, "bad.json", &pull_secret("bad", PASSWORD))?;
        agent.ready("wrong", AFTER_BACKOFF).await?;
        sees(&agent, "none", "Normal Pulling containers{main} ", 2).await?;
        let none = agent.pod("none")?;
        ensure!(waiting(&none)?.reason.is_some(), "{}", none.describe());
        node_credentials(node, Some(&docker_config(PASSWORD)))?;
        agent.ready("none", AFTER_BACKOFF).await?;
        ensure!(agent.ready("good", LIMIT).await?.instances() == good.instances());
        let log = agent.log()?;
        ensure!(!log.contains(PASSWORD), "a password is in the log");
        Ok(())
    });
}

#[test]
fn a_pod_of_the_api_pulls_with_its_secret_once_there_is_one() {
    with_node(async |node| {
        let registry = Registry::start(node).await?;
        registry.put("api", "1", &image("api")?)?;
        let cluster = Cluster::with_double().await?;
        let (_bridge, agent) = cluster.reach_from(node, Agent::new(node)?)?;
        agent.start().await?;
        let mut manifest = bound_pod("a");
        manifest["spec"]["imagePullSecrets"] = json!([{ "name": "late" }]);
        let container = &mut manifest["spec"]["containers"][0];
        container["image"] = json!(named("api"));
        container["command"] = json!(["sleep", "100000"]);
        cluster.add(&manifest).await?;
        let event = cluster
            .event("a", "FailedToRetrieveImagePullSecret")
            .await?;
        ensure!(
            event.message.as_deref()
                == Some(
                    "Unable to retrieve some image pull secrets (late); attempting to pull the image may not succeed."
                ),
            "{event:?}"
        );
        cluster
            .pod_shows("ImagePullBackOff", "a", LIMIT, |pod| {
                waiting(pod).is_ok_and(|waiting| {
                    waiting.reason.as_deref() == Some("ImagePullBackOff")
                        && waiting.message.is_some_and(|m| m.contains(REFUSED))
                })
            })
            .await?;
        cluster
            .add_object("secrets", &pull_secret("late", PASSWORD))
            .await?;
        cluster
            .pod_shows("ready", "a", AFTER_BACKOFF, tests::cluster::is_ready)
            .await?;
        cluster.delete_pod("a", None).await?;
        eventually("the pod is gone", LIMIT, async || {
            ensure!(cluster.pod("a").await.is_err());
            Ok(())
        })
        .await?;
        agent.terminate().await?;
        Ok(())
    });
}
