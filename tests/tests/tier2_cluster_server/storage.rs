//! What a node with storage drivers relies on.

use anyhow::ensure;
use serde_json::json;
use tests::cluster::path;

use super::{code, with_server};

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
