//! The node's status, its patches and its registration; the tasks against an API server in the same process.

mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

use super::gather::RuntimeView;
use super::status::{Facts, Turn, derive, differ, reported_images};
use super::types::{Address, Condition, Image, Node, NodeStatus};
use super::*;
use crate::admission::{Amounts, Capacity};
use crate::clock::Clock;
use crate::eviction::Pressure;
use crate::managers::devices::DeviceCounts;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn address(kind: &str, address: &str) -> Address {
    Address {
        kind: kind.to_owned(),
        address: address.to_owned(),
    }
}

fn facts() -> Facts {
    Facts {
        capacity: Capacity {
            cores: 2,
            memory_bytes: 16_303_428 * 1024,
            ephemeral_bytes: Some(100_000_000_000),
            huge_pages: BTreeMap::from([(2 << 20, 0)]),
        },
        allocatable: Amounts::from([
            ("cpu".to_owned(), 1900),
            ("memory".to_owned(), (16_303_428 - 102_400) * 1024),
            ("ephemeral-storage".to_owned(), 90_000_000_001),
            ("hugepages-2Mi".to_owned(), 0),
            ("pods".to_owned(), 110),
        ]),
        addresses: Some(vec![
            address("InternalIP", "10.0.0.1"),
            address("Hostname", "a"),
        ]),
        port: 10250,
        ..Facts::default()
    }
}

const BEGIN: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T03:14:05Z";

#[test]
fn a_new_status_has_quantities_and_conditions_as_upstream_writes_them() {
    let (status, turns) = derive(&NodeStatus::default(), &facts(), at(BEGIN));
    let value = serde_json::to_value(&status).unwrap();
    let capacity = json!({"cpu": "2", "memory": "16303428Ki", "ephemeral-storage": "97656250Ki", "hugepages-2Mi": "0", "pods": "110"});
    assert_eq!(value["capacity"], capacity);
    let allocatable = json!({"cpu": "1900m", "memory": "16201028Ki", "ephemeral-storage": "90000000001", "hugepages-2Mi": "0", "pods": "110"});
    assert_eq!(value["allocatable"], allocatable);
    assert_eq!(
        value["daemonEndpoints"],
        json!({"kubeletEndpoint": {"Port": 10250}})
    );
    let kinds: Vec<&str> = status
        .conditions
        .iter()
        .map(|one| one.kind.as_str())
        .collect();
    assert_eq!(
        kinds,
        ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
    );
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
        "lastHeartbeatTime": BEGIN, "lastTransitionTime": BEGIN,
    });
    assert_eq!(value["conditions"][3], ready);
    let reasons: Vec<&str> = turns.iter().map(|turn| turn.reason).collect();
    assert_eq!(
        reasons,
        [
            "NodeHasSufficientMemory",
            "NodeHasNoDiskPressure",
            "NodeHasSufficientPID"
        ]
    );
}

#[test]
fn only_what_turned_has_a_new_transition_and_an_event() {
    let (before, _) = derive(&NodeStatus::default(), &facts(), at(BEGIN));
    let (same, turns) = derive(&before, &facts(), at(LATER));
    assert!(turns.is_empty() && !differ(&before, &same));
    assert_ne!(before, same, "the heartbeat moved");
    let worse = Facts {
        pressure: Pressure {
            memory: true,
            ..Pressure::default()
        },
        not_ready: vec!["container runtime is down".into(), "b".into(), "b".into()],
        ..facts()
    };
    let (after, turns) = derive(&before, &worse, at(LATER));
    assert!(differ(&before, &after));
    assert_eq!(
        turns,
        [
            Turn {
                reason: "NodeHasInsufficientMemory"
            },
            Turn {
                reason: "NodeNotReady"
            }
        ]
    );
    let ready = after.conditions.last().unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "KubeletNotReady")
    );
    assert_eq!(ready.message, "[container runtime is down, b]");
    assert_eq!(ready.last_transition_time, Some(at(LATER)));
    let disk = &after.conditions[1];
    assert_eq!(disk.last_transition_time, Some(at(BEGIN)));
    assert_eq!(disk.last_heartbeat_time, Some(at(LATER)));
}

