use std::sync::Mutex;

use serde_json::json;
use tokio::time::sleep;

use super::*;
use crate::clock::Clock;
use crate::events::{About, MOST_EVENTS, Recorder};
use crate::pod::Pod;
use crate::scripted_api::{Answer, Asked, Log, scripted};

const EVENTS: &str = "/api/v1/namespaces/apps/events";

fn pod(name: &str, node: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("apps".to_owned());
    pod.metadata.uid = Some(format!("uid-of-{name}"));
    pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
        node_name: Some(node.to_owned()),
        ..k8s_openapi::api::core::v1::PodSpec::default()
    });
    pod
}

/// A recorder whose events of `n1` an API server is told, which `answer` plays.
fn told(answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> (Recorder, Log) {
    let (clock, _) = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap());
    let recorder = Recorder::new(clock);
    let (client, log) = scripted(answer);
    tokio::spawn(run_sink(client, recorder.outbox("n1")));
    (recorder, log)
}

fn done(_: &Asked) -> Answer {
    Answer::Json(201, json!({}))
}

fn note(recorder: &Recorder, pod: &Pod, message: &str) {
    recorder.note(&About::pod(pod).draft(false, "Started", message));
}

/// Lets the sink do what it can do at once.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_is_created_once_and_then_patched() {
    let (recorder, log) = told(done);
    let pod = pod("web", "n1");
    note(&recorder, &pod, "m");
    settle().await;
    let created = log.take();
    assert_eq!(created.len(), 1);
    assert_eq!(created[0].line(), format!("POST {EVENTS}"));
    assert_eq!(created[0].content_type, "application/json");
    let name = format!("web.{:x}", 1_767_323_045_000_000_000_i64);
    assert_eq!(
        created[0].body,
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": "apps" },
            "involvedObject": {
                "kind": "Pod",
                "namespace": "apps",
                "name": "web",
                "uid": "uid-of-web",
                "apiVersion": "v1",
            },
            "reason": "Started",
            "message": "m",
            "source": { "component": "kubelet", "host": "n1" },
            "firstTimestamp": "2026-01-02T03:04:05Z",
            "lastTimestamp": "2026-01-02T03:04:05Z",
            "count": 1,
            "type": "Normal",
            "eventTime": null,
            "reportingComponent": "kubelet",
            "reportingInstance": "n1",
        })
    );
    sleep(Duration::from_secs(60)).await;
    note(&recorder, &pod, "m");
    settle().await;
    let patched = log.take();
    assert_eq!(patched.len(), 1);
    assert_eq!(patched[0].line(), format!("PATCH {EVENTS}/{name}"));
    assert_eq!(
        patched[0].content_type,
        "application/strategic-merge-patch+json"
    );
    assert_eq!(
        patched[0].body,
        json!({ "count": 2, "lastTimestamp": "2026-01-02T03:05:05Z", "message": "m" })
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_gone_is_created_again() {
    let (recorder, log) = told(|asked| match asked.method.as_str() {
        "PATCH" => Answer::failure(404, "NotFound", "gone"),
        _ => Answer::Json(201, json!({})),
    });
    let pod = pod("web", "n1");
    for _ in 0..2 {
        note(&recorder, &pod, "m");
        settle().await;
    }
    let asked = log.take();
    let methods: Vec<&str> = asked.iter().map(|asked| asked.method.as_str()).collect();
    assert_eq!(methods, ["POST", "PATCH", "POST"]);
    assert_eq!(asked[2].body["count"], 2);
}

#[tokio::test(start_paused = true)]
async fn while_there_is_no_answer_everything_waits_and_what_repeats_is_told_once() {
    let away = Arc::new(Mutex::new(true));
    let is_away = away.clone();
    let (recorder, log) = told(move |_| match *is_away.lock().unwrap() {
        true => Answer::Broken,
        false => Answer::Json(201, json!({})),
    });
    let pods = [pod("a", "n1"), pod("b", "n1")];
    note(&recorder, &pods[0], "first");
    settle().await;
    for _ in 0..5 {
        note(&recorder, &pods[1], "again");
    }
    sleep(Duration::from_secs(90)).await;
    let tries = log.take().len();
    assert!((9..=12).contains(&tries), "{tries}");
    *away.lock().unwrap() = false;
    sleep(Duration::from_secs(10)).await;
    let asked = log.take();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[0].body["message"], "first");
    assert_eq!(
        (&asked[1].body["message"], &asked[1].body["count"]),
        (&json!("again"), &json!(5))
    );
}

#[tokio::test(start_paused = true)]
async fn after_twelve_tries_an_event_is_given_up() {
    for answer in [
        || Answer::Never,
        || Answer::failure(429, "TooManyRequests", "later"),
        || Answer::failure(500, "InternalError", "etcd"),
    ] {
        let (recorder, log) = told(move |_| answer());
        note(&recorder, &pod("a", "n1"), "m");
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(log.take().len(), 12);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_given_up_at_once() {
    for (code, reason) in [
        (403, "Forbidden"),
        (409, "AlreadyExists"),
        (404, "NotFound"),
        (422, "Invalid"),
    ] {
        let (recorder, log) = told(move |_| Answer::failure(code, reason, "no"));
        note(&recorder, &pod("a", "n1"), "m");
        note(&recorder, &pod("b", "n1"), "m");
        sleep(Duration::from_secs(600)).await;
        assert_eq!(log.take().len(), 2, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_happened_before_is_told_and_other_nodes_events_are_not() {
    let (clock, _) = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap());
    let recorder = Recorder::new(clock);
    recorder.note(&About::node("n1").draft(false, "Starting", "Starting kubelet."));
    note(&recorder, &pod("a", "n2"), "of another node");
    note(&recorder, &pod("b", ""), "of nobody");
    let (client, log) = scripted(done);
    tokio::spawn(run_sink(client, recorder.outbox("n1")));
    settle().await;
    let asked = log.take();
    let about: Vec<_> = asked
        .iter()
        .map(|asked| (asked.path.as_str(), &asked.body["message"]))
        .collect();
    let default = "/api/v1/namespaces/default/events";
    assert_eq!(
        about,
        [
            (default, &json!("Starting kubelet.")),
            (EVENTS, &json!("of nobody"))
        ]
    );
    assert_eq!(asked[1].body["source"]["host"], "n1");
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_and_the_oldest_makes_room() {
    let (clock, _) = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap());
    let recorder = Recorder::new(clock);
    let outbox = recorder.outbox("n1");
    for n in 0..MOST_EVENTS + 7 {
        note(&recorder, &pod(&format!("pod-{n}"), "n1"), "m");
    }
    assert_eq!(outbox.take_dropped(), 7);
    assert_eq!(outbox.take_dropped(), 0);
    assert_eq!(&*outbox.next().await.event.object.name, "pod-7");
    drop(outbox);
    note(&recorder, &pod("after", "n1"), "m");
}

#[tokio::test(start_paused = true)]
async fn a_long_name_is_cut() {
    let (recorder, log) = told(done);
    note(
        &recorder,
        &pod(&format!("{}-{}", "a".repeat(235), "b".repeat(17)), "n1"),
        "m",
    );
    settle().await;
    let asked = log.take();
    let name = asked[0].body["metadata"]["name"].as_str().unwrap();
    assert!(
        name.len() <= 253 && name.starts_with(&format!("{}.1", "a".repeat(235))),
        "{name}"
    );
}
