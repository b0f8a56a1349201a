//! A container that runs for real and the files of a storage driver, through a restart of agent and plugin.
//! The API server is the double.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use serde_json::{Value, json};
use tests::agent::{Agent, PodView as _};
use tests::cluster::{Cluster, bound_pod, path, refusal};
use tests::containerd::Node;
use tests::csi_driver::{CsiDriver, Traits};
use tests::node_api::ask;
use tests::prometheus::{self, Metrics};
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

fn answer(node: &Node, path: &str) -> Result<String> {
    let answer = ask(node, "GET", path)?;
    ensure!(answer.status == 200, "{path}: {}", answer.body);
    Ok(answer.body)
}

fn metrics(node: &Node) -> Result<Metrics> {
    prometheus::parse(&answer(node, "/metrics")?).map_err(anyhow::Error::msg)
}

/// What `/stats/summary` has of the volume `name` of the pod `a`.
fn stats(node: &Node, name: &str) -> Result<Value> {
    let summary: Value = serde_json::from_str(&answer(node, "/stats/summary")?)?;
    let mut pods = summary["pods"].as_array().into_iter().flatten();
    let pod = pods.find(|pod| pod["podRef"]["name"] == "a");
    let mut volumes = pod
        .and_then(|pod| pod["volume"].as_array())
        .into_iter()
        .flatten();
    let volume = volumes.find(|volume| volume["name"] == name);
    volume
        .cloned()
        .with_context(|| format!("no {name}: {summary}"))
}

/// The bytes and inodes that the driver tells of.
fn numbers(stats: &Value) -> Vec<Option<u64>> {
    let fields = [
        "capacityBytes",
        "usedBytes",
        "availableBytes",
        "inodes",
        "inodesUsed",
        "inodesFree",
    ];
    fields.map(|field| stats[field].as_u64()).to_vec()
}

#[test]
fn what_volumes_take_and_how_they_are_is_told_as_their_driver_says() {
    const HEALTH: &str = "kubelet_volume_stats_health_status_abnormal";
    with_node(async |node| {
        let cluster = Cluster::with_double().await?;
        let (_bridge, agent) = cluster.reach_from(node, Agent::ours(node)?)?;
        let abilities = [Ability::GetVolumeStats, Ability::VolumeCondition];
        let traits = Traits::new(DRIVER, &abilities);
        let driver = CsiDriver::new(&node.path("kubelet"), &node.path("driver"), traits)?.on(node);
        driver.start()?;
        let object = json!({"metadata": {"name": DRIVER}, "spec": {"attachRequired": false,
            "volumeLifecycleModes": ["Persistent", "Ephemeral"]}});
        let drivers = path("csidrivers", "", "");
        cluster.client().create(&drivers, &object).await?;
        // Asked again each time.
        agent.configure("volumeStatsAggPeriod", "1ns")?;
        agent.start().await?;

        // By a claim, by a claim that is made for the pod, and of the pod itself.
        let volume = |handle: &str| json!({"csi": {"driver": DRIVER, "volumeHandle": handle}});
        let claim = json!({"name": "c"});
        cluster
            .add_bound_claim(&claim, "pv-1", &volume("vol-1"))
            .await?;
        let template = json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        let mut pod = bound_pod("a");
        pod["spec"]["volumes"] = json!([
            {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}},
            {"name": "own", "csi": {"driver": DRIVER}},
        ]);
        let container = &mut pod["spec"]["containers"][0];
        container["image"] = json!("busybox:1.36");
        container["imagePullPolicy"] = json!("IfNotPresent");
        container["command"] = json!(["sleep", "100000"]);
        let mounts = ["data", "scratch", "own"];
        container["volumeMounts"] = mounts
            .map(|name| json!({"name": name, "mountPath": format!("/{name}")}))
            .into();
        let made = cluster.add(&pod).await?;
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": made.uid(),
            "controller": true});
        let claim = json!({"name": "a-scratch", "ownerReferences": [owner]});
        cluster
            .add_bound_claim(&claim, "pv-2", &volume("vol-2"))
            .await?;
        let ready = cluster.pod_shows("ready", "a", LIMIT, tests::cluster::is_ready);
        ready.await?;

        let expected = [1 << 30, 1 << 20, (1 << 30) - (1 << 20), 1000, 7, 993].map(Some);
        for (name, claim) in [
            ("data", Some("c")),
            ("scratch", Some("a-scratch")),
            ("own", None),
        ] {
            let stats =
                eventually("the volume is told of", LIMIT, async || stats(node, name)).await?;
            let claim = claim.map(|name| json!({"name": name, "namespace": "default"}));
            ensure!(stats.get("pvcRef") == claim.as_ref(), "{stats}");
            ensure!(numbers(&stats) == expected, "{stats}");
            ensure!(
                stats["volumeHealthStats"].is_null(),
                "nobody has asked: {stats}"
            );
        }
        let told = metrics(node)?;
        for claim in ["c", "a-scratch"] {
            let of = [("namespace", "default"), ("persistentvolumeclaim", claim)];
            for (name, value) in [
                ("capacity_bytes", 1_073_741_824.0),
                ("available_bytes", 1_072_693_248.0),
                ("used_bytes", 1_048_576.0),
                ("inodes", 1000.0),
                ("inodes_free", 993.0),
                ("inodes_used", 7.0),
            ] {
                let found = told.value(&format!("kubelet_volume_stats_{name}"), &of);
                ensure!(found == Some(value), "{name} of {claim}: {found:?}");
            }
        }
        ensure!(told.samples("kubelet_volume_stats_used_bytes").count() == 2);
        ensure!(told.samples(HEALTH).next().is_none());

        // Where drivers are asked how their volumes are.
        agent.terminate().await?;
        agent.configure("featureGates", json!({"CSIVolumeHealth": true}))?;
        agent.start().await?;
        let health = async |abnormal: bool| {
            eventually("the driver's word is told", LIMIT, async || {
                let told = metrics(node)?;
                for claim in ["c", "a-scratch"] {
                    let of = [("namespace", "default"), ("persistentvolumeclaim", claim)];
                    let found = told.value(HEALTH, &of);
                    ensure!(found == Some(f64::from(u8::from(abnormal))), "{found:?}");
                }
                for name in mounts {
                    let said = stats(node, name)?["volumeHealthStats"].clone();
                    ensure!(said == json!({"abnormal": abnormal}), "{name}: {said}");
                }
                Ok(())
            })
            .await
        };
        health(false).await?;
        driver.set_condition(Some("the disk is about to fail"));
        health(true).await?;
        let event = cluster.event("a", "VolumeConditionAbnormal").await?;
        let message = event.message.unwrap_or_default();
        let expected = mounts.map(|name| format!("Volume {name}: the disk is about to fail"));
        ensure!(expected.contains(&message), "{message}");
        agent.terminate().await?;
        Ok(())
    });
}
