use super::*;
use proptest::prelude::*;

const FILE: &str = "/etc/kubernetes/manifests/a.yaml";

fn read(text: &str) -> Manifest {
    read_manifest(Path::new(FILE), text.as_bytes(), &NodeName::new("Node-1"))
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n"
    )
}

fn keys(manifest: &Manifest) -> Vec<String> {
    manifest
        .pods
        .iter()
        .map(|p| p.key().name.to_string())
        .collect()
}

#[test]
fn a_broken_document_leaves_the_others_alone() {
    // The node's name has a capital, which only the pod's name loses: spec.nodeName is refused as upstream.
    let lower = |text: &str| read_manifest(Path::new(FILE), text.as_bytes(), &NodeName::new("n"));
    let text = format!("{}---\nkind: {{\n---\n{}", pod("a"), pod("b"));
    let manifest = lower(&text);
    assert_eq!(keys(&manifest), ["a-n", "b-n"]);
    assert_eq!(manifest.problems.len(), 1);
    assert_eq!(manifest.problems[0].at.line, 7);
    assert_eq!(manifest.pods[1].at.line, 8);
    assert_eq!(manifest.pods[1].document, 1);
    let at: Vec<_> = read(&text)
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        at[0].starts_with(&format!(
            "{FILE}:4:1: spec.nodeName: Invalid value: \"Node-1\""
        )),
        "{at:?}"
    );
}

#[test]
fn lists_hold_pods() {
    let list = |kind: &str, items: &str| {
        let text = format!("apiVersion: v1\nkind: {kind}\nitems:\n{items}");
        read_manifest(Path::new(FILE), text.as_bytes(), &NodeName::new("n"))
    };
    let bare = "- metadata: {name: a}\n  spec: {containers: [{name: c, image: i}]}\n";
    let full = "- apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n  spec: {containers: [{name: c, image: i}]}\n";
    let both = list("PodList", &format!("{bare}{full}"));
    assert_eq!(keys(&both), ["a-n", "b-n"]);
    assert_ne!(both.pods[0].uid(), both.pods[1].uid());
    let other = list("List", &format!("{bare}{full}"));
    assert_eq!(keys(&other), ["b-n"]);
    assert_eq!(other.problems.len(), 1);
    assert_eq!(other.problems[0].at.line, 4);
    assert_eq!(list("List", "  x\n").problems.len(), 1);
}

#[test]
fn nothing_is_nothing() {
    for text in ["", "\n", "---\n---\n", "# comment\n", "--- ~\n"] {
        let manifest = read(text);
        assert!(
            manifest.pods.is_empty() && manifest.problems.is_empty(),
            "{text:?}"
        );
    }
}

#[test]
fn keys_written_twice_and_unknown_fields_are_warned_of() {
    let text = pod("a").replace("kind: Pod\n", "kind: Pod\nkind: Pod\nspecs: {}\n");
    let warnings: Vec<_> = read(&text)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            format!(
                "{FILE}:3:1: kind: the key is here a second time; the value at 2:1 does not count"
            ),
            format!("{FILE}:4:1: specs: unknown field, did you mean \"spec\"?; it has no effect"),
        ]
    );
}

#[test]
fn a_mirror_of_a_pod_is_not_one() {
    let text = pod("a").replace(
        "{name: a}",
        "{name: a, annotations: {kubernetes.io/config.mirror: x, kubernetes.io/config.source: api}}",
    );
    let manifest = read_manifest(Path::new(FILE), text.as_bytes(), &NodeName::new("n"));
    let annotations = manifest.pods[0].pod.metadata.annotations.clone().unwrap();
    assert_eq!(annotations.get(identity::CONFIG_MIRROR_ANNOTATION), None);
    assert_eq!(annotations[identity::CONFIG_SOURCE_ANNOTATION], "file");
    assert_eq!(
        annotations[identity::CONFIG_HASH_ANNOTATION],
        manifest.pods[0].uid()
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_manifest(Path::new(FILE), &bytes, &NodeName::new("n"));
    }

    #[test]
    fn no_edit_of_a_manifest_panics(at in 0usize..400, cut in 0usize..40, put in "[-:{}\\[\\]&*!|>'\"%@`,?# \t\na-z0-9]{0,12}") {
        let mut text = include_str!("../../tests/accepts/volumes.yaml").to_owned();
        let at = at.min(text.len() - 1);
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &put);
        let _ = read_manifest(Path::new(FILE), text.as_bytes(), &NodeName::new("n"));
    }
}

#[test]
fn a_problem_comes_apart_into_field_message_and_remedy() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: 1}}\n---\napiVersion: v1\nkind: Pod\n---\n\
                kind: Pod\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b, uid: a/b}\nspec: {containers: [{name: c, image: i}]}\n";
    let manifest = read_manifest(Path::new(FILE), text.as_bytes(), &NodeName::new("n"));
    let parts: Vec<_> = manifest
        .problems
        .iter()
        .map(|p| (p.problem.field(), p.problem.message(), p.problem.remedy()))
        .collect();
    assert_eq!(
        parts,
        [
            (
                "metadata.labels[app]",
                "must be text, but 1 is a number".to_owned(),
                Some("put it in quotes")
            ),
            (
                "metadata.name",
                "invalid pod: name is needed for the pod".to_owned(),
                Some("set metadata.name")
            ),
            (
                "",
                "apiVersion is not set".to_owned(),
                Some("a manifest holds apiVersion v1, kind Pod")
            ),
            (
                "metadata.uid",
                "Invalid value: \"a/b\": must be 1 to 128 characters of [A-Za-z0-9._-] that start with a letter or digit"
                    .to_owned(),
                Some("leave it out to have one made")
            ),
        ]
    );
    // The whole line has them all, each once.
    for (problem, (field, message, remedy)) in manifest.problems.iter().zip(parts) {
        let line = problem.problem.to_string();
        assert!(
            line.starts_with(field) || field == "metadata.name",
            "{line}"
        );
        assert!(
            line.ends_with(&format!("{message}; {}", remedy.unwrap())),
            "{line}"
        );
    }
}

#[test]
fn a_judge_refuses_and_warns_at_the_field() {
    let judge = |_: &Pod| {
        let remark = |field: &str, refuses| Remark {
            field: field.to_owned(),
            message: "odd".to_owned(),
            refuses,
        };
        vec![remark("spec.containers[0].image", true), remark("", false)]
    };
    let text = pod("a");
    let node = NodeName::new("n");
    let reading = Reading {
        judge: &judge,
        ..Reading::new(&node)
    };
    let manifest = reading.read(Path::new(FILE), text.as_bytes());
    assert_eq!(manifest.pods.len(), 0);
    assert_eq!(
        manifest.problems[0].to_string(),
        format!("{FILE}:4:38: spec.containers[0].image: odd")
    );
    assert_eq!(manifest.warnings[0].to_string(), format!("{FILE}:1:1: odd"));
}
