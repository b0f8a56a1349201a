//! Pods beside each other: resources, ports, taints, preemption, the ledger.

mod preemption;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::*;
use super::{merge, pod};
use serde_json::{Value, json};

const GI: i64 = 1 << 30;

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

fn amounts(list: &[(&str, i64)]) -> Amounts {
    list.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
}

/// Two cores, 8 GiB, 100 GiB of disk, 10 pods.
fn room() -> Node {
    Node {
        features: super::node(),
        allocatable: amounts(&[
            ("cpu", 2000),
            ("memory", 8 * GI),
            ("ephemeral-storage", 100 * GI),
            ("hugepages-2Mi", 4 << 20),
            ("pods", 10),
        ]),
        taints: Vec::new(),
    }
}

/// As the API server would have sent it: not critical.
fn from_api(name: &str, spec: Value) -> Pod {
    let mut pod = pod(spec);
    pod.metadata.name = Some(name.to_owned());
    pod
}

fn from_file(name: &str, spec: Value) -> Pod {
    let mut pod = from_api(name, spec);
    let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
    pod.metadata.annotations = Some([source].into());
    pod
}

fn requests(list: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": list}}]})
}

fn with(mut spec: Value, more: Value) -> Value {
    merge(&mut spec, more);
    spec
}

fn port(fields: Value) -> Value {
    let mut port = json!({"containerPort": 80});
    merge(&mut port, fields);
    json!({"containers": [{"name": "c", "ports": [port]}]})
}

/// `pod` on a node where `others` run already.
fn beside(node: &Node, others: &[(&str, &Pod)], pod: &Pod) -> Result<Vec<PodUid>, Rejection> {
    let claims: Vec<(PodUid, Claim)> = others
        .iter()
        .map(|(name, pod)| (uid(name), Claim::of(pod).unwrap()))
        .collect();
    let others: Vec<Other<'_>> = claims
        .iter()
        .map(|(uid, claim)| Other {
            uid,
            claim,
            standing: Standing::Holds,
        })
        .collect();
    admit(pod, node, &others).map(|admission| admission.victims)
}

#[track_caller]
fn refused(result: Result<Vec<PodUid>, Rejection>, reason: &str, message: &str) {
    let rejection = result.expect_err(message);
    assert_eq!(
        (&*rejection.reason, rejection.message.as_str()),
        (reason, message)
    );
}

#[test]
fn a_pod_that_is_not_critical_is_refused_by_the_first_resource_that_lacks() {
    let node = room();
    let used = from_api("used", requests(json!({"cpu": "1800m", "memory": "7Gi"})));
    let cases = [
        (
            json!({"cpu": "201m", "memory": "2Gi"}),
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 201, used: 1800, capacity: 2000",
        ),
        (
            json!({"cpu": "200m", "memory": "1073741825"}),
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 1073741825, used: 7516192768, capacity: 8589934592",
        ),
        (
            json!({"ephemeral-storage": "101Gi"}),
            "OutOfephemeral-storage",
            "Node didn't have enough resource: ephemeral-storage, requested: 108447924224, used: 0, capacity: 107374182400",
        ),
        (
            json!({"hugepages-2Mi": "6Mi"}),
            "OutOfhugepages-2Mi",
            "Node didn't have enough resource: hugepages-2Mi, requested: 6291456, used: 0, capacity: 4194304",
        ),
        (
            json!({"hugepages-1Gi": "1Gi"}),
            "OutOfhugepages-1Gi",
            "Node didn't have enough resource: hugepages-1Gi, requested: 1073741824, used: 0, capacity: 0",
        ),
    ];
    for (asked, reason, message) in cases {
        let mut node = node.clone();
        node.features.hugepages = true;
        let result = beside(&node, &[("used", &used)], &from_api("new", requests(asked)));
        refused(result, reason, message);
    }
    let fits = from_api("new", requests(json!({"cpu": "200m", "memory": "1Gi"})));
    assert_eq!(beside(&node, &[("used", &used)], &fits), Ok(vec![]));
}

