use super::*;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-11-21T10:00:00.5Z".parse().unwrap()
}

fn later() -> Timestamp {
    "2026-11-21T11:00:00Z".parse().unwrap()
}

fn pod(uid: &str, name: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": uid, "resourceVersion": "7", "generation": 1,
            "labels": {"app": "web"},
            "managedFields": [{"manager": "kubectl", "operation": "Update", "apiVersion": "v1"}],
        },
        "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "i"}]},
        "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]},
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn plain(uid: &str, name: &str) -> Pod {
    pod(uid, name, |_| {})
}

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

fn listed(pods: impl IntoIterator<Item = Pod>) -> ApiPodStore {
    let mut store = ApiPodStore::default();
    list(&mut store, pods, now());
    store
}

fn list(store: &mut ApiPodStore, pods: impl IntoIterator<Item = Pod>, at: Timestamp) {
    assert!(!store.apply(Event::Init, at));
    for pod in pods {
        assert!(!store.apply(Event::InitApply(pod), at));
    }
    assert!(store.apply(Event::InitDone, at));
}

fn uids(store: &ApiPodStore) -> Vec<String> {
    store.pods().pods.keys().map(ToString::to_string).collect()
}

#[test]
fn a_list_counts_when_it_is_whole() {
    let mut store = ApiPodStore::default();
    assert!(!store.pods().synced);
    store.apply(Event::Init, now());
    store.apply(Event::InitApply(plain("a", "web")), now());
    assert!(store.pods().pods.is_empty() && !store.pods().synced);
    store.apply(Event::InitDone, now());
    assert!(store.pods().synced);
    assert_eq!(uids(&store), ["a"]);

    // A list anew, of a watch that broke: what is not in it is gone, and only once it is whole.
    store.apply(Event::Init, later());
    store.apply(Event::InitApply(plain("b", "db")), later());
    assert_eq!(uids(&store), ["a"]);
    store.apply(Event::InitDone, later());
    assert_eq!(uids(&store), ["b"]);
}

#[test]
fn a_pod_is_taken_in_with_its_source_and_without_its_managers() {
    let store = listed([plain("a", "web")]);
    let pods = store.pods();
    let meta = &pods.pods[&uid("a")].metadata;
    assert_eq!(meta.managed_fields, None);
    let annotations = meta.annotations.as_ref().unwrap();
    assert_eq!(annotations[CONFIG_SOURCE_ANNOTATION], "api");
    assert_eq!(
        annotations[CONFIG_SEEN_ANNOTATION],
        "2026-11-21T10:00:00.5Z"
    );
    assert!(!crate::pod::is_static(&pods.pods[&uid("a")]));
    // Whatever somebody has written there.
    let lies = pod("b", "liar", |p| {
        p["metadata"]["annotations"] = json!({CONFIG_SOURCE_ANNOTATION: "file"});
    });
    let store = listed([lies]);
    assert!(!crate::pod::is_static(&store.pods().pods[&uid("b")]));
}

#[test]
fn a_status_that_comes_back_wakes_no_worker() {
    let mut store = listed([plain("a", "web")]);
    let before = store.pods();
    let echo = pod("a", "web", |p| {
        p["metadata"]["resourceVersion"] = json!("8");
        p["metadata"]["managedFields"] = json!([]);
        p["status"] = json!({
            "phase": "Running", "podIP": "10.0.0.7",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
        });
    });
    assert!(store.apply(Event::Apply(echo), later()));
    let after = store.pods();
    assert!(Arc::ptr_eq(&before.pods[&uid("a")], &after.pods[&uid("a")]));
    let shown = &after.statuses[&uid("a")];
    assert_eq!((shown.version, shown.phase), (8, Some(Phase::Running)));
    assert_ne!(shown.print, before.statuses[&uid("a")].print);
    // A list anew leaves it where it is too.
    list(&mut store, [plain("a", "web")], later());
    assert!(Arc::ptr_eq(
        &before.pods[&uid("a")],
        &store.pods().pods[&uid("a")]
    ));
}

