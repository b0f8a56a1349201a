use clap::Parser as _;
use serde_json::json;

use super::super::arguments::{Command, Line, Listed as Kinds};
use super::*;

fn arguments(line: &str) -> GetArguments {
    let words = ["kubelet", "get", "pods"]
        .into_iter()
        .chain(line.split_whitespace());
    match Line::try_parse_from(words).unwrap().command {
        Command::Get(Kinds::Pods(arguments)) => arguments,
        other => panic!("{other:?}"),
    }
}

fn listed(namespace: &str, name: &str) -> Listed {
    let whole = json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-of-{name}")},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "main"}],
            "readinessGates": [{"conditionType": "a/b"}, {"conditionType": "c"}],
        },
        "status": {
            "phase": "Running", "podIP": "10.1.2.3", "startTime": "2026-01-02T03:00:00Z",
            "conditions": [{"type": "a/b", "status": "True"}],
            "containerStatuses": [{
                "name": "main", "ready": true, "restartCount": 0, "image": "i", "imageID": "",
                "state": {"running": {"startedAt": "2026-01-02T03:00:00Z"}},
            }],
        },
    });
    Listed {
        pod: serde_json::from_value(whole.clone()).unwrap(),
        whole,
        stale: false,
    }
}

fn shown(line: &str, pods: &[&Listed]) -> String {
    let arguments = arguments(line);
    let wide = arguments.output == Some(Format::Wide);
    table(
        pods,
        &arguments,
        wide,
        "2026-01-02T03:05:00Z".parse().unwrap(),
    )
}

#[test]
fn a_pod_that_is_stale_says_so_in_its_status() {
    let (mut a, b) = (listed("default", "web"), listed("default", "dns"));
    a.stale = true;
    assert_eq!(
        shown("--no-headers", &[&a, &b]),
        "web   1/1   Running,Stale   0   5m\ndns   1/1   Running         0   5m\n"
    );
}

#[test]
fn columns_are_kubectls() {
    let (a, b) = (listed("default", "web-n1"), listed("kube-system", "dns-n1"));
    assert_eq!(
        shown("", &[&a]),
        "NAME     READY   STATUS    RESTARTS   AGE\nweb-n1   1/1     Running   0          5m\n"
    );
    assert_eq!(
        shown("-A", &[&a, &b]),
        "\
NAMESPACE     NAME     READY   STATUS    RESTARTS   AGE
default       web-n1   1/1     Running   0          5m
kube-system   dns-n1   1/1     Running   0          5m
"
    );
    assert_eq!(
        shown("-o wide --no-headers", &[&a]),
        "web-n1   1/1   Running   0   5m   10.1.2.3   n1   <none>   1/2\n"
    );
}

#[test]
fn a_pod_goes_by_its_name_with_and_without_the_node() {
    let pod = listed("default", "web-n1");
    assert!(pod.is_called("web-n1") && pod.is_called("web"));
    assert!(!pod.is_called("we") && !pod.is_called("web-n2"));
}

#[test]
fn one_named_object_stands_alone_and_several_are_a_list() {
    let pod = listed("default", "web-n1");
    let text = |line: &str| whole(&[&pod], &arguments(line), json_text).unwrap();
    let alone: Value = serde_json::from_str(&text("web -o json")).unwrap();
    assert_eq!(
        (&alone["kind"], &alone["apiVersion"]),
        (&json!("Pod"), &json!("v1"))
    );
    let list: Value = serde_json::from_str(&text("-o json")).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"]),
        (&json!("List"), &json!("Pod"))
    );
}

#[test]
fn an_empty_list_says_where_there_is_more() {
    assert_eq!(
        nothing(Some("default"), 0),
        "No resources found in default namespace."
    );
    assert!(nothing(Some("default"), 3).ends_with("(-A shows 3 in others.)"));
    assert_eq!(nothing(None, 0), "No resources found");
}

#[test]
fn what_no_pod_can_be_called_is_refused() {
    let error = Line::try_parse_from(["kubelet", "get", "pods", "a&b"]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("names are of lower case letters"),
        "{error}"
    );
    let error = Line::try_parse_from(["kubelet", "get", "nodes"]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("unrecognized subcommand 'nodes'"),
        "{error}"
    );
}

/// What is printed of these changes, one after the other.
fn watched(line: &str, changes: &[Value]) -> (String, String, CliError) {
    let room = tempfile::tempdir().unwrap();
    let socket = room.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let lines: Vec<String> = changes.iter().map(Value::to_string).collect();
    let agent = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let read = stream.read(&mut [0; 4096]).unwrap();
        assert!(read > 0);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        .unwrap();
        for line in lines {
            write!(stream, "{:x}\r\n{line}\n\r\n", line.len() + 1).unwrap();
        }
    });
    let (mut output, mut remarks) = (Vec::new(), Vec::new());
    let mut streams = Streams {
        output: &mut output,
        remarks: &mut remarks,
    };
    let mut arguments = arguments(line);
    arguments.watch = true;
    let changes = Changes::of(&socket, "/watch/pods").unwrap();
    let error = watch(changes, &socket, &arguments, &mut streams).unwrap_err();
    agent.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output), text(remarks), error)
}

fn change(kind: &str, pod: &Value) -> Value {
    json!({"type": kind, "object": pod})
}

#[test]
fn a_watch_goes_on_from_a_table_and_keeps_its_columns() {
    let pod = |name: &str, phase: &str| {
        let mut whole = listed("default", name).whole;
        whole["status"]["phase"] = phase.into();
        whole["status"]["containerStatuses"] = json!([]);
        whole["status"]["startTime"] = Value::Null;
        whole
    };
    let elsewhere = change("MODIFIED", &listed("kube-system", "dns-n1").whole);
    let (text, remarks, error) = watched(
        "",
        &[
            change("ADDED", &pod("web-n1", "Pending")),
            change("ADDED", &pod("a-n1", "Failed")),
            elsewhere,
            json!({"type": "BOOKMARK", "object": {}}),
            change("MODIFIED", &pod("web-n1", "Running")),
            json!({"type": "ERROR", "object": "2 were left out"}),
            change("ADDED", &pod("a-longer-name-n1", "Pending")),
            change("DELETED", &pod("web-n1", "Running")),
            change("DELETED", &pod("a-n1", "Failed")),
        ],
    );
    assert_eq!(
        text,
        "\
NAME     READY   STATUS    RESTARTS   AGE
a-n1     0/1     Failed    0          <unknown>
web-n1   0/1     Pending   0          <unknown>
web-n1   0/1     Running   0          <unknown>
a-longer-name-n1   0/1     Pending   0          <unknown>
web-n1             0/1     Terminating   0          <unknown>
a-n1               0/1     Failed        0          <unknown>
"
    );
    assert_eq!(remarks, "\"2 were left out\"\n");
    assert!(
        matches!(error, CliError::Cut),
        "the agent has gone: {error}"
    );
}

#[test]
fn a_watch_of_a_pod_that_is_not_there_ends() {
    let begun = json!({"type": "BOOKMARK", "object": {}});
    let (text, _, error) = watched("nobody", &[begun]);
    assert_eq!(text, "");
    assert!(matches!(error, CliError::NotFound(_)), "{error}");
}
