//! The whole agent on a fake runtime: what has ended, or shows that it has, keeps nobody waiting.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tests::agent::{NODE_NAME, PodView as _};
use tests::fake_runtime::{Code, Fault};
use tests::in_process::{FakeNode, LIMIT, with_agent, with_node};
use tests::wait::eventually;

const SECOND: Duration = Duration::from_secs(1);

fn pod(version: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{terminationGracePeriodSeconds: 2, \
         containers: [{{name: main, image: 'busybox:1', env: [{{name: VERSION, value: '{version}'}}]}}]}}}}"
    )
}

/// Kills the container, and waits until it runs again.
async fn crash(node: &FakeNode, restarts: i32) -> Result<Pod> {
    node.runtime
        .kill_container(&node.running("a/main", 1).await?[0].id, 1);
    let what = format!("restarted for the {restarts}. time");
    eventually(&what, LIMIT, async || {
        let pod = node.pod("a")?;
        ensure!(
            pod.container("main")?.restart_count == restarts && pod.container("main")?.ready,
            "{}",
            pod.describe()
        );
        Ok(pod)
    })
    .await
}

/// An agent that waits a second at most before it restarts a container.
fn start_hasty_agent(node: &FakeNode) -> Result<()> {
    let hasty = json!({ "maxContainerRestartPeriod": "1s" });
    node.configure("crashLoopBackOff", hasty);
    node.start_agent()
}

#[test]
fn a_removal_that_hangs_delays_no_restart() {
    with_node(async |node| {
        start_hasty_agent(node)?;
        node.runtime.fault(Fault::on("RemoveContainer").hangs());
        node.put("a.yaml", &pod("1"))?;
        node.ready("a").await?;
        for restarts in 1..=4 {
            crash(node, restarts).await?;
        }
        ensure!(!node.runtime.calls_of("RemoveContainer").is_empty());
        Ok(())
    });
}

#[test]
fn a_removal_that_failed_is_tried_again_by_itself() {
    with_node(async |node| {
        start_hasty_agent(node)?;
        let fault = Fault::on("RemoveContainer").times(3);
        node.runtime.fault(fault.fails(Code::Internal, "not now"));
        node.put("a.yaml", &pod("1"))?;
        node.ready("a").await?;
        crash(node, 1).await?;
        crash(node, 2).await?;
        eventually("the oldest instance is removed", LIMIT, async || {
            let instances = node.runtime.containers().len();
            ensure!(instances == 2, "{instances} instances");
            Ok(())
        })
        .await?;
        ensure!(node.runtime.calls_of("RemoveContainer").len() >= 4);
        Ok(())
    });
}

fn logs_of(node: &FakeNode, pod: &Pod) -> PathBuf {
    let directory = format!("default_a-{NODE_NAME}_{}", pod.uid());
    node.path("pod-logs").join(directory).join("main")
}

#[test]
fn the_log_of_a_container_stays_when_an_older_instance_is_removed() {
    with_node(async |node| {
        start_hasty_agent(node)?;
        node.put("a.yaml", &pod("1"))?;
        let logs = logs_of(node, &node.ready("a").await?);
        // Beyond twice the longest back-off it is restarted at once, in the very plan that removes the oldest.
        for restarts in 1..=3 {
            tokio::time::sleep(5 * SECOND / 2).await;
            fs::write(logs.join(format!("{restarts}.log")), "")?;
            crash(node, restarts).await?;
            eventually("the oldest instance is removed", LIMIT, async || {
                ensure!(node.runtime.containers().len() == 2);
                Ok(())
            })
            .await?;
            ensure!(
                logs.join(format!("{restarts}.log")).exists(),
                "{restarts}.log went with an older instance"
            );
        }
        eventually("old logs are removed", LIMIT, async || {
            ensure!(!logs.join("1.log").exists(), "1.log is there");
            Ok(())
        })
        .await
    });
}

#[test]
fn a_stop_that_is_done_and_never_answered_keeps_no_successor_waiting() {
    for method in ["StopContainer", "StopPodSandbox"] {
        with_agent(async |node| {
            node.put("a.yaml", &pod("1"))?;
            let old = node.ready("a").await?;
            node.runtime.fault(Fault::on(method).hangs_afterwards());
            node.put("a.yaml", &pod("2"))?;
            node.gone(&old).await?;
            node.ready("a").await?;
            Ok(())
        });
    }
}

#[test]
fn a_pod_that_waits_for_its_predecessor_says_so() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("1"))?;
        let old = node.ready("a").await?;
        node.runtime.fault(Fault::on("StopPodSandbox").hangs());
        node.put("a.yaml", &pod("2"))?;
        eventually("the reason shows", LIMIT, async || {
            let waiting = node.pod("a")?;
            ensure!(waiting.uid() != old.uid() && waiting.phase() == "Pending");
            let message = waiting.status.and_then(|s| s.message).unwrap_or_default();
            ensure!(message.contains("had this name before"), "{message:?}");
            Ok(())
        })
        .await?;
        eventually("the log names the call", LIMIT, async || {
            ensure!(node.log().contains("StopPodSandbox"));
            Ok(())
        })
        .await?;
        ensure!(node.running_now("a/main").is_empty());
        node.runtime.clear_faults();
        Ok(())
    });
}

#[test]
fn a_pod_comes_back_while_its_remains_cannot_be_removed() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("1"))?;
        let before = node.ready("a").await?;
        for method in ["RemoveContainer", "RemovePodSandbox"] {
            node.runtime.fault(Fault::on(method).hangs());
        }
        node.remove("a.yaml")?;
        node.gone(&before).await?;
        // Its traces stay for a minute.
        eventually("its traces are being removed", 5 * LIMIT, async || {
            ensure!(!node.runtime.calls_of("RemoveContainer").is_empty());
            Ok(())
        })
        .await?;
        node.put("a.yaml", &pod("1"))?;
        let again = node.ready("a").await?;
        ensure!(again.uid() == before.uid());
        ensure!(again.container("main")?.restart_count == 1);
        crash(node, 2).await?;
        Ok(())
    });
}
