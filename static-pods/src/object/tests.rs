use std::path::Path;

use super::*;
use crate::identity::NodeName;
use crate::manifest::{Manifest, Reading};

const FILE: &str = "/m/o.yaml";

fn read_with(text: &str, objects: &Objects, access: Option<Access>) -> Manifest {
    let node = NodeName::new("n");
    let reading = Reading {
        objects,
        access,
        ..Reading::new(&node)
    };
    reading.read(Path::new(FILE), text.as_bytes())
}

fn read_all(text: &str) -> Manifest {
    read_with(text, &Objects::On, None)
}

fn problems(manifest: &Manifest) -> Vec<String> {
    manifest.problems.iter().map(ToString::to_string).collect()
}

fn config_map(rest: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\n{rest}")
}

fn secret(rest: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: ns}}\n{rest}")
}

fn text(values: &Values) -> Vec<(&str, &str)> {
    let text = |value| std::str::from_utf8(value).unwrap();
    let pairs = values.iter();
    pairs.map(|(key, value)| (&**key, text(value))).collect()
}

#[test]
fn a_config_map_has_text_and_bytes() {
    let manifest = read_all(&config_map(
        "data:\n  a: x\n  b:\n  c: |\n    two\n    lines\nbinaryData:\n  d: AP8=\n",
    ));
    assert_eq!(manifest.problems, []);
    let object = &manifest.objects[0];
    assert_eq!(object.key.to_string(), "ConfigMap default/c");
    let content = &object.content;
    let expected = [("a", "x"), ("b", ""), ("c", "two\nlines\n")];
    assert_eq!(text(&content.data), expected);
    assert_eq!(*content.binary["d"], [0, 255]);
    assert!(!content.immutable && content.secret_type.is_none());
}

#[test]
fn of_a_secret_string_data_goes_over_data() {
    let manifest = read_all(&secret(
        "data: {a: aHVzaA==, b: eA==}\nstringData: {b: plain, c: more}\nimmutable: true\n",
    ));
    assert_eq!(problems(&manifest), Vec::<String>::new());
    let content = &manifest.objects[0].content;
    assert_eq!(content.secret_type.as_deref(), Some("Opaque"));
    assert!(content.immutable);
    let wrapped = read_all(&secret("data:\n  a: |\n    aHVz\n    aA==\n"));
    assert_eq!(text(&wrapped.objects[0].content.data), [("a", "hush")]);
    let expected = [("b", "plain"), ("c", "more")];
    assert_eq!(text(&content.data)[1..], expected);
}

#[test]
fn a_list_holds_objects_too() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n";
    let manifest = read_all(text);
    let keys: Vec<_> = manifest.objects.iter().map(|o| o.key.to_string()).collect();
    assert_eq!(keys, ["ConfigMap default/a", "Secret default/b"]);
    assert_eq!(manifest.problems, []);
}

#[test]
fn nothing_of_a_secret_is_repeated() {
    let hidden = "hunter";
    for (rest, error) in [
        (
            "data: {pass: hunter2!}\n",
            "/m/o.yaml:4:14: data[pass]: Invalid value: \"<secret contents redacted>\": illegal base64 data at input byte 7",
        ),
        (
            "data: {pass: hunter}\n",
            "/m/o.yaml:4:14: data[pass]: Invalid value: \"<secret contents redacted>\": illegal base64 data at input byte 6",
        ),
        (
            "stringData: {pass: 12345}\n",
            "/m/o.yaml:4:20: stringData[pass]: must be text, but is a number; put it in quotes",
        ),
        (
            "stringData: {pass: [hunter2]}\n",
            "/m/o.yaml:4:20: stringData[pass]: must be text, but is a list",
        ),
        (
            "stringData: hunter2\n",
            "/m/o.yaml:4:13: stringData: must be a mapping, but is text",
        ),
        (
            "type: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: hunter2}\n",
            "/m/o.yaml:1:1: data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": must be a JSON object (line 1, column 1)",
        ),
    ] {
        let manifest = read_all(&secret(rest));
        assert_eq!(problems(&manifest), [error]);
        assert!(manifest.objects.is_empty());
        let debug = format!("{manifest:?}");
        assert!(
            !debug.contains(hidden) && !debug.contains("12345"),
            "{debug}"
        );
    }
    let good = read_all(&secret("stringData: {pass: hunter2}\n"));
    assert_eq!(good.objects.len(), 1);
    assert!(!format!("{good:?}").contains(hidden));
}

