//! ConfigMaps and Secrets of manifests on a node of a cluster: off, unless configured or in use before the node joined;
//! and never those of the API server. On the double.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::agent::{NODE_NAME, PodView as _};
use tests::cluster::{Cluster, PATIENCE, Site, TOKEN, bound_pod, with_cluster};
use tests::in_process::{FakeNode, LIMIT, with_node};
use tests::wait::{eventually, throughout};

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: '{value}'}}\n")
}

fn user(name: &str, map: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox:1\n    env: [{{name: V, valueFrom: {{configMapKeyRef: {{name: {map}, key: k}}}}}}]\n"
    )
}

fn plain(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - {{name: main, image: 'busybox:1'}}\n"
    )
}

fn api_user(name: &str, map: &str) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["containers"][0]["env"] =
        json!([{ "name": "V", "valueFrom": { "configMapKeyRef": { "name": map, "key": "k" } } }]);
    pod
}

fn map(name: &str, value: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "k": value } })
}

fn full(name: &str) -> String {
    format!("{name}-{NODE_NAME}")
}

/// The variable V of the one instance of a pod of this name in full.
async fn value(node: &FakeNode, pod: &str) -> Result<String> {
    let running = eventually(&format!("{pod} runs"), LIMIT, async || {
        let mut running = node.runtime.running(&format!("default/{pod}/main"));
        ensure!(running.len() == 1, "{} run", running.len());
        running.pop().context("none")
    })
    .await?;
    let mut envs = running.config.envs.iter();
    let found = envs.find(|env| env.key == "V").context("no V")?;
    Ok(String::from_utf8_lossy(&found.value).into_owned())
}

async fn logged(node: &FakeNode, text: &str) -> Result<()> {
    eventually("the log says so", LIMIT, async || {
        ensure!(node.log().contains(text), "no {text:?}");
        Ok(())
    })
    .await
}

/// What a subcommand of the agent prints.
async fn ask(socket: &Path, words: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new(tests::profile_dir()?.join("kubelet"));
    command
        .args(words)
        .arg(format!("--socket={}", socket.display()));
    let ran = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    Ok(String::from_utf8(ran.stdout)?)
}

async fn has_no_mirror(cluster: &Cluster, name: &str) -> Result<()> {
    throughout("no mirror", Duration::from_secs(2), async || {
        ensure!(cluster.pod(&full(name)).await.is_err(), "there is one");
        Ok(())
    })
    .await
}

#[test]
fn unless_configured_a_node_of_a_cluster_takes_none() {
    with_cluster(async |cluster, node| {
        cluster.add_object("configmaps", &map("c", "api")).await?;
        node.start_agent()?;
        node.put("a.yaml", &user("a", "c"))?;
        logged(node, "static pods may not reference configmaps").await?;
        node.put("c.yaml", &config_map("c", "local"))?;
        logged(
            node,
            "set staticPodObjects: Always in the file of --agent-config",
        )
        .await?;
        node.put("b.yaml", &plain("b"))?;
        node.ready("b").await?;
        ensure!(node.pod("a").is_err());
        Ok(())
    });
}

