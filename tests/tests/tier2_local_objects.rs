//! The whole agent on a fake runtime, without an API server: ConfigMaps and Secrets of manifests serve static pods.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::PodView as _;
use tests::fake_runtime::Container;
use tests::in_process::{FakeNode, LIMIT, with_agent, with_node};
use tests::is_root;
use tests::wait::{eventually, reads, throughout};

const HIDDEN: &str = "the-very-secret-text";
const REPLACE: &str = "agent.kubelet/replace-on-object-change";

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: '{value}'}}\n")
}

fn secret(name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{k: '{value}'}}\n"
    )
}

/// A pod whose spec ends with `rest`, which begins with fields of its container.
fn pod(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox:1\n{rest}"
    )
}

fn follower(name: &str, rest: &str) -> String {
    pod(name, rest).replace(
        &format!("{{name: {name}}}"),
        &format!("{{name: {name}, annotations: {{{REPLACE}: 'true'}}}}"),
    )
}

const IN_VOLUME: &str =
    "    volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, configMap: {name: c}}]\n";
const IN_ENVIRONMENT: &str =
    "    env: [{name: V, valueFrom: {configMapKeyRef: {name: c, key: k}}}]\n";

/// Puts a file in place that root alone may read.
fn put_private(node: &FakeNode, name: &str, text: &str) -> Result<()> {
    let hidden = node.path("manifests").join(format!(".{name}.private"));
    fs::write(&hidden, text)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(hidden, node.path("manifests").join(name))?)
}

fn env(container: &Container) -> Vec<String> {
    let envs = container.config.envs.iter();
    envs.map(|env| format!("{}={}", env.key, String::from_utf8_lossy(&env.value)))
        .collect()
}

async fn logged(node: &FakeNode, text: &str) -> Result<()> {
    eventually("the log says so", LIMIT, async || {
        ensure!(node.log().contains(text), "no {text:?}");
        Ok(())
    })
    .await
}

fn message(pod: &Pod) -> String {
    let state = pod.container("main").ok().and_then(|s| s.state.clone());
    let waiting = state.and_then(|s| s.waiting);
    waiting.and_then(|w| w.message).unwrap_or_default()
}

#[test]
fn objects_are_environment_volumes_and_credentials() {
    if !is_root() {
        return;
    }
    with_agent(async |node| {
        node.put("c.yaml", &config_map("c", "one"))?;
        put_private(node, "s.yaml", &secret("s", HIDDEN))?;
        let registry = r#"apiVersion: v1
kind: Secret
metadata: {name: r}
type: kubernetes.io/dockerconfigjson
stringData:
  .dockerconfigjson: '{"auths": {"r.example": {"username": "me", "password": "hush"}}}'
"#;
        put_private(node, "r.yaml", registry)?;
        let rest = "    envFrom: [{prefix: P_, configMapRef: {name: c}}, {prefix: S_, secretRef: {name: s}}]\n    \
            env:\n    - {name: V, valueFrom: {configMapKeyRef: {name: c, key: k}}}\n    \
            - {name: W, valueFrom: {secretKeyRef: {name: s, key: k}}}\n    \
            - {name: X, valueFrom: {secretKeyRef: {name: none, key: k, optional: true}}}\n    \
            volumeMounts: [{name: c, mountPath: /c}, {name: s, mountPath: /s}, {name: p, mountPath: /p}, {name: o, mountPath: /o}]\n  \
            imagePullSecrets: [{name: r}]\n  \
            volumes:\n  - {name: c, configMap: {name: c}}\n  - {name: s, secret: {secretName: s}}\n  \
            - {name: o, configMap: {name: none, optional: true}}\n  \
            - {name: p, projected: {sources: [{configMap: {name: c}}, {secret: {name: s, items: [{key: k, path: sub/k}]}}]}}\n";
        let manifest = pod("a", rest).replace("busybox:1", "r.example/app:1");
        node.put("a.yaml", &manifest)?;
        let shown = node.ready("a").await?;
        let container = node.only("a/main").await?;
        let had = env(&container);
        for wanted in ["P_k=one", "V=one"] {
            ensure!(had.contains(&wanted.to_owned()), "{had:?}");
        }
        for wanted in [format!("S_k={HIDDEN}"), format!("W={HIDDEN}")] {
            ensure!(had.contains(&wanted), "a secret is missing");
        }
        ensure!(had.iter().all(|e| !e.starts_with("X=")));
        reads(&container.mounted("/c")?.join("k"), "one", LIMIT).await?;
        reads(&container.mounted("/s")?.join("k"), HIDDEN, LIMIT).await?;
        reads(&container.mounted("/p")?.join("sub/k"), HIDDEN, LIMIT).await?;
        reads(&container.mounted("/p")?.join("k"), "one", LIMIT).await?;
        ensure!(!container.mounted("/o")?.join("k").exists());
        let pulled = node.runtime.pulled_as("r.example/app:1");
        ensure!(pulled == ["me"], "{pulled:?}");
        let log = node.log();
        ensure!(
            !log.contains(HIDDEN) && !log.contains("hush"),
            "a secret is in the log"
        );

        // A change reaches the volumes, and nothing else happens.
        node.put("c.yaml", &config_map("c", "two"))?;
        reads(&container.mounted("/c")?.join("k"), "two", LIMIT).await?;
        reads(&container.mounted("/p")?.join("k"), "two", LIMIT).await?;
        ensure!(node.ready("a").await?.instances() == shown.instances());

        // What is gone stays where it is in use.
        node.remove("c.yaml")?;
        logged(node, "configmap \"c\" not found").await?;
        reads(&container.mounted("/c")?.join("k"), "two", LIMIT).await?;
        ensure!(node.ready("a").await?.instances() == shown.instances());
        node.remove("a.yaml")?;
        node.gone(&shown).await
    });
}

