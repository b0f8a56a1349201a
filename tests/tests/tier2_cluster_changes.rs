//! What changes of a pod while it runs: ephemeral containers, resources; and the runtime class it begins with. On the
//! double, and on a real API server when `KUBEBUILDER_ASSETS` is set.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};
use static_pods::quantity::Quantity;
use tests::agent::PodView as _;
use tests::cluster::{Cluster, LIMIT, bound_pod, path, refusal, with_cluster};
use tests::fake_runtime::Container;
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

fn main_of(node: &FakeNode, pod: &str) -> Result<Container> {
    let mut running = node.runtime.running(&format!("default/{pod}/main"));
    ensure!(running.len() == 1, "{running:?}");
    running.pop().context("it does not run")
}

fn condition(pod: &Pod, kind: &str) -> Option<PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind).cloned()
}

fn resources(cpu: &str, memory: &str) -> Value {
    json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": { "cpu": cpu, "memory": memory } })
}

/// A pod whose container may be made anew for memory, and not for cpu.
fn sized(name: &str, cpu: &str, memory: &str) -> Value {
    let mut pod = bound_pod(name);
    let main = &mut pod["spec"]["containers"][0];
    main["resources"] = resources(cpu, memory);
    main["resizePolicy"] = json!([
        { "resourceName": "cpu", "restartPolicy": "NotRequired" },
        { "resourceName": "memory", "restartPolicy": "RestartContainer" },
    ]);
    pod
}

async fn resize(cluster: &Cluster, name: &str, cpu: &str, memory: &str) -> Result<()> {
    let patch = json!({ "spec": { "containers": [
        { "name": "main", "resources": resources(cpu, memory) },
    ]}});
    let place = path("pods", "default", &format!("{name}/resize"));
    cluster.client().strategic(&place, &patch).await.map(drop)
}

/// What the container has in cpu: its quota by its period, in thousandths.
fn cpu_of(container: &Container) -> Option<i64> {
    let made = container.config.linux.as_ref()?.resources.as_ref();
    let now = container.resources.as_ref().or(made)?;
    Some(now.cpu_quota * 1000 / now.cpu_period)
}

#[test]
fn an_ephemeral_container_joins_a_pod_that_runs() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&bound_pod("a")).await?;
        let before = cluster.ready("a").await?.instances();
        let main = main_of(node, "a")?;
        let patch = json!({ "spec": { "ephemeralContainers": [
            { "name": "debug", "image": "busybox:1", "targetContainerName": "main" },
        ]}});
        let place = path("pods", "default", "a/ephemeralcontainers");
        cluster.client().strategic(&place, &patch).await?;
        let shown = cluster
            .pod_shows("the ephemeral container", "a", LIMIT, |pod| {
                let status = pod.status.clone().unwrap_or_default();
                let late = status.ephemeral_container_statuses.unwrap_or_default();
                let state = late.first().and_then(|c| c.state.clone());
                state.is_some_and(|state| state.running.is_some())
            })
            .await?;
        ensure!(shown.instances().starts_with(&before) || main_of(node, "a")?.id == main.id);
        let debug = node.runtime.running("default/a/debug").pop();
        let debug = debug.context("it does not run")?;
        let linux = debug.config.linux.unwrap_or_default();
        let shared = linux.security_context.unwrap_or_default().namespace_options;
        let shared = shared.context("no namespaces")?;
        ensure!(shared.target_id == main.id, "{shared:?}");
        // It ends, and nobody starts it again.
        ensure!(node.runtime.kill_container(&debug.id, 0));
        throughout("it stays ended", Duration::from_secs(2), async || {
            ensure!(node.runtime.running("default/a/debug").is_empty());
            ensure!(main_of(node, "a")?.id == main.id);
            Ok(())
        })
        .await
    });
}

#[test]
fn cpu_changes_without_a_restart() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&sized("a", "200m", "64Mi")).await?;
        cluster.ready("a").await?;
        let before = main_of(node, "a")?;
        ensure!(cpu_of(&before) == Some(200));
        resize(cluster, "a", "300m", "64Mi").await?;
        eventually("the container has it", LIMIT, async || {
            ensure!(cpu_of(&main_of(node, "a")?) == Some(300));
            Ok(())
        })
        .await?;
        ensure!(main_of(node, "a")?.id == before.id);
        cluster.event("a", "ResizeStarted").await?;
        cluster.event("a", "ResizeCompleted").await?;
        let shown = cluster
            .pod_shows("the new amount", "a", LIMIT, |pod| {
                let main = pod.container("main").ok();
                let given = main.and_then(|c| c.allocated_resources.clone());
                let given = given.and_then(|list| list.get("cpu").cloned());
                given.is_some_and(|cpu| cpu.0 == "300m")
                    && condition(pod, "PodResizeInProgress").is_none()
            })
            .await?;
        ensure!(condition(&shown, "PodResizePending").is_none());
        ensure!(shown.container("main")?.restart_count == 0);
        Ok(())
    });
}

