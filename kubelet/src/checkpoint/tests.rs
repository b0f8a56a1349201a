//! What is read of a directory that another life of the agent has left.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::choice::Circumstances;
use super::files::{self, NODE, NodeFile};
use super::restore::{Read, read};
use super::seal::Seal;
use super::store::{Place, Store};
use crate::config::RestoreApiPods;
use crate::objects::{Found, Kind, ObjectData, ObjectKey, encode};
use crate::pod::{Pod, PodUid};
use crate::poddir::PodDirs;

fn store(root: &Path) -> Store {
    Store::open(root, Seal::Clear).unwrap()
}

fn pod(uid: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "ns", "uid": uid,
            "annotations": {"kubernetes.io/config.source": "api", "kubernetes.io/config.seen": "2026-11-21T10:00:00Z"}},
        "spec": {"containers": [{"name": "main", "image": "i", "resources": {"limits": {"cpu": "1.50"}}}],
            "volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
        "status": {"phase": "Running", "startTime": "2026-11-21T10:00:00Z", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "example.com/gate", "status": "True"}]},
    }))
    .unwrap()
}

fn keep(store: &Store, pod: &Pod) {
    let uid = PodUid::of(pod).unwrap();
    let name = files::name_of_pod(&uid).unwrap();
    store
        .write(Place::Pods, name, &files::of_pod(pod).unwrap())
        .unwrap();
}

fn note_boot(store: &Store, boot: &str) {
    let file = serde_json::to_vec(&NodeFile::of(boot, None)).unwrap();
    store.write(Place::Top, NODE, &file).unwrap();
}

fn restored(root: &Path, boot: Option<&str>, in_runtime: &[&str]) -> Read {
    let so = Circumstances {
        rebooted: false,
        restore: RestoreApiPods::Never,
        max_age: Duration::from_secs(60),
        renewed: None,
        now: Timestamp::UNIX_EPOCH,
    };
    let dirs = PodDirs::new(root).unwrap();
    let there = |uid: &PodUid| in_runtime.contains(&uid.as_str());
    read(&store(root), &dirs, (boot, so), there)
}

fn uids(read: &Read) -> Vec<&str> {
    read.stale.pods.keys().map(PodUid::as_str).collect()
}

#[test]
fn a_pod_is_read_as_it_was_but_for_what_the_node_wrote_of_it() {
    let before = pod("a");
    let after = files::pod(&files::of_pod(&before).unwrap()).unwrap();
    assert_eq!(after.metadata, before.metadata);
    assert_eq!(after.spec, before.spec);
    let status = after.status.unwrap();
    let kinds: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .map(|c| &*c.type_)
        .collect();
    assert_eq!(kinds, ["example.com/gate"]);
    assert!(status.phase.is_none() && status.start_time.is_none());
}

#[test]
fn the_boot_tells_a_restart_from_a_reboot_and_the_runtime_who_is_there() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    keep(&store, &pod("a"));
    keep(&store, &pod("b"));
    // Before any boot was noted, and where the kernel does not name it, everything is a reboot.
    assert!(uids(&restored(root.path(), Some("x"), &["a", "b"])).is_empty());
    note_boot(&store, "x");
    assert!(uids(&restored(root.path(), None, &["a", "b"])).is_empty());
    assert!(uids(&restored(root.path(), Some("y"), &["a", "b"])).is_empty());
    let read = restored(root.path(), Some("x"), &["b", "c"]);
    assert_eq!(uids(&read), ["b"]);
    assert_eq!(read.left.len(), 1);
}

#[test]
fn objects_come_along_and_bad_files_cost_their_own_pod_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    note_boot(&store, "x");
    for uid in ["a", "b"] {
        keep(&store, &pod(uid));
    }
    // Whole, and another pod's; and one whose name leads out of the directory.
    store
        .write(Place::Pods, "c", &files::of_pod(&pod("a")).unwrap())
        .unwrap();
    let mut odd = pod("d");
    odd.metadata.name = Some("../d".to_owned());
    keep(&store, &odd);
    let torn = root.path().join("api-pods/pods/a");
    std::fs::write(&torn, "kubelet-api-pods 1 clear 0123456789abcdef\n{}").unwrap();
    let key: ObjectKey = (Kind::Secret, "ns".into(), "s".into());
    let found = Found::There(Arc::new(ObjectData::new([("k", &b"v"[..])])));
    let bytes = encode(&key, &found).unwrap();
    store
        .write(Place::Objects, &files::name_of_object(&key), &bytes)
        .unwrap();
    let read = restored(root.path(), Some("x"), &["a", "b", "c", "d"]);
    assert_eq!(uids(&read), ["b"]);
    assert_eq!(read.assumed.len(), 1);
    let left: Vec<_> = std::fs::read_dir(root.path().join("api-pods/pods"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let bad = left.iter().filter(|name| name.ends_with(".bad")).count();
    assert_eq!((left.len(), bad), (4, 3), "{left:?}");
}
