//! Pods that the API server has bound to the node, from the first status to the last delete. On the double, and on a real
//! API server when `KUBEBUILDER_ASSETS` is set.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::agent::{NODE_NAME, PodView as _};
use tests::cluster::{Cluster, LIMIT, bound_pod, path, with_cluster};
use tests::fake_runtime::Program;
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

const MILLI: Duration = Duration::from_millis(1);

fn condition(pod: &Pod, kind: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let own = status
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == kind)?;
    Some(own.status.clone())
}

fn running(node: &FakeNode, pod: &str) -> usize {
    node.runtime.running(&format!("default/{pod}/main")).len()
}

#[test]
fn a_bound_pod_runs_and_its_status_says_so() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        cluster.add(&bound_pod("a")).await?;
        let pod = cluster.ready("a").await?;
        for kind in [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled",
        ] {
            ensure!(condition(&pod, kind).as_deref() == Some("True"), "{kind}");
        }
        let status = pod.status.as_ref().context("no status")?;
        ensure!(status.start_time.is_some() && status.host_ip.is_some());
        ensure!(!pod.ip().is_empty());
        ensure!(status.pod_ips.as_ref().map(Vec::len) == Some(1));
        ensure!(status.qos_class.as_deref() == Some("BestEffort"));
        let main = pod.container("main")?;
        ensure!(main.started == Some(true) && main.restart_count == 0);
        let container = node.runtime.running("default/a/main").pop();
        let container = container.context("it does not run")?;
        let id = main.container_id.clone().unwrap_or_default();
        ensure!(id.ends_with(&format!("://{}", container.id)), "{id}");
        let labels = &container.config.labels;
        ensure!(labels["io.kubernetes.pod.uid"] == pod.uid(), "{labels:?}");
        ensure!(running(node, "a") == 1);
        Ok(())
    });
}

#[test]
fn a_crash_is_told_with_its_restart() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&bound_pod("a")).await?;
        cluster.ready("a").await?;
        let container = node.runtime.running("default/a/main").pop();
        let container = container.context("it does not run")?;
        ensure!(node.runtime.kill_container(&container.id, 3));
        let pod = cluster
            .pod_shows("restarted", "a", LIMIT, |pod| {
                tests::cluster::is_ready(pod) && pod.statuses()[0].restart_count == 1
            })
            .await?;
        let last = pod
            .container("main")?
            .last_state
            .clone()
            .unwrap_or_default();
        let last = last.terminated.context("no last state")?;
        ensure!(last.exit_code == 3, "{last:?}");
        Ok(())
    });
}

#[test]
fn a_pod_that_ends_is_left_to_its_owner() {
    with_cluster(async |cluster, node| {
        node.runtime
            .program("a/main", Program::exits(0, 100 * MILLI));
        node.runtime
            .program("b/main", Program::exits(7, 100 * MILLI));
        node.start_agent()?;
        for name in ["a", "b"] {
            let mut pod = bound_pod(name);
            pod["spec"]["restartPolicy"] = json!("Never");
            cluster.add(&pod).await?;
        }
        let done = cluster
            .pod_shows("Succeeded", "a", LIMIT, |p| p.phase() == "Succeeded")
            .await?;
        ensure!(condition(&done, "Ready").as_deref() == Some("False"));
        cluster
            .pod_shows("Failed", "b", LIMIT, |p| p.phase() == "Failed")
            .await?;
        cluster.delete_pod("a", None).await?;
        cluster.gone(node, &done).await
    });
}

#[test]
fn a_deleted_pod_gets_its_time_and_is_then_taken_away() {
    with_cluster(async |cluster, node| {
        let slow = Program::forever().stopping_with(0, 1500 * MILLI);
        node.runtime.program("main", slow);
        node.start_agent()?;
        cluster.add(&bound_pod("a")).await?;
        let pod = cluster.ready("a").await?;
        let from = Timestamp::now();
        cluster.delete_pod("a", Some(10)).await?;
        throughout("it is there while it ends", 1000 * MILLI, async || {
            let now = cluster.pod("a").await?;
            ensure!(now.metadata.deletion_timestamp.is_some());
            ensure!(running(node, "a") == 1);
            Ok(())
        })
        .await?;
        cluster.gone(node, &pod).await?;
        let deletes = cluster.asked(from, "delete", "/api/v1/namespaces/default/pods/a")?;
        ensure!(deletes.len() == 1, "{deletes:#?}");
        let options = &deletes[0].body;
        ensure!(options["gracePeriodSeconds"] == 0, "{options}");
        ensure!(options["preconditions"]["uid"] == pod.uid(), "{options}");
        // Its end was told before it was taken away.
        let patches = cluster.asked(from, "patch", "/api/v1/namespaces/default/pods/a/status")?;
        let last = patches.last().context("no status was sent")?;
        ensure!(last.at <= deletes[0].at);
        let told = last.body["status"].to_string();
        ensure!(told.contains("terminated"), "{told}");
        Ok(())
    });
}

