//! Pods that need objects: environment and volumes out of configMaps, secrets and tokens. On the double, and on a real API
//! server when `KUBEBUILDER_ASSETS` is set.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::agent::PodView as _;
use tests::cluster::{LIMIT, bound_pod, path, with_cluster, with_double};
use tests::in_process::FakeNode;
use tests::wait::eventually;

fn with_env(name: &str, env: &Value) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["containers"][0]["env"] = env.clone();
    pod
}

fn env_of(node: &FakeNode, pod: &str) -> Result<Vec<String>> {
    let container = node.runtime.running(&format!("default/{pod}/main")).pop();
    let container = container.context("it does not run")?;
    let envs = container.config.envs.iter();
    Ok(envs
        .map(|env| format!("{}={}", env.key, String::from_utf8_lossy(&env.value)))
        .collect())
}

fn map(name: &str, data: &Value) -> Value {
    json!({ "metadata": { "name": name }, "data": data })
}

fn message(pod: &k8s_openapi::api::core::v1::Pod) -> String {
    let state = pod.container("main").ok().and_then(|s| s.state.clone());
    let waiting = state.and_then(|s| s.waiting);
    waiting.and_then(|w| w.message).unwrap_or_default()
}

#[test]
fn a_container_waits_for_the_object_it_needs() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        let key = |kind: &str, name: &str| json!([{ "name": "V", "valueFrom": { kind: { "name": name, "key": "k" } } }]);
        cluster
            .add(&with_env("a", &key("configMapKeyRef", "c")))
            .await?;
        cluster
            .add(&with_env("b", &key("secretKeyRef", "s")))
            .await?;
        let waits = cluster
            .waiting("a", "main", "CreateContainerConfigError")
            .await?;
        ensure!(
            message(&waits) == "configmap \"c\" not found",
            "{}",
            message(&waits)
        );
        let waits = cluster
            .waiting("b", "main", "CreateContainerConfigError")
            .await?;
        ensure!(
            message(&waits) == "secret \"s\" not found",
            "{}",
            message(&waits)
        );
        // Sooner than any timer: the object's coming is what wakes it.
        let soon = Duration::from_secs(8);
        cluster
            .add_object("configmaps", &map("c", &json!({ "k": "1" })))
            .await?;
        cluster
            .pod_shows("runs", "a", soon, |p| p.phase() == "Running")
            .await?;
        let secret = json!({ "metadata": { "name": "s" }, "stringData": { "k": "2" } });
        cluster.add_object("secrets", &secret).await?;
        cluster
            .pod_shows("runs", "b", soon, |p| p.phase() == "Running")
            .await?;
        ensure!(env_of(node, "a")?.contains(&"V=1".to_owned()));
        ensure!(env_of(node, "b")?.contains(&"V=2".to_owned()));
        Ok(())
    });
}

#[test]
fn a_key_that_is_missing_is_named_and_an_optional_one_is_not() {
    with_cluster(async |cluster, node| {
        cluster
            .add_object("configmaps", &map("c", &json!({ "k": "1" })))
            .await?;
        node.start_agent()?;
        let missing = json!([{ "name": "V", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "z" } } }]);
        cluster.add(&with_env("a", &missing)).await?;
        let waits = cluster
            .waiting("a", "main", "CreateContainerConfigError")
            .await?;
        let text = message(&waits);
        ensure!(
            text == "couldn't find key z in ConfigMap default/c",
            "{text}"
        );
        let optional = json!([
            { "name": "V", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "z", "optional": true } } },
            { "name": "W", "valueFrom": { "secretKeyRef": { "name": "none", "key": "z", "optional": true } } },
            { "name": "X", "value": "$(Y)x" },
        ]);
        let mut pod = with_env("b", &optional);
        pod["spec"]["containers"][0]["envFrom"] = json!([
            { "prefix": "P_", "configMapRef": { "name": "c" } },
            { "secretRef": { "name": "none", "optional": true } },
        ]);
        cluster.add(&pod).await?;
        cluster.ready("b").await?;
        let env = env_of(node, "b")?;
        ensure!(env.contains(&"P_k=1".to_owned()), "{env:?}");
        ensure!(env.contains(&"X=$(Y)x".to_owned()), "{env:?}");
        ensure!(
            env.iter()
                .all(|e| !e.starts_with("V=") && !e.starts_with("W=")),
            "{env:?}"
        );
        Ok(())
    });
}

#[test]
fn services_are_variables() {
    with_cluster(async |cluster, node| {
        let service = json!({
            "metadata": { "name": "my-db" },
            "spec": { "ports": [{ "name": "sql", "port": 5432 }] },
        });
        let made = cluster.add_object("services", &service).await?;
        let ip = made["spec"]["clusterIP"].as_str().context("no address")?;
        node.start_agent()?;
        cluster.add(&bound_pod("a")).await?;
        let mut without = bound_pod("b");
        without["spec"]["enableServiceLinks"] = json!(false);
        cluster.add(&without).await?;
        cluster.ready("a").await?;
        cluster.ready("b").await?;
        let env = env_of(node, "a")?;
        for variable in [
            format!("MY_DB_SERVICE_HOST={ip}"),
            "MY_DB_SERVICE_PORT=5432".to_owned(),
            "MY_DB_SERVICE_PORT_SQL=5432".to_owned(),
            format!("MY_DB_PORT=tcp://{ip}:5432"),
            format!("MY_DB_PORT_5432_TCP_ADDR={ip}"),
        ] {
            ensure!(env.contains(&variable), "{variable}: {env:?}");
        }
        let env = env_of(node, "b")?;
        ensure!(
            env.iter()
                .any(|e| e.starts_with("KUBERNETES_SERVICE_HOST=")),
            "{env:?}"
        );
        ensure!(env.iter().all(|e| !e.starts_with("MY_DB")), "{env:?}");
        Ok(())
    });
}

