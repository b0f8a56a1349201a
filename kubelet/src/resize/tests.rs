use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::pod::Pod;
use crate::runtime::{ContainerState, ImageRef, ObservedContainer, ObservedPod};

fn resources(cpu: &str, memory: &str) -> serde_json::Value {
    json!({
        "requests": { "cpu": cpu, "memory": memory, "example.com/gpu": "1" },
        "limits": { "cpu": cpu, "memory": memory, "example.com/gpu": "1" },
    })
}

fn pod(a: (&str, &str), b: (&str, &str)) -> Arc<Pod> {
    let pod = json!({
        "metadata": { "name": "web", "namespace": "default", "uid": "u", "generation": 3 },
        "spec": { "containers": [
            { "name": "a", "resources": resources(a.0, a.1) },
            {
                "name": "b",
                "resources": resources(b.0, b.1),
                "resizePolicy": [
                    { "resourceName": "cpu", "restartPolicy": "NotRequired" },
                    { "resourceName": "memory", "restartPolicy": "RestartContainer" },
                ],
            },
        ]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn running() -> ObservedPod {
    let mut observed = ObservedPod::default();
    for name in ["a", "b"] {
        observed.containers.push(ObservedContainer {
            id: format!("{name}-0").into(),
            sandbox: "s".into(),
            name: name.into(),
            attempt: 0,
            state: ContainerState::Running,
            created_at: 1,
            started_at: 1,
            finished_at: 0,
            exit_code: 0,
            reason: "".into(),
            message: "".into(),
            image: "image".into(),
            image_ref: ImageRef::from("image"),
            hash: "".into(),
            log_path: "".into(),
            grace_seconds: None,
            user: None,
            stop_signal: None,
        });
    }
    observed
}

fn actuated(pod: &Pod, observed: &ObservedPod) -> BTreeMap<String, Actuated> {
    let has = |c: &k8s_openapi::api::core::v1::Container| {
        let id = observed.newest(&c.name).unwrap().id.to_string();
        let has = Amounts::of(c.resources.as_ref());
        (c.name.clone(), Actuated { id, has })
    };
    crate::pod::spec(pod).containers.iter().map(has).collect()
}

fn text(pod: &Pod, container: usize, limits: bool, resource: &str) -> String {
    let resources = crate::pod::spec(pod).containers[container]
        .resources
        .clone()
        .unwrap();
    let list = if limits {
        resources.limits
    } else {
        resources.requests
    };
    list.unwrap()[resource].0.clone()
}

#[test]
fn what_was_given_is_laid_over_what_is_asked_for() {
    let before = pod(("1", "64Mi"), ("500m", "32Mi"));
    let given = Allocation::of(&before);
    let same = pod(("1000m", "65536Ki"), ("0.5", "32Mi"));
    assert!(!given.differs(&same), "the same amounts, written otherwise");
    assert!(Arc::ptr_eq(&given.laid_over(&same), &same));
    let after = pod(("2", "64Mi"), ("500m", "48Mi"));
    assert!(given.differs(&after));
    let over = given.laid_over(&after);
    assert_eq!(text(&over, 0, true, "cpu"), "1");
    assert_eq!(text(&over, 1, false, "memory"), "32Mi");
    assert_eq!(text(&over, 1, false, "example.com/gpu"), "1");
    assert_eq!(over.metadata.generation, Some(3));
    let kept: Allocation = serde_json::from_str(&serde_json::to_string(&given).unwrap()).unwrap();
    assert_eq!(kept, given);
}

#[test]
fn what_was_not_given_is_taken_out() {
    let bare: Arc<Pod> = Arc::new(
        serde_json::from_value(json!({ "spec": { "containers": [{ "name": "a" }] } })).unwrap(),
    );
    let asks: Arc<Pod> = Arc::new(
        serde_json::from_value(json!({ "spec": { "containers": [
            { "name": "a", "resources": { "requests": { "cpu": "1" } } },
        ]}}))
        .unwrap(),
    );
    let over = Allocation::of(&bare).laid_over(&asks);
    assert_eq!(over.spec, bare.spec, "not even an empty list is left");
}

#[test]
fn running_containers_change_those_that_get_less_first() {
    let before = pod(("1", "64Mi"), ("1", "64Mi"));
    let observed = running();
    let has = actuated(&before, &observed);
    assert!(changes(&before, &observed, &has).is_empty());

    let after = pod(("2", "64Mi"), ("500m", "64Mi"));
    let planned = changes(&after, &observed, &has);
    let order: Vec<_> = planned.iter().map(|c| (&*c.name, c.restarts)).collect();
    assert_eq!(order, [("b", false), ("a", false)]);
    assert_eq!(planned[0].to.memory_shrinks_to(&planned[0].from), None);

    let after = pod(("1", "32Mi"), ("1", "128Mi"));
    let planned = changes(&after, &observed, &has);
    let order: Vec<_> = planned.iter().map(|c| (&*c.name, c.restarts)).collect();
    assert_eq!(order, [("a", false), ("b", true)], "b's policy for memory");
    let shrinks = planned[0].to.memory_shrinks_to(&planned[0].from);
    assert_eq!(shrinks, Some(32 << 20));
}

#[test]
fn what_does_not_run_or_is_another_instance_does_not_change() {
    let before = pod(("1", "64Mi"), ("1", "64Mi"));
    let after = pod(("2", "64Mi"), ("2", "64Mi"));
    let mut observed = running();
    let mut has = actuated(&before, &observed);
    observed.containers[0].state = ContainerState::Exited;
    has.get_mut("b").unwrap().id = "another".to_owned();
    assert!(changes(&after, &observed, &has).is_empty());
    assert!(changes(&after, &running(), &BTreeMap::new()).is_empty());
}

#[test]
fn the_envelope_holds_what_there_is_and_what_comes() {
    let before = pod(("1", "64Mi"), ("1", "64Mi"));
    let after = pod(("2", "32Mi"), ("1", "64Mi"));
    let observed = running();
    let changes = changes(&after, &observed, &actuated(&before, &observed));
    let both = envelope(&after, &changes);
    assert_eq!(text(&both, 0, true, "cpu"), "2");
    assert_eq!(text(&both, 0, true, "memory"), "64Mi");
    assert_eq!(text(&both, 1, true, "memory"), "64Mi");
}

#[test]
fn words_are_upstreams() {
    let small: Pod = serde_json::from_value(json!({
        "metadata": { "generation": 2 },
        "spec": { "containers": [{ "name": "c", "resources": { "limits": { "cpu": "1" } } }] },
    }))
    .unwrap();
    assert_eq!(
        started(&small),
        r#"Pod resize started: {"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}],"generation":2}"#
    );
    let why = Pending {
        reason: PendingReason::Deferred,
        message: "no room".into(),
    };
    assert_eq!(
        pending(&small, &why),
        r#"Pod resize Deferred: {"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}],"generation":2,"error":"no room"}"#
    );
}

#[test]
fn what_is_requested_anew_is_told_by_resource() {
    let before = pod(("1", "1Gi"), ("2", "1Gi"));
    assert_eq!(changed_requests(&before, &before), (false, false));
    let cases = [
        (pod(("1000m", "1Gi"), ("3", "1Gi")), (true, false)),
        (pod(("1", "1Gi"), ("2", "512Mi")), (false, true)),
        (pod(("2", "2Gi"), ("2", "1Gi")), (true, true)),
    ];
    for (now, expected) in cases {
        assert_eq!(changed_requests(&now, &before), expected);
    }
}
