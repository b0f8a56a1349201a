//! What a joined node asks of its server, counted with its events. On the double, and on a real API server when
//! `KUBEBUILDER_ASSETS` is set.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use tests::agent::NODE_NAME;
use tests::apiserver::Request;
use tests::cluster::{Cluster, LIMIT, bound_pod, with_cluster_alone};
use tests::fake_runtime::Program;
use tests::wait::eventually;

const MANIFEST: &str = "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: s}, spec: {terminationGracePeriodSeconds: 1, \
                        containers: [{name: main, image: 'busybox:1'}]}}";

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
