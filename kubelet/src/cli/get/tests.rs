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
    let text =
        |line: &str| whole(&[&pod], &arguments(line), |value| Ok(value.to_string())).unwrap();
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
