//! The record's file: what is read back, what is refused, when it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::file::{decode, encode};
use super::*;
use crate::pod::{ContainerKind, QosClass};
use crate::status::{Condition, ConditionKind, ContainerStatus, Phase, PodStatus, State};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn full() -> Record {
    let since = time("2026-01-02T03:04:05.678901234Z");
    Record {
        active_since: None,
        start_time: Some(since),
        containers: BTreeMap::from([(
            "web".to_owned(),
            ContainerRecord {
                id: "c1".to_owned(),
                started: true,
                ready: false,
            },
        )]),
        conditions: BTreeMap::from([
            (
                ConditionKind::Ready,
                ConditionRecord {
                    status: false,
                    since,
                },
            ),
            (
                ConditionKind::Initialized,
                ConditionRecord {
                    status: true,
                    since,
                },
            ),
        ]),
        backoffs: BTreeMap::from([(
            "web".to_owned(),
            BackoffRecord {
                fingerprint: "00000000000000ff".to_owned(),
                delay_ms: 20_000,
                since,
                last_exit: Some(ExitRecord {
                    id: "c0".to_owned(),
                    finished_at: since,
                }),
            },
        )]),
        termination: Some(Termination {
            grace_seconds: 30,
            deadline_wall: since,
        }),
        clock: Some(Stamp {
            boot: "b".to_owned(),
            since_boot_ms: 4_000,
            wall: since,
        }),
        terminal: Some(Terminal {
            phase: Phase::Failed,
            reason: Some("Evicted".to_owned()),
            message: Some("a \"quoted\",\"record\":{} message".to_owned()),
        }),
        post_start_done: BTreeSet::from(["c1".to_owned()]),
        pre_stop_begun: BTreeSet::new(),
        allocated: None,
        actuated: BTreeMap::new(),
    }
}

fn named(start: &str) -> Record {
    Record {
        start_time: Some(time(start)),
        ..Record::default()
    }
}

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-01T00:00:01Z";
const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

fn good(directory: &Path) -> Record {
    match RecordFile::load(directory) {
        Loaded::Good(record) => *record,
        other => panic!("not a record: {other:?}"),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn golden() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/record/record.json");
    let bytes = encode(&full()).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &bytes).unwrap();
    }
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        fs::read_to_string(&golden).unwrap()
    );
    assert_eq!(decode(&fs::read(&golden).unwrap()).unwrap(), full());
}

#[test]
fn a_record_without_any_field_reads_as_empty() {
    let bytes = encode(&Record::default()).unwrap();
    assert!(bytes.ends_with(b"\"record\":{}}\n"));
    assert_eq!(decode(&bytes).unwrap(), Record::default());
}

#[test]
fn a_file_cut_off_at_any_byte_is_no_record() {
    let bytes = encode(&full()).unwrap();
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "cut off at {length}");
    }
    assert!(decode(&bytes).is_ok());
}

