//! Images that cannot be collected, on the fake runtime and the API server's double: what is told of it when, in upstream's
//! words, and that nobody suffers from it. Looks are five minutes apart, which the agent's clock jumps over. Events are
//! those of the whole process, so that no two tests expect the same text.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Event;
use nix::sys::statvfs::statvfs;
use serde_json::json;
use tests::agent::{NODE_NAME, PodView as _};
use tests::cluster::{Cluster, LIMIT, bound_pod, with_cluster_alone};
use tests::fake_runtime::Fault;
use tests::in_process::FakeNode;
use tests::small_disk::SmallDisk;
use tests::wait::eventually;
use tonic::Code;

/// From one look at the images to the next, and a little more.
const ROUND: Duration = Duration::from_secs(301);
/// What an image of the fake takes.
const IMAGE: u64 = 4_000_000;
/// What the agent logs of a look that failed, right before it waits for the next.
const FAILED: &str = "images were not collected";

/// Percent of the disk that are taken, and its size, as the message of a full one has them.
fn shown(disk: &SmallDisk) -> Result<String> {
    let (capacity, available) = room(disk)?;
    let taken = 100 - available * 100 / capacity;
    #[expect(clippy::cast_precision_loss, reason = "one digit behind the point")]
    let mebibytes = capacity as f64 / f64::from(1 << 20);
    Ok(format!("{taken}% of {mebibytes:.1} MiB used"))
}

/// Bytes that there are, and that can be had.
fn room(disk: &SmallDisk) -> Result<(u64, u64)> {
    let stat = statvfs(disk.path()).context("look at the disk")?;
    let bytes = |blocks: u64| blocks * stat.fragment_size();
    Ok((bytes(stat.blocks()), bytes(stat.blocks_available())))
}

/// A file system for images of which so many bytes less than 20 % are free.
fn full(node: &FakeNode, lacking: u64) -> Result<SmallDisk> {
    let disk = SmallDisk::mount(&node.path("disk.img"), &node.path("images"), 64, 1024)?;
    node.runtime.set_image_directory(disk.path());
    node.configure("imageGCHighThresholdPercent", json!(85));
    node.configure("imageGCLowThresholdPercent", json!(80));
    node.configure("imageMinimumGCAge", json!("1s"));
    let (capacity, available) = room(&disk)?;
    let ballast = available - (capacity / 5 - lacking);
    fs::write(
        disk.path().join("ballast"),
        vec![7; usize::try_from(ballast)?],
    )?;
    Ok(disk)
}

/// Waits until there is an event of the node with a text that begins and ends so.
async fn told(cluster: &Cluster, reason: &str, begins: &str, ends: &str) -> Result<Event> {
    eventually(&format!("{reason}: {begins}"), LIMIT, async || {
        let found = find(cluster, reason, begins, ends).await?;
        found.with_context(|| format!("no event ends with {ends:?}"))
    })
    .await
}

async fn find(cluster: &Cluster, reason: &str, begins: &str, ends: &str) -> Result<Option<Event>> {
    let mut events = cluster.client().events("default").await?.into_iter();
    Ok(events.find(|event| {
        let message = event.message.as_deref().unwrap_or_default();
        event.involved_object.name.as_deref() == Some(NODE_NAME)
            && event.involved_object.kind.as_deref() == Some("Node")
            && event.type_.as_deref() == Some("Warning")
            && event.reason.as_deref() == Some(reason)
            && message.starts_with(begins)
            && message.ends_with(ends)
    }))
}

/// Waits until the agent has logged so often that images were not collected; it waits for its next look then.
async fn failed(node: &FakeNode, times: usize) -> Result<()> {
    eventually("a look has failed", LIMIT, async || {
        let found = node.log().matches(FAILED).count();
        ensure!(found >= times, "{found} of {times}");
        Ok(())
    })
    .await
}

async fn holds(node: &FakeNode, names: &[&str]) -> Result<()> {
    let wanted: Vec<String> = names
        .iter()
        .map(|name| format!("docker.io/library/{name}"))
        .collect();
    eventually("the images that are left", LIMIT, async || {
        let images = node.runtime.images();
        ensure!(images == wanted, "{images:?}");
        Ok(())
    })
    .await
}

/// A pod that runs with the image `used:1`, and what it is known by.
async fn runs(cluster: &Cluster, node: &FakeNode, name: &str) -> Result<String> {
    let mut pod = bound_pod(name);
    pod["spec"]["containers"][0]["image"] = json!("used:1");
    cluster.add(&pod).await?;
    cluster.ready(name).await?;
    instance(node, name)
}

fn instance(node: &FakeNode, name: &str) -> Result<String> {
    let running = node.runtime.running(&format!("default/{name}/main"));
    ensure!(running.len() == 1, "{} run of {name}", running.len());
    Ok(running[0].id.clone())
}

