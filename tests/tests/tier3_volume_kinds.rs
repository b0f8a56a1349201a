//! Real containers and the kinds of volume that need no API server, with the fields that each has: what the processes
//! themselves see.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tests::agent::PodView as _;
use tests::containerd::Node;
use tests::scenario::with_agent;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn each_kind_is_in_its_container_as_the_spec_says() {
    with_agent(async |node, agent| {
        let host = node.path("host");
        fs::create_dir(&host)?;
        fs::write(host.join("file"), "of the host\n")?;
        let _listening = UnixListener::bind(host.join("socket"))?;
        // No driver has this one: it is looked at, and never opened.
        let device = makedev(7, 255);
        mknod(&host.join("block"), SFlag::S_IFBLK, Mode::S_IRWXU, device)?;
        node.put(
            "kinds.yaml",
            &KINDS.replace("HOST", &host.display().to_string()),
        )?;
        let pod = agent.ready("kinds", LIMIT).await?;
        let log = agent.logged(&pod, "main", "END", LIMIT).await?;
        let expected = "2777 2000 /disk\n\
             4096 blocks in /memory\n\
             no room beyond\n\
             seen by both\n\
             1 cpu, 440 2000\n\
             app=\"kinds\" in all-in-one\n\
             kinds-node in all-in-one\n\
             of the host\n\
             socket\n\
             null is a character device\n\
             block device\n\
             755 0 /made\n\
             read-only\n\
             END\n";
        ensure!(log == expected, "{log}\n-- expected:\n{expected}");
        ensure!(fs::metadata(host.join("made-file"))?.permissions().mode() & 0o7777 == 0o644);
        node.remove("kinds.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        // All that is the administrator's is as it was.
        ensure!(fs::read_to_string(host.join("file"))? == "of the host\n");
        ensure!(fs::metadata(host.join("socket"))?.file_type().is_socket());
        ensure!(fs::metadata(host.join("made"))?.is_dir());
        Ok(())
    });
}

const KINDS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: kinds
  labels: { app: kinds }
spec:
  terminationGracePeriodSeconds: 1
  securityContext: { fsGroup: 2000 }
  initContainers:
  - name: writer
    image: busybox:1.36
    command: [sh, -c, "echo seen by both > /memory/it"]
    volumeMounts: [{ name: memory, mountPath: /memory }]
  containers:
  - name: main
    image: busybox:1.36
    resources: { limits: { cpu: 500m } }
    command:
    - sh
    - -c
    - |
      stat -c '%a %g %n' /disk
      df -k /memory | awk 'END { print $2 " blocks in /memory" }'
      dd if=/dev/zero of=/memory/large bs=1M count=5 2>/dev/null || echo no room beyond
      rm /memory/large
      cat /memory/it
      echo "$(cat /self/cpu) cpu, $(stat -L -c '%a %g' /self/cpu)"
      echo "$(cat /all/labels) in all-in-one"
      echo "$(cat /all/deep/name) in all-in-one"
      cat /host-file
      test -S /host-socket && echo socket
      test -c /host-null && echo null is a character device
      test -b /host-block && echo block device
      stat -c '%a %g %n' /made
      touch /fixed/denied 2>/dev/null || echo read-only
      echo END
      exec sleep 100000
    volumeMounts:
    - { name: disk, mountPath: /disk }
    - { name: memory, mountPath: /memory }
    - { name: self, mountPath: /self }
    - { name: all, mountPath: /all }
    - { name: file, mountPath: /host-file }
    - { name: socket, mountPath: /host-socket }
    - { name: "null", mountPath: /host-null }
    - { name: block, mountPath: /host-block }
    - { name: made, mountPath: /made }
    - { name: made-file, mountPath: /made-file }
    - { name: whole, mountPath: /fixed, readOnly: true }
  volumes:
  - name: disk
    emptyDir: {}
  - name: memory
    emptyDir: { medium: Memory, sizeLimit: 4Mi }
  - name: self
    downwardAPI:
      items:
      - path: cpu
        mode: 0400
        resourceFieldRef: { containerName: main, resource: limits.cpu }
  - name: all
    projected:
      sources:
      - downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] }
      - downwardAPI: { items: [{ path: deep/name, fieldRef: { fieldPath: metadata.name } }] }
  - name: file
    hostPath: { path: HOST/file, type: File }
  - name: socket
    hostPath: { path: HOST/socket, type: Socket }
  - name: "null"
    hostPath: { path: /dev/null, type: CharDevice }
  - name: block
    hostPath: { path: HOST/block, type: BlockDevice }
  - name: made
    hostPath: { path: HOST/made, type: DirectoryOrCreate }
  - name: made-file
    hostPath: { path: HOST/made-file, type: FileOrCreate }
  - name: whole
    hostPath: { path: HOST, type: Directory }
