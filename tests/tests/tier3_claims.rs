//! Real containers and what they have by way of claims: the files of a local volume, and a raw block device. The API server
//! is the double.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::agent::{Agent, PodView as _};
use tests::cluster::{Cluster, bound_pod, is_ready, path};
use tests::scenario::with_node;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

/// A loop device, taken away at the end.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(file: &Path) -> Result<Self> {
        let made = Command::new("losetup")
            .args(["--show", "-f"])
            .arg(file)
            .output();
        let made = made.context("run losetup")?;
        if !made.status.success() {
            bail!("losetup: {}", String::from_utf8_lossy(&made.stderr));
        }
        let path = String::from_utf8(made.stdout)?;
        Ok(Self(path.trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A claim of this name and mode, bound to a local volume at `at`.
async fn bound(cluster: &Cluster, name: &str, mode: &str, at: &Path) -> Result<()> {
    let claims = path("persistentvolumeclaims", "default", "");
    let claim = json!({
        "metadata": { "name": name },
        "spec": { "volumeMode": mode, "volumeName": format!("pv-{name}") },
    });
    let claim = cluster.client().create(&claims, &claim).await?;
    let volume = json!({
        "metadata": { "name": format!("pv-{name}") },
        "spec": {
            "claimRef": { "namespace": "default", "name": name, "uid": claim["metadata"]["uid"] },
            "volumeMode": mode,
            "local": { "path": at },
        },
    });
    let volumes = path("persistentvolumes", "", "");
    cluster.client().create(&volumes, &volume).await?;
    let status = format!("{}/status", path("persistentvolumeclaims", "default", name));
    let is_bound = json!({ "status": { "phase": "Bound" } });
    cluster.client().merge(&status, &is_bound).await.map(drop)
}

fn of_claim(volume: &str, read_only: bool) -> Value {
    json!({ "name": volume, "persistentVolumeClaim": { "claimName": volume, "readOnly": read_only } })
}

const WRITES: &str = "echo of the pod > /data/written; [ -b /dev/xvda ] && echo a block device; \
     dd if=/dev/xvda bs=5 count=1 2>/dev/null; echo; \
     printf after | dd of=/dev/xvda bs=5 conv=fsync 2>/dev/null && echo written; \
     echo END; exec sleep 1000";
const READS: &str = "cat /data/written; { echo x > /data/no; } 2>/dev/null || echo read-only; \
     dd if=/dev/xvda bs=5 count=1 2>/dev/null; echo; \
     ( : > /dev/xvda ) 2>/dev/null || echo not to be written; echo END; exec sleep 1000";

#[test]
fn a_container_has_files_and_devices_of_claims() {
    with_node(async |node| {
        let cluster = Cluster::with_double().await?;
        let (_bridge, agent) = cluster.reach_from(node, Agent::ours(node)?)?;
        let data = node.path("disk");
        fs::create_dir(&data)?;
        let image = node.path("image");
        fs::write(&image, "first")?;
        fs::File::options()
            .write(true)
            .open(&image)?
            .set_len(4 << 20)?;
        let device = LoopDevice::new(&image)?;
        bound(&cluster, "data", "Filesystem", &data).await?;
        bound(&cluster, "disk", "Block", &device.0).await?;
        agent.start().await?;

        let with = |name: &str, script: &str, read_only: bool| {
            let mut pod = bound_pod(name);
            pod["spec"]["volumes"] =
                json!([of_claim("data", read_only), of_claim("disk", read_only)]);
            pod["spec"]["securityContext"] = json!({ "fsGroup": 4321 });
            let container = &mut pod["spec"]["containers"][0];
            container["image"] = json!("busybox:1.36");
            container["imagePullPolicy"] = json!("IfNotPresent");
            container["command"] = json!(["sh", "-c", script]);
            container["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
            container["volumeDevices"] = json!([{ "name": "disk", "devicePath": "/dev/xvda" }]);
            pod
        };
        let first = cluster.add(&with("a", WRITES, false)).await?;
        cluster.pod_shows("ready", "a", LIMIT, is_ready).await?;
        let log = agent.logged(&first, "main", "END", LIMIT).await?;
        ensure!(log == "a block device\nfirst\nwritten\nEND\n", "{log}");
        ensure!(fs::read_to_string(data.join("written"))? == "of the pod\n");
        ensure!(fs::metadata(&data)?.gid() == 4321);
        let second = cluster.add(&with("b", READS, true)).await?;
        cluster.pod_shows("ready", "b", LIMIT, is_ready).await?;
        let log = agent.logged(&second, "main", "END", LIMIT).await?;
        ensure!(
            log == "of the pod\nread-only\nafter\nnot to be written\nEND\n",
            "{log}"
        );
        for pod in [&first, &second] {
            cluster
                .delete_pod(pod.metadata.name.as_deref().context("no name")?, Some(0))
                .await?;
            let dir = node.path(&format!("kubelet/pods/{}", pod.uid()));
            eventually("the pod has gone", LIMIT, async || {
                ensure!(!dir.exists());
                Ok(())
            })
            .await?;
        }
        agent.terminate().await?;
        let table = node.run("cat", &["/proc/self/mountinfo"])?;
        let own = node.path("kubelet").display().to_string();
        let left = table
            .lines()
            .find(|line| line.contains(&own) && line.contains("local-volume"));
        ensure!(left.is_none(), "{left:?}");
        ensure!(fs::read_to_string(data.join("written"))? == "of the pod\n");
        drop(device);
        ensure!(fs::read(&image)?.starts_with(b"after"));
        Ok(())
    });
}
