//! A joined node on a fake runtime, with a storage driver that mounts: volumes of claims, attached, staged for the node and
//! published to pods, through the end of plugin, agent and pods.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::cluster::{Cluster, LIMIT, bound_pod, path, with_cluster};
use tests::csi_driver::{CsiDriver, Traits};
use tests::in_process::FakeNode;
use tests::is_root;
use tests::wait::{eventually, throughout};

const DRIVER: &str = "bind.example";
/// What the volume is called in the node's status.
const UNIQUE: &str = "kubernetes.io/csi/bind.example^vol-1";

fn driver(node: &FakeNode, more: &[Ability]) -> Result<CsiDriver> {
    let abilities = [&[Ability::StageUnstageVolume], more].concat();
    let traits = Traits::new(DRIVER, &abilities);
    CsiDriver::new(&node.path("kubelet"), &node.path("driver"), traits)
}

/// The driver's object, a bound claim `c`, and the volume `pv-1` behind it with this in its spec besides.
async fn describe(cluster: &Cluster, driver: &Value, volume: &Value) -> Result<()> {
    let client = cluster.client();
    let object = json!({"metadata": {"name": DRIVER}, "spec": driver});
    client.create(&path("csidrivers", "", ""), &object).await?;
    let mut spec = json!({"csi": {"driver": DRIVER, "volumeHandle": "vol-1", "fsType": "ext4",
        "volumeAttributes": {"a": "b"}}});
    for (key, value) in volume.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    cluster
        .add_bound_claim(&json!({"name": "c"}), "pv-1", &spec)
        .await
}

/// What the attach controller and the driver's controller do.
async fn attach(cluster: &Cluster, node: &FakeNode) -> Result<()> {
    let client = cluster.client();
    eventually("the volume is in use", LIMIT, async || {
        let status = cluster.node().await?.status.unwrap_or_default();
        ensure!(status.volumes_in_use == Some(vec![UNIQUE.to_owned()]));
        Ok(())
    })
    .await?;
    let name = kubelet_attachment(node);
    let attachment = json!({"metadata": {"name": name}, "spec": {"attacher": DRIVER, "nodeName": NODE_NAME,
        "source": {"persistentVolumeName": "pv-1"}}});
    let all = path("volumeattachments", "", "");
    client.create(&all, &attachment).await?;
    let own = path("nodes", "", NODE_NAME);
    let attached = json!({"status": {"volumesAttached": [{"name": UNIQUE, "devicePath": ""}]}});
    client.merge(&format!("{own}/status"), &attached).await?;
    let done = json!({"status": {"attached": true, "attachmentMetadata": {"lun": "7"}}});
    let one = path("volumeattachments", "", &name);
    client
        .merge(&format!("{one}/status"), &done)
        .await
        .map(drop)
}

/// `csi-` and the SHA-256 of handle, driver and node.
fn kubelet_attachment(_: &FakeNode) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(format!("vol-1{DRIVER}{NODE_NAME}"));
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}

fn pod(name: &str) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod
}

fn methods(driver: &CsiDriver) -> Vec<&'static str> {
    let calls = driver.calls().into_iter().map(|call| call.method);
    calls.filter(|method| *method != "NodeGetInfo").collect()
}

