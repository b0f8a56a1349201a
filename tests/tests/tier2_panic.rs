//! The whole agent on a fake runtime: the code that works on one pod panics.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::PodView as _;
use tests::in_process::{FakeNode, LIMIT, with_agent};
use tests::wait::{eventually, throughout};

/// Longer than a pod whose worker panicked is left alone.
const REST: Duration = Duration::from_secs(12);

fn pod(name: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 2, \
         containers: [{{name: main, image: 'busybox:1'}}]}}}}"
    )
}

async fn shows_panic(node: &FakeNode, name: &str) -> Result<Pod> {
    eventually("the panic shows on the pod", LIMIT, async || {
        let pod = node.pod(name)?;
        let status = pod.status.clone().unwrap_or_default();
        ensure!(
            status.reason.as_deref() == Some("WorkerPanic"),
            "{}",
            pod.describe()
        );
        let message = status.message.unwrap_or_default();
        ensure!(message.contains("wants this task to panic"), "{message}");
        Ok(pod)
    })
    .await
}

#[test]
fn a_panic_shows_on_its_pod_and_the_pod_is_taken_up_again() {
    for line in ["Created", "Started"] {
        with_agent(async |node| {
            node.put("b.yaml", &pod("b"))?;
            let other = node.ready("b").await?;
            // The relist that follows a new connection would show what the panic left behind.
            tokio::time::sleep(REST / 6).await;
            node.panic_at(&[&format!("reason=\"{line}\""), "pod=a-"]);
            node.put("a.yaml", &pod("a"))?;
            shows_panic(node, "a").await?;
            // Others live on, and new ones begin.
            node.put("c.yaml", &pod("c"))?;
            node.ready("c").await?;
            let made = node.runtime.containers().len();
            let after = node.ready("a").await?;
            let status = after.status.clone().unwrap_or_default();
            ensure!(status.reason.is_none(), "{}", after.describe());
            ensure!(
                node.runtime.containers().len() == made,
                "what was made before the panic is taken over"
            );
            ensure!(after.container("main")?.restart_count == 0);
            ensure!(node.ready("b").await?.instances() == other.instances());
            node.running("a/main", 1).await?;
            Ok(())
        });
    }
}

#[test]
fn a_panic_while_a_pod_ends_delays_its_end_and_its_successor() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a"))?;
        node.put("b.yaml", &pod("b"))?;
        let old = node.ready("a").await?;
        let other = node.ready("b").await?;
        node.panic_at(&["reason=\"Killing\"", "pod=a-"]);
        node.put("a.yaml", &pod("a").replace("busybox:1", "busybox:2"))?;
        node.gone(&old).await?;
        let new = node.ready("a").await?;
        ensure!(new.uid() != old.uid());
        ensure!(node.log().contains("worker panicked"));
        ensure!(node.ready("b").await?.instances() == other.instances());
        Ok(())
    });
}

#[test]
fn a_pod_is_left_alone_after_a_panic() {
    with_agent(async |node| {
        node.panic_at(&["reason=\"Started\"", "pod=a-"]);
        node.put("a.yaml", &pod("a"))?;
        shows_panic(node, "a").await?;
        let before = node.runtime.changes().len();
        throughout("nothing is changed", REST / 2, async || {
            ensure!(node.runtime.changes().len() == before);
            Ok(())
        })
        .await?;
        // Removed meanwhile, it ends all the same.
        let pod = node.pod("a")?;
        node.remove("a.yaml")?;
        node.gone(&pod).await
    });
}
