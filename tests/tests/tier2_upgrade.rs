//! The whole agent on a fake runtime: a newer version was there, and the older one is back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use static_pods::fnv::Fnv64;
use tests::agent::PodView as _;
use tests::fake_runtime::Program;
use tests::in_process::{FakeNode, LIMIT, subject, with_agent};
use tests::wait::{eventually, throughout};

const MANIFEST: &str = "# YAML
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {terminationGracePeriodSeconds: 3, containers: [
  {name: main, image: 'busybox:1', lifecycle: {postStart: {exec: {command: [hook]}}}},
  {name: crash, image: 'busybox:1'}]}}";

/// Writes the record as a newer version would that keeps more of a pod.
fn write_as_newer(node: &FakeNode, pod: &Pod) -> Result<()> {
    let file = node.pod_dir(pod).join("record.json");
    let mut whole: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let record = whole["record"].as_object_mut().context("no record")?;
    let more = json!({"a": [1, 2, 3]});
    for (name, value) in record.iter_mut() {
        if let Some(part) = value.as_object_mut().filter(|_| name != "backoffs") {
            let like = part.values().next().cloned().unwrap_or(more.clone());
            part.insert("InventedLater".into(), like);
        }
    }
    record.insert("inventedLater".into(), more);
    let body = serde_json::to_string(record)?;
    let checksum = Fnv64::of(body.as_bytes());
    let text = format!("{{\"version\":1,\"checksum\":\"{checksum:016x}\",\"record\":{body}}}\n");
    std::fs::write(file, text).context("write the record")
}

fn conditions(pod: &Pod) -> Vec<(String, String, String)> {
    let conditions = pod.status.iter().filter_map(|s| s.conditions.as_ref());
    let of = |c: &k8s_openapi::api::core::v1::PodCondition| {
        let since = c.last_transition_time.as_ref();
        let since = since.map(|t| t.0.to_string()).unwrap_or_default();
        (c.type_.clone(), c.status.clone(), since)
    };
    conditions.flatten().map(of).collect()
}

#[test]
fn what_a_newer_version_has_written_loses_no_restart_no_hook_and_no_status() {
    with_agent(async |node| {
        let crash = Program::exits(1, Duration::from_millis(100));
        node.runtime.program(&subject("a/crash"), crash);
        node.put("a.yaml", MANIFEST)?;
        // The first restart was immediate, the second one waits.
        let restarted = async || {
            let what = "the crash loop waits after one restart";
            eventually(what, LIMIT, async || {
                let pod = node.waiting("a", "crash", "CrashLoopBackOff").await?;
                ensure!(
                    pod.container("crash")?.restart_count == 1 && pod.container("main")?.ready,
                    "{}",
                    pod.describe()
                );
                Ok(pod)
            })
            .await
        };
        let before = restarted().await?;
        ensure!(node.runtime.calls_of("ExecSync").len() == 1);
        // What was told last is written within a second.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        node.kill_agent()?;
        write_as_newer(node, &before)?;
        node.runtime.forget_calls();
        node.start_agent()?;
        let after = restarted().await?;
        let start = |pod: &Pod| pod.status.as_ref().and_then(|s| s.start_time.clone());
        ensure!(start(&after) == start(&before));
        ensure!(after.instances() == before.instances());
        ensure!(
            conditions(&after) == conditions(&before),
            "{:?} {:?}",
            conditions(&before),
            conditions(&after)
        );
        throughout("nothing is done", Duration::from_secs(1), async || {
            let changes = node.runtime.changes();
            let hooks = node.runtime.calls_of("ExecSync");
            ensure!(changes.is_empty() && hooks.is_empty(), "{changes:?}");
            Ok(())
        })
        .await?;
        ensure!(!node.log().contains("the record of a pod is bad"));
        Ok(())
    });
}
