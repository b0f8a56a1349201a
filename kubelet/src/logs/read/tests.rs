use std::fs::{self, File, OpenOptions};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::*;
use crate::logs::LogsConfig;

const LIMIT: Duration = Duration::from_secs(20);

/// The directory of logs with one container's log.
struct Node {
    _temp: tempfile::TempDir,
    logs: PodLogs,
    dir: PathBuf,
    written: u32,
}

impl Node {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let logs = PodLogs::new(LogsConfig {
            pod_logs_dir: temp.path().join("pods"),
            links_dir: temp.path().join("containers"),
        })
        .unwrap();
        let dir = temp.path().join("pods/ns_web_u1/main");
        fs::create_dir_all(&dir).unwrap();
        Self {
            _temp: temp,
            logs,
            dir,
            written: 0,
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("0.log")
    }

    /// The file a runtime writes to, made where it is missing.
    fn open(&self) -> File {
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(self.log()).unwrap()
    }

    /// Writes `count` lines: `line 1`, `line 2` … each a nanosecond after the one before.
    fn write(&mut self, mut to: &File, count: u32) {
        let mut text = String::new();
        for _ in 0..count {
            self.written += 1;
            let n = self.written;
            text += &format!("2024-01-01T00:00:00.{n:09}Z stdout F line {n}\n");
        }
        to.write_all(text.as_bytes()).unwrap();
    }

    fn append(&mut self, count: u32) {
        let file = self.open();
        self.write(&file, count);
    }

    /// What rotation does: the log gets the name `0.log.<number>`.
    fn rotate(&self, number: u32) -> PathBuf {
        let rotated = self.dir.join(format!("0.log.20240101-{number:06}"));
        fs::rename(self.log(), &rotated).unwrap();
        rotated
    }

    async fn begin(&self, options: LogOptions) -> (LogReading, oneshot::Sender<()>) {
        let (end, ended) = oneshot::channel();
        let ended = async move {
            let _ = ended.await;
        };
        let reading = self.logs.read(&self.log(), options, ended).await.unwrap();
        (reading, end)
    }

    async fn whole(&self, options: LogOptions) -> String {
        let (mut reading, _end) = self.begin(options).await;
        rest(&mut reading).await
    }
}

async fn rest(reading: &mut LogReading) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = timeout(LIMIT, reading.next()).await.unwrap().unwrap() {
        assert!(chunk.len() < 400 << 10, "a chunk of {}", chunk.len());
        text.extend(chunk);
    }
    String::from_utf8(text).unwrap()
}

/// Reads until `last` has come.
async fn until(reading: &mut LogReading, last: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(last) {
        let chunk = timeout(LIMIT, reading.next()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("{last:?} does not come, but {text:?}"));
        text += std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap();
    }
    text
}

fn lines(numbers: impl IntoIterator<Item = u32>) -> String {
    numbers.into_iter().map(|n| format!("line {n}\n")).collect()
}

fn follow() -> LogOptions {
    LogOptions {
        follow: true,
        ..LogOptions::default()
    }
}

fn tail(lines: u64) -> LogOptions {
    LogOptions {
        tail: Some(lines),
        ..LogOptions::default()
    }
}

