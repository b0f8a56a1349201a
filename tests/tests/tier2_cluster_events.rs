//! What happens, as the API server has it. Events are counted for the whole process, so that each test has a pod of its own.
//! On the double, and on a real API server when `KUBEBUILDER_ASSETS` is set.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::jiff::Timestamp;
use tests::agent::{NODE_NAME, PodView as _};
use tests::cluster::{LIMIT, bound_pod, with_cluster_alone};
use tests::fake_runtime::Program;
use tests::wait::{eventually, throughout};

#[test]
fn events_of_pods_and_of_the_node_are_told_as_upstreams_recorder_tells_them() {
    with_cluster_alone(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&bound_pod("told")).await?;
        let pod = cluster.ready("told").await?;
        let started = cluster.event("told", "Started").await?;
        let about = &started.involved_object;
        ensure!(about.kind.as_deref() == Some("Pod"), "{about:?}");
        ensure!(about.uid.as_deref() == Some(pod.uid()), "{about:?}");
        let path = about.field_path.as_deref();
        ensure!(path == Some("spec.containers{main}"), "{about:?}");
        let source = started.source.clone().unwrap_or_default();
        ensure!(source.component.as_deref() == Some("kubelet"), "{source:?}");
        ensure!(source.host.as_deref() == Some(NODE_NAME), "{source:?}");
        ensure!(started.reporting_component.as_deref() == Some("kubelet"));
        ensure!(started.reporting_instance.as_deref() == Some(NODE_NAME));
        ensure!(started.count == Some(1) && started.type_.as_deref() == Some("Normal"));
        let name = started.metadata.name.clone().unwrap_or_default();
        ensure!(name.starts_with("told."), "{name}");
        // It happened before there was anybody to tell.
        let starting = cluster.event(NODE_NAME, "Starting").await?;
        let about = &starting.involved_object;
        ensure!(about.kind.as_deref() == Some("Node"), "{about:?}");
        ensure!(starting.metadata.namespace.as_deref() == Some("default"));
        Ok(())
    });
}

#[test]
fn an_event_that_repeats_is_one_object_that_counts() {
    with_cluster_alone(async |cluster, node| {
        let crashes = Program::exits(1, Duration::from_millis(20));
        node.runtime.program("repeats/main", crashes);
        node.start_agent()?;
        cluster.add(&bound_pod("repeats")).await?;
        let told = eventually("the container was started twice", LIMIT, async || {
            let event = cluster.event("repeats", "Started").await?;
            ensure!(event.count >= Some(2), "{:?}", event.count);
            Ok(event)
        })
        .await?;
        let all = cluster.client().events("default").await?;
        let same = all.iter().filter(|event| {
            event.reason == told.reason && event.involved_object.name.as_deref() == Some("repeats")
        });
        ensure!(same.count() == 1);
        let (first, last) = (&told.first_timestamp, &told.last_timestamp);
        ensure!(first.is_some() && last.is_some() && first <= last);
        Ok(())
    });
}

#[test]
fn what_happens_during_an_outage_is_told_after_it_without_a_storm() {
    with_cluster_alone(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&bound_pod("cut")).await?;
        cluster.ready("cut").await?;
        cluster.event("cut", "Started").await?;
        cluster.line.refuse();
        let main = node.runtime.running("default/cut/main").pop();
        let main = main.context("it does not run")?;
        ensure!(node.runtime.kill_container(&main.id, 1));
        eventually("it runs again", LIMIT, async || {
            let running = node.runtime.running("default/cut/main");
            ensure!(running.iter().any(|c| c.id != main.id));
            Ok(())
        })
        .await?;
        throughout("nobody answers", Duration::from_secs(3), async || Ok(())).await?;
        let from = Timestamp::now();
        cluster.line.open();
        eventually("the second start is told", LIMIT, async || {
            let event = cluster.event("cut", "Started").await?;
            ensure!(event.count == Some(2), "{:?}", event.count);
            Ok(())
        })
        .await?;
        let events = "/api/v1/namespaces/default/events*";
        let asked = cluster.asked(from, "patch", events)?.len();
        let made = cluster.asked(from, "create", events)?.len();
        ensure!(asked + made <= 8, "{asked} patches, {made} creations");
        Ok(())
    });
}
