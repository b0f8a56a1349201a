//! Pods of an API server that is away when the agent begins: they go on from what was kept of them, as their containers are
//! there, and as the settings say after a reboot. On the double.

mod files;
mod reboot;
mod restart;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::agent::PodView as _;
use tests::cluster::{Cluster, bound_pod, is_ready};
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

/// How long anything may take that begins with the few seconds that the API server is given.
pub(crate) const LIMIT: Duration = Duration::from_secs(45);
/// Longer than it is given.
pub(crate) const A_WHILE: Duration = Duration::from_secs(9);
pub(crate) const SECRET: &str = "the-very-secret-text";

/// What a subcommand of the agent prints.
pub(crate) async fn ask(node: &FakeNode, words: &[&str]) -> Result<String> {
    let binary = tests::profile_dir()?.join("kubelet");
    let mut command = std::process::Command::new(binary);
    command.args(words);
    command.arg(format!("--socket={}", node.path("agent.sock").display()));
    let ran = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    Ok(String::from_utf8(ran.stdout)?)
}

/// A pod that needs a secret, a configMap and the service `db`.
pub(crate) fn needy(name: &str) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["volumes"] = json!([{ "name": "s", "secret": { "secretName": "s" } }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "s", "mountPath": "/s" }]);
    pod["spec"]["containers"][0]["env"] = json!([
        { "name": "C", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } },
        { "name": "S", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
        { "name": "O", "valueFrom": { "secretKeyRef": { "name": "none", "key": "k", "optional": true } } },
    ]);
    pod
}

pub(crate) async fn add_objects(cluster: &Cluster) -> Result<()> {
    let map = json!({ "metadata": { "name": "c" }, "data": { "k": "of-the-map" } });
    cluster.add_object("configmaps", &map).await?;
    let secret = json!({ "metadata": { "name": "s" }, "stringData": { "k": SECRET } });
    cluster.add_object("secrets", &secret).await?;
    let service = json!({ "metadata": { "name": "db" }, "spec": { "ports": [{ "port": 5432 }] } });
    cluster.add_object("services", &service).await?;
    Ok(())
}

pub(crate) fn directory(node: &FakeNode) -> PathBuf {
    node.path("kubelet").join("api-pods")
}

/// Waits until a pod, all that it needs, and the boot are kept.
pub(crate) async fn kept(node: &FakeNode, pods: &[&Pod], objects: usize) -> Result<()> {
    eventually("it is kept", LIMIT, async || {
        for pod in pods {
            let file = directory(node).join("pods").join(pod.uid());
            ensure!(file.exists(), "no {}", file.display());
        }
        let found = fs::read_dir(directory(node).join("objects"))?.count();
        ensure!(found >= objects, "{found} objects");
        for name in ["services", "node"] {
            ensure!(directory(node).join(name).exists(), "no {name}");
        }
        Ok(())
    })
    .await
}

pub(crate) fn of_board(node: &FakeNode, name: &str) -> Result<Pod> {
    let mut pods = node.pods().into_iter();
    let found = pods.find(|pod| pod.metadata.name.as_deref() == Some(name));
    found.with_context(|| format!("the agent shows no {name}"))
}

pub(crate) async fn shown_ready(node: &FakeNode, name: &str) -> Result<Pod> {
    eventually(
        &format!("the agent shows {name} as ready"),
        LIMIT,
        async || {
            let pod = of_board(node, name)?;
            ensure!(is_ready(&pod), "{}", pod.describe());
            Ok(pod)
        },
    )
    .await
}

pub(crate) async fn logged(node: &FakeNode, parts: &[&str]) -> Result<()> {
    eventually(&format!("the log says {parts:?}"), LIMIT, async || {
        let log = node.log();
        let mut lines = log.lines();
        ensure!(lines.any(|line| parts.iter().all(|part| line.contains(part))));
        Ok(())
    })
    .await
}

pub(crate) fn running(node: &FakeNode) -> BTreeSet<String> {
    let all = node.runtime.containers().into_iter();
    all.filter(|c| c.running).map(|c| c.id).collect()
}

pub(crate) async fn undisturbed(node: &FakeNode) -> Result<()> {
    let before = running(node);
    throughout("nothing is restarted", A_WHILE, async || {
        ensure!(running(node) == before);
        Ok(())
    })
    .await
}

/// Since when the pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<String> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let mut ready = conditions.filter(|c| c.type_ == "Ready" && c.status == "True");
    ready
        .next()?
        .last_transition_time
        .as_ref()
        .map(|t| t.0.to_string())
}

/// A container of the pod dies and is replaced; the new one's environment.
pub(crate) async fn replaced(node: &FakeNode, name: &str) -> Result<Vec<String>> {
    let container = format!("default/{name}/main");
    let before = node
        .runtime
        .running(&container)
        .pop()
        .context("it does not run")?;
    ensure!(node.runtime.kill_container(&before.id, 1));
    let now = eventually(&format!("{name} runs again"), LIMIT, async || {
        let mut now = node.runtime.running(&container);
        now.retain(|c| c.id != before.id);
        now.pop().context("not yet")
    })
    .await?;
    let envs = now.config.envs.iter();
    Ok(envs
        .map(|env| format!("{}={}", env.key, String::from_utf8_lossy(&env.value)))
        .collect())
}

pub(crate) fn ensure_env(env: &[String]) -> Result<()> {
    for wanted in [
        "C=of-the-map",
        &format!("S={SECRET}"),
        "DB_SERVICE_PORT=5432",
    ] {
        ensure!(env.iter().any(|e| e == wanted), "{wanted}: {env:?}");
    }
    ensure!(env.iter().all(|e| !e.starts_with("O=")), "{env:?}");
    Ok(())
}

/// The agent ends, the API server goes, and an agent begins.
pub(crate) fn begin_without_server(cluster: &Cluster, node: &FakeNode) -> Result<()> {
    node.kill_agent()?;
    cluster.line.refuse();
    node.start_agent()
}
