//! Devices of plugins in a cluster: what the node's status says of them, and pods of the API server that get them.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tests::agent::NODE_NAME;
use tests::cluster::{Cluster, LIMIT, bound_pod, path, with_cluster};
use tests::device_plugin::{DevicePlugin, broken, device};
use tests::in_process::FakeNode;
use tests::wait::eventually;

const DEV: &str = "example.com/dev";

/// Capacity and allocatable of the devices; empty where the node does not have them.
fn amounts(node: &Node) -> Result<(String, String)> {
    let status = node.status.as_ref().context("no status")?;
    let amount = |list: &Option<std::collections::BTreeMap<_, _>>| {
        let found = list.as_ref().and_then(|list| list.get(DEV));
        found.map(|q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| q.0.clone())
    };
    Ok((
        amount(&status.capacity).unwrap_or_default(),
        amount(&status.allocatable).unwrap_or_default(),
    ))
}

async fn shows(cluster: &Cluster, capacity: &str, allocatable: &str) -> Result<()> {
    let what = format!("{allocatable} of {capacity} devices");
    eventually(&what, LIMIT, async || {
        let shown = amounts(&cluster.node().await?)?;
        ensure!(
            shown == (capacity.to_owned(), allocatable.to_owned()),
            "{shown:?}"
        );
        Ok(())
    })
    .await
}

fn plugin(node: &FakeNode) -> Result<DevicePlugin> {
    let three = ["a", "b", "c"].map(|id| device(id, &[]));
    DevicePlugin::new(&node.path("kubelet"), DEV, three.into())
}

#[test]
fn the_node_says_how_many_devices_it_has() {
    with_cluster(async |cluster, node| {
        node.configure("nodeStatusUpdateFrequency", json!("1s"));
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        // What somebody else advertises is no plugin's, and outlives agents.
        let status = path("nodes", "", NODE_NAME) + "/status";
        let theirs = json!({"status": {"capacity": {"example.com/theirs": "5"}}});
        cluster.client().strategic(&status, &theirs).await?;
        let plugin = plugin(node)?;
        plugin.start().await?;
        shows(cluster, "3", "3").await?;
        plugin.set(vec![device("a", &[]), broken("b"), device("c", &[])]);
        shows(cluster, "3", "2").await?;
        let mut pod = bound_pod("a");
        pod["spec"]["containers"][0]["resources"] =
            json!({"limits": {DEV: "1"}, "requests": {DEV: "1"}});
        cluster.add(&pod).await?;
        cluster.ready("a").await?;
        // What is given is allocatable all the same, and a plugin that has gone leaves none.
        shows(cluster, "3", "2").await?;
        plugin.stop();
        shows(cluster, "3", "0").await?;
        // The next agent reports none until the plugin is back, and forgets none.
        node.kill_agent()?;
        node.start_agent()?;
        shows(cluster, "0", "0").await?;
        cluster.ready("a").await?;
        plugin.start().await?;
        shows(cluster, "3", "2").await?;
        let capacity = cluster
            .node()
            .await?
            .status
            .and_then(|status| status.capacity);
        let theirs = capacity.and_then(|mut capacity| capacity.remove("example.com/theirs"));
        ensure!(theirs.is_some_and(|amount| amount.0 == "5"), "it is gone");
        Ok(())
    });
}
