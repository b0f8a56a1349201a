//! What the watch of the API server's pods tells of how long they take to run.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Volume};
use kube::runtime::watcher::Event;

use super::ApiPods;
use crate::metrics::{SeenRunning, startups};
use crate::pod::{self, CONFIG_MIRROR_ANNOTATION, Pod};

/// Takes note of an event that arrived `now`, before it is taken in.
pub(super) fn note(event: &Event<Pod>, now: Timestamp) {
    match event {
        Event::InitApply(pod) | Event::Apply(pod) => seen(pod, now),
        Event::Delete(pod) => startups().forget(uid(pod)),
        Event::Init | Event::InitDone => {}
    }
}

/// A list is whole: who is not in it, went unseen.
pub(super) fn listed(pods: &ApiPods) {
    startups().retain(|uid| pods.pods.keys().any(|known| known.as_str() == uid));
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn seen(pod: &Pod, now: Timestamp) {
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|all| all.contains_key(CONFIG_MIRROR_ANNOTATION)) {
        return;
    }
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) {
        startups().forget(uid(pod));
    } else if status.is_none_or(|status| status.start_time.is_none()) {
        startups().begin(uid(pod));
    } else if startups().is_on_its_way(uid(pod))
        && let Some(seen) = running(pod, now)
    {
        startups().running(uid(pod), seen);
    }
}

/// What is to be said of a pod once each of its containers is shown to run.
fn running(pod: &Pod, now: Timestamp) -> Option<SeenRunning> {
    let spec = pod::spec(pod);
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let runs = |status: &ContainerStatus| {
        let running = state(status).and_then(|state| state.running.as_ref());
        running.is_some_and(|running| running.started_at.is_some())
    };
    if containers.len() < spec.containers.len() || !containers.iter().all(runs) {
        return None;
    }
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    let inits = status.init_container_statuses.iter().flatten();
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    Some(SeenRunning {
        took: between(created, now),
        init: inits.filter_map(ran).sum(),
        stateful: volumes.iter().any(is_brought),
        own_network: !pod::host_network(pod),
    })
}

fn state(status: &ContainerStatus) -> Option<&ContainerState> {
    status.state.as_ref()
}

/// How long a container ran that has ended. (One that goes on, a sidecar, has not.)
fn ran(status: &ContainerStatus) -> Option<Duration> {
    let ended = state(status)?.terminated.as_ref()?;
    let (from, to) = (ended.started_at.as_ref()?, ended.finished_at.as_ref()?);
    Some(between(from.0, to.0))
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    // A clock may have been stepped meanwhile, or be another machine's.
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Whether a volume is none of the kinds that the node makes by itself.
fn is_brought(volume: &Volume) -> bool {
    volume.secret.is_none()
        && volume.config_map.is_none()
        && volume.downward_api.is_none()
        && volume.empty_dir.is_none()
        && volume.projected.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "default", "uid": uid,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": { "containers": [{ "name": "main" }], "volumes": [{ "name": "v", "emptyDir": {} }] },
            "status": status,
        }))
        .unwrap()
    }

    fn status(name: &str, state: Value) -> Value {
        json!({
            "name": name, "state": state,
            "image": "", "imageID": "", "ready": false, "restartCount": 0,
        })
    }

    fn started(main: Value) -> Value {
        let ran = json!({ "terminated": {
            "exitCode": 0, "startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:04Z",
        } });
        json!({
            "phase": "Running",
            "startTime": "2026-01-01T00:00:00Z",
            "initContainerStatuses": [status("first", ran)],
            "containerStatuses": [status("main", main)],
        })
    }

    fn at(second: i64) -> Timestamp {
        let created: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        created + jiff::SignedDuration::from_secs(second)
    }

    #[test]
    fn a_pod_runs_when_all_its_containers_do() {
        let waiting = pod("u", started(json!({ "waiting": {} })));
        assert!(running(&waiting, at(9)).is_none());
        let none = pod("u", json!({ "startTime": "2026-01-01T00:00:00Z" }));
        assert!(running(&none, at(9)).is_none());
        let runs = json!({ "running": { "startedAt": "2026-01-01T00:00:05Z" } });
        let mut runs = pod("u", started(runs));
        let seen = running(&runs, at(9)).unwrap();
        let seconds = (seen.took.as_secs(), seen.init.as_secs());
        assert_eq!(seconds, (9, 3));
        assert!(!seen.stateful && seen.own_network);
        let spec = runs.spec.get_or_insert_default();
        spec.host_network = Some(true);
        spec.volumes =
            serde_json::from_value(json!([{ "name": "v", "hostPath": { "path": "/" } }])).unwrap();
        let seen = running(&runs, at(-9)).unwrap();
        assert!(seen.took.is_zero() && seen.stateful && !seen.own_network);
    }

    #[test]
    fn pods_are_followed_from_before_their_start_until_they_run() {
        let runs = || json!({ "running": { "startedAt": "2026-01-01T00:00:05Z" } });
        let on_its_way = |uid: &str| startups().is_on_its_way(uid);
        note(&Event::Apply(pod("startup-a", started(runs()))), at(9));
        assert!(!on_its_way("startup-a"), "it ran before");
        note(
            &Event::Apply(pod("startup-b", json!({ "phase": "Pending" }))),
            at(1),
        );
        assert!(on_its_way("startup-b"));
        note(
            &Event::Apply(pod("startup-b", started(json!({ "waiting": {} })))),
            at(2),
        );
        assert!(on_its_way("startup-b"));
        note(&Event::Apply(pod("startup-b", started(runs()))), at(9));
        assert!(!on_its_way("startup-b"));
        for end in [
            Event::Delete(pod("startup-c", json!({}))),
            Event::Apply(pod("startup-c", json!({ "phase": "Failed" }))),
        ] {
            note(&Event::InitApply(pod("startup-c", json!({}))), at(1));
            assert!(on_its_way("startup-c"));
            note(&end, at(2));
            assert!(!on_its_way("startup-c"));
        }
    }
}
