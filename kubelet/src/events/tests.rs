use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer};
use serde_json::{Value, json};

use super::correlate::Correlator;
use super::*;
use crate::clock::Now;

fn pod(name: &str) -> Pod {
    let named = |name: &str| Container {
        name: name.to_owned(),
        ..Container::default()
    };
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("apps".to_owned());
    pod.metadata.uid = Some(format!("uid-of-{name}"));
    pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
        node_name: Some("node".to_owned()),
        containers: vec![named("main")],
        init_containers: Some(vec![named("first")]),
        ephemeral_containers: Some(vec![EphemeralContainer {
            name: "debug".to_owned(),
            ..EphemeralContainer::default()
        }]),
        ..k8s_openapi::api::core::v1::PodSpec::default()
    });
    pod
}

fn manual() -> Recorder {
    let (clock, _) = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap());
    Recorder::new(clock)
}

fn at(seconds: u64) -> Now {
    let begin: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let monotonic = Duration::from_secs(seconds);
    Now {
        wall: begin + monotonic,
        monotonic,
    }
}

fn items(recorder: &Recorder) -> Vec<Value> {
    let items = recorder.list(|_| true);
    let json = |event: &std::sync::Arc<Event>| {
        let mut text = Vec::new();
        event.write_json(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    items.iter().map(json).collect()
}

#[tokio::test(start_paused = true)]
async fn an_event_has_the_form_of_upstreams() {
    let (recorder, pod) = (manual(), pod("web-node"));
    let about = About::container(&pod, "main");
    recorder.note(&about.draft(false, "Started", "Container started"));
    tokio::time::advance(Duration::from_secs(90)).await;
    recorder.note(&about.draft(false, "Started", "Container started"));
    // 2026-01-02T03:04:05Z in nanoseconds.
    let name = format!("web-node.{:x}", 1_767_323_045_000_000_000_i64);
    assert_eq!(
        items(&recorder),
        [json!({
            "metadata": {
                "name": name,
                "namespace": "apps",
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "involvedObject": {
                "kind": "Pod",
                "namespace": "apps",
                "name": "web-node",
                "uid": "uid-of-web-node",
                "apiVersion": "v1",
                "fieldPath": "spec.containers{main}",
            },
            "reason": "Started",
            "message": "Container started",
            "source": { "component": "kubelet", "host": "node" },
            "firstTimestamp": "2026-01-02T03:04:05Z",
            "lastTimestamp": "2026-01-02T03:05:35Z",
            "count": 2,
            "type": "Normal",
            "eventTime": null,
            "reportingComponent": "kubelet",
            "reportingInstance": "node",
        })]
    );
    let event: k8s_openapi::api::core::v1::Event =
        serde_json::from_value(items(&recorder).remove(0)).unwrap();
    assert_eq!(event.count, Some(2), "it reads as core/v1 has it");
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_node_is_in_the_default_namespace() {
    let recorder = manual();
    recorder.note(&About::node("n").draft(false, "Starting", "Starting kubelet."));
    let item = items(&recorder).remove(0);
    assert_eq!(item["metadata"]["namespace"], "default");
    assert_eq!(
        item["involvedObject"],
        json!({ "kind": "Node", "name": "n", "apiVersion": "v1" })
    );
    assert_eq!(item["source"]["host"], "n");
}

#[test]
fn the_field_path_names_the_list_that_the_container_is_in() {
    let pod = pod("a");
    for (name, path) in [
        ("main", Some("spec.containers{main}")),
        ("first", Some("spec.initContainers{first}")),
        ("debug", Some("spec.ephemeralContainers{debug}")),
        ("gone", None),
    ] {
        let draft = About::container(&pod, name).draft(false, "r", "m");
        assert_eq!(draft.field_path.as_deref(), path);
    }
    assert_eq!(About::pod(&pod).draft(false, "r", "m").field_path, None);
}

#[test]
fn a_containers_id_gives_way_to_its_name() {
    let pod = pod("a");
    let about = About::container(&pod, "main");
    assert_eq!(about.named("no task abc"), "no task abc");
    assert_eq!(about.without_id("abc").named("no task abc"), "no task main");
    assert_eq!(about.without_id("").named("no task abc"), "no task abc");
}

/// Count, whether combined, whether it gets through.
fn told(
    correlator: &mut Correlator,
    about: About<'_>,
    message: &str,
    now: u64,
) -> (u32, bool, bool) {
    let draft = about.draft(true, "Failed", message);
    let id = i64::try_from(now).unwrap();
    let found = correlator.correlate(&draft, id, at(now));
    (found.count, found.combined, found.kept)
}

#[test]
fn the_tenth_message_of_a_kind_is_combined_with_what_follows() {
    let mut correlator = Correlator::new();
    let pod = pod("a");
    let about = About::container(&pod, "main");
    for n in 0..9 {
        let (count, combined, _) = told(&mut correlator, about, &format!("m{n}"), 0);
        assert_eq!((count, combined), (1, false), "m{n}");
    }
    // What was there before the tenth goes on by itself.
    assert_eq!(told(&mut correlator, about, "m0", 1), (2, false, true));
    assert_eq!(told(&mut correlator, about, "m9", 2), (1, true, true));
    assert_eq!(told(&mut correlator, about, "m10", 3), (2, true, true));
    let other = About::pod(&pod).draft(true, "BackOff", "m11");
    let other = correlator.correlate(&other, 4, at(4));
    assert!(!other.combined, "another reason");
    // Each similar event keeps the group alive; ten minutes without one end it.
    assert_eq!(told(&mut correlator, about, "m12", 600), (3, true, true));
    assert_eq!(told(&mut correlator, about, "m13", 1201), (1, false, true));
}

#[test]
fn the_first_name_and_time_stay() {
    let mut correlator = Correlator::new();
    let pod = pod("a");
    let draft = About::pod(&pod).draft(false, "r", "m");
    let first = correlator.correlate(&draft, 7, at(0));
    let second = correlator.correlate(&draft, 8, at(60));
    assert_eq!((first.id, first.count), (7, 1));
    assert_eq!((second.id, second.count, second.first), (7, 2, at(0).wall));
}

#[test]
fn of_one_object_and_type_25_get_through_and_then_one_each_five_minutes() {
    let mut correlator = Correlator::new();
    let pods = [pod("a"), pod("b")];
    let about = About::pod(&pods[0]);
    for n in 1..=25 {
        assert_eq!(told(&mut correlator, about, "m", 0), (n, false, true));
    }
    assert_eq!(told(&mut correlator, about, "m", 0), (26, false, false));
    assert_eq!(told(&mut correlator, about, "m", 299), (27, false, false));
    // What did not get through is counted all the same.
    assert_eq!(told(&mut correlator, about, "m", 300), (28, false, true));
    assert_eq!(told(&mut correlator, about, "m", 301), (29, false, false));
    assert!(told(&mut correlator, About::pod(&pods[1]), "m", 301).2);
    let normal = about.draft(false, "Started", "m");
    assert!(
        correlator.correlate(&normal, 0, at(301)).kept,
        "another type"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_bounded_in_number_and_in_bytes() {
    let recorder = manual();
    let long = "ä".repeat(4000);
    for n in 0..MOST_EVENTS * 2 {
        let pod = pod(&format!("pod-{n}"));
        let message = match n % 2 {
            0 => format!("{n}"),
            _ => format!("{n} {long}"),
        };
        recorder.note(&About::pod(&pod).draft(false, "r", &message));
        assert!(recorder.bytes() <= MOST_BYTES);
    }
    let kept = recorder.list(|_| true);
    assert!(
        kept.len() <= MOST_EVENTS && kept.len() > MOST_EVENTS / 2,
        "{}",
        kept.len()
    );
    let last = kept.last().unwrap();
    assert_eq!(*last.object.name, *format!("pod-{}", MOST_EVENTS * 2 - 1));
    assert!(last.message.len() <= 1024, "{}", last.message.len());
    assert!(last.bytes() < 2048, "the estimate is {}", last.bytes());
}

#[tokio::test(start_paused = true)]
async fn what_happens_again_is_the_last_in_the_list() {
    let (recorder, pod) = (manual(), pod("a"));
    let about = About::pod(&pod);
    for message in ["one", "two", "one"] {
        recorder.note(&about.draft(false, "r", message));
    }
    let kept = recorder.list(|_| true);
    let told: Vec<_> = kept.iter().map(|e| (&*e.message, e.count)).collect();
    assert_eq!(told, [("two", 1), ("one", 2)]);
    assert_ne!(kept[0].name(), kept[1].name());
    assert!(std::sync::Arc::ptr_eq(&kept[0].object, &kept[1].object));
    assert_eq!(recorder.list(|e| e.count > 1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn combined_events_say_so_and_nobody_reported_them() {
    let (recorder, pod) = (manual(), pod("a"));
    for n in 0..12 {
        recorder.note(&About::pod(&pod).draft(true, "Failed", &format!("m{n}")));
    }
    let items = items(&recorder);
    assert_eq!(items.len(), 10);
    let last = &items[9];
    assert_eq!(last["message"], "(combined from similar events): m11");
    assert_eq!(
        (&last["count"], &last["type"]),
        (&json!(3), &json!("Warning"))
    );
    assert_eq!(last["reportingComponent"], "");
    assert_eq!(last["source"]["component"], "kubelet");
}

#[tokio::test(start_paused = true)]
async fn who_follows_has_what_was_kept_and_then_what_comes_bounded() {
    let recorder = manual();
    let note = |name: &str| {
        let pod = pod(name);
        recorder.note(&About::pod(&pod).draft(false, "Started", "m"));
    };
    note("early");
    let (kept, outbox) = recorder.follow();
    let kept: Vec<&str> = kept.iter().map(|event| &*event.object.name).collect();
    assert_eq!(kept, ["early"]);
    note("late");
    let (event, new, dropped) = outbox.next_event().await;
    assert_eq!((&*event.object.name, new, dropped), ("late", true, 0));
    note("late");
    let (event, new, _) = outbox.next_event().await;
    assert_eq!((event.count, new), (2, false));
    for number in 0..MOST_EVENTS + 7 {
        note(&format!("pod-{number}"));
    }
    let (event, _, dropped) = outbox.next_event().await;
    assert_eq!((&*event.object.name, dropped), ("pod-7", 7));
}
