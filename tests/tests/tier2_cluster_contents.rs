//! A joined node on a fake runtime: what volumes hold when their object, the pod or the API server changes or goes; pull
//! secrets.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::cluster::{Cluster, LIMIT, bound_pod, path, with_cluster, with_cluster_alone};
use tests::in_process::FakeNode;
use tests::is_root;
use tests::wait::{eventually, reads, throughout};

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
        let container = node.main_of("a").await?;
        cluster.ready("a").await?;
        let (file, label) = (
            container.mounted("/m")?.join("k"),
            container.mounted("/d")?.join("l"),
        );
        reads(&file, "1", LIMIT).await?;
        reads(&label, "", LIMIT).await?;
        let change = json!({"data": {"k": "2"}});
        let object = path("configmaps", "default", "m");
        cluster.client().merge(&object, &change).await?;
        reads(&file, "2", LIMIT).await?;
        let labelled = json!({"metadata": {"labels": {"x": "y"}}});
        cluster
            .client()
            .merge(&path("pods", "default", "a"), &labelled)
            .await?;
        reads(&label, "y", LIMIT).await?;
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
        reads(&file, "3", LIMIT).await?;
        // The object goes: what is there stays.
        cluster.client().delete(&object, None).await?;
        cluster.event("a", "FailedMount").await?;
        reads(&file, "3", LIMIT).await?;
        ensure!(node.main_of("a").await?.id == container.id);
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
            files.push(node.main_of(name).await?.mounted("/m")?.join("k"));
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
