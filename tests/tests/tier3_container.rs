//! Real containers: what a container finds inside, and what holds it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::containerd::NODE_IP;
use tests::images::{NAMED_USER, NUMERIC_USER};
use tests::scenario::with_agent;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn variables_are_expanded_in_env_command_and_args() {
    with_agent(async |node, agent| {
        node.put("env.yaml", ENV)?;
        let pod = agent.phase("env", "Succeeded", LIMIT).await?;
        let log = agent.container_log(&pod, "main")?;
        let expected = format!(
            "arg <hello world>\narg <$(HELLO) $(UNKNOWN)>\nenv GREETING=hello world\nenv LATE=$(LAST)\nenv NAME=env-node\nenv IP={}\nenv NODE=node\nenv HOST={NODE_IP}\nenv CPUS=2\nenv MEMORY=64\n",
            pod.ip()
        );
        ensure!(log == expected, "{log}\n-- expected:\n{expected}");
        Ok(())
    });
}

const ENV: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: env
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.36
    env:
    - { name: HELLO, value: hello }
    - { name: GREETING, value: $(HELLO) world }
    - { name: LATE, value: $(LAST) }
    - { name: LAST, value: last }
    - { name: NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
    - { name: IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
    - { name: NODE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
    - { name: HOST, valueFrom: { fieldRef: { fieldPath: status.hostIP } } }
    - { name: CPUS, valueFrom: { resourceFieldRef: { resource: limits.cpu } } }
    - { name: MEMORY, valueFrom: { resourceFieldRef: { resource: limits.memory, divisor: 1Mi } } }
    resources:
      limits: { cpu: 1500m, memory: 64Mi }
    command:
    - sh
    - -c
    - |
      for arg; do echo "arg <$arg>"; done
      for name in GREETING LATE NAME IP NODE HOST CPUS MEMORY; do env | grep "^$name=" | sed 's/^/env /'; done
    - sh
    args: [$(GREETING), $$(HELLO) $(UNKNOWN)]
"#;

#[test]
fn volumes_are_shared_by_the_containers_of_a_pod() {
    with_agent(async |node, agent| {
        let host = node.path("shared-dir");
        fs::create_dir(&host)?;
        fs::write(host.join("from-host"), "host\n")?;
        let manifest = VOLUMES.replace("HOST", &host.display().to_string());
        node.put("volumes.yaml", &manifest)?;
        let pod = agent.ready("volumes", LIMIT).await?;
        let log = agent.logged(&pod, "reader", "END", LIMIT).await?;
        ensure!(log == "host\nwriter\nread-only\nmemory\nEND\n", "{log}");
        ensure!(fs::read_to_string(host.join("from-writer"))? == "writer\n");
        // The emptyDirs go with the pod, the host's directory stays with its contents.
        let empty = node.path(&format!("kubelet/pods/{}", pod.uid()));
        ensure!(empty.exists());
        node.remove("volumes.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        eventually("the pod's directory is gone", LIMIT, async || {
            ensure!(!empty.exists(), "it is there");
            Ok(())
        })
        .await?;
        ensure!(fs::read_to_string(host.join("from-host"))? == "host\n");
        Ok(())
    });
}

const VOLUMES: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: volumes
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: writer
    image: busybox:1.36
    command:
    - sh
    - -c
    - echo writer > /host/from-writer; echo memory > /memory/it; touch /empty/ready; exec sleep 100000
    volumeMounts:
    - { name: host, mountPath: /host }
    - { name: empty, mountPath: /empty }
    - { name: memory, mountPath: /memory }
  - name: reader
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      until test -e /empty/ready; do sleep 0.1; done
      cat /host/from-host /host/from-writer
      touch /host/denied 2>/dev/null || echo read-only
      grep -q ' /memory tmpfs ' /proc/mounts && cat /memory/it
      echo END
      exec sleep 100000
    volumeMounts:
    - { name: host, mountPath: /host, readOnly: true }
    - { name: empty, mountPath: /empty }
    - { name: memory, mountPath: /memory }
  volumes:
  - name: host
    hostPath: { path: HOST, type: Directory }
  - name: empty
    emptyDir: {}
  - name: memory
    emptyDir: { medium: Memory }
"#;

#[test]
fn the_security_context_reaches_the_process() {
    with_agent(async |node, agent| {
        node.put("secure.yaml", SECURE)?;
        let pod = agent.phase("secure", "Succeeded", LIMIT).await?;
        let log = agent.container_log(&pod, "user")?;
        ensure!(log == "uid 1000 gid 3000 groups 3000 2000\n", "{log}");
        let log = agent.container_log(&pod, "locked")?;
        ensure!(
            log == "read-only\nCapEff: 0000000000000000\nNoNewPrivs: 1\n",
            "{log}"
        );
        let log = agent.container_log(&pod, "one-capability")?;
        // CAP_NET_BIND_SERVICE is bit 10 (linux/capability.h).
        ensure!(log == "CapEff: 0000000000000400\n", "{log}");
        Ok(())
    });
}

const SECURE: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: secure
spec:
  restartPolicy: Never
  securityContext: { fsGroup: 2000 }
  containers:
  - name: user
    image: busybox:1.36
    command: [sh, -c, "echo uid $(id -u) gid $(id -g) groups $(id -G)"]
    securityContext: { runAsUser: 1000, runAsGroup: 3000, runAsNonRoot: true }
  - name: locked
    image: busybox:1.36
    command:
    - sh
    - -c
    - touch /x 2>/dev/null || echo read-only; grep -E 'CapEff|NoNewPrivs' /proc/self/status | tr '\t' ' '
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: { drop: [ALL] }
  - name: one-capability
    image: busybox:1.36
    command: [sh, -c, "grep CapEff /proc/self/status | tr '\t' ' '"]
    securityContext:
      capabilities: { drop: [ALL], add: [NET_BIND_SERVICE] }
"#;

#[test]
fn run_as_non_root_is_checked_before_the_container_is_made() {
    with_agent(async |node, agent| {
        let manifest = NON_ROOT
            .replace("NUMERIC", NUMERIC_USER)
            .replace("NAMED", NAMED_USER);
        node.put("non-root.yaml", &manifest)?;
        let pod = eventually("the numeric user runs", LIMIT, async || {
            let pod = agent.pod("non-root")?;
            ensure!(pod.container("numeric")?.ready, "{}", pod.describe());
            Ok(pod)
        })
        .await?;
        let log = agent.logged(&pod, "numeric", "65534", LIMIT).await?;
        ensure!(log == "65534\n", "{log}");
        let long = format!("non-root-node_default({})", pod.uid());
        for (name, expected) in [
            (
                "root",
                format!(
                    "container has runAsNonRoot and image will run as root (pod: \"{long}\", container: root)"
                ),
            ),
            (
                "named",
                format!(
                    "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: \"{long}\", container: named)"
                ),
            ),
            (
                "asked",
                format!(
                    "container's runAsUser breaks non-root policy (pod: \"{long}\", container: asked)"
                ),
            ),
        ] {
            eventually(&format!("{name} is refused"), LIMIT, async || {
                let pod = agent.pod("non-root")?;
                let state = pod.container(name)?.state.clone().unwrap_or_default();
                let waiting = state.waiting.with_context(|| pod.describe())?;
                ensure!(
                    waiting.reason.as_deref() == Some("CreateContainerConfigError")
                        && waiting.message.as_deref() == Some(&expected),
                    "{}",
                    pod.describe()
                );
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

const NON_ROOT: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: non-root
spec:
  terminationGracePeriodSeconds: 1
  securityContext: { runAsNonRoot: true }
  containers:
  - name: numeric
    image: NUMERIC
    command: [sh, -c, "id -u; exec sleep 100000"]
  - name: root
    image: busybox:1.36
    command: [sleep, "100000"]
  - name: named
    image: NAMED
    command: [sleep, "100000"]
  - name: asked
    image: busybox:1.36
    command: [sleep, "100000"]
    securityContext: { runAsUser: 0 }
"#;

fn id_of(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> Result<String> {
    let id = pod.container(container)?.container_id.clone();
    let id = id.context("no container id")?;
    Ok(id.trim_start_matches("containerd://").to_owned())
}

#[test]
fn the_last_words_of_a_container_are_in_its_status() {
    with_agent(async |node, agent| {
        node.put("words.yaml", WORDS)?;
        let pod = agent.phase("words", "Failed", LIMIT).await?;
        for (name, code, message) in [
            ("file", 3, "bye from the file"),
            ("log", 4, "last line of the log\n"),
            ("quiet", 5, ""),
        ] {
            let state = pod.container(name)?.state.clone().unwrap_or_default();
            let ended = state.terminated.with_context(|| pod.describe())?;
            ensure!(
                ended.exit_code == code && ended.message.as_deref().unwrap_or_default() == message,
                "{name}: {ended:?}"
            );
        }
        Ok(())
    });
}

const WORDS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: words
spec:
  restartPolicy: Never
  containers:
  - name: file
    image: busybox:1.36
    command: [sh, -c, "echo -n bye from the file > /dev/termination-log; exit 3"]
  - name: log
    image: busybox:1.36
    terminationMessagePolicy: FallbackToLogsOnError
    command: [sh, -c, "echo last line of the log; exit 4"]
  - name: quiet
    image: busybox:1.36
    command: [sh, -c, "echo not a message; exit 5"]
"#;

#[test]
fn logs_are_where_log_collectors_look() {
    with_agent(async |node, agent| {
        node.put("web.yaml", include_str!("../../examples/web.yaml"))?;
        let pod = agent.ready("web", LIMIT).await?;
        agent.logged(&pod, "watcher", "says", LIMIT).await?;
        let id = id_of(&pod, "watcher")?;
        let link = format!("/var/log/containers/web-node_default_watcher-{id}.log");
        let link = node.host_path(Path::new(&link));
        let target = eventually("the link is there", LIMIT, async || {
            fs::read_link(&link).with_context(|| format!("read link {}", link.display()))
        })
        .await?;
        let log = node.path(&format!(
            "pod-logs/default_web-node_{}/watcher/0.log",
            pod.uid()
        ));
        ensure!(
            target == log,
            "{} is not {}",
            target.display(),
            log.display()
        );
        node.remove("web.yaml")?;
        agent.gone(&pod, LIMIT).await
    });
}