#[test]
fn rules_are_those_of_the_api() {
    let large = format!("data: {{a: {}}}\n", "x".repeat((1 << 20) + 1));
    for (document, error) in [
        (
            config_map("data: {..a: x}\n"),
            "/m/o.yaml:4:13: data[..a]: Invalid value: \"..a\": must not start with '..'",
        ),
        (
            config_map("data: {a: x}\nbinaryData: {a: AA==}\n"),
            "/m/o.yaml:4:11: data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
        ),
        (
            config_map(&large),
            "/m/o.yaml:4:7: data: Too long: may not be more than 1048576 bytes",
        ),
        (
            config_map("data: {a: 5}\n"),
            "/m/o.yaml:4:11: data[a]: must be text, but 5 is a number; put it in quotes",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n".to_owned(),
            "/m/o.yaml:3:1: invalid ConfigMap: name is needed; set metadata.name",
        ),
        (
            secret("type: kubernetes.io/tls\nstringData: {tls.crt: x}\n"),
            "/m/o.yaml:1:1: data[tls.key]: Required value",
        ),
        (
            secret("type: kubernetes.io/ssh-auth\n"),
            "/m/o.yaml:1:1: data[ssh-privatekey]: Required value",
        ),
        (
            secret("type: kubernetes.io/service-account-token\n"),
            "/m/o.yaml:3:1: metadata.annotations[kubernetes.io/service-account.name]: Required value",
        ),
    ] {
        assert_eq!(problems(&read_all(&document)), [error]);
    }
    let both = problems(&read_all(&secret("type: kubernetes.io/basic-auth\n")));
    assert_eq!(both.len(), 2, "{both:?}");
    let odd = read_all(&config_map("dat: {a: x}\n"));
    assert_eq!(odd.warnings.len(), 1);
    assert_eq!(
        odd.warnings[0].message,
        "unknown field, did you mean \"data\"?; it has no effect"
    );
}

#[test]
fn a_secret_is_taken_from_a_file_of_roots_alone_and_its_pod_from_any() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n";
    let text = format!("{pod}---\n{}", secret("stringData: {a: x}\n"));
    let access = |owner, mode| Some(Access { owner, mode });
    for private in [0o600, 0o400, 0o700] {
        let manifest = read_with(&text, &Objects::On, access(0, private));
        assert_eq!((manifest.pods.len(), manifest.objects.len()), (1, 1));
    }
    for (access, error) in [
        (
            access(0, 0o644),
            "/m/o.yaml:6:1: Secret ns/s is refused, because others than root may use the file (mode 0644); chmod 600 /m/o.yaml",
        ),
        (
            access(0, 0o620),
            "/m/o.yaml:6:1: Secret ns/s is refused, because others than root may use the file (mode 0620); chmod 600 /m/o.yaml",
        ),
        (
            access(1000, 0o600),
            "/m/o.yaml:6:1: Secret ns/s is refused, because the file is not root's, but user 1000's (mode 0600); chown root: /m/o.yaml && chmod 600 /m/o.yaml",
        ),
    ] {
        let manifest = read_with(&text, &Objects::On, access);
        assert_eq!(problems(&manifest), [error]);
        assert_eq!((manifest.pods.len(), manifest.objects.len()), (1, 0));
        let remedy = manifest.problems[0].problem.remedy().unwrap();
        assert!(error.ends_with(remedy), "{remedy}");
    }
    let map = read_with(&config_map(""), &Objects::On, access(1000, 0o666));
    assert_eq!(map.problems, []);
}