#[test]
fn a_volume_is_attached_staged_once_and_given_back_by_its_last_pod() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        describe(cluster, &json!({}), &json!({"mountOptions": ["noatime"]})).await?;
        let driver = driver(node, &[])?;
        driver.start()?;
        node.start_agent()?;
        let first = cluster.add(&pod("attached")).await?;
        let event = cluster.event("attached", "FailedMount").await?;
        let message = event.message.unwrap_or_default();
        ensure!(
            message.contains("MountVolume.WaitForAttach failed for volume \"pv-1\" : "),
            "{message}"
        );
        ensure!(
            driver.calls_of("NodeStageVolume").is_empty(),
            "it is not attached yet"
        );
        attach(cluster, node).await?;
        let at = node.main_of("attached").await?.mounted("/data")?;
        ensure!(
            at.ends_with("volumes/kubernetes.io~csi/pv-1/mount"),
            "{}",
            at.display()
        );
        ensure!(std::fs::read_to_string(at.join("volume"))? == "vol-1");
        let staged = driver.calls_of("NodeStageVolume");
        ensure!(staged.len() == 1, "{staged:?}");
        ensure!(staged[0].publish_context.get("lun").map(String::as_str) == Some("7"));
        ensure!(staged[0].flags == ["noatime"] && staged[0].context["a"] == "b");
        ensure!(
            staged[0].staged_at.ends_with("/globalmount"),
            "{}",
            staged[0].staged_at
        );
        ensure!(
            staged[0]
                .staged_at
                .contains("/plugins/kubernetes.io/csi/bind.example/")
        );
        let published = driver.calls_of("NodePublishVolume");
        ensure!(published[0].staged_at == staged[0].staged_at);
        ensure!(published[0].publish_context["lun"] == "7");

        // A second pod shares what is staged.
        let second = cluster.add(&pod("b")).await?;
        let other = node.main_of("b").await?.mounted("/data")?;
        ensure!(methods(&driver) == ["NodeStageVolume", "NodePublishVolume", "NodePublishVolume"]);
        std::fs::write(other.join("shared"), "x")?;
        ensure!(at.join("shared").is_file());
        cluster.delete_pod("attached", None).await?;
        cluster.gone(node, &first).await?;
        ensure!(
            driver.calls_of("NodeUnstageVolume").is_empty(),
            "the other pod uses it"
        );
        let status = cluster.node().await?.status.unwrap_or_default();
        ensure!(status.volumes_in_use.is_some(), "it is in use");
        cluster.delete_pod("b", None).await?;
        cluster.gone(node, &second).await?;
        ensure!(
            methods(&driver)[3..]
                == [
                    "NodeUnpublishVolume",
                    "NodeUnpublishVolume",
                    "NodeUnstageVolume"
                ]
        );
        ensure!(driver.mounted().is_empty(), "{:?}", driver.mounted());
        eventually("it is not in use", LIMIT, async || {
            let status = cluster.node().await?.status.unwrap_or_default();
            ensure!(status.volumes_in_use.is_none_or(|all| all.is_empty()));
            Ok(())
        })
        .await
    });
}

#[test]
fn the_plugin_begins_anew_between_staging_and_publishing_and_so_does_the_agent() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        describe(cluster, &json!({"attachRequired": false}), &json!({})).await?;
        let driver = driver(node, &[])?;
        driver.start()?;
        node.start_agent()?;
        driver.hang("NodePublishVolume", true);
        let made = cluster.add(&pod("a")).await?;
        eventually("it is to be published", LIMIT, async || {
            let calls = driver.calls_of("NodePublishVolume");
            ensure!(calls.len() == 1, "{}", calls.len());
            Ok(())
        })
        .await?;
        // The plugin is killed at that call; another takes its place.
        driver.stop();
        driver.hang("NodePublishVolume", false);
        driver.start()?;
        let at = node.main_of("a").await?.mounted("/data")?;
        ensure!(std::fs::read_to_string(at.join("volume"))? == "vol-1");
        ensure!(
            driver.calls_of("NodeStageVolume").len() == 1,
            "{:?}",
            methods(&driver)
        );

        // The agent is killed at the same point of another pod.
        driver.hang("NodePublishVolume", true);
        let before = driver.calls_of("NodePublishVolume").len();
        let other = cluster.add(&pod("b")).await?;
        eventually("it is to be published", LIMIT, async || {
            ensure!(driver.calls_of("NodePublishVolume").len() == before + 1);
            Ok(())
        })
        .await?;
        node.kill_agent()?;
        driver.hang("NodePublishVolume", false);
        node.start_agent()?;
        node.main_of("b").await?;
        ensure!(
            driver.calls_of("NodeStageVolume").len() == 1,
            "{:?}",
            methods(&driver)
        );
        // Of the pod that ran all the while nothing was asked again.
        let of_first = |calls: Vec<tests::csi_driver::Call>| {
            let target = at.display().to_string();
            calls
                .into_iter()
                .filter(|call| call.target == target)
                .count()
        };
        let asked = of_first(driver.calls_of("NodePublishVolume"));
        ensure!(
            asked == 2,
            "once before the plugin was killed, once after: {asked}"
        );

        // Both pods are deleted while there is no agent, and with them every spec.
        node.kill_agent()?;
        for name in ["a", "b"] {
            cluster.delete_pod(name, Some(0)).await?;
        }
        node.start_agent()?;
        cluster.gone(node, &made).await?;
        cluster.gone(node, &other).await?;
        eventually("all is given back", LIMIT, async || {
            ensure!(
                driver.calls_of("NodeUnstageVolume").len() == 1,
                "{:?}",
                methods(&driver)
            );
            ensure!(driver.mounted().is_empty(), "{:?}", driver.mounted());
            Ok(())
        })
        .await
    });
}

