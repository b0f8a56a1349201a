//! `kubelet validate`, run as a program.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where it stands, in its functions without #[test] too"
)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

/// Runs `kubelet validate` in `directory`, for a node called n1, with `input` on its standard input.
fn validate(directory: &Path, arguments: &[&str], input: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubelet"))
        .arg("validate")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read it closes it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Run {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn pod(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n{spec}  containers:\n  - name: c\n    image: nginx\n"
    )
}

fn room(files: &[(&str, String)]) -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(room.path().join(name), text).unwrap();
    }
    room
}

#[test]
fn good_manifests_are_named_with_their_pods() {
    let room = room(&[("a.yaml", format!("{}---\n{}", pod("a", ""), pod("b", "")))]);
    let run = validate(room.path(), &["--node-name", "N1", "a.yaml"], "");
    assert_eq!(run.status, 0, "{}", run.stdout);
    assert_eq!(
        run.stdout,
        "a.yaml: ok (pod default/a-n1)\na.yaml: ok (pod default/b-n1)\n"
    );
    assert_eq!(run.stderr, "");
}

#[test]
fn each_problem_has_its_place_field_and_remedy() {
    let bad = pod(
        "a",
        "  runtimeClassName: kata\n  restartPolicy: Sometimes\n  nodeSelector: {disk: ssd}\n",
    );
    let text = format!(
        "{bad}    imge: x\n---\n{}",
        pod("\"b\"\n  labels: {app: 1}", "")
    );
    let room = room(&[("a.yaml", text)]);
    let run = validate(room.path(), &["--node-name=n1", "a.yaml"], "");
    assert_eq!(run.status, 1);
    assert_eq!(
        run.stdout,
        "a.yaml:6:21: spec.runtimeClassName: not supported by this agent: \"kata\" needs runtime classes, which come from an API server\n\
         a.yaml:7:18: spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"\n\
         a.yaml:18:17: metadata.labels[app]: must be text, but 1 is a number; put it in quotes\n\
         a.yaml:8:17: warning: spec.nodeSelector: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector; this is said of a node with no labels but the agent's own\n\
         a.yaml:12:5: warning: spec.containers[0].imge: unknown field, did you mean \"image\"?; it has no effect\n"
    );
}

#[test]
fn of_two_files_with_one_pod_the_winner_is_named() {
    let room = room(&[("a.yaml", pod("x", "")), ("b.yaml", pod("x", ""))]);
    // The order on the command line changes nothing.
    let run = validate(
        room.path(),
        &["--node-name=n1", "b.yaml", "a.yaml", "./b.yaml"],
        "",
    );
    assert_eq!(run.status, 1);
    assert_eq!(
        run.stdout,
        "b.yaml: ok (pod default/x-n1)\n\
         a.yaml:1:1: pod x-n1_default is also in b.yaml:1:1, which is the one that counts; remove one of them\n"
    );
}

#[test]
fn a_directory_is_read_as_the_watch_reads_it() {
    let room = room(&[
        ("a.yaml", pod("a", "")),
        (".hidden.yaml", "broken: [".into()),
        ("empty", String::new()),
    ]);
    fs::create_dir(room.path().join("sub")).unwrap();
    fs::write(room.path().join("sub/b.yaml"), pod("b", "")).unwrap();
    nix::unistd::mkfifo(&room.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("nowhere", room.path().join("link")).unwrap();
    let run = validate(room.path(), &["--node-name=n1", "."], "");
    assert_eq!(run.status, 1);
    assert_eq!(
        run.stdout,
        "./a.yaml: ok (pod default/a-n1)\n\
         ./empty:1:1: warning: holds no pod\n\
         ./link:1:1: cannot read the manifest: No such file or directory (os error 2)\n\
         ./pipe:1:1: warning: ignored: not a file\n\
         ./sub:1:1: warning: ignored: a directory; manifests are not looked for in it\n"
    );
}

#[test]
fn config_maps_and_secrets_are_judged_as_the_watch_takes_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let uses = "  volumes: [{name: v, secret: {secretName: s}}]\n";
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n";
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: ns}\n";
    let room = room(&[
        ("a.yaml", pod("a", uses) + "---\n" + secret),
        ("b.yaml", map.to_owned()),
        ("c.yaml", map.to_owned()),
    ]);
    let mode = |mode| {
        let file = room.path().join("a.yaml");
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o644);
    let run = validate(room.path(), &["--node-name=n1", "."], "");
    let file = fs::canonicalize(room.path()).unwrap().join("a.yaml");
    let second = "./b.yaml:1:1: ConfigMap ns/c is also in ./c.yaml:1:1, which is the one that counts; remove one of them\n\
                  ./c.yaml: ok (ConfigMap ns/c)\n";
    assert_eq!(
        run.stdout,
        format!(
            "./a.yaml:11:1: Secret default/s is refused, because others than root may use the file (mode 0644); chmod 600 {}\n\
             ./a.yaml: ok (pod default/a-n1)\n{second}",
            file.display()
        )
    );
    assert_eq!(run.status, 1);
    mode(0o600);
    let run = validate(room.path(), &["--node-name=n1", "."], "");
    let first = "./a.yaml: ok (pod default/a-n1)\n./a.yaml: ok (Secret default/s)\n";
    assert_eq!(run.stdout, format!("{first}{second}"));
    // What comes from nowhere is no file that anybody may read.
    let run = validate(room.path(), &["--node-name=n1", "-"], secret);
    assert_eq!(run.stdout, "-: ok (Secret default/s)\n");
    assert_eq!(run.status, 0);
}

