//! The whole agent on a fake runtime, and device plugins: who gets which devices, what a container is made with, and what
//! becomes of it all when plugins break and the agent begins anew.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cri_proto::deviceplugin::{CdiDevice, ContainerAllocateResponse, DeviceSpec, Mount};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::agent::PodView as _;
use tests::device_plugin::{DevicePlugin, broken, device};
use tests::fake_runtime::Container;
use tests::in_process::{FakeNode, LIMIT, with_agent, with_node};
use tests::wait::eventually;
use tonic::Code;

const DEV: &str = "example.com/dev";

/// A container called `name` that asks for `count` devices, with the fields of `more` in it.
fn container(name: &str, count: u32, more: &str) -> String {
    format!(
        "{{name: {name}, image: 'busybox:1', {more} resources: {{limits: {{{DEV}: {count}}}}}}}"
    )
}

/// A pod of these containers, with the fields of `spec` beside them.
fn pod(name: &str, spec: &str, containers: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, {spec} \
         containers: [{containers}]}}}}"
    )
}

fn asking(name: &str, count: u32) -> String {
    pod(name, "", &container("main", count, ""))
}

fn root(node: &FakeNode) -> std::path::PathBuf {
    node.path("kubelet")
}

/// The reason and message of a pod that was refused.
async fn refused(node: &FakeNode, name: &str) -> Result<(String, String)> {
    let pod = node.phase(name, "Failed").await?;
    ensure!(pod.statuses().is_empty(), "{}", pod.describe());
    let status = pod.status.as_ref().context("no status")?;
    Ok((
        status.reason.clone().unwrap_or_default(),
        status.message.clone().unwrap_or_default(),
    ))
}

/// The one instance of a container that runs.
async fn runs(node: &FakeNode, container: &str) -> Result<Container> {
    let mut running = node.running(container, 1).await?;
    running.pop().context("one")
}

/// The devices of a container, as its plugin told them.
fn devices_of(container: &Container) -> Vec<String> {
    let envs = container.config.envs.iter();
    let mut found = envs.filter(|env| env.key == "DEVICES");
    let ids = found
        .next()
        .map(|env| env.value.clone())
        .unwrap_or_default();
    let ids = String::from_utf8_lossy(&ids).into_owned();
    ids.split(',')
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
        .collect()
}

