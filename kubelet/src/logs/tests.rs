use super::*;

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

struct Node {
    temp: tempfile::TempDir,
    logs: PodLogs,
}

impl Node {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let logs = PodLogs::new(LogsConfig {
            pod_logs_dir: temp.path().join("log/pods"),
            links_dir: temp.path().join("log/containers"),
        })
        .unwrap();
        Self { temp, logs }
    }

    /// The directory of a container of `pod`, made.
    fn container(&self, uid: &str) -> PathBuf {
        self.logs
            .ensure_container(&name(), &PodUid::parse(uid).unwrap(), "c")
            .unwrap()
    }

    fn links(&self) -> PathBuf {
        self.temp.path().join("log/containers")
    }
}

fn name() -> PodName {
    PodName {
        namespace: "ns".into(),
        name: "web-0".into(),
    }
}

fn uid() -> PodUid {
    PodUid::parse("u1").unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names = Dir::open(dir).unwrap().names().unwrap();
    names.sort();
    names
}

fn now(second: i8) -> jiff::civil::DateTime {
    jiff::civil::date(2024, 5, 6).at(7, 8, second, 0)
}

#[test]
fn the_layout_is_upstreams() {
    let node = Node::new();
    let pod = node.logs.ensure_pod(&name(), &uid()).unwrap();
    assert_eq!(pod, node.temp.path().join("log/pods/ns_web-0_u1"));
    let container = node.container("u1");
    assert_eq!(container, pod.join("c"));
    for dir in [&pod, &container, &node.links()] {
        assert_eq!(
            std::fs::metadata(dir).unwrap().mode() & 0o777,
            0o755,
            "{dir:?}"
        );
    }
    assert!(node.logs.ensure_container(&name(), &uid(), "../c").is_err());
    node.logs.remove_pod(&name(), &uid()).unwrap();
    node.logs.remove_pod(&name(), &uid()).unwrap();
    assert!(!pod.exists());
}

#[test]
fn the_next_attempt_comes_from_the_logs() {
    let node = Node::new();
    let next = || node.logs.next_attempt(&name(), &uid(), "c").unwrap();
    assert_eq!(next(), 0);
    let dir = node.container("u1");
    assert_eq!(next(), 0);
    for file in [
        "0.log",
        "2.log.20240506-070809.gz",
        "x.log",
        "9.txt",
        ".log",
        "8.logs",
    ] {
        std::fs::write(dir.join(file), "").unwrap();
    }
    assert_eq!(next(), 3);
    std::fs::write(dir.join("10.log"), "").unwrap();
    assert_eq!(next(), 11);
}

#[test]
fn pruning_keeps_the_instances_asked_for_and_other_files() {
    let node = Node::new();
    let dir = node.container("u1");
    for file in [
        "3.log",
        "4.log",
        "4.log.20240506-070809.gz",
        "5.log",
        "14.log",
        "note",
    ] {
        std::fs::write(dir.join(file), "").unwrap();
    }
    let prune = |keep: &[u32]| node.logs.prune_instances(&name(), &uid(), "c", keep);
    prune(&[4, 5]).unwrap();
    assert_eq!(
        names(&dir),
        ["4.log", "4.log.20240506-070809.gz", "5.log", "note"]
    );
    prune(&[5]).unwrap();
    assert_eq!(names(&dir), ["5.log", "note"]);
    node.logs
        .prune_instances(&name(), &uid(), "none", &[])
        .unwrap();
}

#[test]
fn links_have_upstreams_names() {
    let node = Node::new();
    let log = node.container("u1").join("0.log");
    std::fs::write(&log, "x").unwrap();
    node.logs.link(&name(), "c", "abc123", &log).unwrap();
    node.logs.link(&name(), "c", "abc123", &log).unwrap();
    let link = node.links().join("web-0_ns_c-abc123.log");
    assert_eq!(std::fs::read_link(&link).unwrap(), log);
    let long = PodName {
        namespace: "n".into(),
        name: "p".repeat(250).into(),
    };
    node.logs.link(&long, "c", &"f".repeat(64), &log).unwrap();
    let longest = names(&node.links()).remove(0);
    assert_eq!(longest, format!("{}_.log", "p".repeat(250)));
    assert_eq!(longest.len(), 255);
}

