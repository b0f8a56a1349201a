//! Against an API server that is a function in this process.

pub(super) mod api;
mod local;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::pod::{Pod, PodUid};
use api::Api;

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c"}]);
    let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn connected(api: &Api) -> Objects {
    let objects = Objects::of_cluster(Projections::default());
    let cluster = objects.cluster.as_ref().unwrap();
    let connections = Connections::new(api.client(), &[]);
    cluster.connections.send_replace(Some(connections));
    objects
}

fn with_map(name: &str, map: &str) -> Arc<Pod> {
    pod(
        name,
        json!({"volumes": [{"name": "v", "configMap": {"name": map}}]}),
    )
}

fn registered(objects: &Objects, pod: &Arc<Pod>) -> PodObjects {
    let own = objects.pod();
    own.register(pod, &PodUid::of(pod).unwrap());
    own
}

fn value(own: &PodObjects, pod: &Pod, map: &str) -> Result<String, String> {
    let found = own.snapshot(pod).get(Kind::ConfigMap, map);
    let data = found.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(data.get("k").unwrap().to_vec()).unwrap())
}

fn map(value: &str) -> Value {
    json!({"data": {"k": value}})
}

/// Waits, with a limit that a test never comes near.
async fn until(mut check: impl FnMut() -> bool) {
    let wait = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it never came about");
}

#[tokio::test]
async fn an_object_has_one_watch_however_many_pods_refer_to_it() {
    let api = Api::default();
    api.put("configmaps", "m", map("1"));
    let objects = connected(&api);
    let pods: Vec<_> = (0..5).map(|i| with_map(&format!("p{i}"), "m")).collect();
    let mut owners = Vec::new();
    for pod in &pods {
        let own = registered(&objects, pod);
        own.settle().await;
        assert_eq!(value(&own, pod, "m"), Ok("1".to_owned()));
        owners.push(own);
    }
    until(|| api.watches() == 1).await;
    assert_eq!(api.requests("configmaps"), 2, "a list and a watch");
    // The last one that goes closes it.
    owners.truncate(1);
    let mut news = owners[0].news();
    api.put("configmaps", "m", map("2"));
    news.changed().await.unwrap();
    assert_eq!(value(&owners[0], &pods[0], "m"), Ok("2".to_owned()));
    assert_eq!(api.watches(), 1);
    owners.clear();
    until(|| api.watches() == 0).await;
    // One that comes later asks anew.
    let own = registered(&objects, &pods[0]);
    own.settle().await;
    assert_eq!(value(&own, &pods[0], "m"), Ok("2".to_owned()));
}

#[tokio::test]
async fn a_missing_object_is_known_as_such_and_its_pod_hears_when_it_appears_and_goes() {
    let api = Api::default();
    let objects = connected(&api);
    let pod = with_map("p", "m");
    let own = registered(&objects, &pod);
    let mut news = own.news();
    assert_eq!(
        value(&own, &pod, "m"),
        Err("failed to sync configmap cache: timed out waiting for the condition".to_owned())
    );
    own.settle().await;
    assert_eq!(
        value(&own, &pod, "m"),
        Err("configmap \"m\" not found".to_owned())
    );
    news.mark_unchanged();
    until(|| api.watches() == 1).await;
    api.put("configmaps", "m", map("1"));
    news.changed().await.unwrap();
    assert_eq!(value(&own, &pod, "m"), Ok("1".to_owned()));
    api.remove("configmaps", "m");
    news.changed().await.unwrap();
    assert_eq!(
        value(&own, &pod, "m"),
        Err("configmap \"m\" not found".to_owned())
    );
}

#[tokio::test]
async fn what_never_changes_is_watched_no_more() {
    let api = Api::default();
    api.put("configmaps", "m", map("1"));
    let objects = connected(&api);
    let pod = with_map("p", "m");
    let own = registered(&objects, &pod);
    own.settle().await;
    until(|| api.watches() == 1).await;
    api.put(
        "configmaps",
        "m",
        json!({"data": {"k": "last"}, "immutable": true}),
    );
    until(|| api.watches() == 0).await;
    assert_eq!(value(&own, &pod, "m"), Ok("last".to_owned()));
}

#[tokio::test]
async fn a_pod_that_changes_lets_go_of_what_it_no_longer_refers_to() {
    let api = Api::default();
    api.put("configmaps", "a", map("1"));
    api.put("configmaps", "b", map("2"));
    let objects = connected(&api);
    let (first, second) = (with_map("p", "a"), with_map("p", "b"));
    let own = registered(&objects, &first);
    own.settle().await;
    own.register(&second, &PodUid::of(&second).unwrap());
    own.settle().await;
    assert_eq!(value(&own, &second, "b"), Ok("2".to_owned()));
    assert!(value(&own, &second, "a").is_err());
    until(|| api.watches() == 1).await;
    own.release();
    until(|| api.watches() == 0).await;
}

#[tokio::test]
async fn without_an_api_server_there_is_nothing_and_nobody_waits() {
    let pod = with_map("p", "m");
    let own = registered(&Objects::standalone(), &pod);
    own.settle().await;
    own.settle_services(&pod).await;
    assert_eq!(
        value(&own, &pod, "m"),
        Err("couldn't get configMap ns/m, no kubeClient defined".to_owned())
    );
    assert_eq!(own.services(&pod), ServiceLinks::Known(Vec::new()));
}

