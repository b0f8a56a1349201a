//! Nodes that run short, on the fake runtime and the API server's double: who is evicted and what is said of it, what a
//! pod may take of the disk, a root directory that is full to the last byte and the last inode, images that nobody uses.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::agent::PodView as _;
use tests::cluster::{Cluster, LIMIT, bound_pod, with_cluster};
use tests::fake_runtime::Program;
use tests::in_process::{FakeNode, with_node};
use tests::small_disk::{SmallDisk, fill_bytes, fill_inodes, write_mebibytes};
use tests::wait::{eventually, throughout};

/// Looks at what is short come each ten seconds, at a pod that is never evicted each minute.
const LONG: Duration = Duration::from_secs(90);

/// A pod with an `emptyDir` volume that nothing mounts: the tests write into it from the node.
fn pod_with_volume(name: &str, source: Value) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": source }]);
    pod
}

fn volume(node: &FakeNode, pod: &Pod) -> PathBuf {
    node.pod_dir(pod).join("volumes/kubernetes.io~empty-dir/v")
}

fn reason(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|s| s.reason.as_deref()).unwrap_or_default()
}

fn message(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|s| s.message.as_deref())
        .unwrap_or_default()
}

/// The message of the condition `DisruptionTarget`.
fn disruption(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let own = conditions.iter().find(|c| c.type_ == "DisruptionTarget")?;
    own.message.clone()
}

async fn evicted(cluster: &Cluster, name: &str) -> Result<Pod> {
    cluster
        .pod_shows("evicted", name, LONG, |pod| {
            pod.phase() == "Failed" && reason(pod) == "Evicted"
        })
        .await
}

/// The id of the only container of a pod that runs.
fn instance(node: &FakeNode, pod: &str) -> Result<String> {
    let running = node.runtime.running(&format!("default/{pod}/main"));
    ensure!(running.len() == 1, "{} run of {pod}", running.len());
    Ok(running[0].id.clone())
}

#[test]
fn a_pod_that_fills_its_volume_is_evicted_and_no_other() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        for name in ["full", "other"] {
            let pod = pod_with_volume(name, json!({ "sizeLimit": "1Mi" }));
            cluster.add(&pod).await?;
        }
        let full = cluster.ready("full").await?;
        cluster.ready("other").await?;
        let other = instance(node, "other")?;
        write_mebibytes(&volume(node, &full).join("big"), 2)?;
        let gone = evicted(cluster, "full").await?;
        let said = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
        ensure!(message(&gone) == said, "{}", message(&gone));
        ensure!(disruption(&gone).is_none(), "it is its own doing");
        let event = cluster.event("full", "Evicted").await?;
        ensure!(event.message.as_deref() == Some(said), "{event:?}");
        ensure!(event.type_.as_deref() == Some("Warning"));
        // What it held is given back, what its containers were is still told.
        eventually("nothing is left of it", LIMIT, async || {
            let subject = "default/full/main";
            let all = node.runtime.containers();
            ensure!(!all.iter().any(|c| c.subject == subject), "a container");
            ensure!(!volume(node, &full).exists(), "its volume");
            Ok(())
        })
        .await?;
        let shown = cluster.pod("full").await?;
        let state = shown.container("main")?.state.clone().unwrap_or_default();
        ensure!(state.terminated.is_some(), "{state:?}");
        ensure!(instance(node, "other")? == other, "another pod suffered");
        // It stays so, for a new agent too.
        node.kill_agent()?;
        node.start_agent()?;
        throughout(
            "it does not begin again",
            Duration::from_secs(3),
            async || {
                ensure!(node.runtime.running("default/full/main").is_empty());
                ensure!(reason(&cluster.pod("full").await?) == "Evicted");
                Ok(())
            },
        )
        .await?;
        ensure!(instance(node, "other")? == other, "another pod suffered");
        Ok(())
    });
}

