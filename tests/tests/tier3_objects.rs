//! Real containers, and the ConfigMap and the Secret that stand beside their pod in its manifest.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::scenario::with_node;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);
const EXAMPLE: &str = include_str!("../../examples/configured.yaml");

/// Puts a file in place that root alone may read.
fn put_private(node: &Node, file: &str, manifest: &str) -> Result<()> {
    let draft = node.path(".private");
    fs::write(&draft, manifest)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(draft, node.manifests().join(file))?)
}

#[test]
fn a_static_pod_is_configured_by_the_objects_in_its_manifest() {
    with_node(async |node| {
        // No other kubelet has this.
        let agent = Agent::ours(node)?;
        agent.start().await?;
        put_private(node, "configured.yaml", EXAMPLE)?;
        let pod = agent.ready("configured", LIMIT).await?;
        // Both have the password from the Secret, and whoever has none is turned away.
        let first = "127.0.0.1 says: hello from the first version";
        agent.logged(&pod, "visitor", first, LIMIT).await?;
        let answer = node.http_get(&format!("{}:80", pod.ip()), "/")?;
        ensure!(answer.status == 401, "{}", answer.status);
        // The page changes below the server, which goes on.
        let edited = EXAMPLE.replace("the first version", "the edited object");
        put_private(node, "configured.yaml", &edited)?;
        let second = "127.0.0.1 says: hello from the edited object";
        agent.logged(&pod, "visitor", second, LIMIT).await?;
        ensure!(agent.ready("configured", LIMIT).await?.instances() == pod.instances());

        // A pod that asks for it is replaced instead.
        let follows = edited.replace(
            "  name: configured\n",
            "  name: configured\n  annotations: {agent.kubelet/replace-on-object-change: 'true'}\n",
        );
        put_private(node, "configured.yaml", &follows)?;
        agent.gone(&pod, LIMIT).await?;
        let before = agent.ready("configured", LIMIT).await?;
        put_private(
            node,
            "configured.yaml",
            &follows.replace("open-sesame", "sesame-open"),
        )?;
        agent.gone(&before, LIMIT).await?;
        let after = agent.ready("configured", LIMIT).await?;
        ensure!(after.uid() != before.uid());
        agent.logged(&after, "visitor", second, LIMIT).await?;
        ensure!(!agent.log()?.contains("sesame"), "a secret is in the log");
        node.remove("configured.yaml")?;
        agent.gone(&after, LIMIT).await?;
        eventually("nothing of it is mounted", LIMIT, async || {
            let table = node.run("cat", &["/proc/self/mountinfo"])?;
            ensure!(!table.contains(after.uid()), "{table}");
            Ok(())
        })
        .await
    });
}
