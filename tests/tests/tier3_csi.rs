//! A container that runs for real and the files of a storage driver, through a restart of agent and plugin.
//! The API server is the double.

use std::fs;
use std::time::Duration;

use anyhow::ensure;
use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use serde_json::json;
use tests::agent::Agent;
use tests::cluster::{Cluster, bound_pod, path, refusal};
use tests::csi_driver::{CsiDriver, Traits};
use tests::scenario::with_node;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);
const DRIVER: &str = "bind.example";

#[test]
fn a_container_has_the_drivers_files() {
    with_node(async |node| {
        let cluster = Cluster::with_double().await?;
        let (_bridge, agent) = cluster.reach_from(node, Agent::ours(node)?)?;
        let traits = Traits::new(DRIVER, &[] as &[Ability]);
        let driver = CsiDriver::new(&node.path("kubelet"), &node.path("driver"), traits)?.on(node);
        driver.start()?;
        let object = json!({"metadata": {"name": DRIVER}, "spec": {"attachRequired": false,
            "volumeLifecycleModes": ["Ephemeral"]}});
        let drivers = path("csidrivers", "", "");
        cluster.client().create(&drivers, &object).await?;
        agent.start().await?;

        let mut pod = bound_pod("a");
        pod["spec"]["volumes"] = json!([{"name": "data", "csi": {"driver": DRIVER}}]);
        let container = &mut pod["spec"]["containers"][0];
        container["image"] = json!("busybox:1.36");
        container["imagePullPolicy"] = json!("IfNotPresent");
        let script = "echo volume $(cat /data/volume); echo of the pod > /data/written; \
             while [ ! -e /data/more ]; do sleep 0.1; done; echo saw $(cat /data/more); sleep 1000";
        container["command"] = json!(["sh", "-c", script]);
        container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        let made = cluster.add(&pod).await?;
        let shown = cluster.pod_shows("ready", "a", LIMIT, tests::cluster::is_ready);
        shown.await?;
        let published = driver.calls_of("NodePublishVolume");
        ensure!(published.len() == 1, "{published:?}");
        let volume = &published[0].volume;
        let expected = format!("volume {volume}");
        agent.logged(&made, "main", &expected, LIMIT).await?;
        let files = driver.volume(volume);
        ensure!(fs::read_to_string(files.join("written"))? == "of the pod\n");

        // What is mounted outlives both.
        agent.kill()?;
        driver.stop();
        driver.start()?;
        agent.start().await?;
        driver.registered().await?;
        fs::write(files.join("more"), "news")?;
        agent.logged(&made, "main", "saw news", LIMIT).await?;
        ensure!(driver.calls_of("NodePublishVolume").len() == 1);
        cluster.delete_pod("a", None).await?;
        eventually("the pod is gone", LIMIT, async || {
            match cluster.pod("a").await {
                Ok(_) => anyhow::bail!("it is there"),
                Err(error) if refusal(&error) == Some(404) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await?;
        ensure!(driver.mounted().is_empty(), "{:?}", driver.mounted());
        ensure!(driver.calls_of("NodeUnpublishVolume").len() == 1);
        agent.terminate().await?;
        Ok(())
    });
}
