//! What a joined node asks of its server, counted with its events. On the double, and on a real API server when
//! `KUBEBUILDER_ASSETS` is set.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::apiserver::Request;
use tests::cluster::{Cluster, LIMIT, bound_pod, with_cluster_alone};
use tests::fake_runtime::Program;
use tests::wait::eventually;

const MANIFEST: &str = "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: s}, spec: {terminationGracePeriodSeconds: 1, \
                        containers: [{name: main, image: 'busybox:1'}]}}";

/// A pod that has something of all that a status may say.
fn rich_pod(name: &str) -> Value {
    let mut pod = bound_pod(name);
    let mount = json!([{ "name": "scratch", "mountPath": "/scratch", "readOnly": true }]);
    pod["spec"]["volumes"] = json!([{ "name": "scratch", "emptyDir": {} }]);
    let container = &mut pod["spec"]["containers"][0];
    container["volumeMounts"] = mount.clone();
    container["resources"] = json!({ "requests": { "cpu": "0.05", "memory": "16384Ki" }, "limits": { "cpu": "1.5", "memory": "0.5Gi" } });
    container["readinessProbe"] = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    container["ports"] = json!([{ "containerPort": 80 }]);
    pod["spec"]["initContainers"] = json!([
        { "name": "first", "image": "busybox:1", "volumeMounts": mount },
        { "name": "side", "image": "busybox:1", "restartPolicy": "Always" },
    ]);
    pod
}

fn asked(cluster: &Cluster, from: Timestamp) -> Result<(Vec<Request>, Vec<Request>)> {
    let others = cluster.asked(from, "*", "*")?;
    let events = cluster.asked(from, "*", "*/events*")?;
    Ok((others, events))
}

#[test]
fn a_quiet_node_asks_little() {
    with_cluster_alone(async |cluster, node| {
        node.put("s.yaml", MANIFEST)?;
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        cluster.add(&bound_pod("a")).await?;
        cluster.ready("a").await?;
        cluster.ready(&format!("s-{NODE_NAME}")).await?;
        // What follows a start: the rest of the events, a last look at the statuses.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let from = Timestamp::now();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (others, events) = asked(cluster, from)?;
        let leases = others.iter().filter(|r| r.path.contains("/leases"));
        let leases = leases.count();
        // Each ten seconds.
        ensure!((5..=7).contains(&leases), "{leases} renewals");
        // A status may fall into it, and a watch that is opened again.
        ensure!(others.len() <= leases + 2, "{others:#?}");
        ensure!(events.is_empty(), "{events:#?}");
        Ok(())
    });
}

#[test]
fn events_of_an_outage_come_afterwards_and_are_no_storm() {
    with_cluster_alone(async |cluster, node| {
        node.runtime
            .program("c/main", Program::exits(1, Duration::from_millis(100)));
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        cluster.add(&bound_pod("a")).await?;
        cluster.ready("a").await?;
        cluster.add(&bound_pod("c")).await?;
        cluster
            .pod_shows("crashes", "c", LIMIT, |pod| {
                pod.status
                    .as_ref()
                    .is_some_and(|s| s.container_statuses.is_some())
            })
            .await?;
        cluster.line.refuse();
        // The second end meets the back-off.
        for _ in 0..2 {
            let container = eventually("a runs", LIMIT, async || {
                let mut running = node.runtime.running("default/a/main");
                running.pop().context("it does not run")
            })
            .await?;
            ensure!(node.runtime.kill_container(&container.id, 1));
        }
        tokio::time::sleep(Duration::from_secs(12)).await;
        let from = Timestamp::now();
        cluster.line.open();
        cluster.event("a", "BackOff").await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (others, events) = asked(cluster, from)?;
        ensure!(others.len() <= 60, "{} requests on return", others.len());
        ensure!(events.len() <= 40, "{} events on return", events.len());
        Ok(())
    });
}

#[test]
fn an_agent_that_begins_again_writes_no_status_that_is_there_already() {
    with_cluster_alone(async |cluster, node| {
        node.runtime
            .program("a/first", Program::exits(0, Duration::from_millis(50)));
        node.put("s.yaml", MANIFEST)?;
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        cluster.add(&rich_pod("a")).await?;
        cluster.ready("a").await?;
        cluster.ready(&format!("s-{NODE_NAME}")).await?;
        // The last of what a start brings.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for _ in 0..2 {
            node.kill_agent()?;
            let from = Timestamp::now();
            node.start_agent()?;
            node.ready("s").await?;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let patches = cluster.asked(from, "patch", "*/pods/*/status")?;
            ensure!(
                patches.is_empty(),
                "{patches:#?} {:#?}",
                cluster.pod("a").await?.status
            );
        }
        Ok(())
    });
}
