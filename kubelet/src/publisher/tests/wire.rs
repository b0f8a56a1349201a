use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use kube::Client;
use kube::client::Body;
use tokio::sync::watch;

use super::*;
use crate::clock::Clock;
use crate::publisher::run_status_publisher;
use crate::status::StatusBoard;

/// A request as the API server sees it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: String,
    path: String,
    kind: String,
    body: Value,
}

/// An API server that notes each request and answers with what `answer` makes of it.
fn server(
    answer: impl Fn(&Seen) -> (u16, Value) + Clone + Send + Sync + 'static,
) -> (Client, Arc<Mutex<Vec<Seen>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    let service = tower::service_fn(move |request: axum::http::Request<Body>| {
        let (log, answer) = (log.clone(), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect_bytes().await.unwrap();
            let kind = head
                .headers
                .get("content-type")
                .map_or("", |k| k.to_str().unwrap());
            let request = Seen {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                kind: kind.to_owned(),
                body: serde_json::from_slice(&bytes).unwrap(),
            };
            log.lock().unwrap().push(request.clone());
            let (code, body) = answer(&request);
            let response = axum::http::Response::builder()
                .status(code)
                .body(Body::from(serde_json::to_vec(&body).unwrap()))
                .unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    (Client::new(service, "default"), seen)
}

fn failure(code: u16) -> (u16, Value) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "X", "message": "no",
    });
    (code, body)
}

/// The object after `patch`.
fn object(patch: &Value, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "pod-a", "namespace": "default", "uid": "a", "resourceVersion": version.to_string()},
        "status": {"phase": patch["status"]["phase"]},
    })
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 30 s: {what}");
}

#[tokio::test(start_paused = true)]
async fn a_pods_last_status_is_patched_and_then_its_object_is_removed() {
    let (client, seen) = server(|request| match request.method.as_str() {
        "PATCH" => (200, object(&request.body, 2)),
        _ => (200, object(&json!({"status": {"phase": "Failed"}}), 3)),
    });
    let pod = deleted("a");
    let board = StatusBoard::new();
    let (pods, known) = watch::channel(Arc::new(api(&[&pod])));
    let task = tokio::spawn(run_status_publisher(
        client,
        board.clone(),
        known,
        Clock::system(),
    ));
    let writer = board.writer(&uid("a")).unwrap();
    writer.set_unseen(&pod, status(Phase::Pending));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*seen.lock().unwrap(), []);
    writer.set(&pod, status(Phase::Failed));
    writer.set_last(&pod);
    until("it is removed", || seen.lock().unwrap().len() == 2).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2, "at rest nothing is sent");
    assert_eq!(
        (&*seen[0].method, &*seen[0].path, &*seen[0].kind),
        (
            "PATCH",
            "/api/v1/namespaces/default/pods/pod-a/status",
            "application/strategic-merge-patch+json"
        )
    );
    assert_eq!(seen[0].body["metadata"]["uid"], "a");
    assert_eq!(
        (&*seen[1].method, &*seen[1].path),
        ("DELETE", "/api/v1/namespaces/default/pods/pod-a")
    );
    let how = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "a"}});
    assert_eq!(seen[1].body, how);
    drop(pods);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_changed_during_an_outage_is_there_once_after_its_end() {
    let up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_up = up.clone();
    let (client, seen) =
        server(
            move |request| match is_up.load(std::sync::atomic::Ordering::Relaxed) {
                true => (200, object(&request.body, 2)),
                false => failure(503),
            },
        );
    let pod = pod("a", |_| {});
    let board = StatusBoard::new();
    let (_pods, known) = watch::channel(Arc::new(api(&[&pod])));
    let task = tokio::spawn(run_status_publisher(
        client,
        board.clone(),
        known,
        Clock::system(),
    ));
    let writer = board.writer(&uid("a")).unwrap();
    writer.set(&pod, status(Phase::Pending));
    tokio::time::sleep(Duration::from_secs(45)).await;
    writer.set(&pod, status(Phase::Running));
    tokio::time::sleep(Duration::from_secs(45)).await;
    let tries = seen.lock().unwrap().len();
    assert!((10..40).contains(&tries), "{tries} in 90 s");
    up.store(true, std::sync::atomic::Ordering::Relaxed);
    // The word of its return, of which there is none here, would make it a second.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let last = seen.lock().unwrap().clone();
    assert_eq!(last.len(), tries + 1);
    assert_eq!(last[tries].body["status"]["phase"], "Running");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(seen.lock().unwrap().len(), tries + 1);
    task.abort();
}
