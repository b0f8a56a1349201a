//! Real containers and volumes: parts of them (`subPath`), through restarts of containers and of the agent, to the end of
//! the pod.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::PodView as _;
use tests::containerd::Node;
use tests::scenario::with_agent;
use tests::wait::{eventually, throughout};

const LIMIT: Duration = Duration::from_secs(60);

/// What is mounted at or below `dir`, by the table of the node.
fn mounted(node: &Node, dir: &Path) -> Result<Vec<String>> {
    let dir = dir.display().to_string();
    let table = node.run("cat", &["/proc/self/mountinfo"])?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let below = points.filter(|point| point.starts_with(&dir));
    Ok(below.map(str::to_owned).collect())
}

fn pod_dir(node: &Node, pod: &Pod) -> std::path::PathBuf {
    node.path(&format!("kubelet/pods/{}", pod.uid()))
}

/// The pod has gone from the node with its directory, and nothing of it is mounted.
async fn gone_with_its_mounts(node: &Node, pod: &Pod) -> Result<()> {
    let dir = pod_dir(node, pod);
    eventually("the pod's directory is gone", LIMIT, async || {
        ensure!(!dir.exists(), "{:?}", mounted(node, &dir)?);
        Ok(())
    })
    .await?;
    let left = mounted(node, &dir)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn containers_have_parts_of_volumes_and_leave_no_mounts() {
    with_agent(async |node, agent| {
        let host = node.path("host");
        fs::create_dir_all(host.join("conf"))?;
        fs::write(host.join("conf/file"), "of the host\n")?;
        fs::set_permissions(&host, fs::Permissions::from_mode(0o711))?;
        let manifest = SUB_PATHS.replace("HOST", &host.display().to_string());
        node.put("parts.yaml", &manifest)?;
        let pod = agent.ready("parts", LIMIT).await?;
        let log = agent.logged(&pod, "main", "END", LIMIT).await?;
        let expected = "of the host\n\
             denied\n\
             parts-node\n\
             groups 2000\n\
             2777 2000 /shared\n\
             2777 2000 /mine\n\
             read-only\n\
             no more\n\
             END\n";
        ensure!(log == expected, "{log}\n-- expected:\n{expected}");
        // As upstream lays it out: volume, container, index of the mount.
        let dir = pod_dir(node, &pod);
        let places = dir.join("volume-subpaths");
        let volume = dir.join("volumes/kubernetes.io~empty-dir/scratch");
        ensure!(fs::read_to_string(volume.join("a/b/from-init"))? == "init\n");
        ensure!(fs::read_to_string(volume.join("by-name/parts-node/mine"))? == "mine\n");
        for (place, source) in [
            ("scratch/main/0", volume.join("a/b")),
            ("scratch/main/1", volume.join("by-name/parts-node")),
            ("host/main/2", host.join("conf/file")),
            ("host/main/3", host.join("made/deep")),
            (
                "labels/main/4",
                dir.join("volumes/kubernetes.io~downward-api/labels/app"),
            ),
            ("scratch/init/0", volume.join("a/b")),
        ] {
            let have = fs::metadata(node.inside(&places.join(place))).context(place)?;
            let want = fs::metadata(node.inside(&source))?;
            ensure!(
                (have.dev(), have.ino()) == (want.dev(), want.ino()),
                "{place}"
            );
        }
        // A directory that was missing on the host has the mode of the volume's own.
        ensure!(fs::metadata(host.join("made/deep"))?.mode() & 0o7777 == 0o711);
        let before = mounted(node, &places)?;
        ensure!(before.len() == 6, "{before:?}");

        // A restart of the agent leaves them alone, and the container in them.
        agent.kill()?;
        agent.start().await?;
        agent.ready("parts", LIMIT).await?;
        throughout(
            "nothing is mounted anew",
            Duration::from_secs(3),
            async || {
                ensure!(mounted(node, &places)? == before);
                ensure!(agent.pod("parts")?.instances() == pod.instances());
                Ok(())
            },
        )
        .await?;

        // A container that starts again finds what it had.
        fs::write(volume.join("by-name/parts-node/stop"), "")?;
        let again = eventually("the container has restarted", LIMIT, async || {
            let pod = agent.pod("parts")?;
            let main = pod.container("main")?;
            ensure!(main.restart_count == 1 && main.ready, "{}", pod.describe());
            Ok(pod)
        })
        .await?;
        ensure!(
            mounted(node, &places)? == before,
            "{:?}",
            mounted(node, &places)?
        );
        let log = agent.logged(&again, "main", "END", LIMIT).await?;
        ensure!(log.contains("of the host\ndenied\nparts-node\n"), "{log}");

        node.remove("parts.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        gone_with_its_mounts(node, &pod).await?;
        ensure!(fs::read_to_string(host.join("conf/file"))? == "of the host\n");
        ensure!(host.join("made/deep").is_dir());
        Ok(())
    });
}

const SUB_PATHS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: parts
  labels: { app: parts }
spec:
  terminationGracePeriodSeconds: 1
  securityContext: { fsGroup: 2000 }
  initContainers:
  - name: init
    image: busybox:1.36
    command: [sh, -c, "echo init > /shared/from-init"]
    volumeMounts:
    - { name: scratch, mountPath: /shared, subPath: a/b }
  containers:
  - name: main
    image: busybox:1.36
    env:
    - { name: POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
    command:
    - sh
    - -c
    - |
      test -e /shared/from-init || echo no init
      echo mine > /mine/mine
      rm -f /mine/stop
      cat /conf
      { echo x > /conf; } 2>/dev/null || echo denied
      echo $POD_NAME
      echo groups $(id -G | grep -ow 2000)
      stat -c '%a %g %n' /shared /mine
      touch /label 2>/dev/null; { echo x > /label; } 2>/dev/null || echo read-only
      ls /mine/../by-name 2>/dev/null || echo no more
      echo END
      until test -e /mine/stop; do sleep 0.1; done
    volumeMounts:
    - { name: scratch, mountPath: /shared, subPath: a/b }
    - { name: scratch, mountPath: /mine, subPathExpr: by-name/$(POD_NAME) }
    - { name: host, mountPath: /conf, subPath: conf/file, readOnly: true }
    - { name: host, mountPath: /made, subPath: made/deep }
    - { name: labels, mountPath: /label, subPath: app }
  volumes:
  - name: scratch
    emptyDir: {}
  - name: host
    hostPath: { path: HOST, type: Directory }
  - name: labels
    downwardAPI:
      items:
      - { path: app, fieldRef: { fieldPath: "metadata.labels['app']" } }
"#;

/// A container plants a link where the next one has its part of the volume.
#[test]
fn a_link_out_of_the_volume_holds_up_its_container_and_says_so() {
    with_agent(async |node, agent| {
        node.put("escape.yaml", ESCAPE)?;
        for (name, message) in [
            (
                "root",
                "failed to prepare subPath for volumeMount \"scratch\" of container \"root\"",
            ),
            (
                "made",
                "failed to prepare subPath for volumeMount \"scratch\" of container \"made\"",
            ),
            ("unset", "missing value for NONE, NOTHING"),
            (
                "absolute",
                "error SubPath `/etc` must not be an absolute path",
            ),
            (
                "steps",
                "unable to provision SubPath `a/..`: must not contain '..'",
            ),
        ] {
            eventually(&format!("{name} is refused"), LIMIT, async || {
                let pod = agent.pod("escape")?;
                let waiting = pod.container(name)?.state.clone();
                let waiting = waiting.and_then(|state| state.waiting);
                let waiting = waiting.with_context(|| pod.describe())?;
                ensure!(
                    waiting.reason.as_deref() == Some("CreateContainerConfigError"),
                    "{waiting:?}"
                );
                ensure!(waiting.message.as_deref() == Some(message), "{waiting:?}");
                Ok(())
            })
            .await?;
            let events = agent.events_of("escape")?;
            ensure!(
                events.iter().any(|event| event.reason == "Failed"
                    && event.message == format!("Error: {message}")),
                "{events:?}"
            );
        }
        let pod = agent.pod("escape")?;
        ensure!(!Path::new("/etc/kubelet-subpath-test").exists());
        // The others run, and the pod goes like any.
        ensure!(pod.container("good")?.ready, "{}", pod.describe());
        node.remove("escape.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        gone_with_its_mounts(node, &pod).await
    });
}

const ESCAPE: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: escape
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: plant
    image: busybox:1.36
    command: [sh, -c, "mkdir /v/good; ln -s / /v/root; ln -s /etc /v/etc"]
    volumeMounts: [{ name: scratch, mountPath: /v }]
  containers:
  - name: good
    image: busybox:1.36
    command: [sleep, "100000"]
    volumeMounts: [{ name: scratch, mountPath: /v, subPath: good }]
  - name: root
    image: busybox:1.36
    command: [sleep, "100000"]
    volumeMounts: [{ name: scratch, mountPath: /v, subPath: root }]
  - name: made
    image: busybox:1.36
    command: [sleep, "100000"]
    volumeMounts: [{ name: scratch, mountPath: /v, subPath: etc/kubelet-subpath-test }]
  - name: unset
    image: busybox:1.36
    command: [sleep, "100000"]
    env: [{ name: NOTHING, value: "" }]
    volumeMounts: [{ name: scratch, mountPath: /v, subPathExpr: $(NOTHING)/$(NONE) }]
  - name: absolute
    image: busybox:1.36
    command: [sleep, "100000"]
    env: [{ name: PART, value: /etc }]
    volumeMounts: [{ name: scratch, mountPath: /v, subPathExpr: $(PART) }]
  - name: steps
    image: busybox:1.36
    command: [sleep, "100000"]
    env: [{ name: PART, value: .. }]
    volumeMounts: [{ name: scratch, mountPath: /v, subPathExpr: a/$(PART) }]
  volumes:
  - name: scratch
    emptyDir: {}
"#;