#[test]
fn a_volume_follows_its_object() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        let mut pod = bound_pod("volumes");
        pod["spec"]["volumes"] = json!([
            { "name": "c", "configMap": { "name": "c" } },
            { "name": "s", "secret": { "secretName": "s", "defaultMode": 256 } },
        ]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([
            { "name": "c", "mountPath": "/c" }, { "name": "s", "mountPath": "/s" },
        ]);
        let made = cluster.add(&pod).await?;
        cluster.event("volumes", "FailedMount").await?;
        cluster
            .add_object("configmaps", &map("c", &json!({ "k": "1" })))
            .await?;
        let secret = json!({ "metadata": { "name": "s" }, "stringData": { "k": "2" } });
        cluster.add_object("secrets", &secret).await?;
        cluster.ready("volumes").await?;
        let volumes = node.pod_dir(&made).join("volumes");
        let config = volumes.join("kubernetes.io~configmap/c");
        ensure!(fs::read_to_string(config.join("k"))? == "1");
        ensure!(fs::read_link(config.join("k"))?.ends_with("..data/k"));
        let secret = volumes.join("kubernetes.io~secret/s");
        ensure!(fs::read_to_string(secret.join("k"))? == "2");
        let change = json!({ "data": { "k": "3", "l": "4" } });
        let place = path("configmaps", "default", "c");
        cluster.client().merge(&place, &change).await?;
        // Upstream may take a minute and a half.
        eventually("the volume follows", Duration::from_secs(100), async || {
            ensure!(fs::read_to_string(config.join("k"))? == "3");
            ensure!(fs::read_to_string(config.join("l"))? == "4");
            Ok(())
        })
        .await?;
        let now = cluster.pod("volumes").await?;
        ensure!(now.statuses()[0].restart_count == 0);
        cluster.delete_pod("volumes", Some(1)).await?;
        cluster.gone(node, &made).await
    });
}

fn with_token(name: &str) -> Value {
    let mut pod = bound_pod(name);
    pod["spec"]["automountServiceAccountToken"] = json!(true);
    pod
}

#[test]
fn a_pod_has_the_token_of_its_account() {
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        let made = cluster.add(&with_token("a")).await?;
        cluster.ready("a").await?;
        let spec = made.spec.clone().unwrap_or_default();
        let volumes = spec.volumes.unwrap_or_default();
        let name = &volumes.first().context("no volume")?.name;
        let directory = node
            .pod_dir(&made)
            .join("volumes/kubernetes.io~projected")
            .join(name);
        let token = fs::read_to_string(directory.join("token"))?;
        ensure!(fs::read_to_string(directory.join("namespace"))? == "default");
        ensure!(fs::read_to_string(directory.join("ca.crt"))?.contains("BEGIN CERTIFICATE"));
        let review = json!({ "spec": { "token": token } });
        let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
        let reviewed = cluster.client().create(reviews, &review).await?;
        let status = &reviewed["status"];
        ensure!(status["authenticated"] == true, "{reviewed}");
        let user = &status["user"]["username"];
        ensure!(
            user == "system:serviceaccount:default:default",
            "{reviewed}"
        );
        ensure!(!node.log().contains(&token), "a token in the log");
        Ok(())
    });
}

#[test]
fn a_token_is_renewed_before_it_ends() {
    with_double(async |cluster, double, node| {
        double.limit_tokens(Duration::from_secs(10));
        node.start_agent()?;
        let made = cluster.add(&with_token("a")).await?;
        cluster.ready("a").await?;
        let spec = made.spec.clone().unwrap_or_default();
        let volumes = spec.volumes.unwrap_or_default();
        let name = &volumes.first().context("no volume")?.name;
        let file = node
            .pod_dir(&made)
            .join("volumes/kubernetes.io~projected")
            .join(name)
            .join("token");
        let first = fs::read_to_string(&file)?;
        let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
        eventually("another token", LIMIT, async || {
            ensure!(fs::read_to_string(&file)? != first);
            Ok(())
        })
        .await?;
        let asked = cluster.asked(Timestamp::UNIX_EPOCH, "create", path)?.len();
        ensure!((2..=6).contains(&asked), "{asked} requests");
        Ok(())
    });
}

#[test]
fn one_object_is_watched_once_and_only_while_it_is_needed() {
    with_cluster(async |cluster, node| {
        cluster
            .add_object("configmaps", &map("c", &json!({ "k": "1" })))
            .await?;
        let fixed = json!({ "metadata": { "name": "i" }, "data": { "k": "1" }, "immutable": true });
        cluster.add_object("configmaps", &fixed).await?;
        node.start_agent()?;
        for name in ["a", "b", "d"] {
            let mut pod = with_env(name, &json!([]));
            pod["spec"]["containers"][0]["envFrom"] = json!([
                { "configMapRef": { "name": "c" } }, { "configMapRef": { "name": "i" } },
            ]);
            cluster.add(&pod).await?;
        }
        for name in ["a", "b", "d"] {
            cluster.ready(name).await?;
        }
        let watches = cluster.asked(
            Timestamp::UNIX_EPOCH,
            "watch",
            "/api/v1/namespaces/default/configmaps",
        )?;
        let of = |name: &str| {
            let text = format!("metadata.name%3D{name}");
            let own = watches.iter().filter(|w| w.query.contains(&text));
            own.count()
        };
        ensure!(of("c") <= 1 && of("i") <= 1, "{watches:#?}");
        Ok(())
    });
}