#[test]
fn json_is_one_document() {
    let room = room(&[("a.yaml", "kind: Pod\n".into())]);
    let arguments = ["-o", "json", "--node-name=n1", "a.yaml", "-"];
    let run = validate(room.path(), &arguments, &pod("x", ""));
    assert_eq!(run.status, 1);
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    let uid = found["files"][1]["pods"][0]["uid"].clone();
    assert_eq!(uid.as_str().unwrap().len(), 32);
    assert_eq!(
        found,
        json!({
            "files": [
                {"file": "a.yaml", "pods": [], "objects": [], "warnings": [], "problems": [{
                    "line": 1, "column": 7, "field": "", "message": "apiVersion is not set",
                    "remedy": "a manifest holds apiVersion v1, kind Pod",
                }]},
                {"file": "-", "problems": [], "warnings": [], "objects": [],
                 "pods": [{"namespace": "default", "name": "x-n1", "uid": uid}]},
            ],
            "valid": false,
        })
    );
}

#[test]
fn all_that_is_wrong_with_a_configuration_is_said_at_once() {
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let text = format!(
        "{head}maxPodz: 3\nmaxPods: many\nreadOnlyPort: 70000\nauthentication:\n  anonymous: true\nstaticPodPath: m\n"
    );
    let room = room(&[
        ("bad.yaml", text),
        ("good.yaml", format!("{head}staticPodPath: m\n")),
    ]);
    let run = validate(room.path(), &["--config", "bad.yaml"], "");
    assert_eq!(run.status, 1);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "bad.yaml:4:10: maxPods must be a whole number, found the text \"many\""
    );
    assert!(
        lines[1].starts_with("bad.yaml:5:15: invalid configuration: readOnlyPort"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("bad.yaml:7:14: authentication.anonymous must be a mapping"),
        "{lines:?}"
    );
    assert_eq!(
        lines[3],
        "bad.yaml:3:1: warning: unknown field \"maxPodz\"; did you mean \"maxPods\"?"
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
    let run = validate(room.path(), &["-o=json", "--config=bad.yaml"], "");
    let found: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(found["files"][0]["problems"][1]["field"], "readOnlyPort");
    assert_eq!(found["valid"], false);
    let run = validate(room.path(), &["--config", "good.yaml"], "");
    assert_eq!(
        (run.status, &*run.stdout),
        (0, "good.yaml: ok (KubeletConfiguration)\n")
    );
    let run = validate(room.path(), &["--config", "missing.yaml"], "");
    assert_eq!(run.status, 1);
    assert!(
        run.stdout
            .starts_with("missing.yaml:1:1: cannot read the configuration file: ")
    );
}

#[test]
fn manifests_are_judged_for_the_node_of_a_configuration() {
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let spec = "  securityContext: {sysctls: [{name: net.core.somaxconn, value: \"1\"}]}\n";
    let room = room(&[
        ("a.yaml", pod("a", spec)),
        (
            "c.yaml",
            format!("{head}allowedUnsafeSysctls: [net.core.somaxconn]\n"),
        ),
    ]);
    let run = validate(room.path(), &["a.yaml"], "");
    assert_eq!(run.status, 1);
    assert!(
        run.stdout
            .contains("the agent would reject the pod, SysctlForbidden: "),
        "{}",
        run.stdout
    );
    let run = validate(room.path(), &["--config=c.yaml", "a.yaml"], "");
    assert_eq!(run.status, 0, "{}", run.stdout);
}

#[test]
fn what_the_command_line_gets_wrong_is_64() {
    let room = room(&[("a.yaml", pod("a", ""))]);
    for (arguments, said) in [
        (
            &["--conifg", "a.yaml"][..],
            "unexpected argument '--conifg'",
        ),
        (&[], "required arguments were not provided"),
        (&["-o", "yaml", "a.yaml"], "[possible values: text, json]"),
        (&["--node-name", "a b", "a.yaml"], "cannot name a node"),
    ] {
        let run = validate(room.path(), arguments, "");
        assert_eq!(run.status, 64, "{arguments:?}");
        assert!(run.stderr.contains(said), "{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
    let run = validate(room.path(), &["--help"], "");
    assert_eq!(run.status, 0);
    for word in ["--config", "--node-name", "--output", "Exit status"] {
        assert!(run.stdout.contains(word), "{word}");
    }
}

#[test]
fn an_argument_that_is_no_text_is_a_usage_error() {
    use std::os::unix::ffi::OsStringExt as _;
    let argument = std::ffi::OsString::from_vec(b"a\xff.yaml".to_vec());
    let run = Command::new(env!("CARGO_BIN_EXE_kubelet"))
        .args([std::ffi::OsStr::new("validate"), &argument])
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(64));
    let text = String::from_utf8_lossy(&run.stderr);
    assert!(text.contains("is not UTF-8"), "{text}");
}

#[test]
fn objects_are_judged_as_by_the_nodes_own_settings() {
    const OWN: &str = "apiVersion: agent.kubelet/v1alpha1\nkind: AgentConfiguration\n";
    const REFUSED: &str = "a.yaml:2:7: a ConfigMap is not taken from manifests on a node with an API server, or with staticPodObjects: Never; set staticPodObjects: Always in the file of --agent-config\n\
         b.yaml:5:34: spec.volumes[0].configMap: static pods may not reference configmaps\n";
    const TAKEN: &str = "a.yaml: ok (ConfigMap default/c)\nb.yaml: ok (pod default/b-n1)\n";
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n";
    let user = "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n  volumes: [{name: v, configMap: {name: c}}]\n  containers: [{name: c, image: nginx}]\n";
    let room = room(&[
        ("a.yaml", map.to_owned()),
        ("b.yaml", user.to_owned()),
        ("auto", format!("{OWN}staticPodObjects: Auto\n")),
        ("always", format!("{OWN}staticPodObjects: Always\n")),
        ("never", format!("{OWN}staticPodObjects: Never\n")),
        ("wrong", format!("{OWN}staticPodObjects: always\n")),
    ]);
    for (settings, joined, valid) in [
        ("", false, true),
        ("", true, false),
        ("auto", false, true),
        ("auto", true, false),
        ("always", false, true),
        ("always", true, true),
        ("never", false, false),
        ("never", true, false),
    ] {
        let own = format!("--agent-config={settings}");
        let mut arguments = vec!["--node-name=n1", "a.yaml", "b.yaml"];
        arguments.extend((!settings.is_empty()).then_some(&*own));
        arguments.extend(joined.then_some("--kubeconfig=/etc/kubernetes/kubelet.conf"));
        let run = validate(room.path(), &arguments, "");
        assert_eq!(run.status, i32::from(!valid), "{arguments:?}");
        let own = match settings.is_empty() {
            true => String::new(),
            false => format!("{settings}: ok (AgentConfiguration)\n"),
        };
        let expected = match valid {
            true => TAKEN,
            false => REFUSED,
        };
        assert_eq!(run.stdout, format!("{own}{expected}"), "{arguments:?}");
    }
    let run = validate(room.path(), &["--agent-config=wrong"], "");
    assert_eq!(run.status, 1);
    assert_eq!(
        run.stdout,
        "wrong:3:19: staticPodObjects must be \"Auto\", \"Always\" or \"Never\", found \"always\"\n"
    );
    let run = validate(room.path(), &["--agent-config=none", "a.yaml"], "");
    assert_eq!(run.status, 1);
    assert_eq!(
        run.stdout,
        "none:1:1: cannot read the configuration file: No such file or directory (os error 2)\n\
         a.yaml: ok (ConfigMap default/c)\n"
    );
}
