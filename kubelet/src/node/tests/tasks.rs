//! The tasks that tell the API server of the node, against a server that answers in turn.

use super::*;
use crate::scripted_api::{Answer, Asked, Log, scripted};

/// A client of a server that gives these answers one after the other, and hangs when it has no more.
fn in_turn(answers: Vec<Answer>) -> (kube::Client, Log) {
    let mut answers = answers.into_iter();
    scripted(move |_| answers.next().unwrap_or(Answer::Never))
}

fn failure(code: u16, reason: &str) -> Answer {
    Answer::failure(code, reason, reason)
}

fn node_with(uid: &str) -> Arc<Node> {
    Arc::new(serde_json::from_value(json!({"metadata": {"name": "a", "uid": uid}})).unwrap())
}

async fn until(seen: &Log, count: usize) -> Vec<Asked> {
    let waited = async {
        while seen.count() < count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        seen.take()
    };
    tokio::time::timeout(Duration::from_secs(3600), waited)
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_made_with_its_owner_and_renewed_each_quarter_of_its_time() {
    let lease = |version: u32| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "a", "namespace": "kube-node-lease", "resourceVersion": version.to_string(), "labels": {"x": "y"},
        "managedFields": [{}], "ownerReferences": [{"uid": "u"}]}, "spec": {}})
    };
    let (client, seen) = in_turn(vec![
        failure(404, "NotFound"),
        Answer::Json(201, lease(1)),
        Answer::Json(200, lease(2)),
        failure(409, "Conflict"),
        Answer::Json(200, lease(7)),
        Answer::Json(200, lease(8)),
    ]);
    let (sender, own) = watch::channel(OwnNode::Unknown);
    let (clock, _) = Clock::manual(at(BEGIN));
    let lease_settings = LeaseSettings {
        node: "a".into(),
        duration: Duration::from_secs(40),
    };
    let task = tokio::spawn(run_lease(
        client,
        lease_settings,
        own,
        clock,
        watch::Sender::new(None),
    ));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(seen.count(), 1, "nobody owns it yet");
    sender.send_replace(OwnNode::There(node_with("u")));
    let requests = until(&seen, 6).await;
    task.abort();
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(
        (requests[1].method.as_str(), requests[1].path.as_str()),
        ("POST", path)
    );
    let made = &requests[1].body;
    assert_eq!(
        made["metadata"]["ownerReferences"][0],
        json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u"})
    );
    assert_eq!(made["spec"]["holderIdentity"], "a");
    assert_eq!(made["spec"]["leaseDurationSeconds"], 40);
    let renewed: Vec<_> = requests[2..]
        .iter()
        .map(|one| one.method.as_str())
        .collect();
    assert_eq!(renewed, ["PUT", "PUT", "GET", "PUT"]);
    assert_eq!(requests[2].path, format!("{path}/a"));
    assert_eq!(requests[2].body["metadata"]["labels"], json!({"x": "y"}));
    assert!(requests[2].body["metadata"].get("managedFields").is_none());
    assert_eq!(requests[3].body["metadata"]["resourceVersion"], "2");
    assert_eq!(requests[5].body["metadata"]["resourceVersion"], "7");
    let time = |index: usize| at(requests[index].body["spec"]["renewTime"].as_str().unwrap());
    let between = time(2).duration_since(time(1)).as_secs_f64();
    assert!((10.0..=10.5).contains(&between), "{between}");
}

/// Only the address of nobody: a call to it is refused at once.
fn no_runtime(directory: &std::path::Path) -> cri_proto::Connection {
    let endpoint = format!("unix://{}/none.sock", directory.display());
    cri_proto::Connection::connect(&endpoint, cri_proto::ConnectOptions::default()).unwrap()
}

#[tokio::test]
async fn a_node_that_was_there_is_registered_after_a_failure_put_right_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = no_runtime(directory.path());
    let labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": architecture()});
    // As it comes back after the first report.
    let (status, _) = derive(&NodeStatus::default(), &facts(), at(BEGIN));
    let known = json!({"metadata": {"name": "a", "uid": "u", "labels": labels, "resourceVersion": "5"}, "status": status});
    let (client, seen) = in_turn(vec![
        failure(500, "InternalError"),
        failure(409, "AlreadyExists"),
        Answer::Json(200, known.clone()),
        Answer::Json(200, known.clone()),
        Answer::Json(200, known),
    ]);
    let mut settings = settings();
    settings.annotations.clear();
    settings.update_every = Duration::from_millis(100);
    let settings = Arc::new(settings);
    let (_short, pressure) = watch::channel(crate::eviction::Pressure::default());
    let clock = Clock::system();
    let (_up, shutdown) = watch::channel(crate::shutdown::NodeState::Up);
    let gatherer = Gatherer::new(
        settings.clone(),
        (runtime.runtime(), runtime.images()),
        clock.clone(),
        pressure,
        shutdown,
    );
    let (_sender, own) = watch::channel(OwnNode::Unknown);
    let root = tempfile::tempdir().unwrap();
    let devices = crate::managers::devices::Devices::open(root.path(), clock.clone()).unwrap();
    let reporter = Reporter {
        client,
        settings,
        gatherer,
        own,
        clock,
        initialized: watch::channel(true).1,
        devices,
        in_use: watch::channel(std::collections::BTreeSet::new()).1,
    };
    let task = tokio::spawn(run_status(reporter));
    let requests = tokio::time::timeout(Duration::from_secs(60), until(&seen, 5))
        .await
        .unwrap();
    task.abort();
    let verbs: Vec<_> = requests
        .iter()
        .map(|one| (one.method.as_str(), one.path.as_str()))
        .collect();
    let (all, one, status) = ("/api/v1/nodes", "/api/v1/nodes/a", "/api/v1/nodes/a/status");
    assert_eq!(
        verbs,
        [
            ("POST", all),
            ("POST", all),
            ("GET", one),
            ("PATCH", status),
            ("PATCH", status)
        ]
    );
    // The first patch puts the labels right that the agent owns; the second is the report.
    assert_eq!(
        requests[3].body["metadata"]["labels"]["kubernetes.io/hostname"],
        "a"
    );
    let conditions = requests[4].body["status"]["conditions"].as_array().unwrap();
    let ready = conditions
        .iter()
        .find(|one| one["type"] == "Ready")
        .unwrap();
    assert_eq!(ready["status"], "False");
    let text = ready["message"].as_str().unwrap();
    assert!(
        text.contains("container runtime status check may not have completed yet"),
        "{text}"
    );
}