#[test]
fn a_node_has_so_many_pods() {
    let mut node = room();
    node.allocatable.insert("pods".into(), 1);
    let one = from_api("one", json!({}));
    assert_eq!(beside(&node, &[], &one), Ok(vec![]));
    refused(
        beside(&node, &[("one", &one)], &from_api("two", json!({}))),
        "OutOfpods",
        "Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1",
    );
}

#[test]
fn what_the_node_does_not_offer_in_its_domain_is_not_counted() {
    let mut node = room();
    let gpu = from_api("gpu", requests(json!({"example.com/gpu": "1"})));
    assert_eq!(beside(&node, &[("other", &gpu)], &gpu), Ok(vec![]));
    node.allocatable.insert("example.com/gpu".into(), 1);
    refused(
        beside(&node, &[("other", &gpu)], &gpu),
        "OutOfexample.com/gpu",
        "Node didn't have enough resource: example.com/gpu, requested: 1, used: 1, capacity: 1",
    );
}

#[test]
fn requests_are_summed_over_stages_and_overridden_by_the_pod() {
    let node = room();
    let used = |spec: Value| {
        let claim = Claim::of(&from_api("p", spec)).unwrap();
        claim.requests.get("cpu").copied().unwrap_or(0)
    };
    let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
    let sidecar = with(container("100m"), json!({"restartPolicy": "Always"}));
    assert_eq!(
        used(json!({"containers": [container("200m"), container("300m")],
            "initContainers": [container("450m"), sidecar]})),
        600
    );
    assert_eq!(
        used(
            json!({"containers": [container("200m")], "initContainers": [sidecar, container("900m")],
            "overhead": {"cpu": "7m"}})
        ),
        1007
    );
    assert_eq!(
        used(
            json!({"containers": [container("200m")], "resources": {"requests": {"cpu": "1500m"}}})
        ),
        1500
    );
    let limited = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "3"}}}]});
    assert_eq!(used(limited.clone()), 3000);
    let result = beside(&node, &[], &from_api("new", limited));
    assert_eq!(result.unwrap_err().reason, "OutOfcpu");
}

/// The words and numbers are those of the upstream kubelet for the same manifests on a machine of that size.
#[test]
fn a_static_pod_is_critical_and_is_refused_as_one() {
    let mut node = room();
    node.allocatable = allocatable(
        &Capacity {
            cores: 2,
            memory_bytes: 24_683_656 * 1024,
            ephemeral_bytes: Some(66_053_021 * 4096),
            huge_pages: BTreeMap::new(),
        },
        &Reserved {
            system: &BTreeMap::new(),
            kube: &BTreeMap::new(),
            eviction: &texts(&[("memory.available", "100Mi"), ("nodefs.available", "10%")]),
            max_pods: 110,
            pods_per_core: None,
        },
    );
    let unmet = "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: ";
    refused(
        beside(
            &node,
            &[],
            &from_file("c-big", requests(json!({"memory": "1Ti"}))),
        ),
        "UnexpectedAdmissionError",
        &format!(
            "{unmet}[(res: memory, q: 1074340421632), ]; Node didn't have enough resource: memory, requested: 1099511627776, used: 0, capacity: 25171206144"
        ),
    );
    refused(
        beside(
            &node,
            &[],
            &from_file("j-eph", requests(json!({"ephemeral-storage": "100Ti"}))),
        ),
        "UnexpectedAdmissionError",
        &format!(
            "{unmet}[(res: ephemeral-storage, q: 109707664921388), ]; Node didn't have enough resource: ephemeral-storage, requested: 109951162777600, used: 0, capacity: 243497856212"
        ),
    );
    let lost = json!({"nodeSelector": {"foo": "bar"}});
    let affinity =
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    let both = with(requests(json!({"memory": "1Ti"})), lost.clone());
    refused(
        beside(&node, &[], &from_file("e-sel", both.clone())),
        "NodeAffinity",
        affinity,
    );
    // Of a pod that is not critical the first failure counts, and resources come first.
    assert_eq!(
        beside(&node, &[], &from_api("e-sel", both))
            .unwrap_err()
            .reason,
        "OutOfmemory"
    );
    let held = from_file("held", port(json!({"hostPort": 8080})));
    let clash = with(port(json!({"hostPort": 8080})), lost);
    refused(
        beside(&node, &[("held", &held)], &from_file("g-selport", clash)),
        "NodeAffinity",
        affinity,
    );
}

