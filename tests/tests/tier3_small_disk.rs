//! A disk of a few megabytes that holds all files of the agent and of a real containerd, and which pods fill to the last byte
//! or the last inode while no agent runs: the next one starts on it, says what is short, has those pods leave that take the
//! most, removes what nobody uses, and goes on as before. The API server is the double.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use nix::sys::statvfs::{Statvfs, statvfs};
use serde_json::{Value, json};
use tests::agent::{Agent, PodView as _};
use tests::cluster::{Cluster, bound_pod};
use tests::containerd::Node;
use tests::images::NUMERIC_USER;
use tests::scenario::with_nothing;
use tests::small_disk::SmallDisk;
use tests::wait::eventually;

/// Looks come each ten seconds, and containerd has its trouble with a full disk, too.
const LIMIT: Duration = Duration::from_secs(120);

/// Mounts a disk in the place of both root directories.
fn small(node: &Node) -> Result<SmallDisk> {
    let disk = SmallDisk::mount_on(node, "small", 128, 4096)?;
    for name in ["containerd", "kubelet"] {
        let (own, at) = (node.path("small").join(name), node.path(name));
        fs::create_dir(disk.path().join(name)).context("a directory on the disk")?;
        fs::create_dir(&at).context("a mount point")?;
        let mut mount = node.command("mount");
        let done = mount.arg("--bind").arg(own).arg(at).status();
        ensure!(done.context("mount(8)")?.success(), "cannot mount {name}");
    }
    Ok(disk)
}

fn pod(name: &str, script: &str) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    pod["spec"]["containers"][0] = json!({
        "name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script],
        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
    });
    pod["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
    pod
}

/// A pod that fills its volume with as many pieces as it is told, or as there is room for.
fn filler(name: &str, fill: &str) -> Value {
    let waits = "until [ -s /data/go ]; do sleep 0.1; done; read n < /data/go";
    pod(name, &format!("{waits}; {fill}; sleep 100000"))
}

fn volume(disk: &SmallDisk, pod: &Pod) -> PathBuf {
    let below = format!(
        "kubelet/pods/{}/volumes/kubernetes.io~empty-dir/data",
        pod.uid()
    );
    disk.path().join(below)
}

/// The instance of the only container of a pod that runs, and how often it was started again.
fn instance(pod: &Pod) -> Result<(Option<String>, i32)> {
    ensure!(pod.phase() == "Running", "{}", pod.describe());
    let main = pod.container("main")?;
    Ok((main.container_id.clone(), main.restart_count))
}

async fn evicted(cluster: &Cluster, name: &str) -> Result<()> {
    let pod = cluster
        .pod_shows("evicted", name, LIMIT, |pod| {
            let reason = pod.status.as_ref().and_then(|s| s.reason.as_deref());
            pod.phase() == "Failed" && reason == Some("Evicted")
        })
        .await?;
    let message = pod.status.and_then(|status| status.message);
    let message = message.unwrap_or_default();
    let begins = "The node was low on resource: ";
    ensure!(message.starts_with(begins), "{name}: {message}");
    Ok(())
}

async fn condition(cluster: &Cluster, kind: &str, status: &str) -> Result<()> {
    let what = format!("{kind} is {status}");
    eventually(&what, LIMIT, async || {
        cluster.node_condition(kind, status).await.map(drop)
    })
    .await
}

/// What runs short, and how a pod takes it.
struct Short {
    signal: &'static str,
    /// How many pieces are left, of those that [`Short::fill`] takes.
    left: fn(&Statvfs) -> u64,
    /// What the threshold counts of a piece.
    piece: u64,
    /// A script that takes `n` pieces.
    fill: &'static str,
}