#[test]
fn what_is_missing_is_waited_for_and_the_message_says_where_it_belongs() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", IN_ENVIRONMENT))?;
        let waits = node
            .waiting("a", "main", "CreateContainerConfigError")
            .await?;
        let directory = node.path("manifests");
        let expected = format!(
            "configmap \"c\" not found; put the ConfigMap default/c into a file in {}, or mend the one that 'kubelet status' names",
            directory.display()
        );
        ensure!(message(&waits) == expected, "{}", message(&waits));
        // Of another namespace it is another one.
        let other = config_map("c", "other").replace("{name: c}", "{name: c, namespace: other}");
        node.put("o.yaml", &other)?;
        node.put("b.yaml", &pod("b", IN_VOLUME))?;
        logged(node, "MountVolume.SetUp failed for volume").await?;
        logged(node, "configmap \"c\" not found; put the").await?;
        ensure!(node.runtime.running("default/a-node/main").is_empty());
        node.put("c.yaml", &config_map("c", "one"))?;
        node.ready("a").await?;
        ensure!(env(&node.only("a/main").await?).contains(&"V=one".to_owned()));
        let b = node.ready("b").await?;
        let file = node.only("b/main").await?.mounted("/v")?.join("k");
        reads(&file, "one", LIMIT).await?;
        node.remove("b.yaml")?;
        node.gone(&b).await
    });
}

#[test]
fn a_secret_that_others_may_read_is_refused_until_its_mode_is_mended() {
    with_agent(async |node| {
        let uses = "    env: [{name: V, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n";
        let both = format!(
            "{}---\n{}---\n{}",
            pod("a", uses),
            pod("b", ""),
            secret("s", HIDDEN)
        );
        node.put("a.yaml", &both)?;
        let file = node.path("manifests").join("a.yaml");
        // The other pod of the file is none the worse for it.
        node.ready("b").await?;
        logged(node, &format!("chmod 600 {}", file.display())).await?;
        node.waiting("a", "main", "CreateContainerConfigError")
            .await?;
        ensure!(!node.log().contains(HIDDEN));
        let before = fs::read(&file)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let a = node.ready("a").await?;
        ensure!(fs::read(&file)? == before);
        let b = node.ready("b").await?;
        // Once it is taken, a mode that opens it up again takes nothing away from pods.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        let refused = "is refused, because others than root may use the file (mode 0644)";
        eventually("it is refused again", LIMIT, async || {
            ensure!(node.log().matches(refused).count() >= 2);
            Ok(())
        })
        .await?;
        ensure!(node.ready("a").await?.instances() == a.instances());
        ensure!(node.ready("b").await?.instances() == b.instances());
        Ok(())
    });
}

