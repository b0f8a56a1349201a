//! Images that nobody uses, on a real containerd: they go when the disk is short of room, and no others do.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::agent::{Agent, PodView as _};
use tests::images::{BUSYBOX, NAMED_USER, NUMERIC_USER, PAUSE};
use tests::scenario::with_node;
use tests::wait::{eventually, throughout};

/// Evictions look each ten seconds, at images that are old enough.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn unused_images_go_and_those_of_sandboxes_and_pods_stay() {
    with_node(async |node| {
        let agent = Agent::ours(node)?;
        // However much room there is, it is too little.
        agent.configure("evictionHard", json!({ "imagefs.available": "99.9%" }))?;
        agent.configure("imageMinimumGCAge", json!("1s"))?;
        let pod = |name: &str, fields: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 1\n{fields}"
            )
        };
        let container = |name: &str, image: &str| {
            format!("  - {{ name: {name}, image: \"{image}\", command: [sleep, \"100000\"] }}\n")
        };
        // The first container of the other never ends, so that nothing is made of the second one's image.
        let waits = format!(
            "  initContainers:\n{}  containers:\n{}",
            container("first", BUSYBOX),
            container("main", NAMED_USER)
        );
        node.put(
            "runs.yaml",
            &pod(
                "runs",
                &format!("  containers:\n{}", container("main", BUSYBOX)),
            ),
        )?;
        node.put("waits.yaml", &pod("waits", &waits))?;
        agent.start().await?;
        let runs = agent.ready("runs", LIMIT).await?;
        let held = || -> Result<Vec<bool>> {
            let names = node.ctr(&["images", "ls", "-q"])?;
            let there = |image: &str| names.lines().any(|name| name == image);
            Ok([NUMERIC_USER, BUSYBOX, NAMED_USER, PAUSE]
                .map(there)
                .to_vec())
        };
        eventually("the unused image goes", LIMIT, async || {
            let held = held()?;
            ensure!(!held[0], "{held:?}");
            Ok(())
        })
        .await?;
        let left = throughout("and no other", Duration::from_secs(15), async || {
            let held = held()?;
            ensure!(held == [false, true, true, true], "{held:?}");
            Ok(())
        });
        left.await?;
        ensure!(agent.ready("runs", LIMIT).await?.instances() == runs.instances());
        Ok(())
    });
}
