//! Pods whose containers write into a ledger, in the order in which they do things.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, PodCondition};
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::wait::eventually;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A manifest whose containers share `/out`, a directory of the node.
pub(crate) fn manifest(node: &Node, name: &str, spec: &str) -> Result<String> {
    let out = node.path(&format!("out-{name}"));
    fs::create_dir_all(&out)?;
    let spec = spec.replace("\n", "\n  ");
    Ok(format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  terminationGracePeriodSeconds: 10
  volumes:
  - name: out
    hostPath: {{ path: {}, type: Directory }}
  {}
"#,
        out.display(),
        spec.trim()
    ))
}

/// What the containers of the pod have written, in the order in which they did.
pub(crate) fn lines(node: &Node, name: &str) -> Result<Vec<String>> {
    let path = node.path(&format!("out-{name}/ledger"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A container that runs `script`, with `more` fields. `say` puts a line of its own into the ledger.
pub(crate) fn container(name: &str, more: &str, script: &str) -> String {
    let script = script.replace('\n', "\n      ");
    format!(
        r#"
- name: {name}
  image: busybox:1.36
  volumeMounts: [{{ name: out, mountPath: /out }}]
{more}
  command:
  - sh
  - -c
  - |
      say() {{ echo {name} $1 >> /out/ledger; }}
      {script}"#
    )
}

/// Says when it starts and when it is asked to stop, and takes half a second for that.
pub(crate) const LASTING: &str =
    "trap 'say asked; sleep 0.5; say done; exit 0' TERM\nsay up\nsleep 100000 & wait";

pub(crate) fn ended(pod: &Pod, name: &str) -> Result<ContainerStateTerminated> {
    let state = pod.container(name)?.state.clone().unwrap_or_default();
    state.terminated.with_context(|| pod.describe())
}

pub(crate) fn last_end(pod: &Pod, name: &str) -> Result<ContainerStateTerminated> {
    let last = pod.container(name)?.last_state.clone().unwrap_or_default();
    last.terminated.with_context(|| pod.describe())
}

pub(crate) fn condition(pod: &Pod, kind: &str) -> Result<PodCondition> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let found = conditions.into_iter().flatten().find(|c| c.type_ == kind);
    found
        .cloned()
        .with_context(|| format!("no condition {kind}"))
}

/// Waits until the container has been started again `times` times and is ready.
pub(crate) async fn restarted(
    agent: &Agent<'_>,
    pod: &str,
    container: &str,
    times: i32,
) -> Result<Pod> {
    eventually(&format!("{container} is back"), LIMIT, async || {
        let pod = agent.pod(pod)?;
        let status = pod.container(container)?;
        ensure!(
            status.restart_count == times && status.ready,
            "{}",
            pod.describe()
        );
        Ok(pod)
    })
    .await
}
