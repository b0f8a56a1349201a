//! The whole agent on a fake runtime whose state lags far behind its events.

use std::time::Duration;

use anyhow::ensure;
use tests::agent::PodView as _;
use tests::in_process::with_agent;
use tests::wait::eventually;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_exit_that_shows_very_late_is_noticed_before_the_relist() {
    with_agent(async |node| {
        let pod = "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: main, image: 'busybox:1'}]}}";
        node.put("a.yaml", pod)?;
        node.ready("a").await?;
        // The relist that follows the connection is over.
        tokio::time::sleep(2 * SECOND).await;
        node.runtime.show_ends_late(15 * SECOND);
        node.runtime
            .kill_container(&node.running("a/main", 1).await?[0].id, 1);
        eventually("it was restarted", 40 * SECOND, async || {
            let pod = node.pod("a")?;
            let main = pod.container("main")?;
            ensure!(main.restart_count == 1 && main.ready, "{}", pod.describe());
            Ok(())
        })
        .await?;
        ensure!(node.log().contains("still shows it running"));
        Ok(())
    });
}