#[tokio::test]
async fn services_are_waited_for_by_pods_of_the_api_server_alone() {
    let api = Api::default();
    api.put(
        "services",
        "s",
        json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}}),
    );
    let objects = connected(&api);
    let of_api = with_map("p", "m");
    let mut of_file = Pod::clone(&of_api);
    let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
    of_file.metadata.annotations = Some([source].into());
    let own = registered(&objects, &of_api);
    assert_eq!(own.services(&of_api), ServiceLinks::NotYet);
    assert_eq!(own.services(&of_file), ServiceLinks::Known(Vec::new()));
    own.settle().await;
    let mut news = own.news();
    let task = tokio::spawn(objects.clone().run(api.client(), Arc::default()));
    news.changed().await.unwrap();
    own.settle_services(&of_api).await;
    let ServiceLinks::Known(links) = own.services(&of_api) else {
        panic!("not read");
    };
    assert_eq!(&*links[0].name, "s");
    task.abort();
}

#[test]
fn all_that_a_pod_refers_to_is_found() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "imagePullSecrets": [{"name": "pull"}, {}],
        "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "m1"}}, {"secretRef": {"name": "s1"}}]}],
        "containers": [{"name": "c", "env": [
            {"name": "a", "valueFrom": {"configMapKeyRef": {"name": "m2", "key": "k"}}},
            {"name": "b", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
        "ephemeralContainers": [{"name": "e", "envFrom": [{"configMapRef": {"name": "m3"}}]}],
        "volumes": [
            {"name": "v1", "configMap": {"name": "m4"}},
            {"name": "v2", "secret": {"secretName": "s4"}},
            {"name": "v3", "projected": {"sources": [
                {"configMap": {"name": "m5"}}, {"secret": {"name": "s5"}},
                {"serviceAccountToken": {"path": "t", "audience": "vault", "expirationSeconds": 600}},
                {"clusterTrustBundle": {"name": "roots", "path": "r"}},
                {"podCertificate": {"signerName": "s", "keyType": "ED25519"}}]}}],
    }});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let found = references::references(&pod);
    let found: Vec<_> = found
        .iter()
        .map(|reference| match reference {
            references::Reference::Object(kind, name) => format!("{kind} {name}"),
            references::Reference::Token(wish) => {
                format!("token {} {}", wish.audience, wish.expiration_seconds)
            }
            references::Reference::Trust(wish) => format!("{wish:?}"),
            references::Reference::Certificate(wish) => {
                format!("certificate {} {}", wish.volume, wish.source)
            }
        })
        .collect();
    let expected = "configmap m1, configmap m2, configmap m3, configmap m4, configmap m5, secret pull, secret s1, \
                    secret s2, secret s4, secret s5, token vault 600, Named(\"roots\"), certificate v3 4";
    assert_eq!(found.join(", "), expected);
}

#[tokio::test]
async fn what_is_assumed_counts_until_the_api_server_has_answered() {
    let objects = Objects::of_cluster(Projections::default());
    let key = |name: &str| (Kind::ConfigMap, "ns".into(), name.into());
    let data = ObjectData::new([("k", &b"0"[..])]);
    let mut assumed = Assumed::default();
    assumed.object(key("m"), Found::There(Arc::new(data)));
    assumed.object(key("none"), Found::Missing);
    let links = json!({"own": {"ns": []}, "master": {"name": "kubernetes", "cluster_ip": "10.0.0.1", "ports": []}});
    assumed.services(serde_json::from_value(links).unwrap());
    objects.assume(assumed);
    let (pod, none, other) = (
        with_map("p", "m"),
        with_map("q", "none"),
        with_map("r", "o"),
    );
    let own = registered(&objects, &pod);
    assert_eq!(value(&own, &pod, "m"), Ok("0".to_owned()));
    let missing = value(&registered(&objects, &none), &none, "none");
    assert_eq!(missing, Err("configmap \"none\" not found".to_owned()));
    assert!(value(&registered(&objects, &other), &other, "o").is_err());
    let found = match own.services(&pod) {
        ServiceLinks::Known(links) => links.len(),
        ServiceLinks::NotYet => 0,
    };
    assert_eq!(found, 1);

    let api = Api::default();
    api.put("configmaps", "m", map("1"));
    let mut changes = objects.changes().unwrap();
    let cluster = objects.cluster.as_ref().unwrap();
    let mut news = own.news();
    news.mark_unchanged();
    let connections = Connections::new(api.client(), &[]);
    cluster.connections.send_replace(Some(connections));
    news.changed().await.unwrap();
    assert_eq!(value(&own, &pod, "m"), Ok("1".to_owned()));
    changes.changed().await.unwrap();
    let Found::There(known) = objects.known(&key("m")) else {
        panic!("it is watched");
    };
    assert_eq!(known.get("k").map(|k| &**k), Some(&b"1"[..]));
    assert!(!objects.known(&key("nobody's")).is_answered());
    // What an earlier life knew counts no more.
    objects.assume(Assumed::default());
    assert_eq!(own.services(&pod), ServiceLinks::NotYet);
}