#[test]
fn what_cannot_be_unstaged_holds_up_no_pod_and_is_given_back_later() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        describe(cluster, &json!({"attachRequired": false}), &json!({})).await?;
        let driver = driver(node, &[])?;
        driver.start()?;
        node.start_agent()?;
        let made = cluster.add(&pod("a")).await?;
        node.main_of("a").await?;
        driver.fail("NodeUnstageVolume", Some(tonic::Code::Internal));
        cluster.delete_pod("a", None).await?;
        cluster.gone(node, &made).await?;
        ensure!(driver.mounted().len() == 1, "{:?}", driver.mounted());
        // The agent that has tried is gone, and the driver with it.
        node.kill_agent()?;
        driver.stop();
        driver.fail("NodeUnstageVolume", None);
        node.start_agent()?;
        throughout("it stays staged", Duration::from_secs(1), async || {
            ensure!(driver.mounted().len() == 1);
            Ok(())
        })
        .await?;
        driver.start()?;
        eventually("it is given back", LIMIT, async || {
            ensure!(driver.mounted().is_empty(), "{:?}", driver.mounted());
            Ok(())
        })
        .await?;
        let left = node.path("kubelet/plugins/kubernetes.io/csi/bind.example");
        eventually("its directory goes", LIMIT, async || {
            let left = std::fs::read_dir(&left)?.count();
            ensure!(left == 0, "{left} directories");
            Ok(())
        })
        .await?;
        Ok(())
    });
}

#[test]
fn secrets_groups_and_growth_are_the_drivers() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        let secret = |name: &str| json!({"metadata": {"name": name}, "stringData": {"key": name}});
        for name in ["stage", "publish", "expand"] {
            cluster.add_object("secrets", &secret(name)).await?;
        }
        let named = |name: &str| json!({"namespace": "default", "name": name});
        let volume = json!({"capacity": {"storage": "2Gi"}, "csi": {"driver": DRIVER, "volumeHandle": "vol-1",
            "fsType": "ext4", "nodeStageSecretRef": named("stage"), "nodePublishSecretRef": named("publish"),
            "nodeExpandSecretRef": named("expand")}});
        describe(cluster, &json!({"attachRequired": false}), &volume).await?;
        let driver = driver(node, &[Ability::ExpandVolume, Ability::VolumeMountGroup])?;
        driver.start()?;
        node.start_agent()?;
        let mut wanted = pod("a");
        wanted["spec"]["securityContext"] = json!({"fsGroup": 4711});
        cluster.add(&wanted).await?;
        let at = node.main_of("a").await?.mounted("/data")?;
        let call = |method: &str| {
            let calls = driver.calls_of(method);
            ensure!(calls.len() == 1, "{calls:?}");
            Ok(calls[0].clone())
        };
        let (stage, publish) = (call("NodeStageVolume")?, call("NodePublishVolume")?);
        ensure!(stage.secrets["key"] == "stage" && publish.secrets["key"] == "publish");
        ensure!(
            stage.group == "4711" && publish.group == "4711",
            "the driver sees to the group"
        );
        let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(at.join("volume"))?);
        ensure!(group != 4711, "the agent does not");
        let expand = call("NodeExpandVolume")?;
        ensure!(
            expand.bytes == 2 << 30 && expand.secrets["key"] == "expand",
            "{expand:?}"
        );
        ensure!(expand.target == publish.target && expand.staged_at == stage.staged_at);
        eventually("the claim has grown", LIMIT, async || {
            let claim = path("persistentvolumeclaims", "default", "c");
            let claim = cluster.client().get(&claim).await?;
            ensure!(claim["status"]["capacity"]["storage"] == "2Gi", "{claim}");
            Ok(())
        })
        .await
    });
}