#[test]
fn a_finalizer_keeps_the_object_and_nothing_that_runs() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        let mut held = bound_pod("a");
        held["metadata"]["finalizers"] = json!(["example.org/hold"]);
        cluster.add(&held).await?;
        let pod = cluster.ready("a").await?;
        cluster.delete_pod("a", Some(1)).await?;
        eventually("nothing of it runs", LIMIT, async || {
            ensure!(running(node, "a") == 0);
            let sandboxes = node.runtime.sandboxes();
            ensure!(sandboxes.iter().all(|s| !s.ready), "{sandboxes:?}");
            Ok(())
        })
        .await?;
        let ended = cluster
            .pod_shows("ended", "a", LIMIT, |p| {
                p.phase() == "Failed" || p.phase() == "Succeeded"
            })
            .await?;
        ensure!(ended.uid() == pod.uid());
        throughout("it stays ended", 2000 * MILLI, async || {
            ensure!(running(node, "a") == 0);
            cluster.pod("a").await.map(drop)
        })
        .await?;
        let free = json!({ "metadata": { "finalizers": null } });
        let place = path("pods", "default", "a");
        cluster.client().merge(&place, &free).await?;
        cluster.gone(node, &pod).await
    });
}

#[test]
fn a_pod_deleted_by_force_ends_too() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&bound_pod("a")).await?;
        let pod = cluster.ready("a").await?;
        cluster.delete_pod("a", Some(0)).await?;
        ensure!(cluster.pod("a").await.is_err());
        node.gone(&pod).await
    });
}

#[test]
fn a_name_that_comes_back_waits_for_the_old_containers() {
    with_cluster(async |cluster, node| {
        let slow = Program::forever().stopping_with(0, 1500 * MILLI);
        node.runtime.program("main", slow);
        node.start_agent()?;
        cluster.add(&bound_pod("a")).await?;
        let old = cluster.ready("a").await?;
        cluster.delete_pod("a", Some(0)).await?;
        let new = cluster.add(&bound_pod("a")).await?;
        ensure!(new.uid() != old.uid());
        let ready = cluster.ready("a").await?;
        ensure!(ready.uid() == new.uid());
        let all = node.runtime.containers();
        ensure!(all.len() <= 2, "{all:?}");
        let id = ready.container("main")?.container_id.clone();
        let id = id.unwrap_or_default();
        let own = node.runtime.running("default/a/main");
        ensure!(own.len() == 1 && id.ends_with(&own[0].id), "{id} {own:?}");
        ensure!(own[0].config.labels["io.kubernetes.pod.uid"] == new.uid());
        // The old one's status was written nowhere: the harness checks that no two instances ran.
        ensure!(ready.container("main")?.restart_count == 0);
        Ok(())
    });
}

#[test]
fn a_pod_that_is_being_deleted_is_never_started() {
    with_cluster(async |cluster, node| {
        let mut held = bound_pod("a");
        held["metadata"]["finalizers"] = json!(["example.org/hold"]);
        let made = cluster.add(&held).await?;
        cluster.delete_pod("a", Some(5)).await?;
        cluster.add(&bound_pod("b")).await?;
        cluster.delete_pod("b", Some(5)).await?;
        node.start_agent()?;
        cluster.add(&bound_pod("c")).await?;
        cluster.ready("c").await?;
        eventually("b is taken away", LIMIT, async || {
            ensure!(cluster.pod("b").await.is_err());
            Ok(())
        })
        .await?;
        let started = node.runtime.containers();
        ensure!(started.len() == 1, "{started:?}");
        let free = json!({ "metadata": { "finalizers": null } });
        let place = path("pods", "default", "a");
        cluster.client().merge(&place, &free).await?;
        cluster.gone(node, &made).await
    });
}

