use std::collections::HashMap;
use std::sync::Mutex as StdMutex;

use serde_json::{Value, json};

use super::*;
use crate::scripted_api::{Answer, Log, scripted};

/// The error of the pod `pod` whose volume `volume` is the claim `claim`, which is not bound.
pub(crate) fn error_of_one(pod: &str, volume: &str, claim: &str) -> ClaimsError {
    ClaimsError {
        namespace: "default".to_owned(),
        pod: pod.to_owned(),
        expected: vec![volume.to_owned()],
        failures: vec![ClaimFailure {
            volume: volume.to_owned(),
            claim: claim.to_owned(),
            error: ClaimError::NotBound,
        }],
    }
}

fn uid() -> PodUid {
    PodUid::parse("u-1").unwrap()
}

/// A pod with `volumes`, all of them mounted.
fn pod(volumes: Value) -> Pod {
    let names = volumes.as_array().unwrap().iter();
    let mounts: Vec<_> = names
        .map(|volume| json!({"name": volume["name"], "mountPath": volume["name"]}))
        .collect();
    pod_with(volumes, json!({"volumeMounts": mounts}))
}

fn pod_with(volumes: Value, mut container: Value) -> Pod {
    container["name"] = json!("c");
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u-1"},
        "spec": {"containers": [container], "volumes": volumes},
    });
    serde_json::from_value(pod).unwrap()
}

fn of_claim() -> Pod {
    pod(json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]))
}

fn claim() -> Value {
    json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "claim-1"},
        "spec": {"volumeName": "pv"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    })
}

fn volume() -> Value {
    json!({
        "metadata": {"name": "pv"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "claimRef": {"uid": "claim-1"},
            "hostPath": {"path": "/data"},
        },
    })
}

/// What the API server has, by path; what is not there is not found, and with null it does not answer.
type Objects = Arc<StdMutex<HashMap<String, Value>>>;

const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/c";
const VOLUME: &str = "/api/v1/persistentvolumes/pv";

struct Node {
    root: tempfile::TempDir,
    objects: Objects,
    log: Log,
    claims: Claims,
    labels: watch::Sender<Option<Arc<NodeObject>>>,
}

impl Node {
    fn new() -> Self {
        let objects = Objects::default();
        objects
            .lock()
            .unwrap()
            .extend([(CLAIM.to_owned(), claim()), (VOLUME.to_owned(), volume())]);
        let known = objects.clone();
        let (client, log) = scripted(move |asked| match known.lock().unwrap().get(&asked.path) {
            Some(Value::Null) => Answer::Broken,
            Some(object) => Answer::Json(200, object.clone()),
            None => {
                let (kind, name) = asked.path.rsplit_once('/').unwrap();
                let kind = kind.rsplit_once('/').unwrap().1;
                Answer::failure(404, "NotFound", &format!("{kind} {name:?} not found"))
            }
        });
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::new(PodDirs::new(root.path()).unwrap());
        let labels = NodeObject {
            labels: BTreeMap::from([("kubernetes.io/hostname".to_owned(), "here".to_owned())]),
            ..NodeObject::default()
        };
        let labels = watch::Sender::new(Some(Arc::new(labels)));
        claims.connect(client, labels.subscribe());
        Self {
            root,
            objects,
            log,
            claims,
            labels,
        }
    }

