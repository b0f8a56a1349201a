//! A joined node on a fake runtime: what pods get of configMaps, secrets, services and tokens, and when.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::agent::PodView as _;
use tests::cluster::{Cluster, LIMIT, bound_pod, path, with_cluster};
use tests::fake_runtime::Container;
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

/// A pod of the API server with this in its spec and its container.
fn pod(name: &str, spec: Value, container: Value) -> Value {
    let mut pod = bound_pod(name);
    for (into, from) in [("/spec", spec), ("/spec/containers/0", container)] {
        let into = pod.pointer_mut(into).and_then(Value::as_object_mut);
        let from = from.as_object().cloned().unwrap_or_default();
        into.expect("an object").extend(from);
    }
    pod
}

fn map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": value}})
}

/// The only instance of `main` of a pod that runs.
async fn running(node: &FakeNode, pod: &str) -> Result<Container> {
    eventually(&format!("{pod} runs once"), LIMIT, async || {
        let mut running = node.runtime.running(&format!("default/{pod}/main"));
        ensure!(running.len() == 1, "{} run", running.len());
        running.pop().context("none runs")
    })
    .await
}

fn variable(container: &Container, name: &str) -> Option<String> {
    let found = container.config.envs.iter().find(|env| env.key == name)?;
    Some(String::from_utf8_lossy(&found.value).into_owned())
}

/// Where a mount of a container lies on the node.
fn mounted(container: &Container, at: &str) -> Result<PathBuf> {
    let mut mounts = container.config.mounts.iter();
    let found = mounts.find(|mount| mount.container_path == at);
    let found = found.with_context(|| format!("nothing is mounted at {at}"))?;
    Ok(Path::new(&found.host_path).to_owned())
}

async fn reads(path: &Path, text: &str) -> Result<()> {
    eventually(&format!("{} has {text}", path.display()), LIMIT, async || {
        let found = std::fs::read_to_string(path)?;
        ensure!(found == text, "{found:?}");
        Ok(())
    })
    .await
}

/// The text by which a container waits.
fn waits(pod: &Pod) -> String {
    let status = pod.container("main").ok();
    let state = status.and_then(|status| status.state.as_ref());
    let waiting = state.and_then(|state| state.waiting.as_ref());
    waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default()
}

/// Volumes in memory are mounted, which takes root.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    is_root
}

#[test]
fn a_container_finds_objects_and_services_in_its_environment_once_they_are_there() {
    with_cluster(async |cluster, node| {
        let service = json!({"metadata": {"name": "my-db"}, "spec": {"ports": [{"name": "sql", "port": 5432}]}});
        let service = cluster.add_object("services", &service).await?;
        node.start_agent()?;
        let from = |kind: &str, name: &str| json!({kind: {"name": name, "key": "k"}});
        let env = json!([{"name": "M", "valueFrom": from("configMapKeyRef", "m")},
            {"name": "S", "valueFrom": from("secretKeyRef", "s")}]);
        cluster.add(&pod("a", json!({}), json!({"env": env}))).await?;
        let shown = cluster.waiting("a", "main", "CreateContainerConfigError").await?;
        ensure!(waits(&shown) == "configmap \"m\" not found", "{}", shown.describe());
        cluster.add_object("configmaps", &map("m", "of map")).await?;
        cluster
            .pod_shows("waits for the secret", "a", LIMIT, |pod| waits(pod) == "secret \"s\" not found")
            .await?;
        let appeared = Instant::now();
        let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "of secret"}, "data": {"k": "b2Ygc2VjcmV0"}});
        cluster.add_object("secrets", &secret).await?;
        let container = running(node, "a").await?;
        ensure!(appeared.elapsed() < Duration::from_secs(5), "it took {:?}", appeared.elapsed());
        ensure!(variable(&container, "M").as_deref() == Some("of map"));
        ensure!(variable(&container, "S").as_deref() == Some("of secret"));
        let ip = service.pointer("/spec/clusterIP").and_then(Value::as_str);
        ensure!(variable(&container, "MY_DB_SERVICE_HOST").as_deref() == ip, "{:?}", container.config.envs);
        ensure!(variable(&container, "MY_DB_SERVICE_PORT_SQL").as_deref() == Some("5432"));
        let ready = cluster.ready("a").await?;
        ensure!(ready.container("main")?.restart_count == 0);
        Ok(())
    });
}

