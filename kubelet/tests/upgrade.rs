//! What a newer or an older version of the agent has to find as this one left it, and the other way round.
//!
//! None of these goldens is ever written anew. A UID or a container hash that changes restarts containers on every node
//! that is upgraded; a record that is no longer read loses restart back-offs, hooks that are done, conditions and phases.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where it stands, in its functions without #[test] too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use kubelet::clock::Now;
use kubelet::pod::{self, Pod};
use kubelet::record::{BackoffKey, Backoffs, Exit, FILE_NAME, Loaded, Record, RecordFile};
use kubelet::runtime::convert::{annotation, container_hash, label};
use kubelet::status::{ConditionKind, Phase};
use static_pods::identity::NodeName;
use static_pods::manifest::read_manifest;

fn house() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What the back-off of a container goes by: another one, and a crash loop begins anew.
fn fingerprint(container: &k8s_openapi::api::core::v1::Container) -> String {
    let now = Now {
        wall: Timestamp::UNIX_EPOCH,
        monotonic: Duration::ZERO,
    };
    let mut backoffs = Backoffs::new(Backoffs::INITIAL, Duration::from_secs(300));
    backoffs.advance(
        BackoffKey::of(container),
        Exit::at(now.monotonic),
        now.monotonic,
    );
    let mut records = BTreeMap::new();
    backoffs.write_records(&mut records, now);
    records.into_values().next().unwrap().fingerprint
}

fn identities(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap();
    let name = pod::PodName::of(pod);
    let mut lines = format!("{uid} {name}\n");
    for (_, container) in pod::containers(pod) {
        let image = container.image.as_deref().unwrap();
        let hash = container_hash(&container.name, image);
        let backoff = fingerprint(container);
        lines += &format!(
            "  container {} hash {hash} back-off {backoff}\n",
            container.name
        );
    }
    lines
}

#[test]
fn what_decides_about_restarts_never_changes() {
    let manifests = house().join("../static-pods/tests/uids/manifests.yaml");
    let file = Path::new("/etc/kubernetes/manifests/manifests.yaml");
    let manifest = read_manifest(file, &fs::read(manifests).unwrap(), &NodeName::new("node"));
    assert_eq!(manifest.problems, []);
    let found: String = manifest.pods.iter().map(|p| identities(&p.pod)).collect();
    let wanted = house().join("tests/golden/upgrade/identities.txt");
    let wanted = fs::read_to_string(wanted).unwrap_or_default();
    assert!(
        found == wanted,
        "a UID, a container hash or the fingerprint of a back-off is another than it was: every node that is upgraded \
         to this would restart the containers, or forget how often they had crashed. The file is right and the code is \
         wrong.\n--- wanted\n{wanted}--- found\n{found}"
    );
    assert_eq!(manifest.pods.len(), 20);
}

/// By these the agent knows its own containers again. They are upstream's, too.
#[test]
fn labels_and_annotations_never_change() {
    let found = [
        label::POD_NAME,
        label::POD_NAMESPACE,
        label::POD_UID,
        label::CONTAINER_NAME,
        annotation::HASH,
        annotation::RESTART_COUNT,
        annotation::TERMINATION_MESSAGE_PATH,
        annotation::TERMINATION_MESSAGE_POLICY,
        annotation::PRE_STOP_HANDLER,
        annotation::PORTS,
        annotation::DELETION_GRACE_PERIOD,
        annotation::TERMINATION_GRACE_PERIOD,
        pod::CONFIG_SOURCE_ANNOTATION,
        pod::CONFIG_SEEN_ANNOTATION,
    ]
    .map(|name| format!("{name}\n"))
    .concat();
    let wanted = house().join("tests/golden/upgrade/names.txt");
    let wanted = fs::read_to_string(wanted).unwrap_or_default();
    assert!(
        found == wanted,
        "containers that run under the old names would be neither found nor adopted\n--- wanted\n{wanted}--- found\n{found}"
    );
}

/// The record in `file`, read as a pod's worker does.
fn read(file: &Path) -> Record {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(file, directory.path().join(FILE_NAME)).unwrap();
    match RecordFile::load(directory.path()) {
        Loaded::Good(record) => *record,
        other => panic!("{}: {other:?}", file.display()),
    }
}

/// What every version so far has written of one pod.
fn assert_nothing_is_lost(record: &Record, file: &str) {
    let since: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
    assert_eq!(record.start_time, Some(since), "{file}");
    let web = &record.containers["web"];
    assert_eq!((&*web.id, web.started, web.ready), ("c1", true, false));
    let conditions: Vec<_> = record
        .conditions
        .iter()
        .map(|(kind, c)| (*kind, c.status, c.since))
        .collect();
    assert_eq!(
        conditions,
        [
            (ConditionKind::Initialized, true, since),
            (ConditionKind::Ready, false, since)
        ],
        "{file}"
    );
    let backoff = &record.backoffs["web"];
    assert_eq!(backoff.fingerprint, "00000000000000ff");
    assert_eq!((backoff.delay_ms, backoff.since), (20_000, since));
    let exit = backoff.last_exit.as_ref().unwrap();
    assert_eq!((&*exit.id, exit.finished_at), ("c0", since));
    let termination = record.termination.as_ref().unwrap();
    assert_eq!(
        (termination.grace_seconds, termination.deadline_wall),
        (30, since)
    );
    let terminal = record.terminal.as_ref().unwrap();
    assert_eq!(terminal.phase, Phase::Failed);
    assert_eq!(terminal.reason.as_deref(), Some("Evicted"));
    let message = terminal.message.as_deref();
    assert_eq!(message, Some("a \"quoted\",\"record\":{} message"));
    assert!(record.post_start_done.contains("c1"), "{file}");
}

#[test]
fn records_of_older_versions_are_read() {
    let mut files: Vec<PathBuf> = fs::read_dir(house().join("tests/golden/record/written"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 3);
    for file in &files {
        assert_nothing_is_lost(&read(file), &file.display().to_string());
    }
    let newest = read(files.last().unwrap());
    assert!(newest.pre_stop_begun.contains("c1"));
    assert!(newest.active_since.is_some() && newest.clock.is_some());
}

#[test]
fn the_record_of_a_newer_version_is_read_as_far_as_it_is_known() {
    let file = house().join("tests/golden/record/newer.json");
    let text = fs::read_to_string(&file).unwrap();
    // In the record, each of its objects, and a condition that nobody knows.
    assert_eq!(text.matches("nventedLater\":").count(), 9);
    let record = read(&file);
    assert_nothing_is_lost(&record, "newer.json");
    assert!(record.pre_stop_begun.contains("c1"));
}
