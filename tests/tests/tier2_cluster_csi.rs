//! A joined node on a fake runtime, with a storage driver that mounts: registration, volumes that live as long as their
//! pod, and the same volumes through the end of plugin, agent and pod. Events of all agents of a process come together, so
//! pods whose events count have names of their own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::apiserver::Fault;
use tests::cluster::{Cluster, LIMIT, bound_pod, path, with_cluster, with_double};
use tests::csi_driver::{CsiDriver, Traits};
use tests::in_process::FakeNode;
use tests::is_root;
use tests::wait::{eventually, throughout};

const DRIVER: &str = "bind.example";

fn driver(node: &FakeNode, abilities: &[Ability]) -> Result<CsiDriver> {
    let traits = Traits::new(DRIVER, abilities);
    CsiDriver::new(&node.path("kubelet"), &node.path("driver"), traits)
}

/// The driver's object, with this in its spec besides.
async fn describe(cluster: &Cluster, spec: &Value) -> Result<()> {
    let object = json!({"metadata": {"name": DRIVER}, "spec": spec});
    let all = path("csidrivers", "", "");
    cluster.client().create(&all, &object).await.map(drop)
}

fn ephemeral() -> Value {
    json!({"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral", "Persistent"]})
}

/// A pod with a volume `data` that lives as long as it does.
fn pod(name: &str, more: &Value) -> Value {
    let mut pod = bound_pod(name);
    let mut source = json!({"driver": DRIVER, "volumeAttributes": {"size": "1"}});
    for (key, value) in more.as_object().into_iter().flatten() {
        source[key] = value.clone();
    }
    pod["spec"]["volumes"] = json!([{"name": "data", "csi": source}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod
}

async fn csi_node(cluster: &Cluster) -> Result<Value> {
    cluster.client().get(&path("csinodes", "", NODE_NAME)).await
}

#[test]
fn a_plugin_registers_and_goes_and_the_api_server_hears_of_it() {
    with_cluster(async |cluster, node| {
        let mut traits = Traits::new(DRIVER, &[]);
        traits.topology = [("topology.bind.example/rack".to_owned(), "r1".to_owned())].into();
        traits.most_volumes = 7;
        let driver = CsiDriver::new(&node.path("kubelet"), &node.path("driver"), traits)?;
        node.start_agent()?;
        cluster.node_condition("Ready", "True").await?;
        let empty = csi_node(cluster).await?;
        ensure!(
            empty["spec"]["drivers"]
                .as_array()
                .is_none_or(Vec::is_empty),
            "{empty}"
        );
        let owner = &empty["metadata"]["ownerReferences"][0];
        ensure!(
            owner["kind"] == "Node" && owner["name"] == NODE_NAME,
            "{owner}"
        );
        let old = &empty["metadata"]["annotations"]["storage.alpha.kubernetes.io/migrated-plugins"];
        ensure!(
            old.as_str()
                .is_some_and(|all| all.contains("kubernetes.io/aws-ebs")),
            "{old}"
        );

        driver.start()?;
        driver.registered().await?;
        let told = csi_node(cluster).await?;
        let expected = json!([{"name": DRIVER, "nodeID": "id-of-bind.example",
            "topologyKeys": ["topology.bind.example/rack"], "allocatable": {"count": 7}}]);
        ensure!(told["spec"]["drivers"] == expected, "{told}");
        let object = cluster.node().await?;
        let annotations = object.metadata.annotations.unwrap_or_default();
        ensure!(
            annotations
                .get("csi.volume.kubernetes.io/nodeid")
                .map(String::as_str)
                == Some(r#"{"bind.example":"id-of-bind.example"}"#),
            "{annotations:?}"
        );
        let labels = object.metadata.labels.unwrap_or_default();
        ensure!(labels.get("topology.bind.example/rack").map(String::as_str) == Some("r1"));

        driver.stop();
        eventually("the driver has left", LIMIT, async || {
            let told = csi_node(cluster).await?;
            ensure!(
                told["spec"]["drivers"].as_array().is_none_or(Vec::is_empty),
                "{told}"
            );
            let object = cluster.node().await?;
            let annotations = object.metadata.annotations.unwrap_or_default();
            ensure!(!annotations.contains_key("csi.volume.kubernetes.io/nodeid"));
            Ok(())
        })
        .await?;

        // A socket that is there before the agent begins counts too.
        node.kill_agent()?;
        driver.start()?;
        node.start_agent()?;
        driver.registered().await
    });
}

#[test]
fn plugins_that_cannot_be_taken_are_told_why() {
    with_cluster(async |_, node| {
        node.start_agent()?;
        let cases = [
            (
                "DRAPlugin",
                vec!["1.0.0"],
                "no handler registered for plugin type: DRAPlugin",
            ),
            ("CSIPlugin", vec!["0.3.0"], "None of the versions specified"),
            ("CSIPlugin", vec![], "an empty list for supported versions"),
        ];
        for (number, (kind, versions, expected)) in cases.into_iter().enumerate() {
            let mut traits = Traits::new(&format!("refused-{number}.example"), &[]);
            let versions = versions.into_iter().map(str::to_owned).collect();
            traits.plugin = (kind.to_owned(), versions);
            let driver = CsiDriver::new(&node.path("kubelet"), &node.path("driver"), traits)?;
            driver.start()?;
            eventually(expected, LIMIT, async || {
                let told = driver.told();
                let (taken, why) = told.first().context("it was told nothing")?;
                ensure!(!taken && why.contains(expected), "{told:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn a_driver_that_the_api_server_refuses_for_good_is_told_and_holds_up_no_other() {
    with_double(async |_, double, node| {
        node.start_agent()?;
        let add = |name: &str| {
            let driver = CsiDriver::new(
                &node.path("kubelet"),
                &node.path("driver"),
                Traits::new(name, &[]),
            )?;
            driver.start().map(|()| driver)
        };
        // With what else is told, and of it alone.
        let at = path("csinodes", "", NODE_NAME);
        let refusal = Fault::on("update", &at).times(2);
        double.fault(refusal.answers(422, "Invalid", "the driver's key is no key"));
        let refused = add("refused.example")?;
        eventually("the driver is told why", LIMIT, async || {
            let told = refused.told();
            let (taken, why) = told.first().context("it was told nothing")?;
            ensure!(
                !taken && why.contains("the driver's key is no key"),
                "{told:?}"
            );
            Ok(())
        })
        .await?;
        add("taken.example")?.registered().await
    });
}

#[test]
fn a_volume_lives_as_long_as_its_pod() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        describe(cluster, &ephemeral()).await?;
        let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
        cluster.add_object("secrets", &secret).await?;
        let driver = driver(node, &[])?;
        node.start_agent()?;
        // The pod is there before its driver.
        let mut wanted = pod(
            "early",
            &json!({"nodePublishSecretRef": {"name": "s"}, "fsType": "ext4"}),
        );
        wanted["spec"]["securityContext"] = json!({"fsGroup": 4711});
        let made = cluster.add(&wanted).await?;
        let event = cluster.event("early", "FailedMount").await?;
        let message = event.message.unwrap_or_default();
        ensure!(
            message.contains("MountVolume.SetUp failed for volume \"data\" : kubernetes.io/csi: ")
                && message.contains(
                    "driver name bind.example not found in the list of registered CSI drivers"
                ),
            "{message}"
        );
        driver.start()?;
        let container = node.main_of("early").await?;
        let at = container.mounted("/data")?;
        ensure!(
            at.ends_with("volumes/kubernetes.io~csi/data/mount"),
            "{}",
            at.display()
        );
        let published = driver.calls_of("NodePublishVolume");
        ensure!(published.len() == 1, "{published:?}");
        let call = &published[0];
        ensure!(std::fs::read_to_string(at.join("volume"))? == call.volume);
        ensure!(
            call.volume.starts_with("csi-") && call.volume.len() == 68,
            "{}",
            call.volume
        );
        ensure!(call.secrets.get("password").map(String::as_str) == Some("hunter2"));
        let told = |key: &str| call.context.get(key).map(String::as_str);
        ensure!(told("size") == Some("1"));
        ensure!(told("csi.storage.k8s.io/pod.name") == Some("early"));
        ensure!(told("csi.storage.k8s.io/ephemeral") == Some("true"));
        ensure!(call.staged_at.is_empty() && driver.calls_of("NodeStageVolume").is_empty());
        let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(at.join("volume"))?);
        ensure!(group == 4711, "{group}");
        ensure!(!node.log().contains("hunter2"), "a secret is in the log");

        // Another agent adopts what is mounted, and says nothing to the driver; nor does the plugin's new beginning.
        node.kill_agent()?;
        driver.stop();
        driver.start()?;
        node.start_agent()?;
        driver.registered().await?;
        ensure!(node.runtime.kill_container(&container.id, 1));
        eventually("it runs again", LIMIT, async || {
            let again = node.main_of("early").await?;
            ensure!(again.id != container.id);
            ensure!(again.mounted("/data")? == at);
            Ok(())
        })
        .await?;
        ensure!(
            driver.calls_of("NodePublishVolume").len() == 1,
            "{:?}",
            driver.calls()
        );

        cluster.delete_pod("early", None).await?;
        cluster.gone(node, &made).await?;
        let calls = driver.calls_of("NodeUnpublishVolume");
        ensure!(
            calls.len() == 1 && calls[0].target == at.display().to_string(),
            "{calls:?}"
        );
        ensure!(driver.mounted().is_empty(), "{:?}", driver.mounted());
        Ok(())
    });
}

#[test]
fn a_pod_whose_driver_is_away_stays_until_it_is_back_and_holds_up_nobody() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        describe(cluster, &ephemeral()).await?;
        let driver = driver(node, &[])?;
        driver.start()?;
        node.start_agent()?;
        let made = cluster.add(&pod("away", &json!({}))).await?;
        let at = node.main_of("away").await?.mounted("/data")?;
        driver.stop();
        cluster.delete_pod("away", Some(0)).await?;
        let event = cluster.event("away", "FailedKillPod").await?;
        let message = event.message.unwrap_or_default();
        ensure!(
            message.contains("driver name bind.example not found"),
            "{message}"
        );
        // Nothing is unmounted that the driver has mounted; another pod comes and goes meanwhile.
        let other = cluster.add(&bound_pod("b")).await?;
        node.main_of("b").await?;
        cluster.delete_pod("b", None).await?;
        cluster.gone(node, &other).await?;
        ensure!(at.join("volume").is_file(), "it was unmounted");
        // So it is for an agent that knows nothing of the pod but its directory.
        node.kill_agent()?;
        node.start_agent()?;
        throughout("it stays mounted", Duration::from_secs(2), async || {
            ensure!(at.join("volume").is_file());
            Ok(())
        })
        .await?;
        driver.start()?;
        cluster.gone(node, &made).await?;
        ensure!(driver.mounted().is_empty());
        Ok(())
    });
}

#[test]
fn a_driver_that_hangs_holds_up_no_other_pod_and_is_never_asked_two_things_at_a_time() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        describe(cluster, &ephemeral()).await?;
        let driver = driver(node, &[])?;
        driver.start()?;
        node.start_agent()?;
        driver.registered().await?;
        driver.hang("NodePublishVolume", true);
        let hung = ["a", "b", "c", "d", "e", "f"];
        let mut made = Vec::new();
        for name in hung {
            made.push(cluster.add(&pod(name, &json!({}))).await?);
        }
        eventually("all are asked for", LIMIT, async || {
            let calls = driver.calls_of("NodePublishVolume");
            ensure!(calls.len() == hung.len(), "{}", calls.len());
            Ok(())
        })
        .await?;
        cluster.add(&bound_pod("free")).await?;
        node.main_of("free").await?;
        cluster.delete_pod("a", Some(0)).await?;
        throughout(
            "nothing is unpublished",
            Duration::from_secs(2),
            async || {
                let calls = driver.calls_of("NodeUnpublishVolume");
                ensure!(calls.is_empty(), "{calls:?}");
                Ok(())
            },
        )
        .await?;
        driver.hang("NodePublishVolume", false);
        cluster.gone(node, &made[0]).await?;
        for name in &hung[1..] {
            node.main_of(name).await?;
        }
        Ok(())
    });
}

