use k8s_openapi::api::core::v1::PodSpec;
use kube::Resource as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

fn pod(class: Option<&str>) -> Pod {
    Pod {
        spec: Some(PodSpec {
            runtime_class_name: class.map(str::to_owned),
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}

fn class(name: &str, handler: &str) -> RuntimeClass {
    let object = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": name, "uid": "u" }, "handler": handler,
        "overhead": { "podFixed": { "memory": "120Mi" } },
    });
    serde_json::from_value(object).unwrap()
}

/// Classes that follow what is sent.
fn followed() -> (RuntimeClasses, mpsc::Sender<Event<RuntimeClass>>) {
    let classes = RuntimeClasses::default();
    let (events, received) = mpsc::channel(8);
    let following = classes.clone();
    tokio::spawn(async move { follow(ReceiverStream::new(received), &following).await });
    (classes, events)
}

#[test]
fn classes_are_where_the_api_has_them() {
    assert_eq!(
        RuntimeClass::url_path(&(), None),
        "/apis/node.k8s.io/v1/runtimeclasses"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_class_has_the_runtimes_own_handler_at_once() {
    let classes = RuntimeClasses::default();
    for none in [None, Some("")] {
        assert_eq!(classes.handler(&pod(none)).await.unwrap(), "");
    }
    // Nobody wants to know anything of the API server yet.
    let asked = tokio::time::timeout(Duration::from_secs(1), classes.wanted.notified());
    assert!(asked.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_not_known_in_time_is_not_found() {
    let classes = RuntimeClasses::default();
    let error = classes.handler(&pod(Some("kata"))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "runtimeclass.node.k8s.io \"kata\" not found"
    );
    classes.wanted.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_the_first_list_and_is_told_of_changes() {
    let (classes, events) = followed();
    let of_kata = pod(Some("kata"));
    let asking = classes.clone();
    let first = tokio::spawn(async move { asking.handler(&pod(Some("kata"))).await });
    for event in [
        Event::Init,
        Event::InitApply(class("kata", "kata-qemu")),
        Event::InitApply(class("gvisor", "runsc")),
    ] {
        events.send(event).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_finished(), "half a list is no list");
    events.send(Event::InitDone).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap(), "kata-qemu");

    let mut changes = classes.changes();
    changes.mark_seen();
    events
        .send(Event::Delete(class("kata", "kata-qemu")))
        .await
        .unwrap();
    changes.changed_for(&of_kata).await;
    assert!(classes.handler(&of_kata).await.is_err());
    events
        .send(Event::Apply(class("kata", "kata-clh")))
        .await
        .unwrap();
    changes.changed_for(&of_kata).await;
    assert_eq!(classes.handler(&of_kata).await.unwrap(), "kata-clh");
    // The same again is no news, and a pod without a class has none.
    events
        .send(Event::Apply(class("kata", "kata-clh")))
        .await
        .unwrap();
    let second = Duration::from_secs(1);
    assert!(
        tokio::time::timeout(second, changes.changed_for(&of_kata))
            .await
            .is_err()
    );
    events
        .send(Event::Apply(class("kata", "runc")))
        .await
        .unwrap();
    let none = pod(None);
    assert!(
        tokio::time::timeout(second, changes.changed_for(&none))
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn while_classes_are_listed_anew_what_was_known_counts() {
    let (classes, events) = followed();
    let of_kata = pod(Some("kata"));
    for event in [
        Event::Init,
        Event::InitApply(class("kata", "a")),
        Event::InitDone,
        Event::Init,
    ] {
        events.send(event).await.unwrap();
    }
    assert_eq!(classes.handler(&of_kata).await.unwrap(), "a");
    events.send(Event::InitDone).await.unwrap();
    let mut changes = classes.changes();
    changes.changed_for(&of_kata).await;
    assert!(classes.handler(&of_kata).await.is_err());
}