#[test]
fn what_a_worker_goes_by_makes_a_new_pod_that_was_seen_when_the_old_one_was() {
    let changes: [fn(&mut Value); 7] = [
        |p| p["spec"]["containers"][0]["image"] = json!("j"),
        |p| p["metadata"]["labels"] = json!({"app": "db"}),
        |p| p["metadata"]["annotations"] = json!({"example.com/note": "x"}),
        |p| p["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:05:00Z"),
        |p| p["metadata"]["deletionGracePeriodSeconds"] = json!(3),
        |p| {
            p["status"]["conditions"] = json!([{"type": "example.com/gate", "status": "True"}]);
        },
        |p| p["status"]["phase"] = json!("Failed"),
    ];
    for change in changes {
        let mut store = listed([plain("a", "web")]);
        let before = store.pods();
        assert!(store.apply(Event::Apply(pod("a", "web", change)), later()));
        let after = store.pods();
        let (old, new) = (&before.pods[&uid("a")], &after.pods[&uid("a")]);
        assert!(!Arc::ptr_eq(old, new));
        let seen =
            |pod: &Pod| pod.metadata.annotations.as_ref().unwrap()[CONFIG_SEEN_ANNOTATION].clone();
        assert_eq!(seen(old), seen(new));
    }
}

#[test]
fn a_mirror_is_kept_apart_and_never_run() {
    let mirror = |uid: &str, hash: &str| {
        pod(uid, "etcd-n", |p| {
            p["metadata"]["annotations"] = json!({CONFIG_MIRROR_ANNOTATION: hash});
        })
    };
    let mut store = listed([mirror("m", "h1")]);
    let name = PodName::of(&mirror("m", "h1"));
    assert!(store.pods().pods.is_empty());
    assert_eq!(store.pods().mirrors[&name].hash, "h1");
    assert!(!store.pods().mirrors[&name].deleting);
    assert!(store.pods().statuses.contains_key(&uid("m")));

    let mut going = mirror("m", "h1");
    going.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    store.apply(Event::Apply(going), now());
    assert!(store.pods().mirrors[&name].deleting);
    // Its successor is there before its end is heard of, which then takes nothing away.
    store.apply(Event::Apply(mirror("m2", "h2")), now());
    store.apply(Event::Delete(mirror("m", "h1")), now());
    assert_eq!(store.pods().mirrors[&name].uid, uid("m2"));
    let pods = store.pods();
    let statuses: Vec<_> = pods.statuses.keys().collect();
    assert_eq!(statuses, [&uid("m2")]);
    store.apply(Event::Delete(mirror("m2", "h2")), now());
    assert!(store.pods().mirrors.is_empty() && store.pods().statuses.is_empty());
}

#[test]
fn a_pod_that_is_gone_is_gone_and_its_name_is_one_pods() {
    let mut store = listed([plain("a", "web"), plain("b", "db")]);
    store.apply(Event::Delete(plain("a", "web")), now());
    assert_eq!(uids(&store), ["b"]);
    store.apply(Event::Apply(plain("c", "db")), now());
    assert_eq!(uids(&store), ["c"]);
    assert_eq!(store.pods().statuses.len(), 1);
}

#[test]
fn names_that_could_lead_out_of_a_directory_are_refused() {
    let mut store = listed([]);
    for (uid, namespace, name) in [
        ("../../etc", "default", "web"),
        ("", "default", "web"),
        ("a", "..", "web"),
        ("a", "default", "../web"),
        ("a", "default", ""),
    ] {
        let odd = pod(uid, name, |p| p["metadata"]["namespace"] = json!(namespace));
        assert!(!store.apply(Event::Apply(odd), now()), "{uid:?} {name:?}");
    }
    assert!(store.pods().pods.is_empty());
}
