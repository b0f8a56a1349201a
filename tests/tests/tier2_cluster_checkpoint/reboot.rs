//! The machine is restarted.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::SignedDuration;
use serde_json::json;
use tests::cluster::{Cluster, bound_pod, is_ready, with_double};
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

use super::{
    A_WHILE, LIMIT, add_objects, directory, ensure_env, kept, logged, needy, replaced, running,
    shown_ready, undisturbed,
};

#[test]
fn after_a_reboot_pods_wait_for_the_server() {
    with_double(async |cluster, _, node| {
        node.start_agent()?;
        let a = cluster.add(&bound_pod("a")).await?;
        cluster.ready("a").await?;
        kept(node, &[&a], 0).await?;
        node.kill_agent()?;
        node.reboot("another").await?;
        cluster.line.refuse();
        node.start_agent()?;
        logged(
            node,
            &["PodNotRestored", "a_default", "restoreAPIPods is Never"],
        )
        .await?;
        throughout("nothing begins", A_WHILE, async || {
            ensure!(running(node).is_empty());
            Ok(())
        })
        .await?;
        // Nor with another restart of the agent, without the API server having been heard in this boot.
        node.kill_agent()?;
        node.start_agent()?;
        undisturbed(node).await?;
        ensure!(running(node).is_empty());
        cluster.line.open();
        cluster
            .pod_shows("it runs again", "a", LIMIT, is_ready)
            .await?;
        Ok(())
    });
}

/// A node that restores pods after a reboot, with one that may be restored, `a`, and others that may not.
async fn rebooted(cluster: &Cluster, node: &FakeNode, passed: SignedDuration) -> Result<Pod> {
    node.with_socket("restoreAPIPods: Stateless\nrestoreAPIPodsMaxAge: 30m\n")?;
    add_objects(cluster).await?;
    node.start_agent()?;
    let mut a = needy("a");
    // A label that the node's object has, and the agent's configuration does not say.
    a["spec"]["nodeSelector"] = json!({ "disk": "fast" });
    let label = json!({ "metadata": { "labels": { "disk": "fast" } } });
    cluster.node_condition("Ready", "True").await?;
    let own = format!("/api/v1/nodes/{}", tests::agent::NODE_NAME);
    cluster.client().merge(&own, &label).await?;
    let a = cluster.add(&a).await?;
    let mut port = bound_pod("port");
    port["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 8080 }]);
    let mut token = bound_pod("token");
    token["spec"]["automountServiceAccountToken"] = json!(true);
    let mut set = bound_pod("set");
    set["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "set", "uid": "of-the-set", "controller": true,
    }]);
    let mut all = vec![a.clone()];
    for pod in [port, token, set] {
        all.push(cluster.add(&pod).await?);
    }
    for name in ["a", "port", "token", "set"] {
        cluster.ready(name).await?;
    }
    kept(node, &all.iter().collect::<Vec<_>>(), 4).await?;
    let lease = directory(node).join("lease");
    eventually("the lease is noted", LIMIT, async || {
        ensure!(lease.exists());
        Ok(())
    })
    .await?;
    node.kill_agent()?;
    node.reboot("another").await?;
    node.step_clock(passed);
    cluster.line.refuse();
    node.start_agent()?;
    Ok(a)
}

#[test]
fn stateless_pods_are_restored_after_a_reboot_where_the_settings_say_so() {
    with_double(async |cluster, _, node| {
        rebooted(cluster, node, SignedDuration::from_mins(5)).await?;
        shown_ready(node, "a").await?;
        for (name, why) in [
            ("port_default", "host port"),
            ("token_default", "token"),
            ("set_default", "StatefulSet"),
        ] {
            logged(node, &["PodNotRestored", name, why]).await?;
        }
        undisturbed(node).await?;
        ensure!(running(node).len() == 1, "others were restored");
        ensure_env(&replaced(node, "a").await?)?;
        cluster.line.open();
        for name in ["a", "port", "token", "set"] {
            cluster.pod_shows("it runs", name, LIMIT, is_ready).await?;
        }
        Ok(())
    });
}

#[test]
fn past_the_age_of_the_last_lease_nothing_is_restored() {
    for passed in [
        SignedDuration::from_hours(1),
        SignedDuration::from_hours(-1),
    ] {
        with_double(async |cluster, _, node| {
            rebooted(cluster, node, passed).await?;
            logged(node, &["PodNotRestored", "a_default", "last lease"]).await?;
            undisturbed(node).await?;
            ensure!(running(node).is_empty(), "something was restored");
            Ok(())
        });
    }
}