#[test]
fn two_pods_never_hold_one_host_port() {
    let node = room();
    let clashes = |held: Value, asked: Value| {
        let held = from_file("web", port(held));
        let asked = from_file("new", port(asked));
        match beside(&node, &[("web", &held)], &asked) {
            Ok(_) => None,
            Err(rejection) => {
                assert_eq!(rejection.reason, "NodePorts");
                let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports; ";
                Some(rejection.message.strip_prefix(text).unwrap().to_owned())
            }
        }
    };
    let plain = json!({"hostPort": 8080});
    assert_eq!(
        clashes(plain.clone(), plain.clone()).as_deref(),
        Some("host port 8080/TCP is held by default/web")
    );
    let on = |ip: &str| json!({"hostPort": 8080, "hostIP": ip});
    assert_eq!(
        clashes(plain.clone(), on("10.0.0.1")).as_deref(),
        Some("host port 10.0.0.1:8080/TCP is held by default/web")
    );
    assert!(clashes(on("10.0.0.1"), plain.clone()).is_some());
    assert!(clashes(on("10.0.0.1"), on("0.0.0.0")).is_some());
    assert!(clashes(on("10.0.0.1"), on("10.0.0.1")).is_some());
    assert_eq!(clashes(on("10.0.0.1"), on("10.0.0.2")), None);
    let udp = json!({"hostPort": 8080, "protocol": "UDP"});
    assert_eq!(clashes(plain.clone(), udp.clone()), None);
    assert!(clashes(udp.clone(), udp).is_some());
    assert!(clashes(plain.clone(), json!({"hostPort": 8080, "protocol": "TCP"})).is_some());
    assert_eq!(clashes(plain.clone(), json!({"hostPort": 8081})), None);
    assert_eq!(clashes(plain.clone(), json!({})), None);
    assert_eq!(
        clashes(json!({"hostPort": 0}), json!({"hostPort": 0})),
        None
    );
}

#[test]
fn only_containers_that_stay_hold_ports() {
    let node = room();
    let held = from_file("web", port(json!({"hostPort": 8080})));
    let init = |policy: Value| {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
        let container = with(json!({"name": "i", "ports": ports}), policy);
        from_file("new", json!({"initContainers": [container]}))
    };
    assert_eq!(
        beside(&node, &[("web", &held)], &init(json!({}))),
        Ok(vec![])
    );
    let sidecar = init(json!({"restartPolicy": "Always"}));
    assert_eq!(
        beside(&node, &[("web", &held)], &sidecar)
            .unwrap_err()
            .reason,
        "NodePorts"
    );
}

#[test]
fn taints_that_drive_pods_out_need_a_toleration_but_not_of_static_pods() {
    let mut node = room();
    let taint = |effect: &str| Taint {
        key: "dedicated".into(),
        value: "db".into(),
        effect: effect.into(),
    };
    node.taints = vec![taint("NoSchedule"), taint("PreferNoSchedule")];
    assert_eq!(beside(&node, &[], &from_api("p", json!({}))), Ok(vec![]));
    node.taints.push(taint("NoExecute"));
    let tolerating = |toleration: Value| from_api("p", json!({"tolerations": [toleration]}));
    for bad in [
        from_api("p", json!({})),
        tolerating(json!({"key": "dedicated", "operator": "Equal", "value": "web"})),
        tolerating(json!({"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"})),
        tolerating(json!({"key": "other", "operator": "Exists"})),
    ] {
        refused(
            beside(&node, &[], &bad),
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        );
    }
    for good in [
        tolerating(json!({"operator": "Exists"})),
        tolerating(json!({"key": "dedicated", "value": "db", "effect": "NoExecute"})),
        from_file("p", json!({})),
    ] {
        assert_eq!(beside(&node, &[], &good), Ok(vec![]));
    }
}

