//! Real containers with CPUs for themselves: the kernel's cpusets, on this machine's own topology.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kubelet::managers::{CpuSet, Machine, SYSTEM};
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::scenario::with_nothing;
use tests::wait::{eventually, throughout};

const LIMIT: Duration = Duration::from_secs(60);

fn pod(name: &str, resources: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: "busybox:1.36", command: [sleep, "100000"], {resources}}}
"#
    )
}

fn guaranteed(name: &str, cpus: usize) -> String {
    let amounts = format!("{{cpu: '{cpus}', memory: 32Mi}}");
    pod(
        name,
        &format!("resources: {{requests: {amounts}, limits: {amounts}}}"),
    )
}

/// A file of the cgroup of the pod's only container.
fn file(node: &Node, controller: &str, level: &str, pod: &Pod, name: &str) -> Result<String> {
    let id = pod.container("main")?.container_id.clone();
    let id = id.context("no container id")?;
    let id = id.trim_start_matches("containerd://");
    let below = format!("{level}/pod{}/{id}", pod.uid());
    let path = node.cgroup(controller, &below)?.join(name);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

fn cpus(node: &Node, level: &str, pod: &Pod) -> Result<String> {
    file(node, "cpuset", level, pod, "cpuset.cpus")
}

async fn runs_on(node: &Node, level: &str, pod: &Pod, expected: &str) -> Result<()> {
    eventually(&format!("it runs on {expected}"), LIMIT, async || {
        let now = cpus(node, level, pod)?;
        ensure!(now == expected, "it runs on {now}");
        Ok(())
    })
    .await
}

async fn seen_again(agent: &Agent<'_>, pods: [&str; 2]) -> Result<()> {
    for name in pods {
        agent.ready(name, LIMIT).await?;
    }
    Ok(())
}

#[test]
fn the_kernel_has_each_container_on_its_cpus() {
    with_nothing(async |node, agent| {
        let machine = Machine::read(SYSTEM.as_ref())?;
        let all = machine.all_cpus();
        let reserved: CpuSet = all.first().into_iter().collect();
        let (others, rest) = (all.difference(&reserved).to_string(), reserved.to_string());
        if others.is_empty() || agent.is_foreign() {
            eprintln!("skipped: this machine has but one CPU, or the kubelet is another");
            return Ok(());
        }
        let all = all.to_string();
        agent.configure("cpuManagerPolicy", "static")?;
        agent.configure("reservedSystemCPUs", rest.clone())?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put("shares.yaml", &pod("shares", ""))?;
        let shares = agent.ready("shares", LIMIT).await?;
        runs_on(node, "kubepods/besteffort", &shares, &all).await?;

        node.put("own.yaml", &guaranteed("own", machine.cpus.len() - 1))?;
        let own = agent.ready("own", LIMIT).await?;
        runs_on(node, "kubepods", &own, &others).await?;
        runs_on(node, "kubepods/besteffort", &shares, &rest).await?;
        let quota = file(node, "cpu", "kubepods", &own, "cpu.cfs_quota_us")?;
        ensure!(quota == "-1", "it is held to a quota of {quota}");
        let level = node.cgroup("cpu", &format!("kubepods/pod{}", own.uid()))?;
        let quota = fs::read_to_string(level.join("cpu.cfs_quota_us"))?;
        ensure!(
            quota.trim() == "-1",
            "its pod is held to a quota of {quota}"
        );

        node.put("second.yaml", &guaranteed("second", 1))?;
        let refused = agent.phase("second", "Failed", LIMIT).await?;
        let reason = refused.status.and_then(|status| status.reason);
        ensure!(
            reason.as_deref() == Some("UnexpectedAdmissionError"),
            "{reason:?}"
        );

        let running = node.running()?;
        let unchanged = async || {
            throughout(
                "nothing changes for what runs",
                Duration::from_secs(3),
                async || {
                    ensure!(cpus(node, "kubepods", &own)? == others);
                    ensure!(cpus(node, "kubepods/besteffort", &shares)? == rest);
                    ensure!(node.running()? == running, "something was restarted");
                    Ok(())
                },
            )
            .await
        };
        agent.kill()?;
        agent.start().await?;
        seen_again(agent, ["own", "shares"]).await?;
        unchanged().await?;

        agent.kill()?;
        let state = node.path("kubelet").join("cpu_manager_state");
        let good = fs::read_to_string(&state)?;
        fs::write(&state, &good[..good.len() / 2])?;
        agent.start().await?;
        seen_again(agent, ["own", "shares"]).await?;
        unchanged().await?;
        eventually("the state is as it was", LIMIT, async || {
            let now = fs::read_to_string(&state)?;
            ensure!(now == good, "it is {now}, and was {good}");
            Ok(())
        })
        .await?;

        node.remove("second.yaml")?;
        node.remove("own.yaml")?;
        agent.gone(&own, LIMIT).await?;
        runs_on(node, "kubepods/besteffort", &shares, &all).await
    });
}