fn compress(path: &Path) {
    let packed = File::create(path.with_extension(format!(
        "{}.gz",
        path.extension().unwrap().to_str().unwrap()
    )));
    let mut encoder = GzEncoder::new(packed.unwrap(), Compression::default());
    encoder.write_all(&fs::read(path).unwrap()).unwrap();
    encoder.finish().unwrap();
    fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_whole_log_and_its_last_lines() {
    let mut node = Node::new();
    node.append(20_000);
    assert_eq!(node.whole(LogOptions::default()).await, lines(1..=20_000));
    assert_eq!(node.whole(tail(3)).await, lines(19_998..=20_000));
    assert_eq!(node.whole(tail(0)).await, "");
    assert_eq!(node.whole(tail(1 << 40)).await, lines(1..=20_000));
    let since = LogOptions {
        since: Some("2024-01-01T00:00:00.000019999Z".parse().unwrap()),
        ..LogOptions::default()
    };
    assert_eq!(node.whole(since).await, lines(19_999..=20_000));
    let limited = LogOptions {
        limit_bytes: Some(100_000),
        ..LogOptions::default()
    };
    assert_eq!(node.whole(limited).await, lines(1..=20_000)[..100_000]);
}

#[tokio::test]
async fn the_end_of_a_gibibyte_comes_at_once() {
    let mut node = Node::new();
    let file = node.open();
    file.set_len(1 << 30).unwrap();
    (&file).write_all(b"\n").unwrap();
    node.write(&file, 1000);
    let began = Instant::now();
    assert_eq!(node.whole(tail(100)).await, lines(901..=1000));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_last_line_without_its_end_is_shown_unless_lines_are_counted() {
    let mut node = Node::new();
    node.append(2);
    node.open()
        .write_all(b"2024-01-01T00:00:01Z stdout F half")
        .unwrap();
    let all = node.whole(LogOptions::default()).await;
    assert_eq!(all, lines(1..=2) + "half");
    assert_eq!(node.whole(tail(1)).await, lines(2..=2));
}

#[tokio::test]
async fn a_line_without_end_is_sent_in_parts() {
    let node = Node::new();
    let mut file = node.open();
    let long = "y".repeat(3 << 20);
    write!(
        file,
        "2024-01-01T00:00:00Z stderr P {long}\n2024-01-01T00:00:00Z stderr F end\n"
    )
    .unwrap();
    let options = LogOptions {
        timestamps: true,
        ..LogOptions::default()
    };
    let text = node.whole(options).await;
    assert!(
        text == format!("2024-01-01T00:00:00.000000000Z {long}end\n"),
        "{} bytes",
        text.len()
    );
}

#[tokio::test]
async fn lines_are_followed_as_they_come_until_the_container_ends() {
    let mut node = Node::new();
    node.append(3);
    let (mut reading, end) = node.begin(follow()).await;
    assert_eq!(until(&mut reading, "line 3\n").await, lines(1..=3));
    for n in 4..10 {
        node.append(1);
        assert_eq!(until(&mut reading, "\n").await, lines(n..=n));
    }
    // Half a line waits for the other half.
    let mut file = node.open();
    file.write_all(b"2024-01-01T00:00:01Z stdout F ha").unwrap();
    let early = timeout(Duration::from_millis(300), async {
        tokio::join!(reading.next(), async { file.write_all(b"lf\n").unwrap() }).0
    });
    assert_eq!(early.await.unwrap().unwrap().unwrap(), b"half\n");
    node.append(2);
    end.send(()).unwrap();
    assert_eq!(rest(&mut reading).await, lines(10..=11));
}

#[tokio::test]
async fn following_from_the_end_shows_only_what_comes() {
    let mut node = Node::new();
    node.append(10);
    let options = LogOptions {
        follow: true,
        ..tail(1)
    };
    let (mut reading, _end) = node.begin(options).await;
    assert_eq!(until(&mut reading, "\n").await, lines(10..=10));
    node.append(3);
    assert_eq!(until(&mut reading, "line 13\n").await, lines(11..=13));
}

#[tokio::test]
async fn an_ended_container_is_followed_to_the_end_of_its_log() {
    let mut node = Node::new();
    node.append(5000);
    let (mut reading, end) = node.begin(follow()).await;
    drop(end);
    assert_eq!(rest(&mut reading).await, lines(1..=5000));
}

#[tokio::test]
async fn rotation_loses_no_line_though_the_old_file_has_the_last_word() {
    let mut node = Node::new();
    let mut file = node.open();
    node.write(&file, 3);
    let (mut reading, end) = node.begin(follow()).await;
    assert_eq!(until(&mut reading, "line 3\n").await, lines(1..=3));
    for round in 0..3 {
        let first = node.written + 1;
        node.write(&file, 2);
        node.rotate(round);
        // The runtime has not been told yet.
        node.write(&file, 2);
        let new = node.open();
        // It has made the new file, and ends writing to the old one.
        node.write(&file, 2);
        file = new;
        tokio::time::sleep(Duration::from_millis(20)).await;
        node.write(&file, 2);
        let last = format!("line {}\n", node.written);
        assert_eq!(
            until(&mut reading, &last).await,
            lines(first..=node.written)
        );
    }
    node.write(&file, 1);
    drop(end);
    assert_eq!(rest(&mut reading).await, lines([node.written]));
}

#[tokio::test]
async fn a_reader_far_behind_reads_every_file_between() {
    for (packed, removed) in [(0, 0), (2, 0), (3, 0), (3, 1)] {
        let mut node = Node::new();
        node.append(10);
        let (mut reading, end) = node.begin(follow()).await;
        // Nothing was taken yet; four rotations pass.
        for round in 0..4 {
            node.append(10);
            let rotated = node.rotate(round);
            if round < packed {
                compress(&rotated);
            }
            if round < removed {
                fs::remove_file(format!("{}.gz", rotated.display())).unwrap();
            }
            node.append(10);
        }
        File::create(node.dir.join("0.log.20240101-000009.tmp")).unwrap();
        drop(end);
        let text = rest(&mut reading).await;
        assert_eq!(
            text,
            lines(1..=90),
            "{packed} compressed, {removed} removed"
        );
    }
}

/// A log of forty lines, ten in each of its files, of which the first two are compressed.
fn rotated_thrice() -> Node {
    let mut node = Node::new();
    for round in 0..3 {
        node.append(10);
        let rotated = node.rotate(round);
        if round < 2 {
            compress(&rotated);
        }
    }
    node.append(10);
    node
}

#[tokio::test]
async fn rotated_files_are_read_where_that_is_asked_for() {
    let node = rotated_thrice();
    assert_eq!(node.whole(LogOptions::default()).await, lines(31..=40));
    let all = LogOptions {
        rotated: true,
        ..LogOptions::default()
    };
    assert_eq!(node.whole(all).await, lines(1..=40));
    for wanted in [0, 1, 9, 10, 11, 15, 20, 21, 30, 35, 39, 40, 41, 1000] {
        let last = LogOptions {
            rotated: true,
            ..tail(wanted)
        };
        let first = 41 - u32::try_from(wanted).unwrap().min(40);
        assert_eq!(node.whole(last).await, lines(first..=40), "{wanted}");
    }
    for first in [1, 10, 11, 25, 31, 40] {
        let since = LogOptions {
            since: Some(format!("2024-01-01T00:00:00.{first:09}Z").parse().unwrap()),
            ..all
        };
        assert_eq!(node.whole(since).await, lines(first..=40), "{first}");
    }
    // The runtime has not made the new file yet.
    let away = node.dir.join("0.log.away");
    fs::rename(node.log(), &away).unwrap();
    let back = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        fs::rename(&away, node.log()).unwrap();
    };
    let (text, ()) = tokio::join!(node.whole(all), back);
    assert!(text.ends_with(&lines(31..=40)), "{text}");
    // Rotation has removed the first file meanwhile.
    fs::remove_file(node.dir.join("0.log.20240101-000000.gz")).unwrap();
    assert_eq!(node.whole(all).await, lines(11..=40));
}

#[tokio::test]
async fn rotated_files_are_read_and_then_the_log_is_followed() {
    let mut node = rotated_thrice();
    let options = LogOptions {
        rotated: true,
        follow: true,
        ..tail(25)
    };
    let (mut reading, end) = node.begin(options).await;
    assert_eq!(until(&mut reading, "line 40\n").await, lines(16..=40));
    node.append(2);
    compress(&node.dir.join("0.log.20240101-000002"));
    node.rotate(3);
    node.append(1);
    assert_eq!(until(&mut reading, "line 43\n").await, lines(41..=43));
    drop(end);
    assert_eq!(rest(&mut reading).await, "");
}

#[tokio::test]
async fn a_log_that_was_cut_off_is_read_from_its_beginning() {
    let mut node = Node::new();
    node.append(5);
    let (mut reading, _end) = node.begin(follow()).await;
    assert_eq!(until(&mut reading, "line 5\n").await, lines(1..=5));
    node.open().set_len(0).unwrap();
    tokio::time::timeout(Duration::from_millis(50), reading.next())
        .await
        .unwrap_err();
    let (mut reading, _end) = node.begin(follow()).await;
    node.append(2);
    assert_eq!(until(&mut reading, "line 7\n").await, lines(6..=7));
    node.open().set_len(0).unwrap();
    node.append(1);
    assert_eq!(until(&mut reading, "line 8\n").await, lines(8..=8));
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let node = Node::new();
    let path = node.log();
    let refused = async |path: &Path| {
        let refused = node.logs.read(path, LogOptions::default(), async {}).await;
        crate::errors::error_chain(&refused.err().unwrap())
    };
    assert_eq!(
        refused(&path).await,
        format!(
            "failed to try resolving symlinks in path {path:?}: lstat {}: no such file or directory",
            path.display()
        )
    );
    let outside = refused(Path::new("/etc/passwd")).await;
    assert_eq!(outside, "log file \"/etc/passwd\" is not below podLogsDir");
    let above = node.dir.join("../../../etc/passwd");
    assert!(refused(&above).await.contains("is not below podLogsDir"));
    // A pod that can write to the directory of its logs cannot have the agent read the node's files.
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    let link = refused(&path).await;
    assert!(link.starts_with("failed to open log file"), "{link}");
    fs::remove_file(&path).unwrap();

    fs::write(&path, "no log\n").unwrap();
    let (mut reading, _end) = node.begin(LogOptions::default()).await;
    assert_eq!(
        reading.next().await.unwrap_err().to_string(),
        "failed to get parse function: unsupported log format: \"no log\\n\""
    );
}
