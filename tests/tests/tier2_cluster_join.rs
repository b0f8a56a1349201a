//! TLS bootstrap: from a token to a certificate, and what lies on the disk then. On the double, and on a real API server when
//! `KUBEBUILDER_ASSETS` is set.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use tests::agent::NODE_NAME;
use tests::cluster::{CLIENT_SIGNER, Cluster, LIMIT, with_cluster};
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

const TOKEN: &str = "abcdef.0123456789abcdef";

/// The node has a bootstrap kubeconfig, and the place of a kubeconfig that is not there yet.
async fn unjoined(cluster: &Cluster, node: &FakeNode) -> Result<()> {
    let bootstrap = cluster.bootstrap_kubeconfig(TOKEN, &node.path("")).await?;
    node.set_flag("--bootstrap-kubeconfig", &bootstrap.display().to_string());
    let own = node.path("joined.conf").display().to_string();
    node.set_flag("--kubeconfig", &own);
    Ok(())
}

async fn request(cluster: &Cluster) -> Result<Value> {
    eventually("a certificate request", LIMIT, async || {
        let mut undecided = cluster.undecided().await?;
        undecided.retain(|r| r["spec"]["signerName"] == CLIENT_SIGNER);
        ensure!(undecided.len() == 1, "{} requests", undecided.len());
        Ok(undecided.remove(0))
    })
    .await
}

fn mode(file: &Path) -> Result<u32> {
    Ok(fs::metadata(file)?.permissions().mode() & 0o7777)
}

#[test]
fn a_token_becomes_a_certificate_and_a_kubeconfig() {
    with_cluster(async |cluster, node| {
        unjoined(cluster, node).await?;
        node.put(
            "s.yaml",
            "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: s}, spec: {containers: [{name: main, image: 'busybox:1'}]}}",
        )?;
        node.start_agent()?;
        // It waits for nobody's approval.
        node.ready("s").await?;
        let asked = request(cluster).await?;
        ensure!(
            asked["spec"]["username"] == "system:bootstrap:abcdef",
            "{asked}"
        );
        let name = asked["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(name.contains("csr-"), "{name}");
        ensure!(asked["spec"]["expirationSeconds"].is_null(), "{asked}");
        cluster.sign(&asked).await?;
        cluster.node_condition("Ready", "True").await?;
        let current = node.path("pki").join("kubelet-client-current.pem");
        let target = fs::read_link(&current)?;
        let target = target.display().to_string();
        ensure!(target.contains("kubelet-client-2"), "{target}");
        ensure!(mode(&current)? == 0o600, "{:o}", mode(&current)?);
        let pem = fs::read_to_string(&current)?;
        ensure!(pem.contains("BEGIN CERTIFICATE") && pem.contains("PRIVATE KEY"));
        let kubeconfig = node.path("joined.conf");
        ensure!(mode(&kubeconfig)? == 0o600, "{:o}", mode(&kubeconfig)?);
        let text = fs::read_to_string(&kubeconfig)?;
        ensure!(text.contains(&current.display().to_string()), "{text}");
        ensure!(
            text.contains("default-auth") && !text.contains(TOKEN),
            "{text}"
        );
        for entry in fs::read_dir(node.path("pki"))? {
            let entry = entry?.path();
            let text = fs::read_to_string(&entry).unwrap_or_default();
            let secret = text.contains("PRIVATE KEY");
            ensure!(!secret || mode(&entry)? == 0o600, "{}", entry.display());
        }
        ensure!(
            !node.log().contains("0123456789abcdef"),
            "the token in the log"
        );
        // The next start needs no token.
        node.kill_agent()?;
        let from = Timestamp::now();
        node.start_agent()?;
        eventually("it asks as a node", LIMIT, async || {
            ensure!(!cluster.asked(from, "*", "*")?.is_empty());
            Ok(())
        })
        .await?;
        ensure!(cluster.undecided().await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_request_is_made_once_and_waited_for() {
    with_cluster(async |cluster, node| {
        unjoined(cluster, node).await?;
        node.start_agent()?;
        let asked = request(cluster).await?;
        throughout("there is one request", Duration::from_secs(4), async || {
            let all = cluster.undecided().await?;
            ensure!(all.len() == 1, "{} requests", all.len());
            ensure!(cluster.client().node(NODE_NAME).await.is_err());
            Ok(())
        })
        .await?;
        cluster.sign(&asked).await?;
        cluster.node_condition("Ready", "True").await?;
        Ok(())
    });
}
