//! Pods with claims: from the claim to the volume that is mounted, and to its data that outlives the pod. On the double, and
//! on a real API server when `KUBEBUILDER_ASSETS` is set.

mod servers;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::agent::{NODE_NAME, PodView as _};
use tests::cluster::{Cluster, LIMIT, bound_pod, is_ready, path, with_cluster};
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

/// How soon a claim must count that was not good before: the back-off's cap, and some.
const SOON: Duration = Duration::from_secs(40);

/// A pod whose container mounts the volume `data`, which is `source`.
fn with_volume(name: &str, source: Value) -> Value {
    let mut pod = bound_pod(name);
    let mut volume = source;
    volume["name"] = json!("data");
    pod["spec"]["volumes"] = json!([volume]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "data", "mountPath": "/data" }]);
    pod
}

fn with_claim(name: &str, claim: &str) -> Value {
    with_volume(
        name,
        json!({ "persistentVolumeClaim": { "claimName": claim } }),
    )
}

/// Makes the claim `name`, which wants the volume of the same name.
async fn add_claim(cluster: &Cluster, name: &str, mode: &str, more: &Value) -> Result<Value> {
    let mut claim = json!({
        "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
            "storageClassName": "",
            "volumeMode": mode,
            "volumeName": format!("pv-{name}"),
        },
    });
    if let Some(more) = more.as_object() {
        for (field, value) in more {
            claim["metadata"][field] = value.clone();
        }
    }
    cluster.add_object("persistentvolumeclaims", &claim).await
}

/// Makes the volume of `claim`, which is `source`.
async fn add_volume(cluster: &Cluster, claim: &Value, host: &str, source: &Value) -> Result<()> {
    let name = claim["metadata"]["name"].as_str().context("no name")?;
    let mut volume = json!({
        "metadata": { "name": format!("pv-{name}") },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": { "storage": "1Gi" },
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": "default",
                "name": name,
                "uid": claim["metadata"]["uid"],
            },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [host] },
            ] }] } },
            "persistentVolumeReclaimPolicy": "Retain",
            "volumeMode": claim["spec"]["volumeMode"],
        },
    });
    for (field, value) in source.as_object().into_iter().flatten() {
        volume["spec"][field] = value.clone();
    }
    let all = path("persistentvolumes", "", "");
    cluster.client().create(&all, &volume).await.map(drop)
}

async fn bind(cluster: &Cluster, claim: &str) -> Result<()> {
    let status = format!(
        "{}/status",
        path("persistentvolumeclaims", "default", claim)
    );
    let bound = json!({ "status": { "phase": "Bound" } });
    cluster.client().merge(&status, &bound).await.map(drop)
}

/// A claim and its volume, bound to each other.
async fn bound(cluster: &Cluster, name: &str, mode: &str, source: &Value) -> Result<()> {
    let claim = add_claim(cluster, name, mode, &json!({})).await?;
    add_volume(cluster, &claim, NODE_NAME, source).await?;
    bind(cluster, name).await
}

/// A directory of the machine with something in it.
fn data(node: &FakeNode, name: &str) -> Result<PathBuf> {
    let data = node.path(name);
    fs::create_dir(&data)?;
    fs::write(data.join("precious"), "x")?;
    Ok(data)
}

fn is_whole(data: &Path) -> Result<()> {
    let content = fs::read_to_string(data.join("precious"));
    ensure!(content.context("the data is gone")? == "x");
    Ok(())
}

/// How many mounts there are at `place`.
fn mounts(place: &Path) -> Result<usize> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let place = place.to_str().context("no text")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.filter(|point| *point == place).count())
}

fn place(node: &FakeNode, pod: &Pod, below: &str) -> PathBuf {
    node.pod_dir(pod).join(below)
}

/// What the newest event of a failed mount says.
async fn says(cluster: &Cluster, pod: &str, part: &str) -> Result<()> {
    eventually(&format!("{pod} says {part:?}"), LIMIT, async || {
        let events = cluster.client().events("default").await?;
        let of_pod = events.into_iter().filter(|event| {
            event.involved_object.name.as_deref() == Some(pod)
                && event.reason.as_deref() == Some("FailedMount")
        });
        let texts: Vec<_> = of_pod.filter_map(|event| event.message).collect();
        ensure!(texts.iter().any(|text| text.contains(part)), "{texts:#?}");
        Ok(())
    })
    .await
}

const UNABLE: &str = "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: ";