#[test]
fn a_static_pod_that_fills_its_volume_stays_and_is_told_of() {
    with_node(async |node| {
        node.start_agent()?;
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "s" },
            "spec": {
                "containers": [{ "name": "main", "image": "busybox:1" }],
                "volumes": [{ "name": "v", "emptyDir": { "sizeLimit": "1Mi" } }],
            },
        });
        node.put("s.yaml", &manifest.to_string())?;
        let pod = node.ready("s").await?;
        write_mebibytes(&volume(node, &pod).join("big"), 2)?;
        eventually("it is told of", LONG, async || {
            let said = "The pod stays: static and critical pods are not evicted.";
            ensure!(node.log().contains(said));
            Ok(())
        })
        .await?;
        let shown = node.pod("s")?;
        ensure!(shown.phase() == "Running", "{}", shown.phase());
        Ok(())
    });
}

/// A node whose root directory is a small file system, a fifth of which is to stay free.
fn small(node: &FakeNode, transition: &str) -> Result<SmallDisk> {
    let disk = SmallDisk::mount(&node.path("disk.img"), &node.path("kubelet"), 64, 4096)?;
    let thresholds = json!({ "nodefs.available": "20%", "nodefs.inodesFree": "20%" });
    node.configure("evictionHard", thresholds);
    node.configure("evictionPressureTransitionPeriod", json!(transition));
    node.configure("nodeStatusUpdateFrequency", json!("1s"));
    Ok(disk)
}

#[test]
fn the_pod_that_takes_the_most_goes_first_when_a_disk_is_full() {
    with_cluster(async |cluster, node| {
        let _disk = small(node, "25s")?;
        node.start_agent()?;
        for name in ["greedy", "modest"] {
            cluster.add(&pod_with_volume(name, json!({}))).await?;
        }
        let greedy = cluster.ready("greedy").await?;
        let modest = cluster.ready("modest").await?;
        let other = instance(node, "modest")?;
        write_mebibytes(&volume(node, &modest).join("some"), 2)?;
        write_mebibytes(&volume(node, &greedy).join("big"), 50)?;
        cluster.node_condition("DiskPressure", "True").await?;
        // Nothing new comes in meanwhile.
        cluster.add(&bound_pod("late")).await?;
        let late = evicted(cluster, "late").await?;
        let said = "Pod was rejected: The node had condition: [DiskPressure]. ";
        ensure!(message(&late) == said, "{}", message(&late));
        let gone = evicted(cluster, "greedy").await?;
        let begins = "The node was low on resource: ephemeral-storage. Threshold quantity: ";
        ensure!(message(&gone).starts_with(begins), "{}", message(&gone));
        ensure!(disruption(&gone).as_deref() == Some(message(&gone)));
        // All agents of this process tell the events of all.
        eventually("it is told what is short", LIMIT, async || {
            let mut events = cluster.client().events("default").await?.into_iter();
            let told = "Attempting to reclaim ephemeral-storage";
            ensure!(events.any(|event| event.message.as_deref() == Some(told)));
            Ok(())
        })
        .await?;
        eventually("the pressure is over", LONG, async || {
            cluster.node_condition("DiskPressure", "False").await
        })
        .await?;
        ensure!(instance(node, "modest")? == other, "another pod suffered");
        cluster.add(&bound_pod("next")).await?;
        cluster.ready("next").await?;
        Ok(())
    });
}

/// Fills the root directory by way of a pod's volume while no agent runs, and has one recover from it.
fn recovers(fill: impl Fn(PathBuf) -> Result<()>) {
    with_cluster(async |cluster, node| {
        let _disk = small(node, "1s")?;
        node.start_agent()?;
        for name in ["greedy", "modest"] {
            cluster.add(&pod_with_volume(name, json!({}))).await?;
        }
        let greedy = cluster.ready("greedy").await?;
        cluster.ready("modest").await?;
        let other = instance(node, "modest")?;
        node.kill_agent()?;
        fill(volume(node, &greedy))?;
        node.start_agent()?;
        cluster.node_condition("DiskPressure", "True").await?;
        let gone = evicted(cluster, "greedy").await?;
        ensure!(message(&gone).starts_with("The node was low on resource: "));
        eventually("the pressure is over", LONG, async || {
            cluster.node_condition("DiskPressure", "False").await
        })
        .await?;
        cluster.node_condition("Ready", "True").await?;
        ensure!(instance(node, "modest")? == other, "another pod suffered");
        cluster.add(&pod_with_volume("next", json!({}))).await?;
        cluster.ready("next").await?;
        Ok(())
    });
}

