//! The whole agent on a fake runtime: which cgroup driver, and who says so.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::CgroupDriver;
use serde_json::json;
use tests::fake_runtime::{Code, Fault};
use tests::in_process::{FakeNode, LIMIT, with_node};
use tests::wait::{eventually, throughout};

const POD: &str = "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: web}, \
    spec: {containers: [{name: main, image: 'busybox:1'}]}}";

fn not_there_yet() -> Fault {
    Fault::on("RuntimeConfig").fails(Code::Unavailable, "server is not initialized yet")
}

async fn logged(node: &FakeNode, text: &str) -> Result<()> {
    eventually(&format!("{text:?} is logged"), LIMIT, async || {
        ensure!(node.log().contains(text), "not yet");
        Ok(())
    })
    .await
}

/// Waits for the end of the agent, and returns its reason.
async fn refusal(node: &FakeNode) -> Result<String> {
    eventually("the agent ends", LIMIT, async || {
        ensure!(node.agent_ended(), "it runs");
        Ok(())
    })
    .await?;
    let error = node
        .kill_agent()
        .err()
        .context("it ended without a reason")?;
    Ok(format!("{error:#}"))
}

#[test]
fn the_runtime_says_and_the_log_tells() {
    with_node(async |node| {
        node.configure("cgroupDriver", json!("systemd"));
        node.runtime.set_cgroup_driver(Some(CgroupDriver::Cgroupfs));
        node.start_agent()?;
        node.put("web.yaml", POD)?;
        node.ready("web").await?;
        logged(node, "cgroupDriver (systemd) does not count").await
    });
}

#[test]
fn an_old_runtime_leaves_it_to_the_configuration() {
    with_node(async |node| {
        node.start_agent()?;
        node.put("web.yaml", POD)?;
        node.ready("web").await?;
        logged(
            node,
            "Falling back to using cgroupDriver from kubelet config.",
        )
        .await
    });
}

#[test]
fn pods_wait_for_the_runtimes_word_and_the_agent_does_not() {
    with_node(async |node| {
        node.runtime.set_cgroup_driver(Some(CgroupDriver::Cgroupfs));
        node.runtime.fault(not_there_yet());
        node.start_agent()?;
        node.put("web.yaml", POD)?;
        logged(node, "kubelet has started").await?;
        throughout("no pod begins", Duration::from_secs(2), async || {
            let calls = node.runtime.calls_of("RunPodSandbox").len();
            ensure!(calls == 0, "{calls} sandboxes");
            Ok(())
        })
        .await?;
        node.runtime.clear_faults();
        node.ready("web").await.map(drop)
    });
}

#[test]
fn a_driver_that_does_not_fit_ends_the_agent_at_once_or_as_soon_as_it_is_known() {
    if Path::new("/run/systemd/system").is_dir() {
        eprintln!("skipped: systemd runs this machine, and its driver fits");
        return;
    }
    for late in [false, true] {
        with_node(async |node| {
            node.configure("cgroupRoot", json!("/pods"));
            node.runtime.set_cgroup_driver(Some(CgroupDriver::Systemd));
            if late {
                node.runtime.fault(not_there_yet());
            }
            node.start_agent()?;
            if late {
                logged(node, "kubelet has started").await?;
                node.runtime.clear_faults();
            }
            let reason = refusal(node).await?;
            ensure!(
                reason.contains(
                    "the cgroup driver is systemd, but systemd does not run this machine"
                ) && reason.contains("set cgroupDriver to cgroupfs, and the runtime to the same"),
                "{reason}"
            );
            Ok(())
        });
    }
}