#[test]
fn devices_come_and_go() {
    let (before, _) = derive(&NodeStatus::default(), &facts(), at(BEGIN));
    let count = |n: u64| BTreeMap::from([("example.com/dev".to_owned(), n)]);
    let offered = Facts {
        devices: DeviceCounts {
            capacity: count(3),
            allocatable: count(2),
            removed: BTreeSet::new(),
        },
        ..facts()
    };
    let (there, _) = derive(&before, &offered, at(LATER));
    assert_eq!(there.capacity["example.com/dev"], "3");
    assert_eq!(there.allocatable["example.com/dev"], "2");
    let removed = Facts {
        devices: DeviceCounts {
            removed: BTreeSet::from(["example.com/dev".to_owned()]),
            ..DeviceCounts::default()
        },
        ..facts()
    };
    let (gone, _) = derive(&there, &removed, at(LATER));
    assert_eq!(gone.capacity["example.com/dev"], "0");
    assert_eq!(gone.allocatable["example.com/dev"], "0");
}

#[test]
fn what_others_say_of_the_node_stays() {
    let (mut before, _) = derive(&NodeStatus::default(), &facts(), at(BEGIN));
    before.capacity.insert("example.com/gpu".into(), "4".into());
    before
        .allocatable
        .insert("example.com/gpu".into(), "3".into());
    before
        .allocatable
        .insert("example.com/gone".into(), "1".into());
    before.capacity.insert("hugepages-1Gi".into(), "0".into());
    let theirs = Condition {
        kind: "KernelDeadlock".into(),
        status: "False".into(),
        last_heartbeat_time: None,
        last_transition_time: None,
        reason: "r".into(),
        message: "m".into(),
    };
    before.conditions.push(theirs.clone());
    let cloud = Facts {
        addresses_of_cloud: true,
        addresses: Some(vec![address("Hostname", "other")]),
        ..facts()
    };
    let (after, _) = derive(&before, &cloud, at(LATER));
    assert_eq!(after.capacity["example.com/gpu"], "4");
    assert_eq!(after.allocatable["example.com/gpu"], "3");
    assert!(!after.allocatable.contains_key("example.com/gone"));
    assert!(!after.capacity.contains_key("hugepages-1Gi"));
    assert_eq!(after.conditions.last(), Some(&theirs));
    assert_eq!(after.addresses, before.addresses);
}

#[test]
fn a_patch_has_what_changed_and_replaces_addresses_as_a_whole() {
    let (before, _) = derive(&NodeStatus::default(), &facts(), at(BEGIN));
    let mut worse = facts();
    worse.not_ready = vec!["x".into()];
    worse.addresses = Some(vec![
        address("InternalIP", "10.0.0.2"),
        address("Hostname", "a"),
    ]);
    worse.capacity.huge_pages.clear();
    worse.allocatable.remove("hugepages-2Mi");
    let (after, _) = derive(&before, &worse, at(LATER));
    let patch = patch::of_status(&before, &after).unwrap();
    let heartbeat = |kind: &str| json!({"type": kind, "lastHeartbeatTime": LATER});
    let expected = json!({
        "capacity": {"hugepages-2Mi": null},
        "allocatable": {"hugepages-2Mi": null},
        "addresses": [
            {"type": "InternalIP", "address": "10.0.0.2"}, {"type": "Hostname", "address": "a"}, {"$patch": "replace"},
        ],
        "$setElementOrder/conditions": [
            {"type": "MemoryPressure"}, {"type": "DiskPressure"}, {"type": "PIDPressure"}, {"type": "Ready"},
        ],
        "conditions": [
            heartbeat("MemoryPressure"), heartbeat("DiskPressure"), heartbeat("PIDPressure"),
            {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "x",
             "lastHeartbeatTime": LATER, "lastTransitionTime": LATER},
        ],
    });
    assert_eq!(patch, expected);
    assert_eq!(patch::of_status(&after, &after), None);
}

#[test]
fn a_node_is_read_as_the_api_server_writes_it() {
    let text = json!({
        "metadata": {"name": "a"},
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"], "taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown", "lastHeartbeatTime": null, "lastTransitionTime": BEGIN}],
            "images": [{"names": null, "sizeBytes": 5}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
            "nodeInfo": {"swap": {}},
            "runtimeHandlers": [{"name": ""}],
            "features": {},
        },
    });
    let node: Node = serde_json::from_value(text).unwrap();
    assert_eq!(node.spec.pod_cidrs, ["10.0.0.0/24"]);
    assert_eq!(
        node.status.images,
        [Image {
            names: Vec::new(),
            size_bytes: 5
        }]
    );
    assert_eq!(
        node.status.conditions[0].last_transition_time,
        Some(at(BEGIN))
    );
}