#[test]
fn an_agent_recovers_from_a_root_directory_without_a_byte_to_spare() {
    recovers(|volume| fill_bytes(&volume.join("all")));
}

#[test]
fn an_agent_recovers_from_a_root_directory_without_an_inode_to_spare() {
    recovers(|volume| fill_inodes(&volume));
}

#[test]
fn critical_pods_stay_when_memory_is_short() {
    with_cluster(async |cluster, node| {
        // No machine has so much to spare.
        node.configure("evictionHard", json!({ "memory.available": "99.9%" }));
        node.configure("nodeStatusUpdateFrequency", json!("1s"));
        let mut critical = bound_pod("critical");
        critical["spec"]["priority"] = json!(2_000_001_000);
        critical["spec"]["priorityClassName"] = json!("system-node-critical");
        critical["metadata"]["namespace"] = json!("default");
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "s" },
            "spec": { "containers": [{ "name": "main", "image": "busybox:1" }] },
        });
        node.put("s.yaml", &manifest.to_string())?;
        node.start_agent()?;
        cluster.node_condition("MemoryPressure", "True").await?;
        cluster.add(&critical).await?;
        cluster.ready("critical").await?;
        let kept = instance(node, "critical")?;
        // Asks for something, so that it is taken on.
        let mut asks = bound_pod("asks");
        asks["spec"]["containers"][0]["resources"] = json!({ "requests": { "memory": "1Mi" } });
        cluster.add(&asks).await?;
        let gone = evicted(cluster, "asks").await?;
        let begins = "The node was low on resource: memory. Threshold quantity: ";
        ensure!(message(&gone).starts_with(begins), "{}", message(&gone));
        cluster.add(&bound_pod("asks-nothing")).await?;
        let refused = evicted(cluster, "asks-nothing").await?;
        let said = "Pod was rejected: The node had condition: [MemoryPressure]. ";
        ensure!(message(&refused) == said, "{}", message(&refused));
        throughout("the others stay", Duration::from_secs(12), async || {
            ensure!(instance(node, "critical")? == kept);
            ensure!(node.pod("s")?.phase() == "Running");
            Ok(())
        })
        .await
    });
}

#[test]
fn unused_images_go_and_those_that_are_held_or_wanted_stay() {
    with_node(async |node| {
        let disk = SmallDisk::mount(&node.path("disk.img"), &node.path("kubelet"), 64, 4096)?;
        node.runtime.set_image_directory(disk.path());
        for name in ["unused:1", "used:1", "wanted:1"] {
            node.runtime.add_image(name);
        }
        node.runtime
            .add_image_with("pinned:1", |image| image.pinned = true);
        node.configure("evictionHard", json!({ "imagefs.available": "50%" }));
        node.configure("imageMinimumGCAge", json!("1s"));
        node.runtime.program("first", Program::forever());
        // Its second container is not made before its first has ended, which it never does.
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "s" },
            "spec": {
                "initContainers": [{ "name": "first", "image": "used:1" }],
                "containers": [{ "name": "main", "image": "wanted:1" }],
            },
        });
        node.put("s.yaml", &manifest.to_string())?;
        write_mebibytes(&disk.path().join("ballast"), 40)?;
        node.start_agent()?;
        let left =
            ["pinned:1", "used:1", "wanted:1"].map(|name| format!("docker.io/library/{name}"));
        eventually("unused images go", LONG, async || {
            let images = node.runtime.images();
            ensure!(images == left, "{images:?}");
            Ok(())
        })
        .await?;
        throughout("and no others", Duration::from_secs(12), async || {
            let images = node.runtime.images();
            ensure!(images == left, "{images:?}");
            Ok(())
        })
        .await?;
        let removed = node.runtime.calls_of("RemoveImage");
        ensure!(removed.len() == 1, "{removed:?}");
        let phase = node.pod("s").context("the pod")?.phase().to_owned();
        ensure!(phase == "Pending", "{phase}");
        Ok(())
    });
}