    fn set(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    async fn texts(&self, pod: &Pod) -> Vec<String> {
        self.claims.resolve(pod, &uid()).await.unwrap_err().texts()
    }

    /// What is said of the only volume `v`, with the claim `c`.
    async fn why(&self, pod: &Pod) -> String {
        let texts = self.texts(pod).await;
        assert_eq!(texts.len(), 1, "{texts:?}");
        let begins = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: ";
        texts[0].strip_prefix(begins).unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_claim_leads_to_its_volume() {
    let node = Node::new();
    let volumes = json!([
        {"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}},
        {"name": "e", "emptyDir": {}},
    ]);
    let found = node.claims.resolve(&pod(volumes), &uid()).await.unwrap();
    assert_eq!(found.len(), 1);
    let claimed = &found["v"];
    assert_eq!((&*claimed.claim, &*claimed.claim_uid), ("c", "claim-1"));
    assert_eq!(claimed.claim_capacity["storage"], "1Gi");
    assert!(claimed.read_only);
    assert_eq!(
        claimed.volume.spec.host_path.as_ref().unwrap().path,
        "/data"
    );
    assert_eq!(claimed.volume.mode(), VolumeMode::Filesystem);
    let asked = [format!("GET {CLAIM}"), format!("GET {VOLUME}")];
    assert_eq!(node.log.lines(), asked);
    assert_eq!(node.claims.of_pod(&uid()), std::slice::from_ref(claimed));
}

#[tokio::test]
async fn a_claim_that_no_container_uses_is_not_asked_for() {
    let node = Node::new();
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    let unused = pod_with(volumes, json!({}));
    let found = node.claims.resolve(&unused, &uid()).await.unwrap();
    assert_eq!(found, ClaimedVolumes::new());
    assert!(node.log.lines().is_empty());
    assert!(node.claims.of_pod(&uid()).is_empty());
}

#[tokio::test]
async fn what_is_wrong_with_a_claim_is_said_in_upstreams_words() {
    let node = Node::new();
    let pod = of_claim();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = claim();
        change(&mut changed);
        node.set(CLAIM, changed);
    };
    let said = |text: &str| format!("error processing PVC ns/c: {text}");

    with(&|claim| claim["status"]["phase"] = json!("Pending"));
    assert_eq!(node.why(&pod).await, said("PVC is not bound"));
    with(&|claim| claim["spec"]["volumeName"] = json!(""));
    assert_eq!(
        node.why(&pod).await,
        said("PVC has empty pvc.Spec.VolumeName")
    );
    let deleted = |claim: &mut Value| {
        claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    };
    with(&deleted);
    assert_eq!(node.why(&pod).await, said("PVC is being deleted"));
    with(&|claim| {
        deleted(claim);
        claim["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
    });
    node.claims.resolve(&pod, &uid()).await.unwrap();
    node.remove(CLAIM);
    assert_eq!(
        node.why(&pod).await,
        said("failed to fetch PVC from API server: persistentvolumeclaims \"c\" not found")
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_volume_is_said_in_upstreams_words() {
    let node = Node::new();
    let pod = of_claim();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = volume();
        change(&mut changed);
        node.set(VOLUME, changed);
    };
    let said = |text: &str| format!("error processing PVC ns/c: {text}");

    with(&|volume| volume["spec"]["claimRef"] = Value::Null);
    assert_eq!(
        node.why(&pod).await,
        said(
            "found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        )
    );
    with(&|volume| volume["spec"]["claimRef"]["uid"] = json!("claim-0"));
    assert_eq!(
        node.why(&pod).await,
        said(
            "found PV object pv but its pv.Spec.ClaimRef.UID claim-0 does not point to claim.UID claim-1"
        )
    );
    with(&|volume| volume["spec"]["volumeMode"] = json!("Block"));
    assert_eq!(
        node.why(&pod).await,
        "volume v has volumeMode Block, but is specified in volumeMounts"
    );
    node.set(VOLUME, volume());
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    let devices = json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]});
    assert_eq!(
        node.why(&pod_with(volumes, devices)).await,
        "volume v has volumeMode Filesystem, but is specified in volumeDevices"
    );
    node.remove(VOLUME);
    assert_eq!(
        node.why(&pod).await,
        said("failed to fetch PV pv from API server: persistentvolumes \"pv\" not found")
    );
    // All that is wrong is said at once.
    let two = self::pod(json!([
        {"name": "w", "persistentVolumeClaim": {"claimName": "none"}},
        {"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "e", "emptyDir": {}},
    ]));
    let none = "error processing PVC ns/none: failed to fetch PVC from API server: persistentvolumeclaims \"none\" not found";
    let gone = said("failed to fetch PV pv from API server: persistentvolumes \"pv\" not found");
    assert_eq!(
        node.texts(&two).await,
        [format!(
            "Unable to attach or mount volumes: unmounted volumes=[e v w], unattached volumes=[], failed to process volumes=[v w]: {none}; {gone}"
        )]
    );
}

#[tokio::test]
async fn a_volume_of_another_node_is_refused() {
    let node = Node::new();
    let of_host = |host: &str| {
        let mut volume = volume();
        let terms = json!([{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]},
        ]}]);
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": terms}});
        node.set(VOLUME, volume);
    };
    of_host("here");
    node.claims.resolve(&of_claim(), &uid()).await.unwrap();
    of_host("there");
    let refused =
        "MountVolume.NodeAffinity check failed for volume \"pv\" : no matching NodeSelectorTerms";
    assert_eq!(node.texts(&of_claim()).await, [refused]);
    // Nobody guesses while the labels are not known; what was found before counts then.
    node.labels.send_replace(None);
    let known = node.claims.resolve(&of_claim(), &uid()).await.unwrap();
    assert_eq!(known["v"].volume.metadata.name, "pv");
    let other = PodUid::parse("u-2").unwrap();
    let error = node.claims.resolve(&of_claim(), &other).await.unwrap_err();
    assert!(error.waits_for_answer(), "{error}");
}

#[tokio::test]
async fn the_claim_of_a_generic_ephemeral_volume_has_to_be_the_pods_own() {
    let node = Node::new();
    let pod = pod(json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]));
    let path = "/api/v1/namespaces/ns/persistentvolumeclaims/p-v";
    let owned_by = |uid: &str, controller: bool| {
        let mut claim = claim();
        claim["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": controller},
        ]);
        node.set(path, claim);
    };
    let foreign = "PVC ns/p-v was not created for pod ns/p (pod is not owner)";
    node.set(path, claim());
    assert_eq!(node.why(&pod).await, foreign);
    owned_by("u-0", true);
    assert_eq!(node.why(&pod).await, foreign);
    owned_by("u-1", false);
    assert_eq!(node.why(&pod).await, foreign);
    owned_by("u-1", true);
    let found = node.claims.resolve(&pod, &uid()).await.unwrap();
    assert_eq!(found["v"].claim, "p-v");
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_what_is_kept_counts_and_nothing_else() {
    let node = Node::new();
    node.claims.resolve(&of_claim(), &uid()).await.unwrap();
    node.set(CLAIM, Value::Null);
    node.log.take();
    // Another life of the agent, which never hears anything; then one whose requests fail.
    let deaf = Claims::new(PodDirs::new(node.root.path()).unwrap());
    for claims in [&deaf, &node.claims] {
        let found = claims.resolve(&of_claim(), &uid()).await.unwrap();
        assert_eq!(found["v"].volume.metadata.name, "pv");
        let other = PodUid::parse("u-2").unwrap();
        let error = claims.resolve(&of_claim(), &other).await.unwrap_err();
        assert!(error.waits_for_answer());
    }
    // Of a server that does not answer, no more is asked in one go.
    node.log.take();
    let two = pod(json!([
        {"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "w", "persistentVolumeClaim": {"claimName": "d"}},
    ]));
    node.claims.resolve(&two, &uid()).await.unwrap_err();
    assert_eq!(node.log.lines(), [format!("GET {CLAIM}")]);
    // A word of the server's counts, whatever was kept.
    node.remove(CLAIM);
    assert!(node.why(&of_claim()).await.contains("not found"));
    // Nor does a file that is bad.
    node.set(CLAIM, Value::Null);
    let path = node.root.path().join("pods/u-1/claims.json");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|w| w == b"/data").unwrap();
    bytes[at + 1] = b'D';
    std::fs::write(&path, &bytes).unwrap();
    deaf.resolve(&of_claim(), &uid()).await.unwrap_err();
    assert!(deaf.of_pod(&uid()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_not_waited_for_without_end() {
    let node = Node::new();
    node.claims.resolve(&of_claim(), &uid()).await.unwrap();
    let (silent, _) = scripted(|_| Answer::Never);
    node.claims.connect(silent, node.labels.subscribe());
    let began = tokio::time::Instant::now();
    node.claims.resolve(&of_claim(), &uid()).await.unwrap();
    assert_eq!(began.elapsed(), LITTLE_PATIENCE);
    let other = PodUid::parse("u-2").unwrap();
    let error = node.claims.resolve(&of_claim(), &other).await.unwrap_err();
    assert!(error.to_string().ends_with("no answer within 10s"));
    assert_eq!(began.elapsed(), LITTLE_PATIENCE + PATIENCE);
}

#[tokio::test]
async fn a_volume_for_one_pod_is_given_to_one() {
    let node = Node::new();
    let mut alone = volume();
    alone["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    node.set(VOLUME, alone.clone());
    node.claims.resolve(&of_claim(), &uid()).await.unwrap();
    // Again for the one that has it.
    node.claims.resolve(&of_claim(), &uid()).await.unwrap();
    let other = PodUid::parse("u-2").unwrap();
    let error = node.claims.resolve(&of_claim(), &other).await.unwrap_err();
    let used = "MountVolume.SetUp failed for volume \"pv\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod";
    assert_eq!(error.texts(), [used]);
    std::fs::remove_file(node.root.path().join("pods/u-1/claims.json")).unwrap();
    node.claims.resolve(&of_claim(), &other).await.unwrap();
    // Where others are allowed besides, nobody knows which one is meant.
    alone["spec"]["accessModes"] = json!(["ReadWriteOncePod", "ReadWriteMany"]);
    node.set(VOLUME, alone);
    node.claims.resolve(&of_claim(), &uid()).await.unwrap();
}

#[test]
fn what_annotations_say_of_a_volume() {
    let volume = |annotations: Value| -> PersistentVolume {
        let volume = json!({
            "metadata": {"name": "pv", "annotations": annotations},
            "spec": {"mountOptions": ["hard", "vers=4.1"]},
        });
        serde_json::from_value(volume).unwrap()
    };
    let plain = volume(json!({}));
    assert_eq!(plain.mount_options(), ["hard", "vers=4.1"]);
    assert_eq!(plain.gid(), None);
    let old = volume(json!({
        "volume.beta.kubernetes.io/mount-options": "ro,soft",
        "pv.beta.kubernetes.io/gid": "1234",
    }));
    assert_eq!(old.mount_options(), ["ro", "soft"]);
    assert_eq!(old.gid(), Some(1234));
    assert_eq!(
        volume(json!({"pv.beta.kubernetes.io/gid": "staff"})).gid(),
        None
    );
}
