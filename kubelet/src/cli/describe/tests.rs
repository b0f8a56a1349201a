use serde_json::json;

use super::*;

#[test]
fn a_pod_is_described_as_kubectl_does() {
    let whole = json!({
        "metadata": {
            "namespace": "default", "name": "web-n1", "uid": "u",
            "labels": {"app": "web", "tier": "front"},
            "annotations": {"kubernetes.io/config.source": "file"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "x", "controller": true}],
        },
        "spec": {
            "nodeName": "n1", "priority": 2_000_001_000, "priorityClassName": "system-node-critical",
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [
                {"operator": "Exists"},
                {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "b", "value": "c", "effect": "NoSchedule"},
            ],
            "initContainers": [{"name": "first", "image": "i", "command": ["sh", "-c", "echo a\necho b"]}],
            "containers": [{
                "name": "main", "image": "web:1", "args": ["--fast"],
                "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}],
                "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 5},
                "readinessProbe": {"exec": {"command": ["cat", "/ready"]}, "initialDelaySeconds": 3},
                "startupProbe": {"tcpSocket": {"port": "web"}},
                "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "P_"}],
                "env": [
                    {"name": "PLAIN", "value": "x"},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
                ],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "conf", "mountPath": "/conf", "readOnly": true, "subPath": "x"}],
            }],
            "volumes": [
                {"name": "data", "hostPath": {"path": "/srv", "type": "Directory"}},
                {"name": "conf", "configMap": {"name": "settings"}},
                {"name": "disk", "csi": {"driver": "d"}},
            ],
        },
        "status": {
            "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.88.0.2", "podIPs": [{"ip": "10.88.0.2"}], "qosClass": "Burstable",
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "False"}],
            "initContainerStatuses": [{
                "name": "first", "ready": true, "restartCount": 0, "image": "i", "imageID": "sha256:1", "containerID": "containerd://1",
                "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
            }],
            "containerStatuses": [{
                "name": "main", "ready": false, "restartCount": 2, "image": "web:1", "imageID": "sha256:2",
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "one\ntwo"}},
            }],
        },
    });
    let listed = Listed {
        pod: serde_json::from_value(whole.clone()).unwrap(),
        whole,
        stale: false,
    };
    let event = |uid: &str, message: &str| -> Item {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "web-n1", "uid": uid},
            "reason": "BackOff", "type": "Warning", "message": message,
            "firstTimestamp": "2026-01-02T03:00:00Z", "lastTimestamp": "2026-01-02T03:04:50Z", "count": 4,
            "source": {"component": "kubelet"},
        }))
        .unwrap()
    };
    let events = [
        event("u", "Back-off restarting"),
        event("another", "not of this pod"),
    ];
    let text = text(
        &listed,
        &events,
        Remarks::default(),
        "2026-01-02T03:05:00Z".parse().unwrap(),
    );
    let expected = include_str!("tests/described.txt");
    assert_eq!(text, expected);
}

#[test]
fn little_is_known_of_a_pod_that_was_just_taken_in() {
    let whole = json!({"metadata": {"namespace": "a", "name": "b"}, "spec": {"containers": [{"name": "c"}]}});
    let listed = Listed {
        pod: serde_json::from_value(whole.clone()).unwrap(),
        whole,
        stale: false,
    };
    let text = text(&listed, &[], Remarks::default(), Timestamp::UNIX_EPOCH);
    for line in [
        "Labels:       <none>",
        "IPs:          <none>",
        "Volumes:           <none>",
        "Events:  <none>",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn a_pod_that_ends_says_since_when() {
    let whole = json!({
        "metadata": {"name": "b", "deletionTimestamp": "2026-01-02T03:05:00Z", "deletionGracePeriodSeconds": 30},
        "status": {"phase": "Running"},
    });
    let listed = Listed {
        pod: serde_json::from_value(whole.clone()).unwrap(),
        whole,
        stale: false,
    };
    let text = text(&listed, &[], Remarks::default(), Timestamp::UNIX_EPOCH);
    assert!(
        text.contains("Terminating (since Fri, 02 Jan 2026"),
        "{text}"
    );
    assert!(text.contains("Termination Grace Period:  30s\n"), "{text}");
}

#[test]
fn what_the_agent_is_at_is_described() {
    let listed =
        Listed::of(json!({"metadata": {"name": "web-n1"}, "spec": {"containers": []}})).unwrap();
    let pulls = "pulls image \"i\" for container main (PullImage) for 12s now";
    let remarks = Remarks {
        step: Some(pulls.to_owned()),
        lacks_mirror: true,
    };
    let text = text(&listed, &[], remarks, Timestamp::UNIX_EPOCH);
    let line = text.lines().find(|line| line.starts_with("Agent:"));
    assert!(line.unwrap().ends_with(pulls), "{text}");
    let line = text.lines().find(|line| line.starts_with("Mirror Pod:"));
    assert!(line.unwrap().ends_with(NO_MIRROR), "{text}");
}