#[test]
fn collection_takes_what_belongs_to_no_live_pod() {
    let node = Node::new();
    let (gone, live) = (node.container("gone"), node.container("live"));
    let pods = node.temp.path().join("log/pods");
    for other in ["journal", "Not_A_Pod", "a_b", "_x_y", "ns_name_.hidden"] {
        std::fs::create_dir(pods.join(other)).unwrap();
    }
    for dir in [&gone, &live] {
        std::fs::write(dir.join("0.log"), "").unwrap();
    }
    node.logs
        .link(&name(), "c", "gone00", &gone.join("0.log"))
        .unwrap();
    node.logs
        .link(&name(), "c", "live00", &live.join("0.log"))
        .unwrap();
    node.logs
        .link(&name(), "c", "live01", &live.join("1.log"))
        .unwrap();
    // Being rotated: the log itself is not there for a moment.
    std::fs::write(live.join("2.log.20240506-070809"), "").unwrap();
    node.logs
        .link(&name(), "c", "live02", &live.join("2.log"))
        .unwrap();
    symlink("/var/lib/docker/none.log", node.links().join("foreign.log")).unwrap();
    std::fs::write(node.links().join("file.log"), "").unwrap();

    let live = BTreeSet::from([PodUid::parse("live").unwrap()]);
    let collected = node.logs.collect(&live, 100);
    assert!(collected.errors.is_empty(), "{:?}", collected.errors);
    assert_eq!(collected.removed, 3);
    assert_eq!(
        names(&pods),
        [
            "Not_A_Pod",
            "_x_y",
            "a_b",
            "journal",
            "ns_name_.hidden",
            "ns_web-0_live"
        ]
    );
    assert_eq!(
        names(&node.links()),
        [
            "file.log",
            "foreign.log",
            "web-0_ns_c-live00.log",
            "web-0_ns_c-live02.log"
        ]
    );
}

#[test]
fn collection_is_bounded_and_goes_on() {
    let node = Node::new();
    for n in 0..5 {
        node.container(&format!("gone{n}"));
    }
    let rounds: Vec<_> = (0..4)
        .map(|_| node.logs.collect(&BTreeSet::new(), 2).removed)
        .collect();
    assert_eq!(rounds, [2, 2, 1, 0]);
}

#[test]
fn only_logs_of_pods_are_read() {
    let node = Node::new();
    let dir = node.container("u1");
    std::fs::write(dir.join("0.log"), "t stderr F it broke\n").unwrap();
    let read = |path: &Path| node.logs.last_lines(path);
    assert_eq!(read(&dir.join("0.log")).unwrap(), "it broke\n");
    assert_eq!(read(&dir.join("1.log")).unwrap(), "");
    assert_eq!(read(Path::new("/etc/passwd")).unwrap(), "");
    assert_eq!(read(&dir.join("../../../../secret")).unwrap(), "");
    symlink("/etc/passwd", dir.join("2.log")).unwrap();
    assert!(read(&dir.join("2.log")).is_err());
}