#[test]
fn the_largest_images_are_reported_with_five_names() {
    let image = |size_bytes: u64, names: &[&str]| Image {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        size_bytes,
    };
    let many = ["a", "b", "c", "d", "e", "f"];
    let all = vec![
        image(1, &["small"]),
        image(3, &many),
        image(2, &["y"]),
        image(2, &["x"]),
    ];
    let reported = reported_images(all.clone(), Some(3));
    assert_eq!(
        reported,
        [image(3, &many[..5]), image(2, &["x"]), image(2, &["y"])]
    );
    assert_eq!(reported_images(all.clone(), None).len(), 4);
    assert!(reported_images(all, Some(0)).is_empty());
}

#[test]
fn a_runtime_that_is_silent_is_down_after_thirty_seconds() {
    use cri_proto::v1::{RuntimeCondition, RuntimeStatus, StatusResponse};
    let condition = |kind: &str, status: bool| RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason: if status { "" } else { "NetworkPluginNotReady" }.to_owned(),
        message: if status {
            ""
        } else {
            "cni plugin not initialized"
        }
        .to_owned(),
    };
    let answer = |network: bool| StatusResponse {
        status: Some(RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", true),
                condition("NetworkReady", network),
            ],
        }),
        ..StatusResponse::default()
    };
    let seconds = Duration::from_secs;
    let mut view = RuntimeView::default();
    let unknown = "container runtime status check may not have completed yet";
    assert_eq!(
        view.not_ready(seconds(0)),
        [unknown, "network state unknown"]
    );
    view.hear(Ok(answer(false)), seconds(1));
    let network = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized";
    assert_eq!(view.not_ready(seconds(1)), [network]);
    view.hear(Ok(answer(true)), seconds(2));
    assert!(view.not_ready(seconds(31)).is_empty());
    assert_eq!(view.not_ready(seconds(32)), ["container runtime is down"]);
}

fn settings() -> NodeSettings {
    let labels = [
        ("kubernetes.io/hostname", "a"),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", super::architecture()),
        ("example.com/own", "1"),
    ];
    let pairs = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let facts = facts();
    NodeSettings {
        name: "a".into(),
        labels: pairs.collect(),
        taints: Vec::new(),
        annotations: BTreeMap::from([(gather::ATTACH_DETACH.to_owned(), "true".to_owned())]),
        provider_id: Some("cloud://a".into()),
        external_cloud: false,
        ips: vec!["127.0.0.1".parse().unwrap()],
        register: true,
        max_images: Some(50),
        port: 10250,
        update_every: Duration::from_secs(10),
        report_every: Duration::from_secs(300),
        capacity: facts.capacity,
        allocatable: facts.allocatable,
    }
}

#[test]
fn a_node_that_was_there_is_put_right_and_nothing_more() {
    let (status, _) = derive(&NodeStatus::default(), &facts(), at(BEGIN));
    let new = register::new_node(&settings(), &status);
    assert_eq!(new["spec"], json!({"providerID": "cloud://a"}));
    assert_eq!(
        new["metadata"]["annotations"],
        json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"})
    );
    let mut known: Node = serde_json::from_value(new).unwrap();
    assert_eq!(
        register::reconciled(&known, &settings(), &status, true),
        None
    );
    let labels = known.metadata.labels.as_mut().unwrap();
    labels.remove("example.com/own");
    labels.insert("kubernetes.io/hostname".into(), "b".into());
    known.metadata.annotations = None;
    known
        .status
        .capacity
        .insert("hugepages-1Gi".into(), "0".into());
    known.status.allocatable.insert("memory".into(), "1".into());
    known
        .status
        .capacity
        .insert("example.com/gpu".into(), "2".into());
    let patch = register::reconciled(&known, &settings(), &status, true).unwrap();
    let expected = json!({
        "metadata": {
            "labels": {"kubernetes.io/hostname": "a"},
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "status": {"capacity": {"hugepages-1Gi": null, "example.com/gpu": "0"}},
    });
    assert_eq!(patch, expected);
    // Of a node that has kept its devices they stay.
    let patch = register::reconciled(&known, &settings(), &status, false).unwrap();
    assert_eq!(patch["status"]["capacity"], json!({"hugepages-1Gi": null}));
}