#[test]
fn a_local_volume_is_mounted_and_outlives_its_pods() {
    with_cluster(async |cluster, node| {
        let data = data(node, "disk")?;
        bound(
            cluster,
            "db",
            "Filesystem",
            &json!({ "local": { "path": data } }),
        )
        .await?;
        node.start_agent()?;
        let first = cluster.add(&with_claim("a", "db")).await?;
        let second = cluster.add(&with_claim("b", "db")).await?;
        let below = "volumes/kubernetes.io~local-volume/pv-db";
        for (pod, name) in [(&first, "a"), (&second, "b")] {
            cluster.ready(name).await?;
            let place = place(node, pod, below);
            ensure!(mounts(&place)? == 1);
            is_whole(&place)?;
            let container = node.runtime.running(&format!("default/{name}/main")).pop();
            let mounts = container.context("it does not run")?.config.mounts;
            let mount = mounts.iter().find(|mount| mount.container_path == "/data");
            let mount = mount.context("no mount")?;
            ensure!(Path::new(&mount.host_path) == place && !mount.readonly);
        }
        fs::write(place(node, &first, below).join("new"), "y")?;
        cluster.delete_pod("a", Some(1)).await?;
        cluster.gone(node, &first).await?;
        is_whole(&place(node, &second, below))?;
        cluster.delete_pod("b", Some(1)).await?;
        cluster.gone(node, &second).await?;
        is_whole(&data)?;
        ensure!(fs::read_to_string(data.join("new"))? == "y");
        ensure!(mounts(&place(node, &second, below))? == 0);
        Ok(())
    });
}

#[test]
fn a_claim_that_is_bound_later_is_found_then() {
    with_cluster(async |cluster, node| {
        let data = data(node, "disk")?;
        node.start_agent()?;
        let mut pod = with_claim("a", "late");
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = json!(true);
        cluster.add(&pod).await?;
        let error = "error processing PVC default/late: ";
        says(cluster, "a", &format!("{UNABLE}{error}failed to fetch PVC from API server: persistentvolumeclaims \"late\" not found")).await?;
        let claim = add_claim(cluster, "late", "Filesystem", &json!({})).await?;
        says(cluster, "a", &format!("{UNABLE}{error}PVC is not bound")).await?;
        let source = json!({ "hostPath": { "path": data, "type": "Directory" } });
        add_volume(cluster, &claim, NODE_NAME, &source).await?;
        throughout("it waits", Duration::from_secs(2), async || {
            ensure!(node.runtime.running("default/a/main").is_empty());
            Ok(())
        })
        .await?;
        bind(cluster, "late").await?;
        cluster.pod_shows("ready", "a", SOON, is_ready).await?;
        let container = node.runtime.running("default/a/main").pop();
        let mounts = container.context("it does not run")?.config.mounts;
        let mount = mounts.iter().find(|mount| mount.container_path == "/data");
        let mount = mount.context("no mount")?;
        ensure!(Path::new(&mount.host_path) == data && mount.readonly);
        // What a node asks about claims is single ones.
        for request in cluster.asked(k8s_openapi::jiff::Timestamp::MIN, "*", "*")? {
            let of_claims = request.path.contains("persistentvolume");
            ensure!(!of_claims || request.verb == "get", "{request:?}");
        }
        Ok(())
    });
}

#[test]
fn volumes_that_are_not_for_the_pod_are_refused() {
    with_cluster(async |cluster, node| {
        let source = json!({ "local": { "path": data(node, "disk")? } });
        node.start_agent()?;
        // Another's volume.
        let claim = add_claim(cluster, "other", "Filesystem", &json!({})).await?;
        let mut stranger = claim.clone();
        stranger["metadata"]["uid"] = json!("00000000-0000-4000-8000-000000000000");
        add_volume(cluster, &stranger, NODE_NAME, &source).await?;
        bind(cluster, "other").await?;
        cluster.add(&with_claim("a", "other")).await?;
        let uid = claim["metadata"]["uid"].as_str().context("no UID")?;
        says(cluster, "a", &format!("{UNABLE}error processing PVC default/other: found PV object pv-other but its pv.Spec.ClaimRef.UID 00000000-0000-4000-8000-000000000000 does not point to claim.UID {uid}")).await?;
        // A device, and files.
        bound(cluster, "block", "Block", &source).await?;
        cluster.add(&with_claim("b", "block")).await?;
        says(
            cluster,
            "b",
            &format!("{UNABLE}volume data has volumeMode Block, but is specified in volumeMounts"),
        )
        .await?;
        bound(cluster, "files", "Filesystem", &source).await?;
        let mut pod = with_claim("c", "files");
        let container = &mut pod["spec"]["containers"][0];
        container["volumeMounts"] = json!([]);
        container["volumeDevices"] = json!([{ "name": "data", "devicePath": "/dev/x" }]);
        cluster.add(&pod).await?;
        says(
            cluster,
            "c",
            &format!(
                "{UNABLE}volume data has volumeMode Filesystem, but is specified in volumeDevices"
            ),
        )
        .await?;
        // Another node's.
        let claim = add_claim(cluster, "far", "Filesystem", &json!({})).await?;
        add_volume(cluster, &claim, "another-node", &source).await?;
        bind(cluster, "far").await?;
        cluster.add(&with_claim("d", "far")).await?;
        says(cluster, "d", "MountVolume.NodeAffinity check failed for volume \"pv-far\" : no matching NodeSelectorTerms").await?;
        // A claim that goes; one that a finalizer keeps counts, for those who have it.
        let kept = json!({ "finalizers": ["example.com/keep"] });
        let claim = add_claim(cluster, "going", "Filesystem", &kept).await?;
        add_volume(cluster, &claim, NODE_NAME, &source).await?;
        bind(cluster, "going").await?;
        let at = path("persistentvolumeclaims", "default", "going");
        let only = json!({ "metadata": { "finalizers": ["example.com/keep"] } });
        cluster.client().merge(&at, &only).await?;
        cluster.client().delete(&at, None).await?;
        cluster.client().merge(&at, &only).await?;
        cluster.add(&with_claim("e", "going")).await?;
        says(
            cluster,
            "e",
            &format!("{UNABLE}error processing PVC default/going: PVC is being deleted"),
        )
        .await?;
        ensure!(node.runtime.containers().is_empty());
        is_whole(&node.path("disk"))
    });
}

