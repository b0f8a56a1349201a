//! The whole agent on a fake runtime, without an API server: volumes of static pods.

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::in_process::{FakeNode, with_agent};
use tests::is_root;

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web, tier: front}}
spec:
  securityContext: {fsGroup: 1234}
  containers:
  - name: main
    image: busybox:1
    resources: {limits: {memory: 64Mi}}
    volumeMounts: [{name: self, mountPath: /self}, {name: both, mountPath: /both}]
  volumes:
  - name: self
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: res/memory, mode: 0400, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}
  - name: both
    projected:
      sources:
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
      - downwardAPI: {items: [{path: uid, fieldRef: {fieldPath: metadata.uid}}]}
";

#[test]
fn a_static_pod_is_told_of_itself_in_files() {
    if !is_root() {
        return;
    }
    with_agent(async |node| {
        node.put("a.yaml", MANIFEST)?;
        let pod = node.ready("a").await?;
        let running = node.running("a/main", 1).await?;
        let mounts = &running[0].config.mounts;
        let read = |mount: &str, file: &str| -> Result<String> {
            let found = mounts.iter().find(|m| m.container_path == mount);
            let found = found.with_context(|| format!("no mount {mount}"))?;
            ensure!(found.readonly, "{mount} can be written");
            let path = std::path::Path::new(&found.host_path).join(file);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        ensure!(read("/self", "labels")? == "app=\"web\"\ntier=\"front\"");
        ensure!(read("/self", "res/memory")? == "64");
        ensure!(read("/both", "name")? == pod.metadata.name.clone().unwrap_or_default());
        ensure!(read("/both", "uid")? == pod.metadata.uid.clone().unwrap_or_default());
        node.remove("a.yaml")?;
        node.gone(&pod).await
    });
}

fn read_only(name: &str, mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  containers:\n  - name: main\n    \
         image: busybox:1\n    volumeMounts: [{{ name: v, mountPath: /v, readOnly: true, recursiveReadOnly: {mode} }}]\n  \
         volumes: [{{ name: v, hostPath: {{ path: /tmp }} }}]\n"
    )
}

/// What is shown of the mount, and whether the runtime was asked for it.
async fn mode_of(node: &FakeNode, name: &str) -> Result<(String, bool)> {
    let pod = node.ready(name).await?;
    let shown = pod.container("main")?.volume_mounts.clone();
    let shown = shown.unwrap_or_default().pop().context("no mount shown")?;
    let running = node.only(&format!("{name}/main")).await?;
    let mounts = &running.config.mounts;
    let mount = mounts.iter().find(|mount| mount.container_path == "/v");
    let asked = mount.context("no mount")?.recursive_read_only;
    Ok((shown.recursive_read_only.unwrap_or_default(), asked))
}

#[test]
fn mounts_below_a_read_only_one_are_read_only_where_the_runtime_can() {
    with_agent(async |node| {
        node.put("wish.yaml", &read_only("wish", "IfPossible"))?;
        node.put("demand.yaml", &read_only("demand", "Enabled"))?;
        let disabled = ("Disabled".to_owned(), false);
        ensure!(mode_of(node, "wish").await? == disabled);
        let refused = node.waiting("demand", "main", "CreateContainerConfigError");
        let refused = refused.await?.describe();
        ensure!(
            refused.contains("is not supported by the runtime"),
            "{refused}"
        );
        // As after an upgrade of the runtime: what waits is tried again, what runs stays.
        node.runtime.set_recursive_read_only(true);
        let enabled = ("Enabled".to_owned(), true);
        ensure!(mode_of(node, "demand").await? == enabled);
        node.put("late.yaml", &read_only("late", "IfPossible"))?;
        ensure!(mode_of(node, "late").await? == enabled);
        ensure!(mode_of(node, "wish").await? == disabled);
        Ok(())
    });
}
