//! What is asked inside a machine: containers as the kernel and containerd have them, pods as the agent tells them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;

use super::Machine;
use crate::agent::PodView as _;

/// The directory of manifests that the package configures.
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// How long a pod may take, image and sandbox included, while other pods start too.
pub const POD: Duration = Duration::from_secs(180);

/// One line for each container and sandbox that runs: its id, its process, and when the kernel started that. Nothing in
/// it changes while nothing is restarted, whoever asks.
///
/// # Errors
/// When containerd does not answer.
pub fn instances(machine: &mut Machine) -> Result<Vec<String>> {
    let tasks = machine.ok(
        "ctr -n k8s.io tasks ls | awk '$3 == \"RUNNING\" {print $1, $2}' | sort | \
         while read id pid; do echo \"$id $pid $(cut -d' ' -f22 /proc/$pid/stat)\"; done",
    )?;
    Ok(tasks.lines().map(str::to_owned).collect())
}

/// The pods that the agent tells, by `namespace/name`.
///
/// # Errors
/// When it does not answer.
pub fn pods(machine: &mut Machine) -> Result<BTreeMap<String, Pod>> {
    let list = machine
        .ok("curl -sS --fail --unix-socket /var/lib/kubelet/agent.sock http://localhost/pods")?;
    let list: List<Pod> = serde_json::from_str(&list).context("the agent's list of pods")?;
    let name = |pod: &Pod| {
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}", part(namespace), part(name))
    };
    Ok(list
        .items
        .into_iter()
        .map(|pod| (name(&pod), pod))
        .collect())
}

/// Waits until exactly these pods run, each with all of its containers ready, and answers them.
///
/// # Errors
/// When they do not within [`POD`].
pub fn all_ready(machine: &mut Machine, names: &[&str]) -> Result<BTreeMap<String, Pod>> {
    machine.eventually("the pods are ready", POD, |machine| {
        let pods = pods(machine)?;
        let have: Vec<_> = pods.keys().map(String::as_str).collect();
        let mut want = names.to_vec();
        want.sort_unstable();
        ensure!(have == want, "pods: {have:?}, wanted: {want:?}");
        for pod in pods.values() {
            let ready = !pod.statuses().is_empty() && pod.statuses().iter().all(|s| s.ready);
            ensure!(pod.phase() == "Running" && ready, "{}", pod.describe());
        }
        Ok(pods)
    })
}

/// The restart count of a pod's container.
///
/// # Errors
/// When the agent does not answer, or tells of no such container.
pub fn restarts(machine: &mut Machine, pod: &str, container: &str) -> Result<i32> {
    let pods = pods(machine)?;
    let pod = pods.get(pod).with_context(|| format!("no pod {pod}"))?;
    Ok(pod.container(container)?.restart_count)
}

/// A property of the agent's unit.
///
/// # Errors
/// When systemd does not answer.
pub fn unit(machine: &mut Machine, property: &str) -> Result<String> {
    machine.ok(&format!("systemctl show kubelet -P {property}"))
}

/// Waits until the agent's unit is active.
///
/// # Errors
/// When it is not within two minutes, with its status.
pub fn active(machine: &mut Machine) -> Result<()> {
    machine.eventually(
        "the service is active",
        Duration::from_secs(120),
        |machine| {
            let state = unit(machine, "ActiveState")?;
            if state != "active" {
                let status = machine.run("systemctl status -l kubelet", super::machine::COMMAND)?;
                anyhow::bail!("{state}: {}", status.text);
            }
            Ok(())
        },
    )
}
