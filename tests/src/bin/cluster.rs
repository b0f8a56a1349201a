//! A cluster on this machine, for a node that joins it: the double of an API server on 127.0.0.1, which signs whatever a
//! node may ask for.
//!
//! `cluster FILE NODE [MORE]`: writes to FILE, as a line, how to join (`127.0.0.1:PORT --token …`), and has a pod
//! `default/from-cluster`, which asks for some memory, wait for NODE. MORE is a file of JSON with fields of the nodes'
//! configuration (`settings`) and of the pod's spec (`spec`). Runs until it is ended.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::cluster::{Cluster, TOKEN, bound_pod};
use tokio::time::sleep;

/// Between two looks for requests to sign.
const PAUSE: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: cluster FILE NODE [MORE]";
    let (file, node) = arguments.next().zip(arguments.next()).context(usage)?;
    let more: Value = match arguments.next() {
        Some(more) => serde_json::from_slice(&fs::read(&more)?).context("read MORE")?,
        None => Value::Null,
    };
    let fields = |of: &str| more[of].as_object().into_iter().flatten();
    let cluster = Cluster::with_double().await?;
    // What kubeadm 1.36 writes for a cluster of systemd's nodes, as far as it differs from the defaults.
    let mut settings = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false }, "webhook": { "enabled": true },
            "x509": { "clientCAFile": "/etc/kubernetes/pki/ca.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "systemd", "rotateCertificates": true, "staticPodPath": "/etc/kubernetes/manifests",
        "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local", "healthzBindAddress": "127.0.0.1", "healthzPort": 10248,
    });
    for (name, value) in fields("settings") {
        settings[name] = value.clone();
    }
    cluster.invite(TOKEN, &settings).await?;
    let mut pod = bound_pod("from-cluster");
    pod["spec"]["nodeName"] = json!(node);
    pod["spec"]["containers"][0]["image"] = json!("busybox:1.36");
    pod["spec"]["containers"][0]["command"] = json!(["sleep", "1000000"]);
    pod["spec"]["containers"][0]["resources"] =
        json!({ "requests": { "memory": "32Mi" }, "limits": { "memory": "64Mi" } });
    for (name, value) in fields("spec") {
        pod["spec"][name] = value.clone();
    }
    cluster.add(&pod).await?;
    let (at, pin) = (cluster.line.address(), cluster.pin()?);
    let line = format!("{at} --token {TOKEN} --discovery-token-ca-cert-hash {pin}\n");
    // Whoever reads it reads all of it.
    let whole = format!("{file}.part");
    fs::write(&whole, line).and_then(|()| fs::rename(&whole, &file))?;
    loop {
        for request in cluster.undecided().await? {
            if let Err(error) = cluster.sign(&request).await {
                eprintln!("not signed: {error:#}");
            }
        }
        sleep(PAUSE).await;
    }
}
