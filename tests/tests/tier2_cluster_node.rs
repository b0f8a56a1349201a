//! The node as a member of a cluster: registration, status, lease. On the double, and on a real API server when
//! `KUBEBUILDER_ASSETS` is set.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::cluster::{Cluster, LIMIT, path, refusal, with_cluster};
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

const STATUS: &str = "/api/v1/nodes/*/status";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases*";

fn status(node: &Node) -> Result<&NodeStatus> {
    node.status.as_ref().context("no status")
}

fn own() -> String {
    path("nodes", "", NODE_NAME)
}

#[test]
fn a_node_registers_with_all_that_it_is() {
    with_cluster(async |cluster, node| {
        node.configure(
            "registerWithTaints",
            json!([{ "key": "example.org/new", "effect": "NoSchedule" }]),
        );
        node.configure("providerID", json!("example://n"));
        node.set_flag("--node-labels", "example.org/rack=7");
        node.start_agent()?;
        let object = cluster.node_condition("Ready", "True").await?;
        let labels = object.metadata.labels.clone().unwrap_or_default();
        for (key, value) in [
            ("kubernetes.io/hostname", NODE_NAME),
            ("kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/os", "linux"),
            ("example.org/rack", "7"),
        ] {
            ensure!(
                labels.get(key).map(String::as_str) == Some(value),
                "{key}: {labels:?}"
            );
        }
        ensure!(labels.contains_key("kubernetes.io/arch"), "{labels:?}");
        ensure!(labels.contains_key("beta.kubernetes.io/arch"), "{labels:?}");
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        let attach = "volumes.kubernetes.io/controller-managed-attach-detach";
        ensure!(
            annotations.get(attach).map(String::as_str) == Some("true"),
            "{annotations:?}"
        );
        let spec = object.spec.clone().unwrap_or_default();
        ensure!(spec.provider_id.as_deref() == Some("example://n"));
        let taints = spec.taints.unwrap_or_default();
        ensure!(
            taints.iter().any(|t| t.key == "example.org/new"),
            "{taints:?}"
        );

        let status = status(&object)?;
        let conditions = status.conditions.clone().unwrap_or_default();
        let shown: Vec<(&str, &str, &str)> = conditions
            .iter()
            .map(|c| {
                let reason = c.reason.as_deref().unwrap_or_default();
                (c.type_.as_str(), c.status.as_str(), reason)
            })
            .collect();
        let expected = [
            ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID"),
            ("Ready", "True", "KubeletReady"),
        ];
        ensure!(shown == expected, "{shown:?}");
        let message = conditions[3].message.as_deref();
        ensure!(
            message == Some("kubelet is posting ready status"),
            "{message:?}"
        );
        for amounts in [&status.capacity, &status.allocatable] {
            let amounts = amounts.clone().unwrap_or_default();
            for name in ["cpu", "memory", "ephemeral-storage", "pods"] {
                ensure!(amounts.contains_key(name), "{name}: {amounts:?}");
            }
        }
        let addresses = status.addresses.clone().unwrap_or_default();
        let kinds: Vec<&str> = addresses.iter().map(|a| a.type_.as_str()).collect();
        ensure!(kinds.first() == Some(&"InternalIP"), "{addresses:?}");
        ensure!(kinds.last() == Some(&"Hostname"), "{addresses:?}");
        let info = status.node_info.clone().context("no nodeInfo")?;
        ensure!(info.kubelet_version.starts_with("v1.36"), "{info:?}");
        ensure!(info.operating_system == "linux", "{info:?}");
        ensure!(info.container_runtime_version.contains("://"), "{info:?}");
        ensure!(!info.boot_id.is_empty() && !info.kernel_version.is_empty());
        Ok(())
    });
}

