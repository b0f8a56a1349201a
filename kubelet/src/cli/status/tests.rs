use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-02T03:10:00Z";

fn overview() -> Value {
    json!({
        "version": "0.1.0", "node": "n1", "upSeconds": 185, "unhealthy": null,
        "runtime": "/run/containerd/containerd.sock", "runtimeAway": null,
        "manifests": {"path": "/etc/kubernetes/manifests", "pods": 2, "refused": [], "odd": []},
        "kubeconfig": null, "sourcesRead": true, "steps": [],
    })
}

fn pod(name: &str, began: &str, status: &Value) -> Listed {
    let mut whole = json!({
        "metadata": {"namespace": "default", "name": name, "uid": format!("uid-of-{name}")},
        "spec": {"nodeName": "n1", "containers": [{"name": "main"}]},
        "status": {"startTime": began},
    });
    for (key, value) in status.as_object().unwrap() {
        whole["status"][key] = value.clone();
    }
    Listed {
        pod: serde_json::from_value(whole.clone()).unwrap(),
        whole,
        stale: false,
    }
}

fn container(state: &Value) -> Value {
    json!([{"name": "main", "ready": false, "restartCount": 3, "image": "i", "imageID": "", "state": state,
        "lastState": {"terminated": {"exitCode": 7, "finishedAt": "2026-01-02T03:09:50Z"}}}])
}

fn event(name: &str) -> Item {
    let event = json!({
        "metadata": {"namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": name, "uid": format!("uid-of-{name}")},
        "reason": "FailedCreatePodSandBox", "type": "Warning", "message": "no network\n",
        "firstTimestamp": "2026-01-02T03:09:00Z", "lastTimestamp": "2026-01-02T03:09:30Z", "count": 2,
        "source": {"component": "kubelet"},
    });
    serde_json::from_value(event).unwrap()
}

fn shown(overview: Value, pods: &[Listed], events: &[Item]) -> String {
    let overview = serde_json::from_value(overview).unwrap();
    screen(&overview, pods, events, NOW.parse().unwrap())
}

#[test]
fn pods_that_are_stale_are_named_and_so_is_the_reason() {
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let mut pods = [
        pod("web", "2026-01-02T03:00:00Z", &ready),
        pod("db", "2026-01-02T03:00:00Z", &ready),
    ];
    pods[0].stale = true;
    let mut overview = overview();
    overview["kubeconfig"] = json!("/etc/kubernetes/kubelet.conf");
    let text = shown(overview.clone(), &pods, &[]);
    let row = "API server:   by /etc/kubernetes/kubelet.conf; not heard since the agent began\n";
    assert!(text.contains(row), "{text}");
    assert!(
        text.ends_with("\nStale (as they were known before the agent began):\n  default/web\n"),
        "{text}"
    );
    pods[0].stale = false;
    let text = shown(overview, &pods, &[]);
    assert!(
        !text.contains("Stale") && !text.contains("not heard"),
        "{text}"
    );
}

#[test]
fn a_node_that_is_well_is_four_lines() {
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let young = json!({"phase": "Pending", "containerStatuses": container(&json!({"waiting": {"reason": "ContainerCreating"}}))});
    let pods = [
        pod("web-n1", "2026-01-02T03:00:00Z", &ready),
        pod("new-n1", "2026-01-02T03:09:58Z", &young),
        pod(
            "job-n1",
            "2026-01-02T03:00:00Z",
            &json!({"phase": "Succeeded"}),
        ),
    ];
    assert_eq!(
        shown(overview(), &pods, &[]),
        "\
kubelet 0.1.0 on n1, up 3m5s, healthy
Runtime:      /run/containerd/containerd.sock, answers
Manifests:    /etc/kubernetes/manifests, 2 pods
API server:   none: this node stands alone
Pods:         1 running, 1 starting, 1 ended
"
    );
    let mut empty = overview();
    empty["manifests"] = Value::Null;
    empty["kubeconfig"] = "/etc/kubernetes/kubelet.conf".into();
    let text = shown(empty, &[], &[]);
    assert!(
        text.contains("Manifests:    none: staticPodPath is not set\n"),
        "{text}"
    );
    assert!(
        text.contains("API server:   by /etc/kubernetes/kubelet.conf\n"),
        "{text}"
    );
    assert!(text.ends_with("Pods:         none\n"), "{text}");
    let mut expired = overview();
    expired["certificates"] = json!(["it expired: kubelet join"]);
    let text = shown(expired, &[], &[]);
    assert!(
        text.ends_with("\nCertificates:\n  it expired: kubelet join\n"),
        "{text}"
    );
}

