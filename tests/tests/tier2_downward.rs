//! The whole agent on a fake runtime, without an API server: volumes by which a static pod is told of itself.

use anyhow::{Context as _, Result, ensure};
use tests::in_process::with_agent;
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