"#;

/// What a path of the node is mounted on, seen from the node.
fn mounted_at(node: &Node, path: &str) -> Result<bool> {
    let table = node.run("cat", &["/proc/self/mountinfo"])?;
    let mut points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.any(|point| point == path))
}

#[test]
fn mounts_are_passed_on_as_each_container_asks() {
    with_agent(async |node, agent| {
        let host = node.path("host");
        fs::create_dir_all(host.join("later"))?;
        fs::create_dir_all(host.join("earlier"))?;
        let host = host.display().to_string();
        node.run("mount", &["--bind", &host, &host])?;
        node.run("mount", &["--make-rshared", &host])?;
        node.put("passing.yaml", &PASSING.replace("HOST", &host))?;
        let pod = agent.ready("passing", LIMIT).await?;
        // From the container to the node: of a path of the node, and of a volume of the pod.
        let own = node.path(&format!(
            "kubelet/pods/{}/volumes/kubernetes.io~empty-dir/own/inner",
            pod.uid()
        ));
        let own = own.display().to_string();
        for path in [&format!("{host}/earlier"), &own] {
            eventually(
                "the container's mount shows on the node",
                LIMIT,
                async || {
                    ensure!(mounted_at(node, path)?, "{path}");
                    Ok(())
                },
            )
            .await?;
        }
        // From the node to the containers.
        let later = format!("{host}/later");
        node.run("mount", &["-t", "tmpfs", "later", &later])?;
        fs::write(node.inside(later.as_ref()).join("there"), "")?;
        for (container, expected) in [("hearing", "heard\n"), ("both", "heard\n")] {
            let log = agent.logged(&pod, container, "heard", LIMIT).await?;
            ensure!(log == expected, "{container}: {log}");
        }
        let deaf = agent.logged(&pod, "deaf", "nothing", LIMIT).await?;
        ensure!(deaf == "nothing\n", "{deaf}");
        node.remove("passing.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        // What the container left in its own volume has gone with it, what it left on the node's path is the node's.
        let dir = node.path(&format!("kubelet/pods/{}", pod.uid()));
        eventually("the pod's directory is gone", LIMIT, async || {
            ensure!(!dir.exists(), "it is there");
            Ok(())
        })
        .await?;
        ensure!(!mounted_at(node, &own)?);
        ensure!(mounted_at(node, &later)?);
        node.run("umount", &["-R", &host]).context("undo")?;
        Ok(())
    });
}

const PASSING: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: passing
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: both
    image: busybox:1.36
    securityContext: { privileged: true }
    command:
    - sh
    - -c
    - |
      mkdir /own/inner
      mount -t tmpfs inner /own/inner
      mount -t tmpfs earlier /host/earlier
      until test -e /host/later/there; do sleep 0.1; done
      echo heard
      exec sleep 100000
    volumeMounts:
    - { name: host, mountPath: /host, mountPropagation: Bidirectional }
    - { name: own, mountPath: /own, mountPropagation: Bidirectional }
  - name: hearing
    image: busybox:1.36
    command: [sh, -c, "until test -e /host/later/there; do sleep 0.1; done; echo heard; exec sleep 100000"]
    volumeMounts: [{ name: host, mountPath: /host, mountPropagation: HostToContainer }]
  - name: deaf
    image: busybox:1.36
    command: [sh, -c, "sleep 4; test -e /host/later/there || echo nothing; exec sleep 100000"]
    volumeMounts: [{ name: host, mountPath: /host, mountPropagation: None }]
  volumes:
  - name: host
    hostPath: { path: HOST }
  - name: own
    emptyDir: {}
"#;

#[test]
fn what_cannot_be_mounted_says_why_and_the_rest_runs() {
    with_agent(async |node, agent| {
        let host = node.path("host");
        fs::create_dir(&host)?;
        fs::write(host.join("file"), "")?;
        let text = host.display().to_string();
        node.put("recursive.yaml", &RECURSIVE.replace("HOST", &text))?;
        node.put("types.yaml", &TYPES.replace("HOST", &text))?;
        // This runtime may not know how: the one that insists is told so, the one that does not runs.
        let knows = agent
            .ready("recursive", Duration::from_secs(10))
            .await
            .is_ok();
        let pod = agent.pod("recursive")?;
        ensure!(pod.container("possibly")?.ready, "{}", pod.describe());
        if !knows {
            eventually("the other says why it waits", LIMIT, async || {
                let pod = agent.pod("recursive")?;
                let strict = pod.container("strictly")?.clone();
                let waiting = strict.state.and_then(|state| state.waiting);
                let waiting = waiting.context("it does not wait")?;
                let expected = "failed to resolve recursive read-only mode: volume \"host\" requested recursive read-only mode, but it is not supported by the runtime";
                ensure!(waiting.reason.as_deref() == Some("CreateContainerConfigError"));
                ensure!(waiting.message.as_deref() == Some(expected), "{waiting:?}");
                Ok(())
            })
            .await?;
        }
        eventually("each wrong type is told", LIMIT, async || {
            let events = agent.events_of("types")?;
            let told = |volume: &str, what: &str| {
                let text = format!(
                    "MountVolume.SetUp failed for volume \"{volume}\" : hostPath type check failed: {text}/file is not a {what}"
                );
                let mut events = events.iter();
                events.any(|event| event.reason == "FailedMount" && event.message == text)
            };
            for (volume, what) in [
                ("directory", "directory"),
                ("socket", "socket file"),
                ("char", "character device"),
                ("block", "block device"),
            ] {
                ensure!(told(volume, what), "{volume}: {events:?}");
            }
            Ok(())
        })
        .await?;
        // Mended, the pod runs as it is.
        fs::remove_file(host.join("file"))?;
        node.put(
            "types.yaml",
            &TYPES
                .replace("HOST/file", "/dev/null")
                .replace("type: Directory", "type: CharDevice")
                .replace("type: Socket", "type: CharDevice")
                .replace("type: BlockDevice", "type: CharDevice"),
        )?;
        agent.ready("types", LIMIT).await?;
        Ok(())
    });
}

const RECURSIVE: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: recursive
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: possibly
    image: busybox:1.36
    command: [sleep, "100000"]
    volumeMounts:
    - { name: host, mountPath: /host, readOnly: true, recursiveReadOnly: IfPossible }
  - name: strictly
    image: busybox:1.36
    command: [sleep, "100000"]
    volumeMounts:
    - { name: host, mountPath: /host, readOnly: true, recursiveReadOnly: Enabled }
  volumes:
  - name: host
    hostPath: { path: HOST }
"#;

const TYPES: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: types
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, "100000"]
  volumes:
  - name: directory
    hostPath: { path: HOST/file, type: Directory }
  - name: socket
    hostPath: { path: HOST/file, type: Socket }
  - name: char
    hostPath: { path: HOST/file, type: CharDevice }
  - name: block
    hostPath: { path: HOST/file, type: BlockDevice }
"#;