#[test]
fn a_node_that_is_there_is_taken_over_and_not_changed_beyond_need() {
    with_cluster(async |cluster, node| {
        let old = json!({
            "metadata": {
                "name": NODE_NAME,
                "labels": { "kubernetes.io/hostname": "elsewhere", "example.org/theirs": "1" },
                "annotations": { "example.org/note": "1" },
            },
            "spec": {
                "unschedulable": true,
                "taints": [{ "key": "example.org/theirs", "effect": "NoSchedule" }],
            },
        });
        let made = cluster
            .client()
            .create(&path("nodes", "", ""), &old)
            .await?;
        let stale = json!({ "status": {
            "capacity": { "example.org/gpu": "2" }, "allocatable": { "example.org/gpu": "2" },
        } });
        let place = format!("{}/status", own());
        cluster.client().merge(&place, &stale).await?;
        node.configure(
            "registerWithTaints",
            json!([{ "key": "example.org/new", "effect": "NoSchedule" }]),
        );
        node.start_agent()?;
        let object = cluster.node_condition("Ready", "True").await?;
        ensure!(object.metadata.uid.as_deref() == made["metadata"]["uid"].as_str());
        let labels = object.metadata.labels.clone().unwrap_or_default();
        ensure!(labels["kubernetes.io/hostname"] == NODE_NAME, "{labels:?}");
        ensure!(labels["example.org/theirs"] == "1", "{labels:?}");
        let spec = object.spec.clone().unwrap_or_default();
        ensure!(spec.unschedulable == Some(true));
        let taints = spec.taints.unwrap_or_default();
        ensure!(
            taints.iter().any(|t| t.key == "example.org/theirs"),
            "{taints:?}"
        );
        ensure!(
            taints.iter().all(|t| t.key != "example.org/new"),
            "{taints:?}"
        );
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        ensure!(
            annotations.contains_key("example.org/note"),
            "{annotations:?}"
        );
        let capacity = status(&object)?.capacity.clone().unwrap_or_default();
        ensure!(capacity["example.org/gpu"].0 == "0", "{capacity:?}");
        Ok(())
    });
}

/// A node whose periods are short enough for a test.
fn hasten(node: &FakeNode) {
    node.configure("nodeLeaseDurationSeconds", json!(8));
    node.configure("nodeStatusUpdateFrequency", json!("1s"));
    node.configure("nodeStatusReportFrequency", json!("5m"));
}

async fn renewed(cluster: &Cluster) -> Result<String> {
    let lease = cluster.client().lease(NODE_NAME).await?;
    let spec = lease.spec.context("no spec")?;
    ensure!(spec.holder_identity.as_deref() == Some(NODE_NAME));
    ensure!(spec.lease_duration_seconds == Some(8));
    let owners = lease.metadata.owner_references.unwrap_or_default();
    ensure!(owners.len() == 1 && owners[0].kind == "Node", "{owners:?}");
    let time = spec.renew_time.context("no renewTime")?;
    Ok(time.0.to_string())
}

#[test]
fn the_lease_is_renewed_and_an_unchanged_status_is_not_sent() {
    with_cluster(async |cluster, node| {
        hasten(node);
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        let first = eventually("a lease", LIMIT, async || renewed(cluster).await).await?;
        eventually("the lease is renewed", LIMIT, async || {
            let now = renewed(cluster).await?;
            ensure!(now != first);
            Ok(())
        })
        .await?;
        let from = Timestamp::now();
        let span = Duration::from_secs(10);
        throughout("the node is Ready", span, async || {
            cluster.node().await.map(drop)
        })
        .await?;
        // A quarter of the duration is two seconds.
        let renewals = cluster.asked(from, "*", LEASE)?.len();
        ensure!(
            (3..=7).contains(&renewals),
            "{renewals} renewals in {span:?}"
        );
        let reports = cluster.asked(from, "patch", STATUS)?;
        ensure!(reports.len() <= 1, "{reports:#?}");
        let all = cluster.asked(from, "*", "*")?;
        ensure!(all.len() <= renewals + 6, "{all:#?}");
        Ok(())
    });
}

