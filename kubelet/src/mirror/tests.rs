//! The plan, and the task against an API server of its own.

mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::memory::Memory;
use super::plan::{Action, Input, plan};
use super::request::mirror_of;
use super::*;
use crate::clock::Clock;
use crate::events;
use crate::node::NodeObject;
use crate::pod::{
    CONFIG_HASH_ANNOTATION, CONFIG_MIRROR_ANNOTATION, CONFIG_SOURCE_ANNOTATION, Pod, PodName,
    PodUid,
};
use crate::scripted_api::{Answer, Asked, Log, scripted};
use crate::sources::{ApiPods, Desired, MirrorPod};
use crate::workers::Lives;

const PODS: &str = "/api/v1/namespaces/kube-system/pods";

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

fn name(pod: &str) -> PodName {
    PodName {
        namespace: "kube-system".into(),
        name: pod.into(),
    }
}

fn pod(name: &str, hash: &str, source: &str) -> Arc<Pod> {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("kube-system".to_owned());
    pod.metadata.uid = Some(hash.to_owned());
    pod.metadata.labels = Some([("tier".to_owned(), "control-plane".to_owned())].into());
    pod.metadata.annotations = Some(
        [
            (CONFIG_HASH_ANNOTATION, hash),
            (CONFIG_SOURCE_ANNOTATION, source),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
    );
    pod.spec = Some(PodSpec {
        node_name: Some("n1".to_owned()),
        ..PodSpec::default()
    });
    Arc::new(pod)
}

fn desired(pods: &[(&str, &str)]) -> Desired {
    let pods = pods
        .iter()
        .map(|(name, hash)| (uid(hash), pod(name, hash, "file")));
    Desired {
        pods: pods.collect(),
        ready: true,
    }
}

fn lives(pods: &[(&str, &str)]) -> Lives {
    pods.iter().map(|(n, hash)| (uid(hash), name(n))).collect()
}

fn mirrors(mirrors: &[(&str, &str, &str)]) -> ApiPods {
    let mirror = |(n, own, hash): &(&str, &str, &str)| {
        let mirror = MirrorPod {
            uid: uid(own),
            hash: (*hash).to_owned(),
            deleting: false,
        };
        (name(n), mirror)
    };
    ApiPods {
        mirrors: mirrors.iter().map(mirror).collect(),
        synced: true,
        ..ApiPods::default()
    }
}

fn node(uid: &str) -> NodeObject {
    NodeObject {
        uid: uid.to_owned(),
        ..NodeObject::default()
    }
}

/// The plan, a line an action.
fn planned(
    desired: &Desired,
    lives: Option<&Lives>,
    api: &ApiPods,
    node: Option<&NodeObject>,
) -> Vec<String> {
    let memory = Memory::default();
    let input = Input {
        desired,
        lives,
        api,
        node,
        memory: &memory,
        now: Duration::ZERO,
    };
    let line = |action: Action| match action {
        Action::Create { pod, node } => format!("create {} for {node}", PodName::of(&pod)),
        Action::Delete { name, uid } => format!("delete {name} {uid}"),
    };
    plan(&input).into_iter().map(line).collect()
}

#[test]
fn a_static_pod_gets_a_mirror_once_the_node_is_known() {
    let wanted = desired(&[("etcd-n1", "h1")]);
    let (live, none, there) = (lives(&[("etcd-n1", "h1")]), mirrors(&[]), node("u1"));
    let lives = Some(&live);
    let made = ["create etcd-n1_kube-system for u1"];
    assert_eq!(planned(&wanted, lives, &none, Some(&there)), made);
    assert_eq!(
        planned(&wanted, None, &none, Some(&there)),
        made,
        "the runtime is away"
    );
    assert!(planned(&wanted, lives, &none, None).is_empty());
    assert!(planned(&wanted, lives, &none, Some(&node(""))).is_empty());
    let going = NodeObject {
        deleting: true,
        ..node("u1")
    };
    assert!(planned(&wanted, lives, &none, Some(&going)).is_empty());
    let unsynced = ApiPods::default();
    assert!(planned(&wanted, lives, &unsynced, Some(&there)).is_empty());
    let same = mirrors(&[("etcd-n1", "m1", "h1")]);
    assert!(planned(&wanted, lives, &same, Some(&there)).is_empty());
}

#[test]
fn pods_of_the_api_server_have_no_mirrors() {
    let of_api = Desired {
        pods: [(uid("u"), pod("web", "", "api"))].into(),
        ready: true,
    };
    assert!(planned(&of_api, Some(&lives(&[])), &mirrors(&[]), Some(&node("u1"))).is_empty());
}

#[test]
fn a_static_pod_that_refers_to_objects_has_no_mirror_and_loses_one_that_it_had() {
    let mut wanted = desired(&[("etcd-n1", "h2"), ("web-n1", "w")]);
    let mut pod = Pod::clone(&wanted.pods["h2"]);
    let pulls = k8s_openapi::api::core::v1::LocalObjectReference {
        name: "registry".to_owned(),
    };
    pod.spec.as_mut().unwrap().image_pull_secrets = Some(vec![pulls]);
    wanted.pods.insert(uid("h2"), Arc::new(pod));
    let live = lives(&[("etcd-n1", "h2"), ("web-n1", "w")]);
    let there = node("u1");
    assert_eq!(
        planned(&wanted, Some(&live), &mirrors(&[]), Some(&there)),
        ["create web-n1_kube-system for u1"]
    );
    let old = mirrors(&[("etcd-n1", "m1", "h1"), ("web-n1", "m2", "w")]);
    assert_eq!(
        planned(&wanted, Some(&live), &old, Some(&there)),
        ["delete etcd-n1_kube-system m1"]
    );
}

#[test]
fn the_mirror_of_another_version_goes_when_that_version_has_ended() {
    let wanted = desired(&[("etcd-n1", "h2")]);
    let old = mirrors(&[("etcd-n1", "m1", "h1")]);
    let both = lives(&[("etcd-n1", "h1"), ("etcd-n1", "h2")]);
    let there = node("u1");
    assert!(planned(&wanted, Some(&both), &old, Some(&there)).is_empty());
    assert!(
        planned(&wanted, None, &old, Some(&there)).is_empty(),
        "nobody knows yet"
    );
    let new = lives(&[("etcd-n1", "h2")]);
    let deleted = ["delete etcd-n1_kube-system m1"];
    assert_eq!(planned(&wanted, Some(&new), &old, Some(&there)), deleted);
}

#[test]
fn a_mirror_that_is_being_deleted_is_made_anew() {
    let wanted = desired(&[("etcd-n1", "h1")]);
    let mut going = mirrors(&[("etcd-n1", "m1", "h1")]);
    for mirror in going.mirrors.values_mut() {
        mirror.deleting = true;
    }
    let live = lives(&[("etcd-n1", "h1")]);
    assert_eq!(
        planned(&wanted, Some(&live), &going, Some(&node("u1"))),
        ["delete etcd-n1_kube-system m1"]
    );
}

#[test]
fn an_orphan_goes_when_every_source_has_spoken_and_its_pod_has_ended() {
    let (empty, orphan, there) = (desired(&[]), mirrors(&[("a-n1", "m1", "h1")]), node("u1"));
    let (ending, none) = (lives(&[("a-n1", "h1")]), lives(&[]));
    let unready = Desired::default();
    assert!(planned(&unready, Some(&none), &orphan, Some(&there)).is_empty());
    assert!(planned(&empty, None, &orphan, Some(&there)).is_empty());
    assert!(planned(&empty, Some(&ending), &orphan, Some(&there)).is_empty());
    let deleted = ["delete a-n1_kube-system m1"];
    assert_eq!(planned(&empty, Some(&none), &orphan, Some(&there)), deleted);
    assert_eq!(planned(&empty, Some(&none), &orphan, None), deleted);
}

#[test]
fn a_mirror_is_a_copy_that_its_node_owns() {
    let mut of = Pod::clone(&pod("etcd-n1", "h1", "file"));
    of.metadata.creation_timestamp = None;
    of.metadata.resource_version = Some("7".to_owned());
    let body = serde_json::to_value(mirror_of(&of, "n1", "u1")).unwrap();
    assert_eq!(
        body,
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "etcd-n1",
                "namespace": "kube-system",
                "labels": { "tier": "control-plane" },
                "annotations": {
                    "kubernetes.io/config.hash": "h1",
                    "kubernetes.io/config.mirror": "h1",
                    "kubernetes.io/config.source": "file",
                },
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true,
                }],
            },
            "spec": { "containers": [], "nodeName": "n1" },
        })
    );
}
