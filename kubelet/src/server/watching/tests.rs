use std::time::Duration;

use axum::body::BodyDataStream;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;
use tokio_stream::StreamExt as _;

use super::*;
use crate::events::About;
use crate::pod::QosClass;
use crate::status::Phase;

const LIMIT: Duration = Duration::from_secs(20);

fn pod(name: &str) -> Arc<Pod> {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("watched".to_owned());
    pod.metadata.uid = Some(format!("uid-of-{name}"));
    pod.spec = Some(PodSpec::default());
    Arc::new(pod)
}

fn status(phase: Phase, message: &str) -> PodStatus {
    PodStatus {
        phase,
        reason: None,
        message: Some(message.into()),
        start_time: None,
        conditions: Vec::new(),
        init_containers: Vec::new(),
        containers: Vec::new(),
        ephemeral_containers: Vec::new(),
        pod_ips: Vec::new(),
        host_ips: Vec::new(),
        qos: QosClass::BestEffort,
    }
}

/// The next line: its type, its object's name, and what else is looked at.
async fn next(lines: &mut BodyDataStream) -> (String, Value) {
    let line = tokio::time::timeout(LIMIT, lines.next()).await;
    let line = line.expect("a line comes").unwrap().unwrap();
    assert!(line.ends_with(b"}\n"));
    let change: Value = serde_json::from_slice(&line).unwrap();
    let kind = change["type"].as_str().unwrap().to_owned();
    (kind, change["object"].clone())
}

async fn told(lines: &mut BodyDataStream) -> String {
    let (kind, pod) = next(lines).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, phase) = (&pod["metadata"]["name"], &pod["status"]["phase"]);
    format!("{kind} {} {}", text(name), text(phase))
        .trim_end()
        .to_owned()
}

#[tokio::test]
async fn what_there_is_comes_first_and_then_each_change() {
    let board = StatusBoard::new();
    let (a, b) = (pod("a"), pod("b"));
    let writer = |pod: &Pod| board.writer(&PodUid::of(pod).unwrap()).unwrap();
    let (of_a, of_b) = (writer(&a), writer(&b));
    of_a.set(&a, status(Phase::Pending, ""));
    let mut lines = pods(board.clone()).await.into_body().into_data_stream();
    assert_eq!(told(&mut lines).await, "ADDED a Pending");
    assert_eq!(told(&mut lines).await, "BOOKMARK");
    of_b.set(&b, status(Phase::Running, ""));
    assert_eq!(told(&mut lines).await, "ADDED b Running");
    of_a.set(&a, status(Phase::Running, ""));
    assert_eq!(told(&mut lines).await, "MODIFIED a Running");
    // Nothing new: what comes next is another's.
    of_b.set(&b, status(Phase::Running, ""));
    of_a.remove();
    assert_eq!(told(&mut lines).await, "DELETED a Running");
    of_b.set(&b, status(Phase::Failed, ""));
    assert_eq!(told(&mut lines).await, "MODIFIED b Failed");
}

#[tokio::test]
async fn who_reads_slowly_is_told_the_latest_and_little_else() {
    let board = StatusBoard::new();
    let a = pod("a");
    let writer = board.writer(&PodUid::of(&a).unwrap()).unwrap();
    writer.set(&a, status(Phase::Pending, "first"));
    let mut lines = pods(board.clone()).await.into_body().into_data_stream();
    assert_eq!(told(&mut lines).await, "ADDED a Pending");
    for number in 0..1000 {
        writer.set(&a, status(Phase::Pending, &number.to_string()));
        tokio::task::yield_now().await;
    }
    writer.set(&a, status(Phase::Succeeded, "last"));
    let mut count = 0;
    loop {
        count += 1;
        let (_, pod) = next(&mut lines).await;
        if pod["status"]["message"] == "last" {
            break;
        }
    }
    assert!(count < 10, "{count} lines waited for their reader");
}

#[tokio::test]
async fn a_client_that_goes_is_told_of_nothing_more() {
    let board = StatusBoard::new();
    let (sender, receiver) = mpsc::channel(1);
    let lines = Lines(sender);
    let telling = tell_pods(&board, &lines);
    let going = async {
        tokio::task::yield_now().await;
        drop(receiver);
    };
    let both = async { tokio::join!(telling, going).0 };
    let told = tokio::time::timeout(LIMIT, both).await;
    assert!(told.expect("it ends").is_err());
}

#[tokio::test]
async fn events_are_told_as_they_happen() {
    let recorder = crate::events::recorder();
    let pod = pod("eventful");
    About::pod(&pod).normal("Early", "before");
    let query = RawQuery(Some("namespace=watched&pod=eventful".to_owned()));
    let response = events(recorder, query).await;
    let mut lines = response.into_body().into_data_stream();
    let mut told = async || {
        let (kind, event) = next(&mut lines).await;
        format!("{kind} {} {}", event["reason"], event["count"])
    };
    assert_eq!(told().await, "ADDED \"Early\" 1");
    assert_eq!(told().await, "BOOKMARK null null");
    About::pod(&self::pod("another")).normal("Other", "of another pod");
    About::pod(&pod).warning("Late", "now");
    assert_eq!(told().await, "ADDED \"Late\" 1");
    About::pod(&pod).warning("Late", "now");
    assert_eq!(told().await, "MODIFIED \"Late\" 2");

    let bad = events(recorder, RawQuery(Some("name=a".to_owned()))).await;
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
}
