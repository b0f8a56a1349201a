use cri_proto::{ConnectOptions, Connection, v1};

use super::*;
use crate::logs::LogsConfig;

/// An observer of a runtime that is not there.
fn observer(root: &std::path::Path) -> Arc<Observer> {
    let away = || async { Err::<tokio::io::DuplexStream, _>(std::io::ErrorKind::NotFound.into()) };
    let connection = Connection::with_dialer("nowhere", ConnectOptions::default(), away);
    let logs = LogsConfig {
        pod_logs_dir: root.join("logs"),
        links_dir: root.join("links"),
    };
    let dirs = PodDirs::new(root).unwrap();
    Observer::new(connection.runtime(), dirs, PodLogs::new(logs).unwrap())
}

fn knows(observer: &Observer, uid: &PodUid) -> bool {
    observer.lock_pods().contains_key(uid)
}

#[tokio::test]
async fn a_late_look_at_a_pod_that_was_forgotten_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let observer = observer(root.path());
    let uid = PodUid::parse("a").unwrap();
    let worker = observer.subscribe(&uid);
    assert!(observer.refresh(&uid).await.is_err());
    assert!(knows(&observer, &uid), "its worker listens");
    observer.forget(&uid);
    drop(worker);
    observer.clone().settle(uid.clone(), "c".into()).await;
    assert!(!knows(&observer, &uid));
}

#[tokio::test]
async fn what_is_known_or_being_looked_at_is_not_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let observer = observer(root.path());
    let uid = PodUid::parse("a").unwrap();
    let looking = observer.slot(&uid);
    observer.forget_if_idle(&uid);
    assert!(knows(&observer, &uid), "somebody looks at it");
    let sandbox = crate::runtime::ObservedSandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created_at: 0,
        ips: Vec::new(),
        host_network: true,
    };
    let seen = ObservedPod {
        sandboxes: vec![sandbox],
        containers: Vec::new(),
    };
    observer.publish(&looking, Arc::new(seen));
    drop(looking);
    observer.forget_if_idle(&uid);
    assert!(knows(&observer, &uid), "the runtime holds something of it");
}

#[test]
fn a_container_that_is_being_started_has_not_ended() {
    let shown = |state: v1::ContainerState| {
        let listed = v1::Container {
            id: "c".to_owned(),
            ..v1::Container::default()
        };
        let status = v1::ContainerStatus {
            state: state.into(),
            ..v1::ContainerStatus::default()
        };
        let seen = ObservedPod {
            sandboxes: Vec::new(),
            containers: vec![crate::runtime::observed::container(&listed, &status)],
        };
        seems_alive(&seen, "c")
    };
    assert!(shown(v1::ContainerState::ContainerCreated));
    assert!(shown(v1::ContainerState::ContainerRunning));
    assert!(!shown(v1::ContainerState::ContainerExited));
    assert!(!seems_alive(&ObservedPod::default(), "c"), "it was removed");
}
