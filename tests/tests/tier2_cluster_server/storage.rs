//! What a node with storage drivers relies on.

use anyhow::ensure;
use serde_json::json;
use tests::cluster::path;

use super::{code, pod, pods, text, with_server};

#[test]
fn storage_objects_have_defaults_and_a_node_has_its_own() {
    with_server(async |cluster, admin| {
        let driver = json!({"metadata": {"name": "d.example"}, "spec": {"podInfoOnMount": true}});
        let drivers = path("csidrivers", "", "");
        let made = admin.create(&drivers, &driver).await?;
        let spec = &made["spec"];
        ensure!(
            spec["attachRequired"] == true && spec["podInfoOnMount"] == true,
            "{spec}"
        );
        ensure!(spec["fsGroupPolicy"] == "ReadWriteOnceWithFSType", "{spec}");
        ensure!(
            spec["volumeLifecycleModes"] == json!(["Persistent"]),
            "{spec}"
        );
        ensure!(
            spec["requiresRepublish"] == false && spec["seLinuxMount"] == false,
            "{spec}"
        );

        let node = cluster.client_as("system:node:n1", "system:nodes")?;
        ensure!(node.get(&drivers).await?["items"][0]["metadata"]["name"] == "d.example");
        let object = |name: &str| json!({"metadata": {"name": name}, "spec": {"drivers": []}});
        let all = path("csinodes", "", "");
        node.create(&all, &object("n1")).await?;
        ensure!(code(node.create(&all, &object("n2")).await)? == 403);
        let own = path("csinodes", "", "n1");
        let mut mine = node.get(&own).await?;
        mine["spec"]["drivers"] = json!([{"name": "d.example", "nodeID": "x", "topologyKeys": null,
            "allocatable": {"count": 3}}]);
        let told = node.replace(&own, &mine).await?;
        ensure!(told["spec"]["drivers"] == mine["spec"]["drivers"], "{told}");
        ensure!(code(node.get(&path("csinodes", "", "n2")).await)? == 403);

        let attachment = |node: &str| {
            json!({"metadata": {"name": format!("to-{node}")}, "spec": {
            "attacher": "d.example", "nodeName": node, "source": {"persistentVolumeName": "v"}}})
        };
        let all = path("volumeattachments", "", "");
        for name in ["n1", "n2"] {
            let made = admin.create(&all, &attachment(name)).await?;
            ensure!(made["status"]["attached"] == false, "{made}");
        }
        let one = path("volumeattachments", "", "to-n1");
        let done = json!({"status": {"attached": true, "attachmentMetadata": {"a": "b"}}});
        admin.merge(&format!("{one}/status"), &done).await?;
        // A real server's authorizer takes a moment to know of it.
        let seen =
            tests::wait::eventually("the node may see it", tests::cluster::LIMIT, async || {
                node.get(&one).await
            });
        let seen = seen.await?;
        ensure!(seen["status"]["attachmentMetadata"]["a"] == "b", "{seen}");
        ensure!(code(node.get(&path("volumeattachments", "", "to-n2")).await)? == 403);
        Ok::<_, anyhow::Error>(())
    });
}

#[test]
fn a_node_gets_the_claims_of_its_pods_and_their_volumes_and_watches_none() {
    with_server(async |cluster, client| {
        let node = cluster.client_as("system:node:n1", "system:nodes")?;
        let claims = |name: &str| path("persistentvolumeclaims", "default", name);
        let volumes = |name: &str| path("persistentvolumes", "", name);
        for name in ["own", "other"] {
            let claim = json!({
                "metadata": { "name": name },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "1Gi" } },
                    "storageClassName": "",
                    "volumeName": format!("pv-{name}"),
                },
            });
            client.create(&claims(""), &claim).await?;
            let volume = json!({
                "metadata": { "name": format!("pv-{name}") },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "capacity": { "storage": "1Gi" },
                    "claimRef": { "namespace": "default", "name": name },
                    "hostPath": { "path": "/data" },
                },
            });
            client.create(&volumes(""), &volume).await?;
        }
        let mut with_claim = pod("a", "n1");
        with_claim["spec"]["volumes"] =
            json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "own" } }]);
        client.create(&pods(""), &with_claim).await?;
        tests::wait::eventually(
            "the node may get them",
            std::time::Duration::from_secs(20),
            async || {
                let claim = node.get(&claims("own")).await?;
                ensure!(text(&claim, "/spec/volumeName") == "pv-own");
                let volume = node.get(&volumes("pv-own")).await?;
                ensure!(text(&volume, "/spec/hostPath/path") == "/data");
                Ok(())
            },
        )
        .await?;
        for refused in [
            claims("other"),
            volumes("pv-other"),
            claims(""),
            volumes(""),
        ] {
            ensure!(code(node.get(&refused).await)? == 403, "{refused}");
        }
        let bound = json!({ "status": { "phase": "Bound" } });
        let status = format!("{}/status", claims("own"));
        client.merge(&status, &bound).await?;
        let claim = node.get(&claims("own")).await?;
        ensure!(text(&claim, "/status/phase") == "Bound", "{claim}");
        Ok(())
    });
}