#[test]
fn a_driver_that_does_no_such_volumes_is_not_asked() {
    with_cluster(async |cluster, node| {
        describe(cluster, &json!({"volumeLifecycleModes": ["Persistent"]})).await?;
        let driver = driver(node, &[])?;
        driver.start()?;
        node.start_agent()?;
        let made = cluster.add(&pod("mode", &json!({}))).await?;
        let event = cluster.event("mode", "FailedMount").await?;
        let message = event.message.unwrap_or_default();
        ensure!(
            message.contains("volume mode \"Ephemeral\" not supported by driver bind.example (only supports [\"Persistent\"])"),
            "{message}"
        );
        // Without its driver too: nothing of it was ever mounted.
        driver.stop();
        cluster.delete_pod("mode", None).await?;
        cluster.gone(node, &made).await?;
        ensure!(driver.calls_of("NodePublishVolume").is_empty());
        Ok(())
    });
}

#[test]
fn tokens_are_given_as_the_driver_wants_them_and_again_as_long_as_it_does() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        let mut spec = ephemeral();
        spec["tokenRequests"] =
            json!([{"audience": "vault", "expirationSeconds": 600}, {"audience": ""}]);
        spec["requiresRepublish"] = json!(true);
        describe(cluster, &spec).await?;
        let driver = driver(node, &[])?;
        driver.start()?;
        node.configure("syncFrequency", json!("1s"));
        node.start_agent()?;
        cluster.add(&pod("renewed", &json!({}))).await?;
        node.main_of("renewed").await?;
        let calls = eventually("it is published again", LIMIT, async || {
            let calls = driver.calls_of("NodePublishVolume");
            ensure!(calls.len() >= 3, "{}", calls.len());
            Ok(calls)
        })
        .await?;
        for call in &calls {
            let tokens = call.context.get("csi.storage.k8s.io/serviceAccount.tokens");
            let tokens: Value = serde_json::from_str(tokens.context("no tokens")?)?;
            for audience in ["vault", ""] {
                let token = &tokens[audience];
                ensure!(
                    token["token"].as_str().is_some_and(|t| !t.is_empty()),
                    "{tokens}"
                );
                ensure!(token["expirationTimestamp"].is_string(), "{tokens}");
            }
        }
        // What fails meanwhile takes nothing from the pod.
        driver.fail("NodePublishVolume", Some(tonic::Code::Internal));
        let event = cluster.event("renewed", "FailedMount").await?;
        ensure!(event.message.is_some_and(|m| m.contains("code = Internal")));
        ensure!(
            node.main_of("renewed")
                .await?
                .mounted("/data")?
                .join("volume")
                .is_file()
        );
        Ok(())
    });
}