#[test]
fn a_generic_ephemeral_volume_is_its_pods_own() {
    with_cluster(async |cluster, node| {
        let source = json!({ "local": { "path": data(node, "disk")? } });
        node.start_agent()?;
        let template = json!({ "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
        } });
        let volume = json!({ "ephemeral": { "volumeClaimTemplate": template } });
        // Somebody else has made a claim of this name.
        bound(cluster, "a-data", "Filesystem", &source).await?;
        let pod = cluster.add(&with_volume("a", volume)).await?;
        says(
            cluster,
            "a",
            &format!(
                "{UNABLE}PVC default/a-data was not created for pod default/a (pod is not owner)"
            ),
        )
        .await?;
        ensure!(node.runtime.containers().is_empty());
        let owner = json!({ "metadata": { "ownerReferences": [{
            "apiVersion": "v1", "kind": "Pod", "name": "a", "uid": pod.uid(), "controller": true,
        }] } });
        let at = path("persistentvolumeclaims", "default", "a-data");
        cluster.client().merge(&at, &owner).await?;
        cluster.pod_shows("ready", "a", SOON, is_ready).await?;
        ensure!(
            mounts(&place(
                node,
                &pod,
                "volumes/kubernetes.io~local-volume/pv-a-data"
            ))? == 1
        );
        cluster.delete_pod("a", Some(1)).await?;
        cluster.gone(node, &pod).await?;
        is_whole(&node.path("disk"))
    });
}

#[test]
fn a_restart_without_the_server_finds_the_volumes() {
    with_cluster(async |cluster, node| {
        let data = data(node, "disk")?;
        bound(
            cluster,
            "db",
            "Filesystem",
            &json!({ "local": { "path": data } }),
        )
        .await?;
        let host = json!({ "hostPath": { "path": data } });
        bound(cluster, "host", "Filesystem", &host).await?;
        node.start_agent()?;
        let mut pod = with_claim("a", "db");
        let more = json!({ "name": "host", "persistentVolumeClaim": { "claimName": "host" } });
        pod["spec"]["volumes"]
            .as_array_mut()
            .context("no list")?
            .push(more);
        let mounts_of = &mut pod["spec"]["containers"][0]["volumeMounts"];
        let more = json!({ "name": "host", "mountPath": "/host" });
        mounts_of.as_array_mut().context("no list")?.push(more);
        let made = cluster.add(&pod).await?;
        cluster.ready("a").await?;
        let place = place(node, &made, "volumes/kubernetes.io~local-volume/pv-db");
        let before = node.runtime.running("default/a/main").pop();
        let before = before.context("it does not run")?;
        let kept = node.path("kubelet/api-pods/pods").join(made.uid());
        eventually("the pod is kept", LIMIT, async || {
            ensure!(kept.exists());
            Ok(())
        })
        .await?;
        node.kill_agent()?;
        cluster.line.refuse();
        node.start_agent()?;
        throughout("it is left alone", Duration::from_secs(4), async || {
            let now = node.runtime.running("default/a/main").pop();
            ensure!(now.is_some_and(|now| now.id == before.id));
            ensure!(mounts(&place)? == 1);
            Ok(())
        })
        .await?;
        // What starts again meanwhile has its volumes.
        ensure!(node.runtime.kill_container(&before.id, 1));
        let again = eventually("it runs again", SOON, async || {
            let now = node.runtime.running("default/a/main").pop();
            let now = now.filter(|now| now.id != before.id);
            now.context("not yet")
        })
        .await?;
        ensure!(again.config.mounts.len() == before.config.mounts.len());
        for (again, before) in again.config.mounts.iter().zip(&before.config.mounts) {
            // The termination log is each instance's own.
            if !before.host_path.contains("/containers/") {
                ensure!(again == before, "{again:?} {before:?}");
            }
        }
        ensure!(mounts(&place)? == 1);
        cluster.line.open();
        cluster.pod_shows("ready", "a", SOON, is_ready).await?;
        // What the agent left when it died is found by what is on the disk.
        node.kill_agent()?;
        cluster.delete_pod("a", Some(0)).await?;
        node.start_agent()?;
        cluster.gone(node, &made).await?;
        ensure!(mounts(&place)? == 0);
        is_whole(&data)
    });
}