#[test]
fn a_log_is_rotated_when_it_has_grown() {
    let node = Node::new();
    let dir = node.container("u1");
    let log = dir.join("0.log");
    let limits = RotationLimits {
        max_size: 10,
        max_files: 3,
    };
    let grow = |text: &str| {
        std::fs::write(&log, text).unwrap();
        std::fs::set_permissions(&log, std::fs::Permissions::from_mode(0o604)).unwrap();
    };
    let rotate = |second| node.logs.rotate(&log, &limits, now(second)).unwrap();
    assert_eq!(rotate(0), Rotation::Missing);
    std::fs::write(&log, "nine byte").unwrap();
    assert_eq!(rotate(0), Rotation::NotNeeded);
    std::fs::write(&log, "ten bytes.").unwrap();

    std::fs::write(dir.join("0.log.20240506-070700.tmp"), "half").unwrap();
    for second in 1..=4 {
        grow(&format!("ten, round {second}"));
        let name = format!("0.log.20240506-07080{second}");
        assert_eq!(rotate(second), Rotation::Rotated { name });
        std::fs::write(&log, "").unwrap();
        node.logs.compress_older(&log).unwrap();
    }
    // The one that is written, one rotated, one compressed: three files.
    assert_eq!(
        names(&dir),
        ["0.log", "0.log.20240506-070803.gz", "0.log.20240506-070804"]
    );
    let compressed = std::fs::File::open(dir.join("0.log.20240506-070803.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(compressed)
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "ten, round 3");
    let mode = std::fs::metadata(dir.join("0.log.20240506-070803.gz")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o604, "that of the log");

    // The runtime could not reopen it.
    std::fs::write(&log, "more than ten bytes again").unwrap();
    assert!(matches!(rotate(5), Rotation::Rotated { .. }));
    assert!(!log.exists());
    let undo = |name| node.logs.undo_rotation(&log, name).unwrap();
    undo("0.log.20240506-070805");
    assert_eq!(std::fs::read(&log).unwrap(), b"more than ten bytes again");

    // It did, and only its answer was lost: what it writes now stays.
    assert!(matches!(rotate(6), Rotation::Rotated { .. }));
    std::fs::write(&log, "new").unwrap();
    undo("0.log.20240506-070806");
    assert_eq!(std::fs::read(&log).unwrap(), b"new");
    assert_eq!(
        std::fs::read(dir.join("0.log.20240506-070806")).unwrap(),
        b"more than ten bytes again"
    );
}

#[test]
fn logs_rotated_within_a_second_or_a_clock_set_back_keep_their_order() {
    let node = Node::new();
    let dir = node.container("u1");
    let log = dir.join("0.log");
    let limits = RotationLimits {
        max_size: 10,
        max_files: 9,
    };
    let mut expected = Vec::new();
    for (second, suffix) in [(4, ""), (4, "_001"), (4, "_002"), (3, "_003"), (2, "_004")] {
        std::fs::write(&log, format!("ten bytes.{suffix}")).unwrap();
        let rotated = node.logs.rotate(&log, &limits, now(second)).unwrap();
        let name = format!("0.log.20240506-070804{suffix}");
        assert_eq!(rotated, Rotation::Rotated { name: name.clone() });
        expected.push(name);
    }
    assert_eq!(names(&dir), expected);
    // Compressed ones sort as they did.
    node.logs.compress_older(&log).unwrap();
    std::fs::write(&log, "ten bytes. and more").unwrap();
    let rotated = node.logs.rotate(&log, &limits, now(4)).unwrap();
    let name = "0.log.20240506-070804_005".to_owned();
    assert_eq!(rotated, Rotation::Rotated { name });
    let plain = |name: &String| !name.ends_with(".gz");
    let newest = ["0.log.20240506-070804_004", "0.log.20240506-070804_005"];
    let names: Vec<_> = names(&dir).into_iter().filter(plain).collect();
    assert_eq!(names, newest);
}

#[test]
fn logs_that_have_overshot_the_limit_stay_within_the_bound_together() {
    let node = Node::new();
    let dir = node.container("u1");
    let log = dir.join("0.log");
    let limits = RotationLimits {
        max_size: 10,
        max_files: 4,
    };
    // 40 bytes for the rotated ones.
    for (second, size) in [(1, 12), (2, 12), (3, 12), (4, 20), (5, 100), (6, 12)] {
        std::fs::write(&log, "x".repeat(size)).unwrap();
        let rotated = node.logs.rotate(&log, &limits, now(second)).unwrap();
        assert!(matches!(rotated, Rotation::Rotated { .. }), "{rotated:?}");
        let sizes = names(&dir).into_iter().map(|name| {
            let size = std::fs::metadata(dir.join(&name)).unwrap().len();
            (name.chars().last().unwrap(), size)
        });
        let sizes: Vec<(char, u64)> = sizes.collect();
        let expected: &[(char, u64)] = match second {
            1 => &[('1', 12)],
            2 => &[('1', 12), ('2', 12)],
            3 => &[('1', 12), ('2', 12), ('3', 12)],
            4 => &[('3', 12), ('4', 20)],
            // The newest is kept, whatever its size.
            5 => &[('5', 100)],
            _ => &[('6', 12)],
        };
        assert_eq!(sizes, expected, "second {second}");
    }
}

#[test]
fn a_log_of_just_the_limit_is_rotated() {
    let node = Node::new();
    let log = node.container("u1").join("0.log");
    std::fs::write(&log, "ten bytes.").unwrap();
    let limits = RotationLimits {
        max_size: 10,
        max_files: 2,
    };
    let rotated = node.logs.rotate(&log, &limits, now(0)).unwrap();
    assert!(matches!(rotated, Rotation::Rotated { .. }), "{rotated:?}");
}

#[test]
fn a_crash_while_compressing_loses_nothing() {
    let node = Node::new();
    let dir = node.container("u1");
    std::fs::write(dir.join("0.log"), "more than ten bytes").unwrap();
    std::fs::write(dir.join("0.log.20240506-070801"), "both").unwrap();
    std::fs::write(dir.join("0.log.20240506-070801.gz"), "both").unwrap();
    std::fs::write(dir.join("0.log.20240506-070802"), "plain").unwrap();
    std::fs::write(dir.join("0.log.20240506-070802.tmp"), "half").unwrap();
    let limits = RotationLimits {
        max_size: 10,
        max_files: 5,
    };
    let rotated = node
        .logs
        .rotate(&dir.join("0.log"), &limits, now(9))
        .unwrap();
    node.logs.compress_older(&dir.join("0.log")).unwrap();
    assert_eq!(
        rotated,
        Rotation::Rotated {
            name: "0.log.20240506-070809".to_owned()
        }
    );
    assert_eq!(
        names(&dir),
        [
            "0.log.20240506-070801.gz",
            "0.log.20240506-070802.gz",
            "0.log.20240506-070809"
        ]
    );
}

#[test]
fn the_oldest_file_makes_room() {
    let node = Node::new();
    let dir = node.container("u1");
    for name in ["0.log", "0.log.20240506-070802", "0.log.20240506-070801.gz"] {
        std::fs::write(dir.join(name), "text").unwrap();
    }
    let room = || node.logs.make_room(&dir.join("0.log")).unwrap();
    assert!(room());
    assert_eq!(names(&dir), ["0.log", "0.log.20240506-070802"]);
    assert!(room());
    assert!(!room());
    assert_eq!(names(&dir), ["0.log"]);
}