#[test]
fn a_raw_device_is_staged_linked_and_given_back() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        let block = json!({"volumeMode": "Block"});
        describe(cluster, &json!({"attachRequired": false}), &block).await?;
        let driver = driver(node, &[])?;
        driver.start()?;
        node.start_agent()?;
        let mut wanted = pod("a");
        let container = &mut wanted["spec"]["containers"][0];
        container["volumeMounts"] = json!([]);
        container["volumeDevices"] = json!([{"name": "data", "devicePath": "/dev/xvda"}]);
        let made = cluster.add(&wanted).await?;
        let container = node.main_of("a").await?;
        let devices = &container.config.devices;
        ensure!(
            devices.len() == 1 && devices[0].container_path == "/dev/xvda",
            "{devices:?}"
        );
        let at = Path::new(&devices[0].host_path);
        let all = node.path("kubelet/plugins/kubernetes.io/csi/volumeDevices");
        let uid = made.metadata.uid.clone().unwrap_or_default();
        ensure!(
            at == all.join("publish/pv-1").join(&uid),
            "{}",
            at.display()
        );
        let link = node
            .pod_dir(&made)
            .join("volumeDevices/kubernetes.io~csi/pv-1");
        ensure!(std::fs::read_link(&link)? == at, "{}", link.display());
        let staged = driver.calls_of("NodeStageVolume");
        ensure!(staged.len() == 1 && staged[0].block, "{staged:?}");
        ensure!(Path::new(&staged[0].staged_at) == all.join("staging/pv-1"));
        ensure!(driver.calls_of("NodePublishVolume")[0].block);
        cluster.delete_pod("a", None).await?;
        cluster.gone(node, &made).await?;
        eventually("it is given back", LIMIT, async || {
            ensure!(methods(&driver)[2..] == ["NodeUnpublishVolume", "NodeUnstageVolume"]);
            ensure!(driver.mounted().is_empty() && !all.join("pv-1").exists());
            Ok(())
        })
        .await
    });
}

#[test]
fn what_a_volume_takes_is_told_as_its_driver_says() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        describe(cluster, &json!({"attachRequired": false}), &json!({})).await?;
        let driver = driver(node, &[Ability::GetVolumeStats])?;
        driver.start()?;
        node.with_socket("")?;
        node.start_agent()?;
        cluster.add(&pod("a")).await?;
        let at = node.main_of("a").await?.mounted("/data")?;
        cluster.ready("a").await?;
        let told = node.metrics().await?;
        let asked = driver.calls_of("NodeGetVolumeStats");
        ensure!(
            asked.len() == 1 && asked[0].target == at.display().to_string(),
            "{asked:?}"
        );
        for (name, value) in [
            ("capacity_bytes", 1_073_741_824.0),
            ("used_bytes", 1_048_576.0),
            ("inodes_used", 7.0),
        ] {
            let of = [("namespace", "default"), ("persistentvolumeclaim", "c")];
            let found = told.value(&format!("kubelet_volume_stats_{name}"), &of);
            ensure!(found == Some(value), "{name}: {found:?}");
        }
        // What was said a moment ago is not asked for again.
        ensure!(driver.calls_of("NodeGetVolumeStats").len() == 1);
        Ok(())
    });
}
