//! A joined node on a fake runtime: what volumes hold when their object, the pod or the API server changes or goes; pull
//! secrets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::cluster::{Cluster, LIMIT, bound_pod, path, with_cluster, with_cluster_alone};
use tests::fake_runtime::Container;
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

/// A pod of the API server with this in its spec and its container.
fn pod(name: &str, spec: Value, container: Value) -> Value {
    let mut pod = bound_pod(name);
    for (into, from) in [("/spec", spec), ("/spec/containers/0", container)] {
        let into = pod.pointer_mut(into).and_then(Value::as_object_mut);
        let from = from.as_object().cloned().unwrap_or_default();
        into.expect("an object").extend(from);
    }
    pod
}

fn map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": value}})
}

/// The only instance of `main` of a pod that runs.
async fn running(node: &FakeNode, pod: &str) -> Result<Container> {
    eventually(&format!("{pod} runs once"), LIMIT, async || {
        let mut running = node.runtime.running(&format!("default/{pod}/main"));
        ensure!(running.len() == 1, "{} run", running.len());
        running.pop().context("none runs")
    })
    .await
}

/// Where a mount of a container lies on the node.
fn mounted(container: &Container, at: &str) -> Result<PathBuf> {
    let mut mounts = container.config.mounts.iter();
    let found = mounts.find(|mount| mount.container_path == at);
    let found = found.with_context(|| format!("nothing is mounted at {at}"))?;
    Ok(Path::new(&found.host_path).to_owned())
}

async fn reads(path: &Path, text: &str) -> Result<()> {
    eventually(
        &format!("{} has {text}", path.display()),
        LIMIT,
        async || {
            let found = std::fs::read_to_string(path)?;
            ensure!(found == text, "{found:?}");
            Ok(())
        },
    )
    .await
}

/// Volumes in memory are mounted, which takes root.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    is_root
}

#[test]
fn volumes_follow_their_objects_while_the_pod_runs() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        cluster.add_object("configmaps", &map("m", "1")).await?;
        node.start_agent()?;
        let volumes = json!([{"name": "m", "configMap": {"name": "m"}},
            {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels['x']"}}]}}]);
        let mounts = json!([{"name": "m", "mountPath": "/m"}, {"name": "d", "mountPath": "/d"}]);
        cluster
            .add(&pod(
                "a",
                json!({"volumes": volumes}),
                json!({"volumeMounts": mounts}),
            ))
            .await?;
        let container = running(node, "a").await?;
        cluster.ready("a").await?;
        let (file, label) = (
            mounted(&container, "/m")?.join("k"),
            mounted(&container, "/d")?.join("l"),
        );
        reads(&file, "1").await?;
        reads(&label, "").await?;
        let change = json!({"data": {"k": "2"}});
        let object = path("configmaps", "default", "m");
        cluster.client().merge(&object, &change).await?;
        reads(&file, "2").await?;
        let labelled = json!({"metadata": {"labels": {"x": "y"}}});
        cluster
            .client()
            .merge(&path("pods", "default", "a"), &labelled)
            .await?;
        reads(&label, "y").await?;
        // The server goes: what is there stays, and what changed meanwhile comes when it is back.
        cluster.line.refuse();
        cluster
            .client()
            .merge(&object, &json!({"data": {"k": "3"}}))
            .await?;
        throughout("the file stays", Duration::from_secs(2), async || {
            ensure!(std::fs::read_to_string(&file)? == "2");
            Ok(())
        })
        .await?;
        cluster.line.open();
        reads(&file, "3").await?;
        // The object goes: what is there stays.
        cluster.client().delete(&object, None).await?;
        cluster.event("a", "FailedMount").await?;
        reads(&file, "3").await?;
        ensure!(running(node, "a").await?.id == container.id);
        let shown = cluster.pod("a").await?;
        cluster.delete_pod("a", None).await?;
        cluster.gone(node, &shown).await
    });
}

#[test]
fn a_pull_secret_that_is_not_there_is_told_and_the_pull_goes_on() {
    with_cluster(async |cluster: &Cluster, node: &FakeNode| {
        node.start_agent()?;
        let spec = json!({"imagePullSecrets": [{"name": "gone"}]});
        cluster.add(&pod("a", spec, json!({}))).await?;
        cluster.ready("a").await?;
        let event = cluster
            .event("a", "FailedToRetrieveImagePullSecret")
            .await?;
        let message = event.message.unwrap_or_default();
        let expected = "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed.";
        ensure!(message == expected, "{message}");
        Ok(())
    });
}

/// Pods that share one object.
const CROWD: usize = 500;
/// Bytes of what the object holds after its update: were it held for each pod, that would be 128 MB.
const LARGE: usize = 256 << 10;

/// Memory of this process that is no file's, MB: the agent's, the runtime's and the API server's.
fn anonymous_mb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no RssAnon")?.parse::<u64>()? >> 10)
}

#[test]
fn five_hundred_pods_share_one_object() {
    with_cluster_alone(async |cluster, node| {
        cluster
            .add_object("configmaps", &map("shared", "1"))
            .await?;
        node.configure("maxPods", json!(CROWD + 10));
        node.configure("kubeAPIQPS", json!(1000));
        node.configure("kubeAPIBurst", json!(1000));
        node.start_agent()?;
        let volumes = json!([{"name": "m", "configMap": {"name": "shared"}}]);
        let mounts = json!([{"name": "m", "mountPath": "/m"}]);
        let names: Vec<String> = (0..CROWD).map(|number| format!("p{number}")).collect();
        for name in &names {
            let (spec, container) = (json!({"volumes": volumes}), json!({"volumeMounts": mounts}));
            cluster.add(&pod(name, spec, container)).await?;
        }
        let long = LIMIT * 10;
        eventually("all run", long, async || {
            let running = node.runtime.running("main").len();
            ensure!(running == CROWD, "{running} run");
            Ok(())
        })
        .await?;
        let mut files = Vec::new();
        for name in &names {
            files.push(mounted(&running(node, name).await?, "/m")?.join("k"));
        }
        let before = anonymous_mb()?;
        let text = "x".repeat(LARGE);
        let object = path("configmaps", "default", "shared");
        let began = tokio::time::Instant::now();
        let change = json!({"data": {"k": text}});
        cluster.client().merge(&object, &change).await?;
        let told = began.elapsed();
        eventually("all have it", long, async || {
            let stale = files.iter().find(|file| {
                let size = std::fs::metadata(file).map(|found| found.len());
                size.ok() != Some(LARGE as u64)
            });
            ensure!(stale.is_none(), "{stale:?} has not");
            Ok(())
        })
        .await?;
        println!("{CROWD} volumes: {:?} after {told:?}", began.elapsed());
        let grown = anonymous_mb()?.saturating_sub(before);
        ensure!(grown < 40, "{grown} MB more");
        let watched = "/api/v1/namespaces/default/configmaps";
        let watches = cluster.asked(Timestamp::UNIX_EPOCH, "watch", watched)?;
        let own = watches.iter();
        let own = own.filter(|watch| watch.query.contains("metadata.name%3Dshared"));
        ensure!(own.count() == 1, "{watches:#?}");
        Ok(())
    });
}
