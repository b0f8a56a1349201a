//! Real containers: a pod with users of its own on a runtime that has none (containerd 1.6).

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::agent::PodView as _;
use tests::scenario::with_agent;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

fn pod(name: &str, users: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{users} terminationGracePeriodSeconds: 1, \
         containers: [{{name: main, image: 'busybox:1.36', command: [sleep, '100000']}}]}}}}"
    )
}

#[test]
fn a_pod_that_the_runtime_cannot_isolate_does_not_run() {
    with_agent(async |node, agent| {
        let version = node.run("containerd", &["--version"])?;
        if version.contains(" 2.") || version.contains("v2.") {
            eprintln!("skipped: this runtime makes user namespaces: {version}");
            return Ok(());
        }
        node.put("own.yaml", &pod("own", "hostUsers: false,"))?;
        node.put("plain.yaml", &pod("plain", "hostUsers: true,"))?;
        agent.ready("plain", LIMIT).await?;
        let why = "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user namespaces";
        eventually("it is said why", LIMIT, async || -> Result<()> {
            let events = agent.events_of("own")?;
            let told = events.iter().any(|event| event.message == why);
            ensure!(told, "{events:?}");
            Ok(())
        })
        .await?;
        let own = agent.pod("own")?;
        ensure!(own.phase() == "Pending", "{}", own.describe());
        ensure!(node.running_of(own.uid())?.is_empty(), "it runs");
        let metrics = node.http_get("127.0.0.1:10255", "/metrics")?.body;
        for family in [
            "kubelet_started_user_namespaced_pods_total",
            "kubelet_started_user_namespaced_pods_errors_total",
        ] {
            let counted = metrics.lines().find_map(|line| line.strip_prefix(family));
            let counted: f64 = counted.unwrap_or_default().trim().parse()?;
            ensure!(counted >= 1.0, "{family}: {counted}");
        }
        Ok(())
    });
}