#[test]
fn a_pod_that_runs_keeps_its_place_though_it_does_not_fit() {
    let mut ledger = Ledger::new(Arc::new(room()));
    let huge = from_file("huge", requests(json!({"memory": "1Ti"})));
    let unread = from_file("unread", requests(json!({"memory": "lots"})));
    ledger.adopt(&uid("huge"), &huge);
    ledger.adopt(&uid("unread"), &unread);
    assert!(ledger.may_begin(&uid("huge")) && ledger.may_begin(&uid("unread")));
    // It counts all the same.
    let Decision::Refused(rejection) = ledger.decide(
        &uid("new"),
        &from_file("new", requests(json!({"memory": "1Mi"}))),
    ) else {
        panic!("there is no memory left");
    };
    assert!(
        rejection.message.contains("used: 1099511627776"),
        "{rejection}"
    );
    assert_eq!(
        ledger.decide(&uid("tiny"), &from_file("tiny", json!({}))),
        Decision::Admitted
    );
    let Decision::Refused(rejection) = ledger.decide(&uid("bad"), &unread) else {
        panic!("its request cannot be read");
    };
    assert_eq!(rejection.reason, "UnexpectedAdmissionError");
}

fn texts(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    list.iter().map(owned).collect()
}

#[test]
fn allocatable_is_capacity_less_what_is_kept() {
    let capacity = Capacity {
        cores: 4,
        memory_bytes: 8 << 30,
        ephemeral_bytes: Some(1000),
        huge_pages: [(2 << 20, 6 << 20), (1 << 30, 0)].into(),
    };
    let reserved = Reserved {
        system: &texts(&[
            ("cpu", "500m"),
            ("memory", "1Gi"),
            ("ephemeral-storage", "100"),
        ]),
        kube: &texts(&[("cpu", "250m"), ("memory", "512Mi")]),
        eviction: &texts(&[
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("nodefs.inodesFree", "5%"),
        ]),
        max_pods: 110,
        pods_per_core: Some(10),
    };
    assert_eq!(
        allocatable(&capacity, &reserved),
        amounts(&[
            ("cpu", 3250),
            (
                "memory",
                (8 << 30) - (1 << 30) - (512 << 20) - (100 << 20) - (6 << 20)
            ),
            ("ephemeral-storage", 800),
            ("hugepages-2Mi", 6 << 20),
            ("hugepages-1Gi", 0),
            ("pods", 40),
        ])
    );
    let none = BTreeMap::new();
    let too_much = Reserved {
        system: &texts(&[("cpu", "5"), ("memory", "9Gi")]),
        kube: &none,
        eviction: &texts(&[("nodefs.available", "0%"), ("memory.available", "100%")]),
        max_pods: 5,
        pods_per_core: None,
    };
    let left = allocatable(&capacity, &too_much);
    let expected = [
        ("cpu", 0),
        ("memory", 0),
        ("ephemeral-storage", 1000),
        ("pods", 5),
    ];
    for (resource, amount) in expected {
        assert_eq!(left.get(resource), Some(&amount), "{resource}");
    }
}

#[test]
fn a_resize_is_given_where_there_is_room_and_changes_nothing_else() {
    let mut ledger = Ledger::new(Arc::new(room()));
    let of = |name: &str, cpu: &str| from_api(name, requests(json!({"cpu": cpu})));
    for name in ["a", "b"] {
        assert_eq!(
            ledger.decide(&uid(name), &of(name, "900m")),
            Decision::Admitted
        );
    }
    assert_eq!(
        ledger.resize(&uid("a"), &of("a", "1500m")).unwrap_err(),
        "Node didn't have enough resource: cpu, requested: 1500, used: 900, capacity: 2000"
    );
    // What was refused takes nothing.
    ledger.resize(&uid("b"), &of("b", "1100m")).unwrap();
    ledger.resize(&uid("b"), &of("b", "400m")).unwrap();
    ledger.resize(&uid("a"), &of("a", "1500m")).unwrap();
    let third = ledger.decide(&uid("c"), &of("c", "200m"));
    assert!(matches!(third, Decision::Refused(_)), "{third:?}");
    assert!(ledger.resize(&uid("a"), &of("a", "lots")).is_err());
}
