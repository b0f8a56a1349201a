//! Objects of manifests: who finds them, and who hears of their changes.

use std::path::Path;

use static_pods::identity::NodeName;
use static_pods::manifest::Reading;
use static_pods::watch::ManifestSet;
use tokio::sync::watch;

use super::*;

fn set(text: &str, ready: bool) -> Arc<LocalObjects> {
    let node = NodeName::new("n");
    let reading = Reading {
        objects: &static_pods::object::Objects::On,
        ..Reading::new(&node)
    };
    let manifest = reading.read(Path::new("/m/o.yaml"), text.as_bytes());
    let set = ManifestSet {
        ready,
        ..ManifestSet::of([&manifest])
    };
    Arc::new(LocalObjects::of(&set))
}

fn local_map(name: &str, value: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: ns}}\ndata: {{k: '{value}'}}\n"
    )
}

/// The same pod from a file.
fn of_file(pod: &Arc<Pod>) -> Arc<Pod> {
    let mut pod = Pod::clone(pod);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.source".into(), "file".into());
    Arc::new(pod)
}

fn local() -> (watch::Sender<Arc<LocalObjects>>, Objects) {
    let (sender, receiver) = watch::channel(set("", false));
    (
        sender,
        Objects::standalone().with_local(receiver, Path::new("/m")),
    )
}

#[tokio::test]
async fn a_static_pod_hears_of_what_it_refers_to_and_of_nothing_else() {
    let (sender, objects) = local();
    let task = tokio::spawn(objects.clone().run_local());
    let pod = of_file(&with_map("p", "m"));
    let own = registered(&objects, &pod);
    let mut news = own.news();
    let not_yet = "failed to sync configmap cache: timed out waiting for the condition";
    assert_eq!(value(&own, &pod, "m"), Err(not_yet.to_owned()));
    sender.send_replace(set("", true));
    news.changed().await.unwrap();
    own.settle().await;
    let missing = "configmap \"m\" not found; put the ConfigMap ns/m into a file in /m, or mend the one that 'kubelet status' names";
    assert_eq!(value(&own, &pod, "m"), Err(missing.to_owned()));
    let found = own.snapshot(&pod).get_optional(Kind::ConfigMap, "m", true);
    assert_eq!(found.unwrap(), None);
    sender.send_replace(set(&local_map("m", "1"), true));
    news.changed().await.unwrap();
    assert_eq!(value(&own, &pod, "m"), Ok("1".to_owned()));
    // Another object, and the same one read again.
    sender.send_replace(set(&(local_map("other", "x") + &local_map("m", "1")), true));
    sender.send_replace(set(&(local_map("other", "y") + &local_map("m", "1")), true));
    tokio::task::yield_now().await;
    sender.send_replace(set(&local_map("m", "2"), true));
    news.changed().await.unwrap();
    assert_eq!(value(&own, &pod, "m"), Ok("2".to_owned()));
    assert_eq!(*news.borrow_and_update(), 3);
    own.release();
    sender.send_replace(set("", true));
    until(|| sender.receiver_count() > 0 && !news.has_changed().unwrap()).await;
    task.abort();
}

#[tokio::test]
async fn objects_of_manifests_and_of_the_api_server_are_strangers() {
    let api = Api::default();
    api.put("configmaps", "m", map("api"));
    api.put("configmaps", "there", map("api"));
    let text = local_map("m", "local") + &local_map("here", "local");
    let (_sender, receiver) = watch::channel(set(&text, true));
    let objects = connected(&api).with_local(receiver, Path::new("/m"));
    for (name, of_api, of_file_) in [
        ("m", Some("api"), Some("local")),
        ("here", None, Some("local")),
        ("there", Some("api"), None),
    ] {
        let pod = with_map("p", name);
        let own = registered(&objects, &pod);
        own.settle().await;
        assert_eq!(value(&own, &pod, name).ok().as_deref(), of_api, "{name}");
        let pod = of_file(&pod);
        let own = registered(&objects, &pod);
        own.settle().await;
        assert_eq!(value(&own, &pod, name).ok().as_deref(), of_file_, "{name}");
    }
    // Where none are taken from manifests, a static pod finds none at all.
    let objects = connected(&api);
    let pod = of_file(&with_map("p", "m"));
    let own = registered(&objects, &pod);
    own.settle().await;
    let refused = "couldn't get configMap ns/m, no kubeClient defined";
    assert_eq!(value(&own, &pod, "m"), Err(refused.to_owned()));
}