#[test]
fn a_command_is_for_a_shell() {
    let access = Access {
        owner: 0,
        mode: 0o644,
    };
    let remedy = access.remedy(Path::new("/m/it's $(odd).yaml"));
    assert_eq!(remedy, r"chmod 600 '/m/it'\''s $(odd).yaml'");
}

const USER: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\nspec:\n  imagePullSecrets: [{name: r}]\n  containers:\n  - name: c\n    image: i\n    envFrom: [{configMapRef: {name: c}}, {secretRef: {name: s}}]\n    env:\n    - {name: A, valueFrom: {configMapKeyRef: {name: c, key: a}}}\n    - {name: B, valueFrom: {secretKeyRef: {name: s, key: a}}}\n  volumes:\n  - {name: c, configMap: {name: c}}\n  - {name: s, secret: {secretName: s}}\n  - name: p\n    projected: {sources: [{configMap: {name: c}}, {secret: {name: s}}]}\n";

#[test]
fn pods_refer_to_objects_where_they_may() {
    let on = read_all(USER);
    assert_eq!(on.problems, []);
    assert!(on.pods[0].refers && !on.pods[0].follows);
    let named = |name: &str| Objects::Only([("ns".to_owned(), name.to_owned())].into());
    assert_eq!(read_with(USER, &named("p"), None).pods.len(), 1);
    for off in [Objects::Off, named("other")] {
        let refused = problems(&read_with(USER, &off, None));
        assert_eq!(
            refused,
            ["/m/o.yaml:5:22: spec.imagePullSecrets[0]: static pods may not reference secrets"]
        );
    }
    let off = read_with(&config_map(""), &Objects::Off, None);
    assert_eq!(
        problems(&off),
        [
            "/m/o.yaml:2:7: a ConfigMap is not taken from manifests on a node with an API server, or with staticPodObjects: Never; set staticPodObjects: Always in the file of --agent-config"
        ]
    );
    let plain = read_all(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n",
    );
    assert!(!plain.pods[0].refers);
}

#[test]
fn what_only_an_api_server_has_stays_refused() {
    for (field, object) in [
        (
            "serviceAccountName: a",
            "spec.serviceAccountName: static pods may not reference serviceaccounts",
        ),
        (
            "volumes: [{name: v, csi: {driver: d, nodePublishSecretRef: {name: s}}}]",
            "spec.volumes[0].csi.nodePublishSecretRef: static pods may not reference secrets",
        ),
        (
            "volumes: [{name: v, azureFile: {secretName: s, shareName: t}}]",
            "spec.volumes[0].azureFile: static pods may not reference secrets",
        ),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers: [{{name: c, image: i}}]\n  {field}\n"
        );
        let refused = problems(&read_all(&text));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].ends_with(object), "{refused:?}");
    }
}

#[test]
fn the_annotation_is_true_or_false() {
    let pod = |value: &str| {
        read_all(&USER.replace(
            "namespace: ns}",
            &format!("namespace: ns, annotations: {{{REPLACE_ANNOTATION}: '{value}'}}}}"),
        ))
    };
    assert!(pod("true").pods[0].follows);
    assert!(!pod("false").pods[0].follows);
    let refused = problems(&pod("yes"));
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].ends_with(
            "metadata.annotations[agent.kubelet/replace-on-object-change]: Invalid value: \"yes\": must be \"true\" or \"false\""
        ),
        "{refused:?}"
    );
}

#[test]
fn an_object_that_never_changes_takes_no_other_content() {
    let content = |rest: &str| read_all(&secret(rest)).objects[0].content.clone();
    let first = content("stringData: {a: x}\nimmutable: true\n");
    assert_eq!(first.refuses(&first), None);
    let other = content("stringData: {a: z}\nimmutable: true\n");
    assert_eq!(first.refuses(&other), Some("data"));
    assert_eq!(
        first.refuses(&content("stringData: {a: x}\n")),
        Some("immutable")
    );
    let free = content("stringData: {a: x}\n");
    assert_eq!(free.refuses(&other), None);
}