#[test]
fn a_pod_that_asks_for_it_is_replaced_by_a_change_and_by_nothing_else() {
    with_agent(async |node| {
        node.put("c.yaml", &config_map("c", "one"))?;
        node.put("a.yaml", &follower("a", IN_ENVIRONMENT))?;
        let first = node.ready("a").await?;
        ensure!(env(&node.only("a/main").await?).contains(&"V=one".to_owned()));
        node.put("c.yaml", &(config_map("c", "one") + "# a comment\n"))?;
        node.put("c.yaml", &config_map("c", "two"))?;
        node.gone(&first).await?;
        let second = node.ready("a").await?;
        ensure!(second.uid() != first.uid());
        ensure!(env(&node.only("a/main").await?).contains(&"V=two".to_owned()));
        // The next agent, and an object that is gone, replace nothing.
        node.kill_agent()?;
        node.start_agent()?;
        ensure!(node.ready("a").await?.instances() == second.instances());
        node.remove("c.yaml")?;
        logged(node, "manifest removed").await?;
        node.put("z.yaml", &pod("z", ""))?;
        node.ready("z").await?;
        ensure!(node.ready("a").await?.instances() == second.instances());
        node.kill_agent()?;
        node.start_agent()?;
        throughout("nothing is replaced", Duration::from_secs(2), async || {
            let now = node.runtime.running("default/a-node/main");
            ensure!(now.len() == 1 && format!("{:?}", second.instances()).contains(&now[0].id));
            Ok(())
        })
        .await
    });
}

#[test]
fn a_broken_file_keeps_its_objects_across_a_restart() {
    with_agent(async |node| {
        let good = format!("{}---\n{}", config_map("c", "one"), secret("s", HIDDEN));
        put_private(node, "o.yaml", &good)?;
        let uses = "    env:\n    - {name: V, valueFrom: {configMapKeyRef: {name: c, key: k}}}\n    \
            - {name: W, valueFrom: {secretKeyRef: {name: s, key: k}}}\n";
        node.put("a.yaml", &pod("a", uses))?;
        let a = node.ready("a").await?;
        let copies = node.path("kubelet").join("manifests");
        eventually("both files have a copy", LIMIT, async || {
            ensure!(fs::read_dir(&copies)?.count() == 2);
            Ok(())
        })
        .await?;
        ensure!(fs::metadata(&copies)?.permissions().mode() & 0o7777 == 0o700);
        for copy in fs::read_dir(&copies)? {
            ensure!(copy?.metadata()?.permissions().mode() & 0o7777 == 0o600);
        }
        node.kill_agent()?;
        put_private(node, "o.yaml", "kind: [\n")?;
        node.start_agent()?;
        node.put("b.yaml", &pod("b", uses))?;
        node.ready("b").await?;
        let env = env(&node.only("b/main").await?);
        ensure!(env.contains(&"V=one".to_owned()) && env.contains(&format!("W={HIDDEN}")));
        ensure!(node.ready("a").await?.instances() == a.instances());
        // Emptied is not broken.
        put_private(node, "o.yaml", "# nothing\n")?;
        node.put("d.yaml", &pod("d", uses))?;
        node.waiting("d", "main", "CreateContainerConfigError")
            .await?;
        Ok(())
    });
}

#[test]
fn they_may_have_a_directory_of_their_own_or_be_off() {
    with_node(async |node| {
        node.with_socket("staticPodObjectsDirectory: objects\n")?;
        node.start_agent()?;
        node.put("a.yaml", &pod("a", IN_ENVIRONMENT))?;
        node.waiting("a", "main", "CreateContainerConfigError")
            .await?;
        let objects = node.path("manifests").join("objects");
        fs::create_dir(&objects)?;
        fs::write(objects.join("c.yaml"), config_map("c", "one"))?;
        node.ready("a").await?;
        fs::write(objects.join("p.yaml"), pod("p", ""))?;
        logged(
            node,
            "pods are not looked for in the directory of ConfigMaps and Secrets",
        )
        .await?;
        ensure!(node.pod("p").is_err());

        node.kill_agent()?;
        node.with_socket("staticPodObjects: Never\n")?;
        node.start_agent()?;
        logged(node, "static pods may not reference configmaps").await?;
        node.put("c.yaml", &config_map("c", "one"))?;
        logged(node, "a ConfigMap is not taken from manifests on a node with an API server, or with staticPodObjects: Never").await
    });
}
