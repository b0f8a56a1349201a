//! Mirror pods, strictly beside the lives of the static pods that they mirror. On the double, and on a real API server when
//! `KUBEBUILDER_ASSETS` is set.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tests::agent::{NODE_NAME, PodView as _};
use tests::cluster::{Cluster, LIMIT, path, with_cluster};
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";

fn manifest(version: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: s}}, spec: {{terminationGracePeriodSeconds: 1, containers: \
         [{{name: main, image: 'busybox:1', env: [{{name: VERSION, value: '{version}'}}]}}]}}}}"
    )
}

fn full() -> String {
    format!("s-{NODE_NAME}")
}

fn annotation<'p>(pod: &'p Pod, name: &str) -> &'p str {
    let all = pod.metadata.annotations.as_ref();
    all.and_then(|a| a.get(name)).map_or("", String::as_str)
}

/// The mirror of the manifest that is there now, with a status.
async fn mirrored(cluster: &Cluster, node: &FakeNode) -> Result<Pod> {
    node.ready("s").await?;
    eventually("a mirror that shows the pod", LIMIT, async || {
        let own = node.pod("s")?;
        let mirror = cluster.pod(&full()).await?;
        ensure!(annotation(&mirror, MIRROR) == annotation(&own, HASH));
        ensure!(tests::cluster::is_ready(&mirror), "{}", mirror.describe());
        Ok(mirror)
    })
    .await
}

#[test]
fn a_static_pod_has_a_mirror_that_its_node_owns() {
    with_cluster(async |cluster, node| {
        node.put("s.yaml", &manifest("1"))?;
        node.start_agent()?;
        let mirror = mirrored(cluster, node).await?;
        ensure!(annotation(&mirror, "kubernetes.io/config.source") == "file");
        let object = cluster.node().await?;
        let owners = mirror.metadata.owner_references.clone().unwrap_or_default();
        ensure!(owners.len() == 1, "{owners:?}");
        let owner = &owners[0];
        ensure!(owner.kind == "Node" && owner.name == NODE_NAME, "{owner:?}");
        ensure!(
            Some(&owner.uid) == object.metadata.uid.as_ref(),
            "{owner:?}"
        );
        ensure!(owner.controller == Some(true), "{owner:?}");
        let own = node.pod("s")?;
        ensure!(own.uid() != mirror.uid());
        let id = mirror.container("main")?.container_id.clone();
        ensure!(id == own.container("main")?.container_id);
        Ok(())
    });
}

#[test]
fn a_mirror_that_is_deleted_is_made_again_and_the_pod_runs_on() {
    with_cluster(async |cluster, node| {
        node.put("s.yaml", &manifest("1"))?;
        node.start_agent()?;
        let first = mirrored(cluster, node).await?;
        let before = node.pod("s")?.instances();
        let again = async |old: &Pod| {
            eventually("another mirror", LIMIT, async || {
                let mirror = cluster.pod(&full()).await?;
                ensure!(mirror.uid() != old.uid());
                ensure!(mirror.metadata.deletion_timestamp.is_none());
                Ok(mirror)
            })
            .await
        };
        cluster.delete_pod(&full(), Some(0)).await?;
        let second = again(&first).await?;
        // As kubectl deletes it.
        cluster.delete_pod(&full(), None).await?;
        again(&second).await?;
        mirrored(cluster, node).await?;
        ensure!(node.pod("s")?.instances() == before);
        Ok(())
    });
}

#[test]
fn a_mirror_goes_and_changes_with_its_manifest() {
    with_cluster(async |cluster, node| {
        node.put("s.yaml", &manifest("1"))?;
        node.start_agent()?;
        let first = mirrored(cluster, node).await?;
        node.put("s.yaml", &manifest("2"))?;
        let second = eventually("the mirror of the new one", LIMIT, async || {
            let mirror = mirrored(cluster, node).await?;
            ensure!(annotation(&mirror, MIRROR) != annotation(&first, MIRROR));
            Ok(mirror)
        })
        .await?;
        ensure!(second.uid() != first.uid());
        let own = node.pod("s")?;
        node.remove("s.yaml")?;
        node.gone(&own).await?;
        eventually("no mirror", LIMIT, async || {
            ensure!(cluster.pod(&full()).await.is_err());
            Ok(())
        })
        .await
    });
}

#[test]
fn a_mirror_whose_manifest_went_meanwhile_is_taken_away() {
    with_cluster(async |cluster, node| {
        node.put("s.yaml", &manifest("1"))?;
        node.start_agent()?;
        mirrored(cluster, node).await?;
        let own = node.pod("s")?;
        node.kill_agent()?;
        node.remove("s.yaml")?;
        node.start_agent()?;
        node.gone(&own).await?;
        eventually("no mirror", LIMIT, async || {
            ensure!(cluster.pod(&full()).await.is_err());
            Ok(())
        })
        .await
    });
}

#[test]
fn a_mirror_that_is_refused_is_an_event_and_nothing_else() {
    with_cluster(async |cluster, node| {
        let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "0" } } });
        cluster.add_object("resourcequotas", &quota).await?;
        let status = json!({ "status": { "hard": { "pods": "0" }, "used": { "pods": "0" } } });
        let place = path("resourcequotas", "default", "q/status");
        cluster.client().merge(&place, &status).await?;
        eventually("the quota counts", LIMIT, async || {
            let probe = json!({
                "metadata": { "generateName": "probe-" },
                "spec": { "automountServiceAccountToken": false,
                    "containers": [{ "name": "main", "image": "x:1" }] },
            });
            ensure!(cluster.add(&probe).await.is_err());
            Ok(())
        })
        .await?;
        node.put("s.yaml", &manifest("1"))?;
        node.start_agent()?;
        let pod = node.ready("s").await?;
        let before = pod.instances();
        let refused = eventually("an event says so", LIMIT, async || {
            let events = cluster.client().events("default").await?;
            let own = events.into_iter().find(|event| {
                let message = event.message.as_deref().unwrap_or_default();
                message.contains("exceeded quota")
            });
            own.context("none")
        })
        .await?;
        ensure!(refused.type_.as_deref() == Some("Warning"), "{refused:?}");
        ensure!(refused.involved_object.name == Some(full()));
        let from = Timestamp::now();
        let span = Duration::from_secs(4);
        throughout("the pod runs on", span, async || {
            ensure!(node.pod("s")?.instances() == before);
            Ok(())
        })
        .await?;
        let tries = cluster.asked(from, "create", "/api/v1/namespaces/default/pods")?;
        ensure!(tries.len() <= 4, "{} tries in {span:?}", tries.len());
        let free = path("resourcequotas", "default", "q");
        cluster.client().delete(&free, None).await?;
        eventually("a mirror", Duration::from_secs(60), async || {
            cluster.pod(&full()).await.map(drop)
        })
        .await?;
        ensure!(node.pod("s")?.instances() == before);
        Ok(())
    });
}
