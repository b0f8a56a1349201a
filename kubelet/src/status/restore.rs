//! A status in the agent's own words, from the copy that the API server has: what an agent that has just begun goes on
//! from.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::types::{
    Condition, ConditionKind, ContainerStatus, Phase, PodStatus, State, Terminated, Waiting,
};
use crate::pod::{self, ContainerKind, Pod, QosClass};
use crate::runtime::ContainerId;

/// The status that came with `pod`; none where no node has written one yet.
///
/// Reasons and messages of conditions are not taken over: whoever derives the next status says them anew.
#[must_use]
pub fn restore(pod: &Pod, qos: QosClass) -> Option<PodStatus> {
    let shown = pod.status.as_ref()?;
    let start_time = shown.start_time.as_ref()?.0;
    let phase = Phase::parse(shown.phase.as_deref()?)?;
    let conditions = shown.conditions.iter().flatten().filter_map(|c| {
        Some(Condition {
            kind: ConditionKind::parse(&c.type_)
                .filter(|k| *k != ConditionKind::DisruptionTarget)?,
            status: c.status == "True",
            reason: None,
            message: None,
            last_transition: c.last_transition_time.as_ref()?.0,
        })
    });
    let kind_of = |name: &str| {
        let mut all = pod::containers(pod);
        all.find(|(_, c)| c.name == name).map(|(kind, _)| kind)
    };
    let statuses = |list: &Option<Vec<api::ContainerStatus>>, ephemeral: bool| {
        let known = list.iter().flatten().filter_map(|status| {
            let kind = match ephemeral {
                true => ContainerKind::Ephemeral,
                false => kind_of(&status.name)?,
            };
            Some(container(kind, status))
        });
        known.collect()
    };
    let parsed = |text: &str| text.parse::<IpAddr>().ok();
    let pod_ips = shown.pod_ips.iter().flatten();
    let host_ips = shown.host_ips.iter().flatten();
    Some(PodStatus {
        phase,
        reason: shown.reason.as_deref().map(Into::into),
        message: shown.message.as_deref().map(Into::into),
        start_time: Some(start_time),
        conditions: conditions.collect(),
        init_containers: statuses(&shown.init_container_statuses, false),
        containers: statuses(&shown.container_statuses, false),
        ephemeral_containers: statuses(&shown.ephemeral_container_statuses, true),
        pod_ips: pod_ips.filter_map(|ip| parsed(&ip.ip)).collect(),
        host_ips: host_ips.filter_map(|ip| parsed(&ip.ip)).collect(),
        qos,
    })
}

fn container(kind: ContainerKind, shown: &api::ContainerStatus) -> ContainerStatus {
    let last = shown.last_state.as_ref().and_then(terminated);
    ContainerStatus {
        name: shown.name.as_str().into(),
        kind,
        state: state(shown.state.as_ref()),
        last: last.map(Box::new),
        started: shown.started.unwrap_or(false),
        ready: shown.ready,
        restart_count: u32::try_from(shown.restart_count).unwrap_or(0),
        image: shown.image.as_str().into(),
        image_id: Some(shown.image_id.as_str())
            .filter(|id| !id.is_empty())
            .map(Into::into),
        id: shown.container_id.as_deref().and_then(instance),
        user: None,
        stop_signal: None,
        recursive_read_only: None,
        devices: Vec::new(),
    }
}

fn state(shown: Option<&api::ContainerState>) -> State {
    if let Some(end) = shown.and_then(terminated) {
        return State::Terminated(Box::new(end));
    }
    let running = shown.and_then(|s| s.running.as_ref());
    if let Some(started_at) = running.and_then(|r| r.started_at.as_ref()) {
        let started_at = started_at.0;
        return State::Running { started_at };
    }
    let waiting = shown.and_then(|s| s.waiting.as_ref());
    let text = |text: Option<&String>| text.map_or("", String::as_str).into();
    State::Waiting(Waiting {
        reason: text(waiting.and_then(|w| w.reason.as_ref())),
        message: text(waiting.and_then(|w| w.message.as_ref())),
    })
}

fn terminated(shown: &api::ContainerState) -> Option<Terminated> {
    let end = shown.terminated.as_ref()?;
    Some(Terminated {
        exit_code: end.exit_code,
        reason: end.reason.as_deref().unwrap_or_default().into(),
        message: end.message.as_deref().unwrap_or_default().into(),
        started_at: end.started_at.as_ref().map(|t| t.0),
        finished_at: end.finished_at.as_ref().map(|t| t.0),
        id: end.container_id.as_deref().and_then(instance),
    })
}

/// The id in `<runtime>://<id>`.
fn instance(text: &str) -> Option<ContainerId> {
    let (_, id) = text.split_once("://")?;
    (!id.is_empty()).then(|| id.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::serialise;

    #[test]
    fn a_status_that_was_written_out_is_read_as_it_was() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {
                "initContainers": [{"name": "init", "image": "i"}],
                "containers": [{"name": "main", "image": "m"}],
            },
            "status": {
                "phase": "Running",
                "startTime": "2026-11-21T10:00:00Z",
                "podIPs": [{"ip": "10.0.0.7"}],
                "podIP": "10.0.0.7",
                "qosClass": "BestEffort",
                "conditions": [
                    {"type": "example.com/gate", "status": "True"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T10:00:03Z"},
                ],
                "initContainerStatuses": [{
                    "name": "init", "image": "i", "imageID": "sha256:1", "ready": true, "restartCount": 0,
                    "started": false, "containerID": "containerd://a",
                    "lastState": {},
                    "state": {"terminated": {
                        "exitCode": 0, "reason": "Completed", "containerID": "containerd://a",
                        "startedAt": "2026-11-21T10:00:01Z", "finishedAt": "2026-11-21T10:00:02Z",
                    }},
                }],
                "containerStatuses": [{
                    "name": "main", "image": "m", "imageID": "sha256:2", "ready": true, "restartCount": 3,
                    "started": true, "containerID": "containerd://b",
                    "state": {"running": {"startedAt": "2026-11-21T10:00:02Z"}},
                    "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://c"}},
                }],
            },
        }))
        .unwrap();
        let restored = restore(&pod, QosClass::BestEffort).unwrap();
        let again = serialise(&pod, &restored, "containerd");
        let shown = pod.status.as_ref().unwrap();
        assert_eq!(again.phase, shown.phase);
        assert_eq!(again.start_time, shown.start_time);
        assert_eq!(again.pod_ips, shown.pod_ips);
        assert_eq!(again.conditions, shown.conditions);
        let plain = |list: Option<Vec<api::ContainerStatus>>| {
            let list = list.into_iter().flatten();
            let plain = list.map(|c| api::ContainerStatus {
                resources: None,
                ..c
            });
            plain.collect::<Vec<_>>()
        };
        let inits = plain(shown.init_container_statuses.clone());
        assert_eq!(plain(again.init_container_statuses), inits);
        let regular = plain(shown.container_statuses.clone());
        assert_eq!(plain(again.container_statuses), regular);
    }

    #[test]
    fn a_pod_that_no_node_has_taken_up_has_no_status_to_go_on_from() {
        let mut pod = Pod::default();
        assert_eq!(restore(&pod, QosClass::BestEffort), None);
        pod.status = Some(api::PodStatus {
            phase: Some("Pending".to_owned()),
            ..api::PodStatus::default()
        });
        assert_eq!(restore(&pod, QosClass::BestEffort), None);
    }
}