#[test]
fn a_damaged_byte_never_passes_for_a_good_record() {
    let bytes = encode(&full()).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x01;
        assert!(decode(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn each_fault_is_named_and_the_file_set_aside_once() {
    let body = |version: u32, body: &str| {
        let checksum = static_pods::fnv::Fnv64::of(body.as_bytes());
        format!("{{\"version\":{version},\"checksum\":\"{checksum:016x}\",\"record\":{body}}}\n")
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(matches!(RecordFile::load(path), Loaded::Missing));
    for (at, (content, fault)) in [
        (String::new(), "it does not have the form of a record"),
        (body(2, "{}"), "its version is 2, not 1"),
        (
            body(1, "{}").replace("{}", "{ }"),
            "its checksum does not match",
        ),
        (body(1, "{\"startTime\":7}"), "its content is not a record"),
        (" ".repeat(MAX_BYTES + 1), "it is larger than 65536 bytes"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(path.join(FILE_NAME), content).unwrap();
        let Loaded::Bad { set_aside, why } = RecordFile::load(path) else {
            panic!("{fault}: taken for good");
        };
        assert_eq!(why.to_string(), fault);
        let bad = format!("{BAD_PREFIX}{}", at + 1);
        assert_eq!(set_aside, Some(path.join(&bad)));
        assert_eq!(names(path), [bad], "one bad file is kept");
        assert!(matches!(RecordFile::load(path), Loaded::Missing));
    }
}

#[test]
fn what_is_no_plain_file_is_bad_and_moved_out_of_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("target"), encode(&full()).unwrap()).unwrap();
    std::os::unix::fs::symlink("target", path.join(FILE_NAME)).unwrap();
    assert!(matches!(
        RecordFile::load(path),
        Loaded::Bad {
            set_aside: Some(_),
            ..
        }
    ));
    fs::create_dir(path.join(FILE_NAME)).unwrap();
    assert!(matches!(
        RecordFile::load(path),
        Loaded::Bad {
            set_aside: Some(_),
            ..
        }
    ));
    RecordWriter::new(path.to_owned())
        .store(&full(), S(0), true)
        .unwrap();
    assert_eq!(good(path), full());
}

#[test]
fn a_record_is_written_on_change_and_at_most_once_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut writer = RecordWriter::new(path.to_owned());
    assert_eq!(
        writer.store(&named(EARLY), S(100), false).unwrap(),
        Stored::Written
    );
    assert_eq!(
        writer.store(&named(EARLY), S(200), false).unwrap(),
        Stored::Unchanged
    );
    assert_eq!(writer.next_flush(), None);
    assert_eq!(
        writer.store(&named(LATE), S(300), false).unwrap(),
        Stored::Written
    );
    assert_eq!(
        writer.store(&full(), MS(300_400), false).unwrap(),
        Stored::Deferred
    );
    assert_eq!(writer.next_flush(), Some(S(301)));
    assert_eq!(writer.flush(MS(300_999)).unwrap(), Stored::Deferred);
    assert_eq!(good(path), named(LATE));
    assert_eq!(writer.flush(S(301)).unwrap(), Stored::Written);
    assert_eq!(good(path), full());
    assert_eq!(writer.next_flush(), None);
    assert_eq!(names(path), [FILE_NAME]);
}

#[test]
fn what_hurries_is_written_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut writer = RecordWriter::new(path.to_owned());
    writer.store(&named(EARLY), S(100), false).unwrap();
    writer.hurry();
    assert_eq!(
        writer.store(&named(LATE), S(100), false).unwrap(),
        Stored::Written
    );
    assert_eq!(good(path), named(LATE));
    // Once.
    assert_eq!(
        writer.store(&full(), S(100), false).unwrap(),
        Stored::Deferred
    );
}

#[test]
fn a_change_that_is_taken_back_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = RecordWriter::new(directory.path().to_owned());
    writer.store(&named(EARLY), S(100), false).unwrap();
    assert_eq!(
        writer.store(&named(LATE), S(100), false).unwrap(),
        Stored::Deferred
    );
    assert_eq!(
        writer.store(&named(EARLY), S(100), false).unwrap(),
        Stored::Unchanged
    );
    assert_eq!(writer.next_flush(), None);
}

#[test]
fn a_durable_record_does_not_wait_and_is_synced_even_when_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = RecordWriter::new(directory.path().to_owned());
    writer.store(&named(EARLY), S(100), false).unwrap();
    assert_eq!(
        writer.store(&named(EARLY), S(100), true).unwrap(),
        Stored::Written
    );
    assert_eq!(
        writer.store(&named(EARLY), S(100), true).unwrap(),
        Stored::Unchanged
    );
    assert_eq!(
        writer.store(&full(), S(100), true).unwrap(),
        Stored::Written
    );
    assert_eq!(good(directory.path()), full());
}

#[test]
fn a_writer_that_resumes_does_not_write_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    RecordWriter::new(directory.path().to_owned())
        .store(&full(), S(1), false)
        .unwrap();
    let record = good(directory.path());
    let mut writer = RecordWriter::resume(directory.path().to_owned(), &record);
    assert_eq!(
        writer.store(&record, S(2), false).unwrap(),
        Stored::Unchanged
    );
    assert_eq!(
        writer.store(&named(LATE), S(2), false).unwrap(),
        Stored::Written
    );
}

#[test]
fn a_failed_write_is_an_error_stays_due_and_is_tried_ever_more_rarely() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let in_the_way = path.join("record.json.tmp");
    fs::create_dir(&in_the_way).unwrap();
    let mut writer = RecordWriter::new(path.to_owned());
    let error = writer.store(&full(), S(10), true).unwrap_err();
    let shown = format!("cannot create {}", in_the_way.display());
    assert_eq!(error.to_string(), shown);
    assert_eq!(writer.next_flush(), Some(S(11)));
    assert_eq!(
        writer.store(&full(), S(10), true).unwrap(),
        Stored::Deferred,
        "no hammering"
    );
    assert!(writer.flush(S(11)).is_err());
    assert_eq!(writer.next_flush(), Some(S(13)));
    for _ in 0..10 {
        let at = writer.next_flush().unwrap();
        assert!(writer.flush(at).is_err());
        assert!(writer.next_flush().unwrap() - at <= S(60));
    }
    fs::remove_dir(&in_the_way).unwrap();
    let at = writer.next_flush().unwrap();
    assert_eq!(writer.flush(at).unwrap(), Stored::Written);
    assert_eq!(good(path), full());
}