#[test]
fn each_pod_that_does_not_run_says_why() {
    let began = "2026-01-02T03:05:00Z";
    let waits = |reason: &str, message: &str| json!({"phase": "Running", "containerStatuses": container(&json!({"waiting": {"reason": reason, "message": message}}))});
    let creating = json!({"phase": "Pending", "containerStatuses": container(&json!({"waiting": {"reason": "ContainerCreating"}}))});
    let pods = [
        pod(
            "pull-n1",
            began,
            &waits("ImagePullBackOff", "Back-off pulling image \"x\""),
        ),
        pod("hung-n1", began, &creating),
        pod(
            "out-n1",
            began,
            &json!({"phase": "Failed", "reason": "OutOfcpu", "message": "no cpu left"}),
        ),
        pod("slow-n1", began, &json!({"phase": "Running"})),
    ];
    let mut with = overview();
    with["steps"] = json!([{"uid": "uid-of-hung-n1", "what": "makes the sandbox (RunPodSandbox)", "seconds": 61}]);
    with["stuck"] =
        json!([{"pod": "default/old-n1", "why": "sandbox 1: StopPodSandbox after 40s"}]);
    let text = shown(with, &pods, &[event("hung-n1")]);
    let (_, below) = text
        .split_once("Pods:         4 not running\n\nNot running:\n")
        .unwrap();
    assert_eq!(
        below,
        "  default/pull-n1   ImagePullBackOff (for 5m)
    main: ImagePullBackOff: Back-off pulling image \"x\" (last exit code 7 10s ago, 3 restarts)
  default/hung-n1   ContainerCreating (for 5m)
    the agent makes the sandbox (RunPodSandbox) for 61s now; the runtime has not answered yet
    last warning: 30s ago FailedCreatePodSandBox: no network
  default/out-n1   OutOfcpu (for 5m)
    OutOfcpu: no cpu left
  default/slow-n1   Running (for 5m)
    it runs and is not ready

To end, and not ended in their time:
  default/old-n1: sandbox 1: StopPodSandbox after 40s
"
    );
}

#[test]
fn faults_name_their_place_and_do_not_fill_the_screen() {
    let mut with = overview();
    let fault =
        |line: u32| json!({"place": format!("/m/a.yaml:{line}:1"), "message": "unknown field"});
    with["manifests"]["refused"] = (1..=12).map(fault).collect();
    with["manifests"]["odd"] = json!([fault(20)]);
    with["runtimeAway"] = "connection refused".into();
    with["unhealthy"] = "syncloop: sync Loop took longer than expected".into();
    let text = shown(with, &[], &[]);
    assert!(text.contains("2 pods, 12 faults\n"), "{text}");
    assert!(
        text.contains("\nRefused manifests:\n  /m/a.yaml:1:1: unknown field\n"),
        "{text}"
    );
    assert!(
        text.contains("/m/a.yaml:10:1: unknown field\n  and 2 more: see 'kubelet validate'\n"),
        "{text}"
    );
    assert!(
        text.contains("\nOdd in manifests:\n  /m/a.yaml:20:1"),
        "{text}"
    );
    assert!(
        text.contains("containerd.sock does not answer: connection refused\n"),
        "{text}"
    );
    assert!(
        text.starts_with("kubelet 0.1.0 on n1, up 3m5s, not healthy: syncloop"),
        "{text}"
    );
}

#[test]
fn on_a_node_of_a_cluster_pods_that_refer_to_objects_of_manifests_are_said_to_lack_a_mirror() {
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let pods = [
        pod("web", "2026-01-02T03:00:00Z", &ready),
        pod("db", "2026-01-02T03:00:00Z", &ready),
    ];
    let mut overview = overview();
    overview["manifests"]["objects"] = json!(2);
    overview["manifests"]["refer"] = json!(["uid-of-web"]);
    let alone = shown(overview.clone(), &pods, &[]);
    assert!(!alone.contains("mirror"), "{alone}");
    assert!(
        alone.contains("/etc/kubernetes/manifests, 2 pods, 2 objects\n"),
        "{alone}"
    );
    overview["kubeconfig"] = json!("/etc/kubernetes/kubelet.conf");
    let text = shown(overview, &pods, &[]);
    let expected = format!("\nWithout a mirror pod ({NO_MIRROR}):\n  default/web\n");
    assert!(text.ends_with(&expected), "{text}");
}
