//! Real containers that take too much: of their volume, their log, their writable layer, memory, process ids. Each suffers
//! alone, and its pod says what for. The API server is the double.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use serde_json::{Value, json};
use tests::agent::{Agent, PodView as _};
use tests::cluster::{Cluster, bound_pod};
use tests::scenario::with_node;

/// Writable layers are known to the runtime each ten seconds, and looked at each ten.
const LIMIT: Duration = Duration::from_secs(120);

fn pod(name: &str, script: &str, resources: Value) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["containers"][0] = json!({
        "name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script], "resources": resources,
    });
    pod
}

fn limits(limits: Value) -> Value {
    json!({ "limits": limits })
}

fn message(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    status.and_then(|s| s.message.clone()).unwrap_or_default()
}

async fn evicted(cluster: &Cluster, name: &str, said: &str) -> Result<()> {
    let pod = cluster
        .pod_shows("evicted", name, LIMIT, |pod| {
            let reason = pod.status.as_ref().and_then(|s| s.reason.as_deref());
            pod.phase() == "Failed" && reason == Some("Evicted")
        })
        .await?;
    ensure!(message(&pod) == said, "{name}: {}", message(&pod));
    let event = cluster.event(name, "Evicted").await?;
    ensure!(event.message.as_deref() == Some(said), "{event:?}");
    Ok(())
}

/// How the only container of a pod that has failed has ended.
async fn failed(cluster: &Cluster, name: &str) -> Result<ContainerStateTerminated> {
    let pod = cluster
        .pod_shows("failed", name, LIMIT, |pod| pod.phase() == "Failed")
        .await?;
    let state = pod.container("main")?.state.clone().unwrap_or_default();
    state.terminated.context("no end")
}

/// The instance of the only container of a pod that runs, and how often it was started again.
fn instance(pod: &Pod) -> Result<(Option<String>, i32)> {
    ensure!(pod.phase() == "Running", "{}", pod.describe());
    let main = pod.container("main")?;
    Ok((main.container_id.clone(), main.restart_count))
}

#[test]
fn who_takes_too_much_suffers_alone() {
    with_node(async |node| {
        let cluster = Cluster::with_double().await?;
        let (_bridge, agent) = cluster.reach_from(node, Agent::new(node)?)?;
        agent.configure("podPidsLimit", json!(64))?;
        agent.start().await?;
        cluster.node_condition("Ready", "True").await?;
        // One of each class, and one of a manifest.
        let some = json!({ "ephemeral-storage": "50Mi", "memory": "64Mi" });
        let all = json!({ "cpu": "100m", "memory": "64Mi" });
        let sleeps = "echo here; sleep 100000";
        let mut before = Vec::new();
        for (name, resources) in [
            ("burstable", limits(some)),
            ("guaranteed", limits(all)),
            ("best-effort", json!({})),
        ] {
            cluster.add(&pod(name, sleeps, resources)).await?;
            before.push((name, instance(&cluster.ready(name).await?)?));
        }
        let mut by_manifest = pod("static", sleeps, json!({}));
        by_manifest["metadata"] = json!({ "name": "static" });
        by_manifest["spec"]["nodeName"] = json!(null);
        node.put("static.yaml", &by_manifest.to_string())?;
        let by_manifest = instance(&agent.ready("static", LIMIT).await?)?;

        let write = |to: &str| format!("dd if=/dev/zero of={to} bs=1M count=4; sleep 100000");
        let mut volume = pod("volume", &write("/data/big"), json!({}));
        volume["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "data", "mountPath": "/data" }]);
        volume["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": { "sizeLimit": "1Mi" } }]);
        let mebi = || limits(json!({ "ephemeral-storage": "1Mi" }));
        let lines = "i=0; while [ $i -lt 40000 ]; do echo a line that is as long as lines of logs are, or nearly so; i=$((i+1)); done; sleep 100000";
        // Its second container may take more, so that it is the first one's limit that is passed, not the pod's.
        let mut layer = pod("layer", &write("/big"), mebi());
        let side = json!({
            "name": "side", "image": "busybox:1.36", "command": ["sleep", "100000"],
            "resources": limits(json!({ "ephemeral-storage": "50Mi" })),
        });
        let containers = layer["spec"]["containers"].as_array_mut();
        containers.context("containers")?.push(side);
        let forks = "i=0; while [ $i -lt 200 ]; do sleep 100000 & i=$((i+1)); done; wait";
        for pod in [
            volume,
            pod("log", lines, mebi()),
            layer,
            pod(
                "memory",
                "tail /dev/zero",
                limits(json!({ "memory": "16Mi" })),
            ),
            pod("pids", forks, json!({})),
        ] {
            cluster.add(&pod).await?;
        }
        let end = failed(&cluster, "memory").await?;
        ensure!(end.reason.as_deref() == Some("OOMKilled"), "{end:?}");
        let end = failed(&cluster, "pids").await?;
        ensure!(end.exit_code != 0, "{end:?}");
        let said = "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ";
        evicted(&cluster, "volume", said).await?;
        let said = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
        evicted(&cluster, "log", said).await?;
        let said = "Container main exceeded its local ephemeral storage limit \"1Mi\". ";
        evicted(&cluster, "layer", said).await?;

        for (name, first) in before {
            let now = instance(&cluster.pod(name).await?)?;
            ensure!(now == first, "{name}: {now:?}, {first:?} before");
        }
        let now = instance(&agent.pod("static")?)?;
        ensure!(now == by_manifest, "{now:?}, {by_manifest:?} before");
        agent.terminate().await?;
        Ok(())
    });
}
