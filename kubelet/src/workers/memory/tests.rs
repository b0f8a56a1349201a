use serde_json::json;

use super::*;
use crate::record::ConditionRecord;
use crate::status::ConditionKind;

fn shown(phase: &str) -> Option<PodStatus> {
    let pod: Pod = serde_json::from_value(json!({
        "spec": {"containers": [{"name": "main", "image": "i"}]},
        "status": {
            "phase": phase, "reason": "Why", "startTime": "2026-11-21T10:00:00Z",
            "podIPs": [{"ip": "10.0.0.7"}],
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-21T10:00:01Z"}],
            "containerStatuses": [{
                "name": "main", "image": "i", "imageID": "", "ready": true, "restartCount": 4,
                "state": {"terminated": {"exitCode": 0}},
            }],
        },
    }))
    .unwrap();
    restore(&pod, QosClass::BestEffort)
}

fn recorded() -> Record {
    let since = "2026-11-21T09:00:00Z".parse().unwrap();
    Record {
        start_time: Some(since),
        conditions: BTreeMap::from([(
            ConditionKind::Ready,
            ConditionRecord {
                status: true,
                since,
            },
        )]),
        ..Record::default()
    }
}

#[test]
fn a_pod_that_has_ended_at_the_api_server_has_ended_without_a_record_too() {
    for (phase, ended) in [("Running", false), ("Succeeded", true), ("Failed", true)] {
        let mut record = Record::default();
        let status = before(&mut record, shown(phase), QosClass::BestEffort).unwrap();
        let terminal = record.terminal.as_ref().map(|t| t.phase);
        assert_eq!(terminal, Some(status.phase).filter(|_| ended));
        let reason = record.terminal.and_then(|t| t.reason);
        assert_eq!(reason.as_deref(), ended.then_some("Why"));
        assert_eq!(record.start_time, status.start_time);
        assert_eq!(status.containers[0].restart_count, 4);
    }
}

#[test]
fn the_record_knows_better_but_for_containers_and_addresses() {
    let mut record = recorded();
    let status = before(&mut record, shown("Running"), QosClass::BestEffort).unwrap();
    assert_eq!(status.start_time, recorded().start_time);
    assert!(status.condition(ConditionKind::Ready).unwrap().status);
    assert_eq!(status.containers.len(), 1);
    assert_eq!(status.pod_ips.len(), 1);
    // Of a static pod the API server says nothing here.
    let mut record = recorded();
    let status = before(&mut record, None, QosClass::BestEffort).unwrap();
    assert!(status.containers.is_empty() && record.terminal.is_none());
}

#[test]
fn a_preempted_pod_of_the_api_server_does_not_come_back() {
    let preempted = || Record {
        terminal: Some(Terminal {
            phase: Phase::Failed,
            reason: Some(PREEMPTING.to_owned()),
            message: None,
        }),
        ..Record::default()
    };
    assert!(tried_again(preempted(), true, || false).terminal.is_none());
    assert!(tried_again(preempted(), false, || false).terminal.is_some());
}