#[test]
fn a_restart_of_the_agent_touches_nothing() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&bound_pod("a")).await?;
        let before = cluster.ready("a").await?;
        node.kill_agent()?;
        let from = Timestamp::now();
        node.start_agent()?;
        cluster.add(&bound_pod("b")).await?;
        cluster.ready("b").await?;
        let after = cluster.pod("a").await?;
        ensure!(
            before.instances() == after.instances(),
            "{}",
            after.describe()
        );
        let ready = |pod: &Pod| {
            let status = pod.status.clone().unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let own = conditions.into_iter().find(|c| c.type_ == "Ready");
            own.and_then(|c| c.last_transition_time).map(|t| t.0)
        };
        ensure!(ready(&before) == ready(&after));
        let own = cluster.asked(from, "patch", "/api/v1/namespaces/default/pods/a/status")?;
        for patch in &own {
            let text = patch.body.to_string();
            ensure!(!text.contains("\"False\""), "{text}");
        }
        Ok(())
    });
}

#[test]
fn a_pod_that_went_while_the_agent_was_away_is_ended() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&bound_pod("a")).await?;
        let forced = cluster.ready("a").await?;
        cluster.add(&bound_pod("b")).await?;
        let marked = cluster.ready("b").await?;
        node.kill_agent()?;
        cluster.delete_pod("a", Some(0)).await?;
        cluster.delete_pod("b", Some(2)).await?;
        node.start_agent()?;
        node.gone(&forced).await?;
        cluster.gone(node, &marked).await
    });
}

async fn refused(cluster: &Cluster, pod: &Value, reason: &str) -> Result<Pod> {
    let name = pod["metadata"]["name"].as_str().context("no name")?;
    cluster.add(pod).await?;
    let shown = cluster
        .pod_shows(reason, name, LIMIT, |p| p.phase() == "Failed")
        .await?;
    let status = shown.status.clone().unwrap_or_default();
    ensure!(status.reason.as_deref() == Some(reason), "{status:?}");
    let message = status.message.unwrap_or_default();
    ensure!(message.starts_with("Pod was rejected: "), "{message}");
    Ok(shown)
}

#[test]
fn a_pod_that_may_not_run_here_fails_with_the_reason() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        let mut elsewhere = bound_pod("elsewhere");
        elsewhere["spec"]["nodeSelector"] = json!({ "example.org/zone": "moon" });
        refused(cluster, &elsewhere, "NodeAffinity").await?;
        let mut huge = bound_pod("huge");
        huge["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "4096" } });
        refused(cluster, &huge, "OutOfcpu").await?;
        let mut port = bound_pod("port");
        port["spec"]["containers"][0]["ports"] =
            json!([{ "containerPort": 80, "hostPort": 18080 }]);
        cluster.add(&port).await?;
        cluster.ready("port").await?;
        port["metadata"]["name"] = json!("same-port");
        refused(cluster, &port, "NodePorts").await?;
        let mut sysctl = bound_pod("sysctl");
        sysctl["spec"]["securityContext"] =
            json!({ "sysctls": [{ "name": "kernel.msgmax", "value": "1" }] });
        refused(cluster, &sysctl, "SysctlForbidden").await?;
        let containers = node.runtime.containers();
        ensure!(containers.len() == 1, "{containers:?}");
        cluster.event("elsewhere", "NodeAffinity").await?;
        Ok(())
    });
}

#[test]
fn pods_run_beside_static_ones_and_their_events_arrive() {
    with_cluster(async |cluster, node| {
        node.put(
            "s.yaml",
            "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: s}, spec: {containers: [{name: main, image: 'busybox:1'}]}}",
        )?;
        node.start_agent()?;
        cluster.add(&bound_pod("told")).await?;
        let pod = cluster.ready("told").await?;
        node.ready("s").await?;
        for reason in ["Created", "Started"] {
            let event = cluster.event("told", reason).await?;
            let about = &event.involved_object;
            ensure!(about.uid.as_deref() == Some(pod.uid()), "{event:?}");
            ensure!(about.field_path.as_deref() == Some("spec.containers{main}"));
            let source = event.source.clone().unwrap_or_default();
            ensure!(source.component.as_deref() == Some("kubelet"), "{event:?}");
            ensure!(source.host.as_deref() == Some(NODE_NAME), "{event:?}");
            ensure!(event.type_.as_deref() == Some("Normal"), "{event:?}");
        }
        Ok(())
    });
}
