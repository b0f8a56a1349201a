//! The outbox by itself, and the publisher with an API server behind a `tower` service.

mod outbox;
mod wire;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::pod::{Pod, PodName, PodUid, QosClass};
use crate::sources::{ApiPods, MirrorPod, ServerStatus};
use crate::status::{Phase, PodStatus, PodView, Word};

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

fn pod(uid: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {
            "name": format!("pod-{uid}"), "namespace": "default", "uid": uid, "resourceVersion": "1",
            "annotations": {"kubernetes.io/config.source": "api"},
        },
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "i"}]},
    });
    change(&mut pod);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn deleted(uid: &str) -> Arc<Pod> {
    pod(uid, |p| {
        p["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
        p["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    })
}

fn status(phase: Phase) -> PodStatus {
    PodStatus {
        phase,
        reason: None,
        message: None,
        start_time: Some(jiff::Timestamp::UNIX_EPOCH),
        conditions: Vec::new(),
        init_containers: Vec::new(),
        containers: Vec::new(),
        ephemeral_containers: Vec::new(),
        pod_ips: Vec::new(),
        host_ips: Vec::new(),
        qos: QosClass::BestEffort,
    }
}

fn view(pod: &Arc<Pod>, status: PodStatus, word: Word) -> PodView {
    PodView {
        pod: pod.clone(),
        status: Arc::new(status),
        word,
    }
}

fn api(pods: &[&Arc<Pod>]) -> ApiPods {
    let mut api = ApiPods {
        synced: true,
        ..ApiPods::default()
    };
    for pod in pods {
        let uid = PodUid::of(pod).unwrap();
        let shown = Arc::new(ServerStatus::of(pod));
        api.statuses.insert(uid.clone(), shown);
        api.pods.insert(uid, (*pod).clone());
    }
    api
}

fn mirror(uid: &str, hash: &str) -> MirrorPod {
    MirrorPod {
        uid: PodUid::parse(uid).unwrap(),
        hash: hash.to_owned(),
        deleting: false,
    }
}

fn static_pod(uid: &str, hash: &str) -> Arc<Pod> {
    pod(uid, |p| {
        p["metadata"]["annotations"] = json!({
            "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": hash,
        });
    })
}

fn name(pod: &Pod) -> PodName {
    PodName::of(pod)
}
