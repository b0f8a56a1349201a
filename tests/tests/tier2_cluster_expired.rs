//! A machine that was off past the life of its certificate: it says so and what to do, asks nobody in vain, and its pods run
//! on, also while `kubelet join` mends it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::cluster::{LIMIT, Site, TOKEN, bound_pod, path};
use tests::in_process::{FakeNode, with_node};
use tests::service::{ServedAgent, Serving};
use tests::wait::{eventually, throughout};

/// How long the certificate lives.
const LIFE: Duration = Duration::from_secs(20);
const STATIC: &str = "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: s}, \
    spec: {containers: [{name: main, image: 'busybox:1'}]}}";

/// What `kubelet status` says.
fn status(node: &FakeNode) -> Result<String> {
    let ran = Command::new(tests::profile_dir()?.join("kubelet"))
        .arg("status")
        .arg(format!("--socket={}", node.path("agent.sock").display()))
        .output()?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    ensure!(ran.status.success(), "{ran:?}");
    Ok(said)
}

#[test]
fn it_says_so_waits_and_is_mended_in_place() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let cluster = &site.cluster;
        node.with_socket("")?;
        node.put("s.yaml", STATIC)?;
        let joined = site.join(TOKEN, &site.cluster.pin()?, &[])?.ended().await?;
        ensure!(joined.code == Some(0), "{joined:?}");
        site.start_agent(true)?;
        cluster.sign_for(&site.request().await?, LIFE).await?;
        cluster.node_condition("Ready", "True").await?;
        // As `kubelet join` removes it where it has waited.
        fs::remove_file(site.path("etc/kubernetes/bootstrap-kubelet.conf"))?;
        node.ready("s").await?;
        cluster.add(&bound_pod("a")).await?;
        cluster.ready("a").await?;
        let instances = || {
            anyhow::Ok((
                site.instance("default/s-node/main")?,
                site.instance("default/a/main")?,
            ))
        };
        let before = instances()?;

        // Nobody signs what it asks for in its time.
        let current = site.path("var/lib/kubelet/pki/kubelet-client-current.pem");
        let expired = format!("client certificate {} expired at 2", current.display());
        let remedy = format!(
            "kubelet join {} --token TOKEN --discovery-token-ca-cert-hash {} --node-name {NODE_NAME}",
            cluster.line.address(),
            site.cluster.pin()?
        );
        eventually("it has expired", LIFE + LIMIT, async || {
            let log = node.log();
            ensure!(
                log.contains(&expired) && log.contains(&remedy),
                "{expired} {remedy}"
            );
            Ok(())
        })
        .await?;
        let said = status(node)?;
        ensure!(said.contains(&expired) && said.contains(&remedy), "{said}");
        node.kill_agent()?;
        // As the controller for nodes does.
        let unknown =
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
        let place = format!("{}/status", path("nodes", "", NODE_NAME));
        cluster.client().merge(&place, &unknown).await?;

        // The machine comes back, and systemd starts the agent.
        let from = Timestamp::now();
        let serving = Serving {
            journal: false,
            ..Serving::default()
        };
        let (agent, _) = ServedAgent::start(node, &serving).await?;
        let both = |line: &str| line.contains(&expired) && line.contains(&remedy);
        agent.status("that it has expired", 0, both).await?;
        let said = status(node)?;
        ensure!(both(&said) && said.contains(" running"), "{said}");
        throughout("nobody is asked", Duration::from_secs(5), async || {
            let mut asked = cluster.requests()?;
            asked.retain(|r| r.at >= from && r.agent.starts_with("kubelet/"));
            ensure!(asked.is_empty(), "{asked:?}");
            ensure!(instances()? == before, "{:?}", instances()?);
            Ok(())
        })
        .await?;
        let log = agent.stderr()?;
        ensure!(log.matches(&expired).count() == 1, "{log}");
        drop(agent);

        let mended = site.join(TOKEN, &site.cluster.pin()?, &[])?.ended().await?;
        ensure!(mended.code == Some(0), "{mended:?}");
        ensure!(mended.text.contains("is of no use any more"), "{mended:?}");
        site.start_agent(true)?;
        eventually("the node is Ready", LIMIT, async || {
            for request in cluster.undecided().await? {
                cluster.sign(&request).await?;
            }
            let there = cluster.client().get(&path("nodes", "", NODE_NAME)).await?;
            let conditions = there["status"]["conditions"].as_array();
            let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
            let ready = conditions.into_iter().flatten().any(is_ready);
            ensure!(ready, "{conditions:?}");
            Ok(())
        })
        .await?;
        cluster.add(&bound_pod("b")).await?;
        cluster.ready("b").await?;
        node.ready("s").await?;
        ensure!(instances()? == before, "{:?}", instances()?);
        let said = status(node)?;
        ensure!(!said.contains("expired"), "{said}");
        Ok(())
    });
}
