use std::collections::BTreeMap;
use std::io::{IoSliceMut, Read as _, Seek as _};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;

use super::super::filter::Filter;
use super::super::sink::Sink;
use super::super::{Format, Lines, Output};
use super::*;

/// A journal that keeps what it is handed, and a log that goes there.
struct Fake {
    directory: tempfile::TempDir,
    receiver: Option<UnixDatagram>,
    output: Arc<Output>,
}

impl Fake {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let receiver = Some(UnixDatagram::bind(&path).unwrap());
        let output = Arc::new(Output {
            stderr: Sink::stderr(),
            journal: Some(Journal::at(&path)),
        });
        Self {
            directory,
            receiver,
            output,
        }
    }

    fn journal(&self) -> &Journal {
        self.output.journal.as_ref().unwrap()
    }

    fn log(&self, format: Format, log: impl FnOnce()) {
        let layer = Lines {
            format,
            filter: Arc::new(Filter::new(10, Vec::new())),
            output: Arc::clone(&self.output),
        };
        tracing::subscriber::with_default(Registry::default().with(layer), log);
    }

    fn entry(&self) -> BTreeMap<String, String> {
        parse(&received(self.receiver.as_ref().unwrap()))
    }
}

/// One message, or the file beside it.
fn received(receiver: &UnixDatagram) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(
        receiver,
        &mut [IoSliceMut::new(&mut buffer)],
        &mut beside,
        flags,
    )
    .unwrap();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            let file = files.into_iter().next().unwrap();
            let sealed = rustix::fs::fcntl_get_seals(&file).unwrap();
            assert!(sealed.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW));
            let mut bytes = Vec::new();
            let mut file = std::fs::File::from(file);
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            return bytes;
        }
    }
    buffer.truncate(got.bytes);
    buffer
}

/// As journald reads it.
fn parse(mut bytes: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|b| *b == b'\n').unwrap();
        let line = &bytes[..end];
        bytes = &bytes[end + 1..];
        let (name, value) = match line.iter().position(|b| *b == b'=') {
            Some(at) => (text(&line[..at]), text(&line[at + 1..])),
            None => {
                let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                let value = text(&bytes[8..8 + length]);
                assert_eq!(bytes[8 + length], b'\n');
                bytes = &bytes[8 + length + 1..];
                (text(line), value)
            }
        };
        assert_eq!(fields.insert(name.clone(), value), None, "{name} twice");
    }
    fields
}

#[test]
fn an_event_of_a_container_has_fields_of_its_own() {
    let fake = Fake::new();
    fake.log(Format::Text, || {
        tracing::warn!(pod = %"web-node_default", uid = "u1", container = "main", reason = "BackOff", count = 3, "Back-off \"x\"\nagain");
    });
    let entry = fake.entry();
    let get = |name: &str| entry.get(name).map(String::as_str);
    assert_eq!(
        get("MESSAGE"),
        Some(
            "\"Back-off \\\"x\\\"\\nagain\" pod=\"web-node_default\" uid=\"u1\" container=\"main\" reason=\"BackOff\" count=3"
        )
    );
    assert_eq!(get("PRIORITY"), Some("4"));
    assert_eq!(get("SYSLOG_IDENTIFIER"), Some("kubelet"));
    assert_eq!(
        get("MESSAGE_ID"),
        Some(&*format!("{:032x}", message_id("BackOff")))
    );
    assert_eq!(get("REASON"), Some("BackOff"));
    assert_eq!(get("POD"), Some("web-node"));
    assert_eq!(get("NAMESPACE"), Some("default"));
    assert_eq!(get("POD_UID"), Some("u1"));
    assert_eq!(get("CONTAINER"), Some("main"));
    assert!(get("CODE_FILE").unwrap().ends_with("journal/tests.rs"));
    assert!(get("CODE_LINE").unwrap().parse::<u32>().unwrap() > 1);
    assert_eq!(entry.len(), 11);
}

#[test]
fn an_event_about_nothing_has_only_what_every_entry_has() {
    let fake = Fake::new();
    fake.log(Format::Text, || tracing::debug!("x"));
    let entry = fake.entry();
    assert_eq!(
        entry.keys().collect::<Vec<_>>(),
        [
            "CODE_FILE",
            "CODE_LINE",
            "MESSAGE",
            "PRIORITY",
            "SYSLOG_IDENTIFIER"
        ]
    );
    assert_eq!(entry["PRIORITY"], "7");
    // Only this workspace's reasons have ids.
    fake.log(
        Format::Text,
        || tracing::error!(target: "hyper", reason = "x", "y"),
    );
    assert!(!fake.entry().contains_key("MESSAGE_ID"));
}

#[test]
fn what_a_span_says_counts_where_the_event_does_not() {
    let fake = Fake::new();
    fake.log(Format::Json, || {
        let span = tracing::info_span!("pod", pod = "a_ns", container = "outer");
        span.in_scope(|| tracing::info!(container = "inner", "x"));
    });
    let entry = fake.entry();
    assert_eq!(
        (&*entry["POD"], &*entry["NAMESPACE"], &*entry["CONTAINER"]),
        ("a", "ns", "inner")
    );
    let json: serde_json::Value = serde_json::from_str(&entry["MESSAGE"]).unwrap();
    assert_eq!(json["msg"], "x");
}