#[test]
fn neither_serves_the_other_ones_pods_and_status_says_why_there_is_no_mirror() {
    with_cluster(async |cluster, node| {
        node.with_socket("staticPodObjects: Always\n")?;
        cluster
            .add_object("configmaps", &map("both", "api"))
            .await?;
        cluster
            .add_object("configmaps", &map("there", "api"))
            .await?;
        node.put("both.yaml", &config_map("both", "local"))?;
        node.put("here.yaml", &config_map("here", "local"))?;
        node.put("p.yaml", &plain("p"))?;
        node.start_agent()?;
        // Of the same name each has its own.
        node.put("s.yaml", &user("s", "both"))?;
        cluster.add(&api_user("a", "both")).await?;
        ensure!(value(node, &full("s")).await? == "local");
        ensure!(value(node, "a").await? == "api");
        // What only the other has is not found.
        node.put("t.yaml", &user("t", "there"))?;
        cluster.add(&api_user("h", "here")).await?;
        node.waiting("t", "main", "CreateContainerConfigError")
            .await?;
        cluster
            .waiting("h", "main", "CreateContainerConfigError")
            .await?;
        throughout("neither starts", Duration::from_secs(3), async || {
            for pod in [full("t"), "h".to_owned()] {
                ensure!(
                    node.runtime
                        .running(&format!("default/{pod}/main"))
                        .is_empty()
                );
            }
            Ok(())
        })
        .await?;
        // A pod of the API server that says that it is a static one is none.
        let mut liar = api_user("l", "here");
        liar["metadata"]["annotations"] = json!({ "kubernetes.io/config.source": "file" });
        cluster.add(&liar).await?;
        cluster
            .waiting("l", "main", "CreateContainerConfigError")
            .await?;

        // Only a pod that refers to nothing has a mirror.
        cluster.ready(&full("p")).await?;
        has_no_mirror(cluster, "s").await?;
        let socket = node.path("agent.sock");
        let status = ask(&socket, &["status"]).await?;
        let wanted = format!("  default/{}\n", full("s"));
        let (_, bare) = status
            .split_once("\nWithout a mirror pod (")
            .context("not said")?;
        ensure!(bare.contains(&wanted), "{status}");
        ensure!(!bare.contains(&full("p")), "{status}");
        let described = ask(&socket, &["describe", "pod", "s"]).await?;
        ensure!(described.contains("Mirror Pod:"), "{described}");
        let described = ask(&socket, &["describe", "pod", "p"]).await?;
        ensure!(!described.contains("Mirror Pod:"), "{described}");

        // One that begins to refer to objects loses its mirror.
        node.put("p.yaml", &user("p", "both"))?;
        eventually("the mirror goes", PATIENCE, async || {
            ensure!(cluster.pod(&full("p")).await.is_err());
            Ok(())
        })
        .await?;
        ensure!(value(node, &full("p")).await? == "local");
        Ok(())
    });
}

#[test]
fn pods_with_objects_of_a_node_that_joins_run_on_and_change_and_new_ones_are_refused() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        node.put("c.yaml", &config_map("c", "one"))?;
        node.put("s.yaml", &user("s", "c"))?;
        let follower = user("f", "c").replace(
            "{name: f}",
            "{name: f, annotations: {agent.kubelet/replace-on-object-change: 'true'}}",
        );
        node.put("f.yaml", &follower)?;
        site.start_agent(false)?;
        let (s, f) = (node.ready("s").await?, node.ready("f").await?);
        node.kill_agent()?;
        let joined = site.join(TOKEN, &site.cluster.pin()?, &[])?.ended().await?;
        ensure!(joined.code == Some(0), "{joined:?}");
        for life in ["first", "second"] {
            site.start_agent(true)?;
            if life == "first" {
                site.cluster.sign(&site.request().await?).await?;
            }
            site.cluster.node_condition("Ready", "True").await?;
            node.put("p.yaml", &plain("p"))?;
            site.cluster.ready(&full("p")).await?;
            ensure!(
                node.ready("s").await?.instances() == s.instances(),
                "{life}"
            );
            ensure!(
                node.ready("f").await?.instances() == f.instances(),
                "{life}"
            );
            has_no_mirror(&site.cluster, "s").await?;
            if life == "first" {
                node.kill_agent()?;
            }
        }
        // They may change, and so may what they refer to.
        node.put("c.yaml", &config_map("c", "two"))?;
        node.gone(&f).await?;
        ensure!(value(node, &full("f")).await? == "two");
        node.put("s.yaml", &(user("s", "c") + "    args: [x]\n"))?;
        node.gone(&s).await?;
        ensure!(value(node, &full("s")).await? == "two");
        // New ones are refused, as upstream does.
        node.put("late.yaml", &user("late", "c"))?;
        logged(node, "late.yaml:9:").await?;
        logged(node, "static pods may not reference configmaps").await?;
        ensure!(node.pod("late").is_err());
        Ok(())
    });
}
