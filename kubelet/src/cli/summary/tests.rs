use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-02T03:10:00Z";

/// What is said of a pod with this status, of two containers and the sidecar `s` and the init container `i`.
fn of(status: Value) -> Summary {
    let spec = json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}],
    });
    summary(json!({"metadata": {}, "spec": spec, "status": status}))
}

fn summary(pod: Value) -> Summary {
    Summary::of(&serde_json::from_value(pod).unwrap(), NOW.parse().unwrap())
}

fn container(name: &str, ready: bool, restarts: i32, state: Value) -> Value {
    json!({
        "name": name, "ready": ready, "restartCount": restarts, "state": state, "image": "i", "imageID": "",
        "started": state.get("running").is_some(),
    })
}

fn running() -> Value {
    json!({"running": {"startedAt": "2026-01-02T03:00:00Z"}})
}

fn waiting(reason: &str) -> Value {
    json!({"waiting": {"reason": reason}})
}

fn ended(code: i32, reason: Option<&str>, signal: Option<i32>) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "signal": signal}})
}

fn over() -> Value {
    json!([
        container("i", true, 0, ended(0, Some("Completed"), None)),
        container("s", true, 0, running())
    ])
}

#[test]
fn a_pod_that_runs_counts_its_sidecar() {
    let status = json!({
        "phase": "Running", "startTime": "2026-01-02T03:00:00Z",
        "initContainerStatuses": over(),
        "containerStatuses": [container("a", true, 0, running()), container("b", false, 0, running())],
    });
    let expected = Summary {
        ready: "2/3".into(),
        status: "Running".into(),
        restarts: "0".into(),
        age: "10m".into(),
    };
    assert_eq!(of(status), expected);
}

#[test]
fn init_containers_say_where_they_are() {
    let with = |state: Value| {
        let status =
            json!({"phase": "Pending", "initContainerStatuses": [container("i", false, 2, state)]});
        let found = of(status);
        (found.status, found.restarts)
    };
    for (state, word) in [
        (running(), "Init:0/2"),
        (waiting("PodInitializing"), "Init:0/2"),
        (waiting("ImagePullBackOff"), "Init:ImagePullBackOff"),
        (ended(1, Some("Error"), None), "Init:Error"),
        (ended(137, None, Some(9)), "Init:Signal:9"),
        (ended(3, None, None), "Init:ExitCode:3"),
    ] {
        assert_eq!(with(state), (word.to_owned(), "2".to_owned()));
    }
}

#[test]
fn the_first_container_that_does_not_run_has_the_word() {
    for (a, b, word) in [
        (waiting("CrashLoopBackOff"), running(), "CrashLoopBackOff"),
        (running(), waiting("ErrImagePull"), "ErrImagePull"),
        (
            waiting("ContainerCreating"),
            waiting("ErrImagePull"),
            "ContainerCreating",
        ),
        (ended(2, None, None), running(), "ExitCode:2"),
        (ended(0, Some("Completed"), None), running(), "NotReady"),
    ] {
        let status = json!({
            "phase": "Running", "initContainerStatuses": over(),
            "containerStatuses": [container("a", true, 0, a), container("b", true, 0, b)],
        });
        assert_eq!(of(status).status, word);
    }
    let status = json!({
        "phase": "Running", "initContainerStatuses": over(), "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            container("a", true, 0, ended(0, Some("Completed"), None)),
            container("b", true, 0, running()),
        ],
    });
    assert_eq!(of(status).status, "Running");
}

#[test]
fn restarts_say_when_the_last_was() {
    let mut crashed = container("a", true, 3, running());
    crashed["lastState"] =
        json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-02T03:05:00Z"}});
    let status = json!({"phase": "Running", "initContainerStatuses": over(), "containerStatuses": [crashed]});
    assert_eq!(of(status).restarts, "3 (5m ago)");
}

#[test]
fn reasons_and_deletion_go_before_the_phase() {
    assert_eq!(
        of(json!({"phase": "Failed", "reason": "Evicted"})).status,
        "Evicted"
    );
    let pod = |phase: &str| {
        summary(json!({
            "metadata": {"deletionTimestamp": NOW, "creationTimestamp": "2026-01-01T03:10:00Z"},
            "status": {"phase": phase},
        }))
    };
    assert_eq!(pod("Running").status, "Terminating");
    assert_eq!(pod("Running").age, "24h");
    assert_eq!(pod("Failed").status, "Failed");
    assert_eq!(of(json!({"phase": "Pending"})).age, "<unknown>");
}