#[test]
fn a_value_of_several_lines_is_framed() {
    let fake = Fake::new();
    fake.log(Format::Text, || {
        tracing::info!(container = "a\nPRIORITY=0", "x")
    });
    let entry = fake.entry();
    assert_eq!(entry["CONTAINER"], "a\nPRIORITY=0");
    assert_eq!(entry["PRIORITY"], "6");
}

#[test]
fn a_long_entry_goes_as_a_sealed_file() {
    let fake = Fake::new();
    let long = "l".repeat(600_000);
    fake.log(Format::Text, || tracing::info!("{long}"));
    assert_eq!(fake.entry()["MESSAGE"], format!("\"{long}\""));
    assert_eq!(fake.journal().dropped(), 0);
}

#[test]
fn a_journal_that_does_not_receive_costs_entries_not_time() {
    let fake = Fake::new();
    let begin = tokio::time::Instant::now();
    for _ in 0..5000 {
        assert_eq!(fake.journal().write(b"MESSAGE=x\n"), Ok(()));
    }
    assert!(fake.journal().dropped() > 1000);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "only the first waits"
    );
    fake.entry();
    let dropped = fake.journal().dropped();
    assert_eq!(fake.journal().write(b"MESSAGE=x\n"), Ok(()));
    assert_eq!(fake.journal().dropped(), dropped);
}

#[test]
fn without_a_journal_it_says_so_and_finds_it_when_it_comes_back() {
    let mut fake = Fake::new();
    let path = fake.directory.path().join("socket");
    fake.journal().write(b"MESSAGE=1\n").unwrap();
    fake.receiver = None;
    assert_eq!(fake.journal().write(b"MESSAGE=2\n"), Err(Unreachable));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(fake.journal().write(b"MESSAGE=3\n"), Err(Unreachable));
    fake.receiver = Some(UnixDatagram::bind(&path).unwrap());
    fake.journal().write(b"MESSAGE=4\n").unwrap();
    assert_eq!(fake.entry()["MESSAGE"], "4");
}

#[test]
fn a_stream_is_known_by_device_and_inode() {
    let file = tempfile::tempfile().unwrap();
    let stat = fstat(&file).unwrap();
    assert!(is_stream(
        &format!("{}:{}", stat.st_dev, stat.st_ino),
        &file
    ));
    assert!(!is_stream(
        &format!("{}:{}", stat.st_dev, stat.st_ino + 1),
        &file
    ));
    assert!(!is_stream("", &file));
}

/// The words of events and of log lines that have a `MESSAGE_ID`, as the sources of this workspace have them.
fn reasons_in(directory: &Path, found: &mut std::collections::BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            reasons_in(&path, found);
        }
        if !name.ends_with(".rs") || name == "tests.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        for mark in [".normal(", ".warning(", "reason = "] {
            for (_, rest) in code
                .match_indices(mark)
                .map(|(at, m)| code.split_at(at + m.len()))
            {
                let Some(rest) = rest.trim_start().strip_prefix('"') else {
                    continue;
                };
                let word = rest.split('"').next().unwrap_or_default();
                let camel = |c: char| c.is_ascii_alphanumeric();
                if word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(camel) {
                    found.insert(word.to_owned());
                }
            }
        }
    }
}

/// `docs/journal.md` has a row `| <reason> | <id> | …` for each.
#[test]
fn the_table_of_message_ids_is_whole_and_right() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(here.join("../docs/journal.md")).unwrap();
    let rows: BTreeMap<String, String> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let reason = cells.next()?.trim_matches('`').to_owned();
            let id = cells.next()?.trim_matches('`').to_owned();
            (id.len() == 32).then_some((reason, id))
        })
        .collect();
    assert!(rows.len() > 30, "{rows:?}");
    for (reason, id) in &rows {
        assert_eq!(*id, format!("{:032x}", message_id(reason)), "{reason}");
    }
    let mut found = std::collections::BTreeSet::new();
    for source in ["src", "../static-pods/src"] {
        reasons_in(&here.join(source), &mut found);
    }
    let missing: Vec<_> = found.iter().filter(|r| !rows.contains_key(*r)).collect();
    assert!(missing.is_empty(), "not in docs/journal.md: {missing:?}");
}

/// Never to be edited: what people's rules match by.
#[test]
fn ids_stay_what_they_are() {
    for (reason, id) in [
        ("Started", "cf2ea9b127cd8ca4bdf6db83be57625f"),
        ("BackOff", "20add72987cd8ca4b7d075f436470322"),
        ("ConfigurationRefused", "be72f5f5e27a8002b37eedcf6df7518c"),
    ] {
        assert_eq!(format!("{:032x}", message_id(reason)), id, "{reason}");
    }
}