#[test]
fn a_container_whose_policy_says_so_is_made_anew() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&sized("a", "200m", "64Mi")).await?;
        cluster.ready("a").await?;
        let before = main_of(node, "a")?;
        resize(cluster, "a", "200m", "96Mi").await?;
        let shown = cluster
            .pod_shows("restarted", "a", LIMIT, |pod| {
                tests::cluster::is_ready(pod) && pod.statuses()[0].restart_count == 1
            })
            .await?;
        let after = main_of(node, "a")?;
        ensure!(after.id != before.id);
        let linux = after.config.linux.unwrap_or_default();
        let memory = linux.resources.unwrap_or_default().memory_limit_in_bytes;
        ensure!(memory == 96 << 20, "{memory}");
        let killed = cluster.event("a", "Killing").await?;
        let message = killed.message.unwrap_or_default();
        ensure!(
            message == "Container main resize requires restart",
            "{message}"
        );
        cluster.event("a", "ResizeCompleted").await?;
        ensure!(condition(&shown, "PodResizePending").is_none());
        Ok(())
    });
}

#[test]
fn what_there_is_no_room_for_is_deferred_and_changes_nothing() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.add(&sized("a", "200m", "64Mi")).await?;
        cluster.ready("a").await?;
        let before = main_of(node, "a")?;
        // The server itself refuses more than there is of the node.
        let most = cluster.node().await?.status.and_then(|s| s.allocatable);
        let most = Quantity::parse_amount(&most.context("nothing is allocatable")?["cpu"].0)?;
        let more = format!("{}m", most.milli() + 1);
        let refused = resize(cluster, "a", &more, "64Mi").await;
        let refused = refused.err().context("it was taken")?;
        ensure!(refusal(&refused) == Some(403), "{refused:#}");
        // Less than that, and more than another leaves of it.
        let mut other = sized("other", &format!("{}m", most.milli() - 500), "64Mi");
        let limits = &mut other["spec"]["containers"][0]["resources"];
        limits["limits"] = Value::Null;
        cluster.add(&other).await?;
        cluster.ready("other").await?;
        resize(cluster, "a", "600m", "64Mi").await?;
        let shown = cluster
            .pod_shows("deferred", "a", LIMIT, |pod| {
                condition(pod, "PodResizePending").is_some()
            })
            .await?;
        let pending = condition(&shown, "PodResizePending").context("no condition")?;
        ensure!(pending.reason.as_deref() == Some("Deferred"), "{pending:?}");
        let message = pending.message.unwrap_or_default();
        ensure!(
            message.starts_with("Node didn't have enough resource: cpu"),
            "{message}"
        );
        let given = shown.container("main")?.allocated_resources.clone();
        ensure!(given.unwrap_or_default()["cpu"].0 == "200m");
        cluster.event("a", "ResizeDeferred").await?;
        // Another life of the agent does not take it for given.
        node.kill_agent()?;
        node.start_agent()?;
        cluster.add(&bound_pod("b")).await?;
        cluster.ready("b").await?;
        let same = main_of(node, "a")?;
        ensure!(same.id == before.id && cpu_of(&same) == Some(200));
        resize(cluster, "a", "250m", "64Mi").await?;
        eventually("the container has it", LIMIT, async || {
            ensure!(cpu_of(&main_of(node, "a")?) == Some(250));
            Ok(())
        })
        .await?;
        cluster
            .pod_shows("nothing pending", "a", LIMIT, |pod| {
                condition(pod, "PodResizePending").is_none()
            })
            .await?;
        ensure!(main_of(node, "a")?.id == before.id);
        Ok(())
    });
}

const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";

fn class() -> Value {
    json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": "boxed" }, "handler": "runc-boxed",
    })
}

fn of_class(name: &str) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["runtimeClassName"] = json!("boxed");
    pod
}

#[test]
fn a_class_that_is_not_there_is_waited_for() {
    with_cluster(async |cluster, node| {
        // The server takes no pod of a class that was never there.
        cluster.client().create(CLASSES, &class()).await?;
        cluster.add(&of_class("a")).await?;
        cluster
            .client()
            .delete(&format!("{CLASSES}/boxed"), None)
            .await?;
        node.start_agent()?;
        let event = cluster.event("a", "FailedCreatePodSandBox").await?;
        let message = event.message.unwrap_or_default();
        let expected = "Failed to create pod sandbox: runtimeclass.node.k8s.io \"boxed\" not found";
        ensure!(message == expected, "{message}");
        ensure!(node.runtime.sandboxes().is_empty());
        cluster.client().create(CLASSES, &class()).await?;
        cluster.ready("a").await?;
        Ok(())
    });
}

#[test]
fn a_pod_begins_with_the_handler_of_its_class() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        cluster.client().create(CLASSES, &class()).await?;
        cluster.add(&of_class("a")).await?;
        cluster.ready("a").await?;
        cluster.add(&bound_pod("b")).await?;
        cluster.ready("b").await?;
        let handlers = |name: &str| -> Vec<String> {
            let sandboxes = node.runtime.sandboxes().into_iter();
            let own =
                sandboxes.filter(|s| s.config.metadata.as_ref().is_some_and(|m| m.name == name));
            own.map(|s| s.runtime_handler).collect()
        };
        ensure!(handlers("a") == ["runc-boxed"], "{:?}", handlers("a"));
        ensure!(handlers("b") == [""], "{:?}", handlers("b"));
        Ok(())
    });
}
