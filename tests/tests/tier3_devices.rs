//! Real containers with devices of a plugin: what they see of them, through a restart of the agent.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cri_proto::deviceplugin::{ContainerAllocateResponse, DeviceSpec, Mount};
use serde_json::json;
use tests::agent::{Agent, PodView as _};
use tests::device_plugin::{DevicePlugin, device};
use tests::manifest::PodManifest;
use tests::scenario::with_node;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);
const DEV: &str = "example.com/zero";

#[test]
fn a_container_sees_its_device_and_what_comes_with_it() {
    with_node(async |node| {
        let agent = Agent::new(node)?;
        let driver = node.path("driver");
        fs::create_dir_all(&driver)?;
        fs::write(driver.join("version"), "7\n")?;
        let given = ContainerAllocateResponse {
            envs: [("MODE".to_owned(), "fast".to_owned())].into(),
            mounts: vec![Mount {
                container_path: "/opt/driver".into(),
                host_path: driver.display().to_string(),
                read_only: true,
            }],
            devices: vec![DeviceSpec {
                container_path: "/dev/example0".into(),
                host_path: "/dev/zero".into(),
                permissions: "rw".into(),
            }],
            ..ContainerAllocateResponse::default()
        };
        let two = ["a", "b"].map(|id| device(id, &[]));
        // Upstream's is where it is by default, whatever the root directory.
        let root = match agent.is_foreign() {
            true => node.path("varlib/kubelet"),
            false => node.path("kubelet"),
        };
        let plugin = DevicePlugin::new(&root, DEV, two.into())?.giving(given);
        agent.start().await?;
        plugin.start().await?;
        let script = "echo has $DEVICES in mode $MODE with driver $(cat /opt/driver/version); \
             test -c /dev/example0 && echo reads $(head -c 4 /dev/example0 | wc -c); \
             touch /opt/driver/x 2>/dev/null || echo may not write; sleep 1000";
        let manifest = |name: &str, script: &str| {
            let device = json!({"limits": {DEV: "1"}});
            PodManifest::script(name, script)
                .main("resources", device)
                .text()
        };
        node.put("a.yaml", &manifest("a", script))?;
        let pod = agent.ready("a", LIMIT).await?;
        let allocated = plugin.calls_of("Allocate");
        ensure!(allocated.len() == 1, "{allocated:?}");
        let own = allocated[0].devices.first().context("no device")?.clone();
        let expected = format!("has {own} in mode fast with driver 7");
        agent.logged(&pod, "main", &expected, LIMIT).await?;
        agent.logged(&pod, "main", "reads 4", LIMIT).await?;
        agent.logged(&pod, "main", "may not write", LIMIT).await?;

        // Another agent, without the plugin: what runs goes on, and what is new has to wait for it.
        agent.kill()?;
        plugin.stop();
        agent.start().await?;
        let again = agent.ready("a", LIMIT).await?;
        ensure!(again.instances() == pod.instances(), "{}", again.describe());
        if agent.is_foreign() {
            eprintln!(
                "not held to what becomes of a static pod that was refused, nor to its health: that is our addition"
            );
            return Ok(());
        }
        let script = "echo has $DEVICES; sleep 1000";
        node.put("b.yaml", &manifest("b", script))?;
        let refused = agent.phase("b", "Failed", LIMIT).await?;
        let status = refused.status.as_ref().context("no status")?;
        let reason = status.reason.as_deref().unwrap_or_default();
        ensure!(
            reason == "UnexpectedAdmissionError",
            "{}",
            refused.describe()
        );
        plugin.start().await?;
        let second = agent.ready("b", LIMIT).await?;
        let other = if own == "a" { "b" } else { "a" };
        agent
            .logged(&second, "main", &format!("has {other}"), LIMIT)
            .await?;
        let again = agent.ready("a", LIMIT).await?;
        ensure!(again.instances() == pod.instances(), "{}", again.describe());

        // One that breaks shows, and is not taken away from whom it has.
        plugin.set(vec![device(other, &[]), tests::device_plugin::broken(&own)]);
        eventually("the device is shown as broken", LIMIT, async || {
            let pod = agent.pod("a")?;
            let status = pod.container("main")?.allocated_resources_status.clone();
            let health = status
                .iter()
                .flatten()
                .flat_map(|s| s.resources.iter().flatten())
                .map(|r| (r.resource_id.clone(), r.health.clone().unwrap_or_default()));
            let health: Vec<_> = health.collect();
            ensure!(
                health == [(own.clone(), "Unhealthy".to_owned())],
                "{health:?}"
            );
            Ok(())
        })
        .await?;
        let again = agent.ready("a", LIMIT).await?;
        ensure!(again.instances() == pod.instances(), "{}", again.describe());
        agent.terminate().await?;
        Ok(())
    });
}