/// The pod has not suffered, the node takes others, and no condition says otherwise.
async fn unharmed(cluster: &Cluster, node: &FakeNode, name: &str, before: &str) -> Result<()> {
    cluster.node_condition("Ready", "True").await?;
    cluster.node_condition("DiskPressure", "False").await?;
    ensure!(instance(node, name)? == before, "{name} suffered");
    ensure!(cluster.pod(name).await?.phase() == "Running");
    runs(cluster, node, &format!("{name}-next")).await.map(drop)
}

#[test]
fn a_disk_that_stays_full_is_told_of_and_harms_nobody() {
    with_cluster_alone(async |cluster, node| {
        let disk = full(node, 10_000_000)?;
        node.runtime.add_image("unused:1");
        node.start_agent()?;
        // Nothing is old enough at the first look.
        let begins = format!(
            "Insufficient free disk space on the node's image filesystem ({}). Failed to free sufficient space by deleting unused images (freed ",
            shown(&disk)?
        );
        let ends = |freed: u64| {
            format!(
                "{freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
            )
        };
        told(cluster, "FreeDiskSpaceFailed", &begins, &ends(0)).await?;
        failed(node, 1).await?;
        let early = find(cluster, "ImageGCFailed", &begins, "").await?;
        ensure!(early.is_none(), "{early:?}");
        let before = runs(cluster, node, "full").await?;

        node.pass_time(ROUND)?;
        told(cluster, "FreeDiskSpaceFailed", &begins, &ends(IMAGE)).await?;
        told(cluster, "ImageGCFailed", &begins, &ends(IMAGE)).await?;
        holds(node, &["used:1"]).await?;
        unharmed(cluster, node, "full", &before).await
    });
}

#[test]
fn images_that_the_runtime_keeps_are_told_of_and_the_others_go() {
    with_cluster_alone(async |cluster, node| {
        let _disk = full(node, IMAGE + IMAGE / 2)?;
        for name in ["a:1", "b:1", "c:1"] {
            node.runtime.add_image(name);
        }
        let held = Fault::on("RemoveImage").times(2);
        node.runtime
            .fault(held.fails(Code::Internal, "somebody holds on to it"));
        node.start_agent()?;
        failed(node, 1).await?;
        let before = runs(cluster, node, "kept").await?;
        node.pass_time(ROUND)?;
        // Both errors as one, in brackets.
        let event = told(
            cluster,
            "ImageGCFailed",
            "wanted to free ",
            "somebody holds on to it]",
        )
        .await?;
        let message = event.message.unwrap_or_default();
        let words =
            format!(" bytes, but freed {IMAGE} bytes space with errors in image deletion: [");
        ensure!(message.contains(&words), "{message}");
        ensure!(message.matches("somebody").count() == 2, "{message}");
        let left = node.runtime.images();
        ensure!(left.len() == 3, "{left:?}");

        // The runtime lets go of them, and two images are enough then.
        node.pass_time(ROUND)?;
        holds(node, &["used:1"]).await?;
        unharmed(cluster, node, "kept", &before).await
    });
}

#[test]
fn a_disk_of_no_size_is_told_of_and_harms_nobody() {
    with_cluster_alone(async |cluster, node| {
        node.runtime.set_image_directory("/proc".as_ref());
        node.runtime.add_image("unused:1");
        node.configure("imageGCHighThresholdPercent", json!(85));
        node.configure("imageMinimumGCAge", json!("1s"));
        node.configure("evictionHard", json!({ "imagefs.available": "15%" }));
        node.start_agent()?;
        let said = "invalid capacity 0 on image filesystem";
        told(cluster, "InvalidDiskCapacity", said, said).await?;
        failed(node, 1).await?;
        let before = runs(cluster, node, "sizeless").await?;
        let early = find(cluster, "ImageGCFailed", said, said).await?;
        ensure!(early.is_none(), "{early:?}");
        node.pass_time(ROUND)?;
        told(cluster, "ImageGCFailed", said, said).await?;
        unharmed(cluster, node, "sizeless", &before).await?;
        holds(node, &["unused:1", "used:1"]).await
    });
}

#[test]
fn images_that_nothing_has_used_for_too_long_go_on_an_empty_disk_too() {
    with_cluster_alone(async |cluster, node| {
        node.runtime.add_image("old:1");
        node.runtime
            .add_image_with("pinned:1", |image| image.pinned = true);
        node.configure("imageMaximumGCAge", json!("10m"));
        let held = Fault::on("RemoveImage");
        node.runtime.fault(held.fails(Code::Internal, "it is held"));
        node.start_agent()?;
        let before = runs(cluster, node, "young").await?;
        // Longer than that must the agent have looked.
        node.pass_time(ROUND)?;
        node.pass_time(ROUND)?;
        failed(node, 1).await?;
        node.pass_time(ROUND)?;
        told(
            cluster,
            "ImageGCFailed",
            "wanted to free images older than 10m0s, encountered errors in image deletion: ",
            "it is held",
        )
        .await?;
        node.runtime.clear_faults();
        node.pass_time(ROUND)?;
        holds(node, &["pinned:1", "used:1"]).await?;
        unharmed(cluster, node, "young", &before).await
    });
}