#[test]
fn an_object_is_watched_once_however_many_pods_use_it() {
    with_cluster(async |cluster, node| {
        cluster.add_object("configmaps", &map("m", "1")).await?;
        node.start_agent()?;
        let all = json!({"envFrom": [{"configMapRef": {"name": "m"}}]});
        for name in ["a", "b", "c", "d"] {
            cluster.add(&pod(name, json!({}), all.clone())).await?;
        }
        for name in ["a", "b", "c", "d"] {
            let container = running(node, name).await?;
            ensure!(variable(&container, "k").as_deref() == Some("1"));
        }
        let of_map = |verb: &str| -> Result<usize> {
            let asked = cluster.asked(0, verb, "/api/v1/namespaces/default/configmaps")?;
            Ok(asked.iter().filter(|request| request.query.contains("metadata.name%3Dm")).count())
        };
        ensure!((of_map("list")?, of_map("watch")?) == (1, 1), "{} {}", of_map("list")?, of_map("watch")?);
        Ok(())
    });
}

#[test]
fn volumes_follow_their_objects_while_the_pod_runs() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        cluster.add_object("configmaps", &map("m", "1")).await?;
        node.start_agent()?;
        let volumes = json!([{"name": "m", "configMap": {"name": "m"}},
            {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels['x']"}}]}}]);
        let mounts = json!([{"name": "m", "mountPath": "/m"}, {"name": "d", "mountPath": "/d"}]);
        cluster.add(&pod("a", json!({"volumes": volumes}), json!({"volumeMounts": mounts}))).await?;
        let container = running(node, "a").await?;
        cluster.ready("a").await?;
        let (file, label) = (mounted(&container, "/m")?.join("k"), mounted(&container, "/d")?.join("l"));
        reads(&file, "1").await?;
        reads(&label, "").await?;
        let change = json!({"data": {"k": "2"}});
        let object = path("configmaps", "default", "m");
        cluster.client().merge(&object, &change).await?;
        reads(&file, "2").await?;
        let labelled = json!({"metadata": {"labels": {"x": "y"}}});
        cluster.client().merge(&path("pods", "default", "a"), &labelled).await?;
        reads(&label, "y").await?;
        // The server goes: what is there stays, and what changed meanwhile comes when it is back.
        cluster.line.cut();
        cluster.client().merge(&object, &json!({"data": {"k": "3"}})).await?;
        throughout("the file stays", Duration::from_secs(2), async || {
            ensure!(std::fs::read_to_string(&file)? == "2");
            Ok(())
        })
        .await?;
        cluster.line.open();
        reads(&file, "3").await?;
        // The object goes: what is there stays.
        cluster.client().delete(&object, None).await?;
        cluster.event("a", "FailedMount").await?;
        reads(&file, "3").await?;
        ensure!(running(node, "a").await?.id == container.id);
        let shown = cluster.pod("a").await?;
        cluster.delete_pod("a", None).await?;
        cluster.gone(node, &shown).await
    });
}

#[test]
fn a_pod_gets_a_token_of_its_own() {
    if !is_root() {
        return;
    }
    with_cluster(async |cluster, node| {
        node.start_agent()?;
        let mut with_token = pod("a", json!({"serviceAccountName": "default"}), json!({}));
        let volumes = json!([{"name": "api", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]);
        let at = "/var/run/secrets/kubernetes.io/serviceaccount";
        with_token["spec"]["volumes"] = volumes;
        with_token["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "api", "mountPath": at, "readOnly": true}]);
        let made = cluster.add(&with_token).await?;
        let container = running(node, "a").await?;
        let directory = mounted(&container, at)?;
        reads(&directory.join("namespace"), "default").await?;
        reads(&directory.join("ca.crt"), &cluster.authority.certificate()).await?;
        let token = std::fs::read_to_string(directory.join("token"))?;
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
        let review = cluster.client().create(reviews, &review).await?;
        let user = review.pointer("/status/user/username").and_then(Value::as_str);
        ensure!(user == Some("system:serviceaccount:default:default"), "{review}");
        let asked = cluster.asked(0, "create", "/api/v1/namespaces/default/serviceaccounts/default/token")?;
        ensure!(asked.len() == 1, "{} times", asked.len());
        if let Some(request) = asked.first().filter(|request| !request.body.is_null()) {
            let bound = request.body.pointer("/spec/boundObjectRef/uid").and_then(Value::as_str);
            ensure!(bound == Some(made.uid()), "{}", request.body);
        }
        // Nothing that was logged shows it.
        ensure!(!node.log().contains(token.trim()));
        Ok(())
    });
}

#[test]
fn a_pull_secret_that_is_not_there_is_told_and_the_pull_goes_on() {
    with_cluster(async |cluster: &Cluster, node: &FakeNode| {
        node.start_agent()?;
        let spec = json!({"imagePullSecrets": [{"name": "gone"}]});
        cluster.add(&pod("a", spec, json!({}))).await?;
        cluster.ready("a").await?;
        let event = cluster.event("a", "FailedToRetrieveImagePullSecret").await?;
        let message = event.message.unwrap_or_default();
        let expected = "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed.";
        ensure!(message == expected, "{message}");
        Ok(())
    });
}
