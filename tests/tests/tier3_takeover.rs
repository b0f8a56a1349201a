//! A node that another kubelet ran until now. With `KUBELET=<path>` that one is real, else its pod is made by bare
//! CRI calls, with what upstream's kubelet writes on pods.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::{ConnectOptions, Connection, RuntimeClient, v1};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::images::BUSYBOX;
use tests::scenario::with_node;
use tests::wait::{eventually, throughout};

const LIMIT: Duration = Duration::from_secs(60);
/// The container of the web example that is looked at.
const CONTAINER: &str = "server";
/// Of the pod that the bare calls make: upstream's form, another hash than ours.
const THEIR_UID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

#[test]
fn a_static_pod_of_another_kubelet_is_replaced_once_and_it_is_said() {
    with_node(async |node| {
        let manifest = include_str!("../../examples/web.yaml");
        let theirs = match Agent::foreign(node) {
            Some(other) => earlier_life(node, &other?, manifest).await?,
            None => bare_pod(node).await?,
        };
        node.put("web.yaml", manifest)?;
        let agent = Agent::ours(node)?;
        agent.start().await?;
        let ours = replaced(node, &agent, &theirs).await?;
        ensure!(ours.uid() != theirs.uid);
        let log = agent.log()?;
        ensure!(
            log.contains("started by another kubelet") && log.contains(&*theirs.uid),
            "{log}"
        );
        // Once: neither later, nor by the next life of the agent.
        agent.kill()?;
        agent.start().await?;
        agent.ready("web", LIMIT).await?;
        throughout("no second time", Duration::from_secs(5), async || {
            let now = agent.pod("web")?;
            ensure!(now.instances() == ours.instances(), "{}", now.describe());
            Ok(())
        })
        .await?;
        // And back again: the other kubelet takes the pod over in its turn.
        if let Some(other) = Agent::foreign(node) {
            agent.terminate().await?;
            let other = other?;
            other.start().await?;
            let last = Theirs {
                uid: ours.uid().to_owned(),
                containers: node.running_of(ours.uid())?,
            };
            replaced(node, &other, &last).await?;
        }
        Ok(())
    });
}

/// What the earlier kubelet left.
struct Theirs {
    uid: String,
    containers: Vec<String>,
}

/// Waits until the pod `web` runs anew and nothing of its predecessor is left; meanwhile at most one
/// instance runs, where the agent is ours.
async fn replaced(node: &Node, agent: &Agent<'_>, theirs: &Theirs) -> Result<Pod> {
    let runtime = runtime(node)?;
    eventually("the pod is replaced", LIMIT, async || {
        let running = running_servers(&runtime).await?;
        // Upstream's kubelet starts the successor beside a predecessor that it has not started itself.
        if running.len() > 1 && !agent.is_foreign() {
            let text = format!("two instances run: {running:?}");
            return Err(tests::wait::Never(text).into());
        }
        ensure!(
            running.iter().all(|id| !theirs.containers.contains(id)),
            "{running:?} runs yet"
        );
        agent.ready("web", Duration::ZERO).await
    })
    .await
}

async fn running_servers(runtime: &RuntimeClient) -> Result<Vec<String>> {
    let filter = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue {
            state: v1::ContainerState::ContainerRunning.into(),
        }),
        label_selector: [("io.kubernetes.container.name".into(), CONTAINER.into())].into(),
        ..v1::ContainerFilter::default()
    };
    let running = runtime.list_containers(Some(filter)).await?;
    Ok(running.into_iter().map(|c| c.id).collect())
}

fn runtime(node: &Node) -> Result<RuntimeClient> {
    let endpoint = node.socket().display().to_string();
    Ok(Connection::connect(&endpoint, ConnectOptions::default())?.runtime())
}

/// The other kubelet runs the pod, and goes.
async fn earlier_life(node: &Node, other: &Agent<'_>, manifest: &str) -> Result<Theirs> {
    node.put("web.yaml", manifest)?;
    other.start().await?;
    let pod = other.ready("web", LIMIT).await?;
    other.terminate().await?;
    let containers = node.running_of(pod.uid())?;
    ensure!(!containers.is_empty(), "it took its pod along");
    Ok(Theirs {
        uid: pod.uid().to_owned(),
        containers,
    })
}

/// A pod as upstream's kubelet leaves it in the runtime, for the web example.
async fn bare_pod(node: &Node) -> Result<Theirs> {
    let runtime = runtime(node)?;
    let labels: BTreeMap<String, String> = [
        ("app", "web"),
        ("io.kubernetes.pod.name", "web-node"),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", THEIR_UID),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let annotations: BTreeMap<String, String> = [
        ("kubernetes.io/config.hash", THEIR_UID),
        (
            "kubernetes.io/config.seen",
            "2026-01-01T00:00:00.000000000Z",
        ),
        ("kubernetes.io/config.source", "file"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let logs = node.path(&format!("pod-logs/default_web-node_{THEIR_UID}"));
    std::fs::create_dir_all(logs.join(CONTAINER)).context("create the log directory")?;
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web-node".into(),
            uid: THEIR_UID.into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "web-node".into(),
        log_directory: logs.display().to_string(),
        labels: labels.clone().into_iter().collect(),
        annotations: annotations.into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup_root(),
            ..v1::LinuxPodSandboxConfig::default()
        }),
        ..v1::PodSandboxConfig::default()
    };
    let sandbox_id = runtime
        .run_pod_sandbox(sandbox.clone(), String::new())
        .await?;
    let mut labels = labels;
    labels.insert("io.kubernetes.container.name".into(), CONTAINER.into());
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: CONTAINER.into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: BUSYBOX.into(),
            ..v1::ImageSpec::default()
        }),
        command: vec!["sleep".into(), "1000".into()],
        log_path: format!("{CONTAINER}/0.log"),
        labels: labels.into_iter().collect(),
        annotations: [
            ("io.kubernetes.container.restartCount", "0"),
            ("io.kubernetes.pod.terminationGracePeriod", "1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..v1::ContainerConfig::default()
    };
    let id = runtime
        .create_container(&sandbox_id, container, sandbox)
        .await?;
    runtime.start_container(&id).await?;
    Ok(Theirs {
        uid: THEIR_UID.into(),
        containers: vec![id],
    })
}