#[test]
fn a_change_of_the_node_is_told_at_once() {
    with_cluster(async |cluster, node| {
        hasten(node);
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        node.runtime.set_ready(true, false);
        let object = cluster.node_condition("Ready", "False").await?;
        let conditions = status(&object)?.conditions.clone().unwrap_or_default();
        let ready = conditions.iter().find(|c| c.type_ == "Ready");
        let ready = ready.context("no Ready")?;
        ensure!(
            ready.reason.as_deref() == Some("KubeletNotReady"),
            "{ready:?}"
        );
        let message = ready.message.clone().unwrap_or_default();
        ensure!(
            message.contains("container runtime network not ready"),
            "{message}"
        );
        node.runtime.set_ready(true, true);
        cluster.node_condition("Ready", "True").await?;
        Ok(())
    });
}

#[test]
fn pressure_is_what_the_signals_say() {
    with_cluster(async |cluster, node| {
        hasten(node);
        // No disk has so much to spare.
        let thresholds = json!({ "memory.available": "1Mi", "nodefs.available": "99.99%" });
        node.configure("evictionHard", thresholds);
        node.start_agent()?;
        let object = cluster.node_condition("DiskPressure", "True").await?;
        let conditions = status(&object)?.conditions.clone().unwrap_or_default();
        let shown: Vec<&str> = conditions
            .iter()
            .filter_map(|c| c.reason.as_deref())
            .collect();
        ensure!(
            shown[..2] == ["KubeletHasSufficientMemory", "KubeletHasDiskPressure"],
            "{shown:?}"
        );
        Ok(())
    });
}

#[test]
fn what_others_write_into_the_node_stays() {
    with_cluster(async |cluster, node| {
        hasten(node);
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        let theirs = json!({
            "metadata": { "labels": { "example.org/theirs": "1" } },
            "spec": {
                "unschedulable": true,
                "taints": [{ "key": "example.org/theirs", "effect": "NoSchedule" }],
            },
        });
        cluster.client().merge(&own(), &theirs).await?;
        let condition = json!({ "status": { "conditions": [
            { "type": "example.org/Theirs", "status": "True", "reason": "Theirs", "message": "" },
        ] } });
        let place = format!("{}/status", own());
        cluster.client().strategic(&place, &condition).await?;
        node.runtime.set_ready(true, false);
        cluster.node_condition("Ready", "False").await?;
        node.runtime.set_ready(true, true);
        let object = cluster.node_condition("Ready", "True").await?;
        let labels = object.metadata.labels.clone().unwrap_or_default();
        ensure!(labels.contains_key("example.org/theirs"), "{labels:?}");
        let spec = object.spec.clone().unwrap_or_default();
        ensure!(spec.unschedulable == Some(true));
        let taints = spec.taints.unwrap_or_default();
        ensure!(
            taints.iter().any(|t| t.key == "example.org/theirs"),
            "{taints:?}"
        );
        let conditions = status(&object)?.conditions.clone().unwrap_or_default();
        ensure!(
            conditions.iter().any(|c| c.type_ == "example.org/Theirs"),
            "{conditions:?}"
        );
        Ok(())
    });
}

#[test]
fn a_node_that_is_deleted_is_not_made_again_before_a_restart() {
    with_cluster(async |cluster, node| {
        hasten(node);
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        cluster.client().delete(&own(), None).await?;
        let span = Duration::from_secs(4);
        throughout("there is no node", span, async || {
            match cluster.node().await {
                Err(error) if refusal(&error) == Some(404) => Ok(()),
                other => Err(anyhow::anyhow!("{other:?}")),
            }
        })
        .await?;
        node.kill_agent()?;
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        Ok(())
    });
}

#[test]
fn a_node_that_may_not_register_itself_takes_what_is_there() {
    with_cluster(async |cluster, node| {
        node.configure("registerNode", json!(false));
        hasten(node);
        node.start_agent()?;
        throughout("there is no node", Duration::from_secs(2), async || {
            ensure!(cluster.node().await.is_err());
            Ok(())
        })
        .await?;
        let object: Value = json!({ "metadata": { "name": NODE_NAME } });
        cluster
            .client()
            .create(&path("nodes", "", ""), &object)
            .await?;
        cluster.node_condition("Ready", "True").await?;
        Ok(())
    });
}