#[test]
fn the_first_record_waits_for_the_directory_and_no_longer() {
    let directory = tempfile::tempdir().unwrap();
    let later = directory.path().join("later");
    let mut writer = RecordWriter::new(later.clone());
    for durable in [false, true] {
        let stored = writer.store(&named(EARLY), S(10), durable).unwrap();
        assert_eq!(stored, Stored::NoDirectory);
        assert_eq!(writer.next_flush(), None, "nothing to wake up for");
    }
    fs::create_dir(&later).unwrap();
    assert_eq!(
        writer.store(&full(), S(10), false).unwrap(),
        Stored::Written
    );
    assert_eq!(good(&later), full());
}

#[test]
fn a_full_disk_is_an_error_and_leaves_the_old_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut writer = RecordWriter::new(path.to_owned());
    writer.store(&named(EARLY), S(1), false).unwrap();
    // What is written to /dev/full fails as on a full disk. A link there would not be followed, a node is opened.
    let device = rustix::fs::makedev(1, 7);
    let node = path.join("record.json.tmp");
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o600),
        device,
    );
    let opens = fs::OpenOptions::new().write(true).open(&node).is_ok();
    if made.is_err() || !opens {
        eprintln!("skipped: no device nodes here (needs root and a file system with devices)");
        return;
    }
    let error = writer.store(&full(), S(5), false).unwrap_err();
    assert!(
        matches!(&error, RecordError::Io { step: "write", .. }),
        "{error:?}"
    );
    assert_eq!(good(path), named(EARLY));
    assert_eq!(names(path), [FILE_NAME], "nothing half-written stays");
    assert_eq!(writer.flush(S(6)).unwrap(), Stored::Written);
    assert_eq!(good(path), full());
}

#[test]
fn a_record_beyond_the_bound_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let record = Record {
        post_start_done: (0..MAX_BYTES).map(|n| n.to_string()).collect(),
        ..Record::default()
    };
    let mut writer = RecordWriter::new(directory.path().to_owned());
    assert!(matches!(
        writer.store(&record, S(1), true),
        Err(RecordError::TooLarge { .. })
    ));
    assert!(names(directory.path()).is_empty());
}

fn status(phase: Phase, message: Option<&str>) -> PodStatus {
    let since = time(EARLY);
    let container = |name: &str, state| ContainerStatus {
        name: name.into(),
        user: None,
        stop_signal: None,
        recursive_read_only: None,
        devices: Vec::new(),
        kind: ContainerKind::Regular,
        state,
        last: None,
        started: true,
        ready: true,
        restart_count: 0,
        image: "i".into(),
        image_id: None,
        id: Some(format!("{name}-id").as_str().into()),
    };
    PodStatus {
        ephemeral_containers: Vec::new(),
        phase,
        reason: message.map(|_| "Evicted".into()),
        message: message.map(Into::into),
        start_time: Some(since),
        conditions: vec![Condition {
            kind: ConditionKind::Ready,
            status: true,
            reason: None,
            message: None,
            last_transition: since,
        }],
        init_containers: Vec::new(),
        containers: vec![container("web", State::Running { started_at: since })],
        pod_ips: Vec::new(),
        host_ips: Vec::new(),
        qos: QosClass::Burstable,
    }
}

#[test]
fn what_a_status_leaves_in_the_record_seeds_the_next_run() {
    let mut record = Record::default();
    assert_eq!(record.previous_status(QosClass::Burstable), None);
    record.post_start_done = BTreeSet::from(["web-id".to_owned(), "gone".to_owned()]);
    record.take_status(&status(Phase::Running, None));
    assert_eq!(
        record.post_start_done,
        BTreeSet::from(["web-id".to_owned()])
    );
    assert_eq!(record.terminal, None);
    let seed = record.previous_status(QosClass::Burstable).unwrap();
    assert_eq!(seed.phase, Phase::Running);
    assert_eq!(seed.start_time, Some(time(EARLY)));
    let ready = seed.condition(ConditionKind::Ready).unwrap();
    assert_eq!((ready.status, ready.last_transition), (true, time(EARLY)));
}

#[test]
fn a_terminal_phase_is_remembered_with_its_reason_and_a_bounded_message() {
    let mut record = Record::default();
    record.take_status(&status(Phase::Failed, Some(&"é".repeat(5000))));
    let seed = record.previous_status(QosClass::Burstable).unwrap();
    assert_eq!(seed.phase, Phase::Failed);
    assert_eq!(seed.reason.as_deref(), Some("Evicted"));
    assert_eq!(seed.message.map(|m| m.len()), Some(4096));
}