/// Fills the disk while no agent runs, and has one recover from it.
fn recovers(short: &Short) {
    with_nothing(async |node, agent| {
        if agent.is_foreign() {
            eprintln!(
                "skipped: upstream's refuses what runs when it starts on a full disk, or does not start"
            );
            return Ok(());
        }
        let disk = small(node)?;
        node.start_containerd().await?;
        let cluster = Cluster::with_double().await?;
        let (_bridge, agent) = cluster.reach_from(node, Agent::new(node)?)?;
        agent.configure("nodeStatusUpdateFrequency", json!("1s"))?;
        agent.configure("evictionPressureTransitionPeriod", json!("1s"))?;
        agent.configure("imageMinimumGCAge", json!("1s"))?;
        agent.start().await?;
        let sleeps = "sleep 100000";
        let mut by_manifest = pod("static", sleeps);
        by_manifest["metadata"] = json!({ "name": "static" });
        by_manifest["spec"]["nodeName"] = json!(null);
        node.put("static.yaml", &by_manifest.to_string())?;
        let mut ended = pod("ended", "true");
        ended["spec"]["restartPolicy"] = json!("Never");
        for pod in [
            &pod("modest", sleeps),
            &filler("greedy", short.fill),
            &filler("large", short.fill),
            &ended,
        ] {
            cluster.add(pod).await?;
        }
        let greedy = ready(&cluster, "greedy").await?;
        let large = ready(&cluster, "large").await?;
        let modest = instance(&ready(&cluster, "modest").await?)?;
        let by_manifest = instance(&agent.ready("static", LIMIT).await?)?;
        let ended = cluster
            .pod_shows("ended", "ended", LIMIT, |pod| pod.phase() == "Succeeded")
            .await?;
        ensure!(containers(node, &ended)? == 1, "its container is shown");

        // Only when both have gone there is enough again.
        agent.kill()?;
        let left = || -> Result<u64> { Ok((short.left)(&statvfs(disk.path())?)) };
        let before = left()?;
        let enough = before / 100 * 85 * short.piece;
        agent.configure("evictionHard", json!({ short.signal: enough.to_string() }))?;
        go(&disk, &large, before / 10 * 3)?;
        eventually("a third is taken", LIMIT, async || {
            let left = left()?;
            ensure!(left <= before - before / 10 * 3, "{left} of {before} left");
            Ok(())
        })
        .await?;
        go(&disk, &greedy, before * 2)?;
        eventually("the disk is full", LIMIT, async || {
            let left = left()?;
            ensure!(left == 0, "{left} of {before} left");
            Ok(())
        })
        .await?;

        agent.start().await?;
        condition(&cluster, "DiskPressure", "True").await?;
        for name in ["greedy", "large"] {
            evicted(&cluster, name).await?;
        }
        condition(&cluster, "DiskPressure", "False").await?;
        condition(&cluster, "Ready", "True").await?;
        eventually("what nobody uses is gone", LIMIT, async || {
            let images = node.ctr(&["images", "ls", "-q"])?;
            ensure!(!images.lines().any(|name| name == NUMERIC_USER), "{images}");
            ensure!(containers(node, &ended)? == 0, "the ended container");
            for pod in [&greedy, &large] {
                ensure!(!volume(&disk, pod).exists(), "{}", pod.describe());
            }
            Ok(())
        })
        .await?;
        let now = instance(&cluster.pod("modest").await?)?;
        ensure!(now == modest, "{now:?}, {modest:?} before");
        let now = instance(&agent.ready("static", LIMIT).await?)?;
        ensure!(now == by_manifest, "{now:?}, {by_manifest:?} before");
        ensure!(cluster.pod("ended").await?.phase() == "Succeeded");
        cluster.add(&pod("next", sleeps)).await?;
        ready(&cluster, "next").await?;
        agent.terminate().await.map(drop)
    });
}

async fn ready(cluster: &Cluster, name: &str) -> Result<Pod> {
    cluster
        .pod_shows("ready", name, LIMIT, tests::cluster::is_ready)
        .await
}

/// Tells a filler how many pieces to take.
fn go(disk: &SmallDisk, pod: &Pod, pieces: u64) -> Result<()> {
    let file = volume(disk, pod).join("go");
    fs::write(&file, format!("{pieces}\n")).context("tell a pod to fill its volume")
}

/// How many containers, sandboxes left out, the runtime holds of a pod.
fn containers(node: &Node, pod: &Pod) -> Result<usize> {
    let filter = format!(
        "labels.\"io.kubernetes.pod.uid\"=={},labels.\"io.cri-containerd.kind\"==container",
        pod.uid()
    );
    let found = node.ctr(&["containers", "ls", "-q", &filter])?;
    Ok(found.lines().count())
}

#[test]
fn a_disk_without_a_byte_to_spare() {
    recovers(&Short {
        signal: "nodefs.available",
        left: |disk| disk.blocks_available() * disk.fragment_size() / 4096,
        piece: 4096,
        fill: "dd if=/dev/zero of=/data/big bs=4k count=$n",
    });
}

#[test]
fn a_disk_without_an_inode_to_spare() {
    recovers(&Short {
        signal: "nodefs.inodesFree",
        left: |disk| disk.files_available(),
        piece: 1,
        fill: "i=0; while [ $i -lt $n ] && true > /data/$i; do i=$((i+1)); done",
    });
}
