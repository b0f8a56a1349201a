use serde_json::json;

use super::*;

const FILE: &str = "web.yaml";

fn manifest(text: &str) -> Manifest {
    let path = place(Path::new("/etc/kubernetes/manifests"), Path::new(FILE));
    let node = NodeName::new("n1");
    let reading = Reading {
        objects: &Objects::On,
        ..Reading::new(&node)
    };
    reading.read(&path, text.as_bytes())
}

/// As the agent has the pods of a manifest.
fn running(text: &str) -> Vec<Listed> {
    let pods = manifest(text).pods.into_iter().map(|pod| Listed {
        pod: (*pod.pod).clone(),
        whole: serde_json::to_value(&*pod.pod).unwrap(),
        stale: false,
    });
    pods.collect()
}

fn judged(text: &str, running: &[Listed]) -> (String, Difference) {
    judge(Path::new(FILE), &manifest(text), running)
}

const WEB: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - {name: main, image: 'web:1', env: [{name: A, value: '1'}]}
";

#[test]
fn the_same_file_changes_nothing_and_a_new_pod_is_created() {
    let (text, difference) = judged(WEB, &running(WEB));
    assert_eq!(
        (text.as_str(), difference),
        ("pod default/web-n1: unchanged\n", Difference::None)
    );
    let (text, difference) = judged(WEB, &[]);
    assert_eq!(
        (text.as_str(), difference),
        ("pod default/web-n1: would be created\n", Difference::Some)
    );
}

#[test]
fn what_differs_is_told_field_by_field() {
    let new = WEB
        .replace("web:1", "web:2")
        .replace("{app: web}", "{tier: front}")
        .replace("value: '1'}]", "value: '2'}, {name: B, value: '3'}]");
    let (text, difference) = judged(&new, &running(WEB));
    assert_eq!(difference, Difference::Some);
    assert_eq!(
        text,
        "\
pod default/web-n1: would be replaced: its containers end, and new ones start
  metadata.labels.app: \"web\" -> (none)
  metadata.labels.tier: (none) -> \"front\"
  spec.containers[main].env[A].value: \"1\" -> \"2\"
  spec.containers[main].env[B]: (none) -> {\"name\":\"B\",\"value\":\"3\"}
  spec.containers[main].image: \"web:1\" -> \"web:2\"
"
    );
}

#[test]
fn another_file_of_the_same_pod_replaces_it_too() {
    let mut old = running(WEB);
    old[0].pod.metadata.uid = Some("another".to_owned());
    let (text, difference) = judged(WEB, &old);
    assert_eq!(difference, Difference::Some);
    assert!(text.contains("nothing of the pod differs"), "{text}");
}

#[test]
fn what_would_not_run_is_told_with_its_place() {
    let (text, difference) = judged(&WEB.replace("image:", "imge:"), &[]);
    assert_eq!(difference, Difference::Some);
    assert!(text.starts_with("web.yaml:6:"), "{text}");
    assert!(text.trim_end().ends_with("it would not run"), "{text}");
    let (text, difference) = judged("", &[]);
    assert_eq!(
        (text.as_str(), difference),
        ("web.yaml: holds no pod\n", Difference::None)
    );
}

#[test]
fn items_without_names_go_by_their_places() {
    let mut found = Vec::new();
    compare("a", &json!(["x", "y"]), &json!(["x", "z", "w"]), &mut found);
    let found: Vec<_> = found
        .iter()
        .map(|(path, old, new)| format!("{path} {old} {new}"))
        .collect();
    assert_eq!(found, ["a[1] \"y\" \"z\"", "a[2] (none) \"w\""]);
}

#[test]
fn a_pod_that_follows_its_objects_is_compared_by_what_it_is() {
    let user = WEB.replace(
        "labels: {app: web}",
        "annotations: {agent.kubelet/replace-on-object-change: 'true'}",
    );
    let user = user.replace("env: [", "envFrom: [{configMapRef: {name: c}}], env: [");
    let text = user + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    let mut running = running(&text);
    running[0].pod.metadata.uid = Some("by-its-objects".to_owned());
    let (said, difference) = judged(&text, &running);
    assert_eq!(
        said,
        "pod default/web-n1: unchanged\nConfigMap default/c: would be taken\n"
    );
    assert_eq!(difference, Difference::None);
    let (said, difference) = judged(&text.replace("web:1", "web:2"), &running);
    assert!(said.contains("web:1"), "{said}");
    assert_eq!(difference, Difference::Some);
}