fn checkpoint(node: &FakeNode) -> Result<Value> {
    let file = root(node).join("device-plugins/kubelet_internal_checkpoint");
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

#[test]
fn a_container_is_made_with_what_its_plugin_says() {
    with_agent(async |node| {
        let given = ContainerAllocateResponse {
            envs: [("MODE", "plugin"), ("OWN", "plugin")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            mounts: vec![Mount {
                container_path: "/lib/driver".into(),
                host_path: "/usr/lib/driver".into(),
                read_only: true,
            }],
            devices: vec![DeviceSpec {
                container_path: "/dev/dev0".into(),
                host_path: "/dev/zero".into(),
                permissions: "rw".into(),
            }],
            annotations: [("example.com/dev".to_owned(), "yes".to_owned())].into(),
            cdi_devices: vec![CdiDevice {
                name: "example.com/dev=all".into(),
            }],
        };
        let three = ["a", "b", "c"].map(|id| device(id, &[]));
        let plugin = DevicePlugin::new(&root(node), DEV, three.into())?
            .giving(given)
            .told_before_start()
            .preferring(&["c", "a"]);
        plugin.start().await?;
        let own = "env: [{name: OWN, value: spec}], args: ['$(MODE)'],";
        node.put("a.yaml", &pod("a", "", &container("main", 2, own)))?;
        node.ready("a").await?;
        let made = runs(node, "a/main").await?;
        ensure!(devices_of(&made) == ["a", "c"], "{:?}", made.config.envs);
        let config = &made.config;
        let env = |name: &str| {
            let of_name = config.envs.iter().filter(|env| env.key == name);
            of_name.map(|env| env.value.clone()).collect::<Vec<_>>()
        };
        ensure!(env("MODE") == [b"plugin"], "{:?}", config.envs);
        ensure!(env("OWN") == [b"spec"], "{:?}", config.envs);
        ensure!(config.args == ["plugin"], "{:?}", config.args);
        let first = config.mounts.first().context("no mount")?;
        ensure!(first.container_path == "/lib/driver", "{:?}", config.mounts);
        ensure!(first.readonly && first.host_path == "/usr/lib/driver");
        let [dev] = config.devices.as_slice() else {
            anyhow::bail!("{:?}", config.devices);
        };
        ensure!(dev.host_path == "/dev/zero" && dev.container_path == "/dev/dev0");
        ensure!(dev.permissions == "rw");
        ensure!(
            config
                .annotations
                .get("example.com/dev")
                .is_some_and(|v| v == "yes")
        );
        ensure!(config.cdi_devices.len() == 1, "{:?}", config.cdi_devices);
        let asked = plugin.calls_of("GetPreferredAllocation");
        ensure!(asked.len() == 1 && asked[0].wanted == 2, "{asked:?}");
        ensure!(asked[0].devices == ["a", "b", "c"], "{asked:?}");
        let told = plugin.calls_of("PreStartContainer");
        ensure!(told.len() == 1 && told[0].devices == ["a", "c"], "{told:?}");
        // A container that begins again has the same devices, without being asked for anew.
        ensure!(node.runtime.kill_container(&made.id, 1));
        eventually("it runs again", LIMIT, async || {
            let again = runs(node, "a/main").await?;
            ensure!(again.id != made.id);
            ensure!(devices_of(&again) == ["a", "c"], "{:?}", again.config.envs);
            Ok(())
        })
        .await?;
        ensure!(plugin.calls_of("Allocate").len() == 1);
        ensure!(plugin.calls_of("PreStartContainer").len() == 2);
        // What the pod had is free once it is gone.
        let gone = node.pod("a")?;
        node.remove("a.yaml")?;
        node.gone(&gone).await?;
        node.put("b.yaml", &asking("b", 3))?;
        node.ready("b").await.map(drop)
    });
}

#[test]
fn init_containers_pass_devices_on_and_sidecars_keep_theirs() {
    with_agent(async |node| {
        let two = ["a", "b"].map(|id| device(id, &[]));
        let plugin = DevicePlugin::new(&root(node), DEV, two.into())?;
        plugin.start().await?;
        node.runtime.program(
            "first",
            tests::fake_runtime::Program::exits(0, std::time::Duration::ZERO),
        );
        let init = format!(
            "initContainers: [{}, {}],",
            container("first", 2, ""),
            container("side", 1, "restartPolicy: Always,"),
        );
        node.put("a.yaml", &pod("a", &init, &container("main", 1, "")))?;
        node.ready("a").await?;
        let (side, main) = (runs(node, "a/side").await?, runs(node, "a/main").await?);
        let (side, main) = (devices_of(&side), devices_of(&main));
        ensure!(
            side.len() == 1 && main.len() == 1 && side != main,
            "{side:?} {main:?}"
        );
        Ok(())
    });
}

#[test]
fn a_pod_that_gets_no_devices_says_why_and_is_asked_for_again_when_there_are_some() {
    with_agent(async |node| {
        let plugin = DevicePlugin::new(&root(node), DEV, vec![device("a", &[]), broken("b")])?;
        plugin.start().await?;
        node.put("two.yaml", &asking("two", 2))?;
        let (reason, message) = refused(node, "two").await?;
        ensure!(reason == "UnexpectedAdmissionError", "{reason}");
        let expected = "Pod was rejected: Allocate failed due to requested number of devices unavailable for \
                        example.com/dev. Requested: 2, Available: 1, which is unexpected";
        ensure!(message == expected, "{message}");
        // Another is not in its way.
        node.put("one.yaml", &asking("one", 1))?;
        let one = node.ready("one").await?;
        node.remove("one.yaml")?;
        node.gone(&one).await?;
        plugin.set(vec![device("a", &[]), device("b", &[])]);
        node.ready("two").await?;

        // A plugin that refuses.
        let two = node.pod("two")?;
        node.remove("two.yaml")?;
        node.gone(&two).await?;
        plugin.fail("Allocate", Some((Code::Internal, "out of order")));
        node.put("nope.yaml", &asking("nope", 1))?;
        let (reason, message) = refused(node, "nope").await?;
        ensure!(reason == "UnexpectedAdmissionError", "{reason}");
        let expected = "Pod was rejected: Allocate failed due to rpc error: code = Internal desc = out of order, which \
                        is unexpected";
        ensure!(message == expected, "{message}");
        // It is asked again when the plugin has news, and not before.
        let asked = plugin.calls_of("Allocate").len();
        plugin.fail("Allocate", None);
        plugin.set(vec![device("a", &[])]);
        node.ready("nope").await?;
        ensure!(plugin.calls_of("Allocate").len() == asked + 1);
        Ok(())
    });
}

#[test]
fn the_next_agent_knows_who_has_what_and_waits_for_the_plugin() {
    with_agent(async |node| {
        let two = ["a", "b"].map(|id| device(id, &[]));
        let plugin = DevicePlugin::new(&root(node), DEV, two.into())?;
        plugin.start().await?;
        node.put("old.yaml", &asking("old", 1))?;
        node.ready("old").await?;
        let old = runs(node, "old/main").await?;
        let kept = checkpoint(node)?;
        let entry = &kept["Data"]["PodDeviceEntries"][0];
        ensure!(entry["ContainerName"] == "main", "{kept}");
        ensure!(
            entry["DeviceIDs"] == json!({"-1": devices_of(&old)}),
            "{kept}"
        );
        ensure!(
            kept["Data"]["RegisteredDevices"][DEV]
                .as_array()
                .is_some_and(|d| d.len() == 2)
        );

        node.kill_agent()?;
        plugin.stop();
        node.put("new.yaml", &asking("new", 1))?;
        node.start_agent()?;
        let (reason, message) = refused(node, "new").await?;
        ensure!(reason == "UnexpectedAdmissionError", "{reason}");
        let expected = "Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy \
                        devices example.com/dev, which is unexpected";
        ensure!(message == expected, "{message}");
        node.ready("old").await?;
        // The socket of before was cleared; the plugin begins anew, as one that watches the directory does.
        plugin.start().await?;
        node.ready("new").await?;
        let new = runs(node, "new/main").await?;
        ensure!(
            devices_of(&new) != devices_of(&old),
            "{:?}",
            devices_of(&new)
        );
        let still = runs(node, "old/main").await?;
        ensure!(still.id == old.id, "it was begun again");
        // The devices of a pod that goes while no agent runs come back.
        node.kill_agent()?;
        node.remove("old.yaml")?;
        node.start_agent()?;
        plugin.start().await?;
        node.running("old/main", 0).await?;
        node.put("third.yaml", &asking("third", 1))?;
        node.ready("third").await?;
        let third = runs(node, "third/main").await?;
        ensure!(devices_of(&third) == devices_of(&old));
        Ok(())
    });
}

#[test]
fn a_checkpoint_that_is_torn_harms_nobody() {
    with_agent(async |node| {
        let two = ["a", "b"].map(|id| device(id, &[]));
        let plugin = DevicePlugin::new(&root(node), DEV, two.into())?;
        plugin.start().await?;
        node.put("old.yaml", &asking("old", 1))?;
        node.ready("old").await?;
        let old = runs(node, "old/main").await?;
        node.kill_agent()?;
        let file = root(node).join("device-plugins/kubelet_internal_checkpoint");
        let content = std::fs::read(&file)?;
        std::fs::write(&file, &content[..content.len() / 2])?;
        node.start_agent()?;
        plugin.start().await?;
        node.put("new.yaml", &asking("new", 1))?;
        node.ready("new").await?;
        let new = runs(node, "new/main").await?;
        ensure!(
            devices_of(&new) != devices_of(&old),
            "{:?}",
            devices_of(&new)
        );
        ensure!(
            runs(node, "old/main").await?.id == old.id,
            "it was begun again"
        );
        ensure!(file.with_extension("bad").exists());
        ensure!(
            node.log()
                .contains("the checkpoint of devices is set aside")
        );
        checkpoint(node).map(drop)
    });
}

#[test]
fn a_plugin_that_hangs_keeps_nobody_else_waiting() {
    with_agent(async |node| {
        let plugin = DevicePlugin::new(&root(node), DEV, vec![device("a", &[]), device("b", &[])])?;
        plugin.start().await?;
        let other = DevicePlugin::new(&root(node), "example.com/other", vec![device("x", &[])])?;
        other.start().await?;
        plugin.hang("Allocate", true);
        node.put("stuck.yaml", &asking("stuck", 1))?;
        eventually("it is asked", LIMIT, async || {
            ensure!(!plugin.calls_of("Allocate").is_empty());
            Ok(())
        })
        .await?;
        node.put(
            "plain.yaml",
            &pod("plain", "", "{name: main, image: 'busybox:1'}"),
        )?;
        let with_other = "resources: {limits: {example.com/other: 1}}";
        let with_other = format!("{{name: main, image: 'busybox:1', {with_other}}}");
        node.put("other.yaml", &pod("other", "", &with_other))?;
        node.ready("plain").await?;
        node.ready("other").await?;
        ensure!(node.pod("stuck")?.phase() == "Pending");
        ensure!(
            node.changes_of("stuck").is_empty(),
            "{:?}",
            node.changes_of("stuck")
        );
        plugin.hang("Allocate", false);
        node.ready("stuck").await?;
        // One that is not wanted any more need not wait for it.
        plugin.hang("Allocate", true);
        node.put("second.yaml", &asking("second", 1))?;
        eventually("it is asked", LIMIT, async || {
            ensure!(plugin.calls_of("Allocate").len() == 2);
            Ok(())
        })
        .await?;
        let second = node.pod("second")?;
        node.remove("second.yaml")?;
        node.gone(&second).await
    });
}

#[test]
fn registrations_are_refused_in_upstreams_words() {
    with_agent(async |node| {
        let plugin = DevicePlugin::new(&root(node), DEV, vec![device("a", &[])])?;
        plugin.start().await?;
        let version = plugin.register_as("v1alpha1", DEV).await;
        let version = version.err().context("taken")?;
        let expected = "requested API version \"v1alpha1\" is not supported by kubelet. Supported version is [\"v1beta1\"]";
        ensure!(version.message() == expected, "{version}");
        ensure!(version.code() == Code::Unknown, "{version}");
        let name = plugin
            .register_as("v1beta1", "cpu")
            .await
            .err()
            .context("taken")?;
        ensure!(
            name.message() == "the ResourceName \"cpu\" is invalid",
            "{name}"
        );
        plugin.stop();
        let nobody = plugin.register().await.err().context("taken")?;
        ensure!(
            nobody
                .message()
                .starts_with("failed to get device plugin options: "),
            "{nobody}"
        );
        Ok(())
    });
}

#[test]
fn a_plugin_may_register_as_storage_drivers_do() {
    with_agent(async |node| {
        node.put(
            "early.yaml",
            &pod("early", "", "{name: main, image: 'busybox:1'}"),
        )?;
        node.ready("early").await?;
        let plugin = DevicePlugin::new(&root(node), DEV, vec![device("a", &[])])?;
        plugin.serve_in_registry()?;
        eventually("it is told", LIMIT, async || {
            let told = plugin.told();
            ensure!(told.last().is_some_and(|(taken, _)| *taken), "{told:?}");
            Ok(())
        })
        .await?;
        node.put("a.yaml", &asking("a", 1))?;
        node.ready("a").await?;
        ensure!(devices_of(&runs(node, "a/main").await?) == ["a"]);
        // With its socket it goes.
        plugin.stop();
        node.put("b.yaml", &asking("b", 1))?;
        let (_, message) = refused(node, "b").await?;
        ensure!(
            message.contains("cannot allocate unhealthy devices"),
            "{message}"
        );
        Ok(())
    });
}

/// The health that the pod's status has of its devices: id, then word.
fn health(pod: &Pod) -> Result<Vec<(String, String)>> {
    let statuses = pod.container("main")?.allocated_resources_status.clone();
    let resources = statuses.unwrap_or_default().into_iter();
    let of = resources.flat_map(|status| status.resources.unwrap_or_default());
    Ok(of
        .map(|r| (r.resource_id, r.health.unwrap_or_default()))
        .collect())
}

#[test]
fn a_pods_status_says_how_its_devices_are() {
    with_agent(async |node| {
        let plugin = DevicePlugin::new(&root(node), DEV, vec![device("a", &[])])?;
        plugin.start().await?;
        node.put("a.yaml", &asking("a", 1))?;
        node.ready("a").await?;
        for (devices, word) in [
            (vec![device("a", &[])], "Healthy"),
            (vec![broken("a")], "Unhealthy"),
            (vec![device("a", &[])], "Healthy"),
        ] {
            plugin.set(devices);
            eventually(&format!("the device is {word}"), LIMIT, async || {
                let shown = health(&node.pod("a")?)?;
                ensure!(shown == [("a".to_owned(), word.to_owned())], "{shown:?}");
                Ok(())
            })
            .await?;
        }
        ensure!(node.pod("a")?.container("main")?.restart_count == 0);
        Ok(())
    });
}

#[test]
fn it_says_nothing_where_the_gate_is_closed() {
    with_node(async |node| {
        let gates = json!({"ResourceHealthStatus": false, "ResourceHealthStatusMessage": false});
        node.configure("featureGates", gates);
        node.start_agent()?;
        let plugin = DevicePlugin::new(&root(node), DEV, vec![device("a", &[])])?;
        plugin.start().await?;
        node.put("a.yaml", &asking("a", 1))?;
        node.ready("a").await?;
        ensure!(health(&node.pod("a")?)?.is_empty());
        ensure!(devices_of(&runs(node, "a/main").await?) == ["a"]);
        Ok(())
    });
}

#[test]
fn old_sockets_go_and_files_stay() {
    with_node(async |node| {
        let directory = root(node).join("device-plugins");
        std::fs::create_dir_all(&directory)?;
        let old = directory.join("old.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&old)?;
        let file: &Path = &directory.join("DEPRECATION");
        std::fs::write(file, "")?;
        node.start_agent()?;
        eventually("the agent listens", LIMIT, async || {
            ensure!(directory.join("kubelet.sock").exists() && !old.exists());
            Ok(())
        })
        .await?;
        ensure!(file.exists());
        Ok(())
    });
}
