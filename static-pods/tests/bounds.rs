//! Whatever the bytes, reading them ends soon, takes little memory, and does not panic.
//!
//! Bounds: two seconds without optimisation for a file up to 64 KiB; memory at most [`BYTES_PER_BYTE`] times the file and
//! [`BASE`] more, and [`REPEATED`] for what the reader's own limits leave possible.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where it stands, in its functions without #[test] too"
)]
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use static_pods::identity::NodeName;
use static_pods::manifest::{Manifest, read_manifest};

/// Bytes of memory for each byte of a file: a tree node takes some 100 bytes, and one character can be a node.
const BYTES_PER_BYTE: usize = 400;
/// Bytes of memory for any file: tables that are made once, defaults, messages.
const BASE: usize = 2 << 20;
/// Bytes of memory for what is small in the file and large when read: aliases, and lists of empty containers, each of
/// which takes a kibibyte of fields.
const REPEATED: usize = 96 << 20;
const SOON: Duration = Duration::from_secs(2);

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// Counts the bytes that the calling thread has allocated and not yet freed.
struct Counting;

impl Counting {
    fn add(bytes: usize) {
        let now = NOW.get().wrapping_add(bytes);
        NOW.set(now);
        MOST.set(MOST.get().max(now));
    }

    fn take(bytes: usize) {
        // What another thread allocated may be freed here.
        NOW.set(NOW.get().saturating_sub(bytes));
    }
}

// SAFETY: every call goes to the system's allocator as it came; the counters are plain cells of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::take(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::add(size);
        Self::take(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Cost {
    manifest: Manifest,
    bytes: usize,
    time: Duration,
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long it takes is the question"
)]
fn read(bytes: &[u8]) -> Cost {
    let before = NOW.get();
    MOST.set(before);
    let begin = Instant::now();
    let manifest = read_manifest(Path::new("/m/a.yaml"), bytes, &NodeName::new("node"));
    Cost {
        bytes: MOST.get() - before,
        time: begin.elapsed(),
        manifest,
    }
}

/// Reads, and checks what must hold for any bytes without aliases.
fn bounded(bytes: &[u8]) -> Result<Manifest, TestCaseError> {
    let cost = read(bytes);
    let most = BASE + BYTES_PER_BYTE * bytes.len();
    prop_assert!(
        cost.bytes <= most,
        "{} bytes for {} bytes",
        cost.bytes,
        bytes.len()
    );
    prop_assert!(
        cost.time <= SOON,
        "{:?} for {} bytes",
        cost.time,
        bytes.len()
    );
    for problem in &cost.manifest.problems {
        prop_assert!(!problem.problem.message().is_empty(), "{problem}");
    }
    Ok(cost.manifest)
}

/// All goldens there are.
fn goldens() -> Vec<Vec<u8>> {
    fn below(directory: &Path, found: &mut Vec<Vec<u8>>) {
        let mut paths: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                found.push(fs::read(path).unwrap());
            }
        }
    }
    let mut found = Vec::new();
    below(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"),
        &mut found,
    );
    assert!(found.len() > 90);
    found
}

/// Words that mean something in a manifest, to YAML or to the API.
const WORDS: &[&str] = &[
    "apiVersion: v1\nkind: Pod\n",
    "kind: List\nitems:\n",
    "metadata",
    "spec",
    "containers",
    "name",
    "image",
    "ports",
    "resources",
    "limits",
    "cpu",
    "volumes",
    "emptyDir",
    "env",
    "valueFrom",
    "livenessProbe",
    "httpGet",
    "port",
    "<<",
    "*a",
    "&a ",
    "!!int ",
    "!!binary ",
    "---\n",
    "...\n",
    "- ",
    ": ",
    ", ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "# ",
    "\t",
    "\n",
    "\n  ",
    "\n    ",
    "? ",
    "~",
    "null",
    "0644",
    "1e999",
    "0x7fffffffffffffff",
    "-1",
    "99999999999",
    ".inf",
    "1.5",
    "yes",
    "\\u0000",
    "\u{feff}",
    "\u{85}",
    "é",
    "%YAML 1.1\n",
    "@",
    "`",
    "10Gi",
    "1E400",
    "100m",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..4096)) {
        bounded(&bytes)?;
    }

    #[test]
    fn any_words(picks in vec(0..WORDS.len(), 0..400)) {
        let text: String = picks.into_iter().map(|i| WORDS[i]).collect();
        let cost = read(text.as_bytes());
        prop_assert!(cost.bytes <= BASE + BYTES_PER_BYTE * text.len() + REPEATED, "{} bytes", cost.bytes);
        prop_assert!(cost.time <= SOON, "{:?}", cost.time);
    }

    #[test]
    fn goldens_with_pieces_cut_doubled_and_put_in(
        which in any::<prop::sample::Index>(),
        edits in vec((any::<prop::sample::Index>(), 0..4_u8, 1..60_usize, 0..WORDS.len()), 1..6),
    ) {
        let goldens = goldens();
        let mut bytes = which.get(&goldens).clone();
        for (at, kind, length, word) in edits {
            if bytes.is_empty() {
                break;
            }
            let begin = at.index(bytes.len());
            let end = bytes.len().min(begin + length);
            match kind {
                0 => drop(bytes.drain(begin..end)),
                1 => {
                    let piece = bytes[begin..end].to_vec();
                    bytes.splice(begin..begin, piece);
                }
                2 => drop(bytes.splice(begin..begin, WORDS[word].bytes())),
                _ => bytes[begin] = bytes[begin].wrapping_add(1),
            }
        }
        bounded(&bytes)?;
    }

    /// Any JSON is YAML, and both are read to the same pods, or to as many problems.
    #[test]
    fn json_and_yaml_agree(fields in vec((0..WORDS.len(), any::<i64>(), "[ -~é€]{0,12}"), 0..20)) {
        let fields = fields.iter().map(|(word, number, text)| {
            let value = match number % 4 {
                0 => serde_json::json!(number),
                1 => serde_json::json!(text),
                2 => serde_json::json!([text, number]),
                _ => serde_json::json!({ text.as_str(): null }),
            };
            (WORDS[*word].trim().to_owned(), value)
        });
        let mut pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        pod["spec"].as_object_mut().unwrap().extend(fields.filter(|(key, _)| key.is_ascii() && key != "containers"));
        let json = bounded(pod.to_string().as_bytes())?;
        let yaml = bounded(format!("# YAML\n--- \n{pod}").as_bytes())?;
        let uids = |m: &Manifest| m.pods.iter().map(|p| p.uid().to_owned()).collect::<Vec<_>>();
        prop_assert_eq!(uids(&json), uids(&yaml));
        prop_assert_eq!(json.problems.len(), yaml.problems.len());
    }
}

#[test]
fn the_worst_there_is_stays_within_bounds() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    let long = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(60_000),
        "*a, ".repeat(2000)
    );
    let cases = [
        bomb,
        long,
        "- ".repeat(32_000),
        "[".repeat(64_000),
        format!("{{\"a\":{}", "[".repeat(64_000)),
        "{a: ".repeat(16_000),
        "? ".repeat(32_000),
        "a: &a\n".repeat(10_000),
        "---\na: b\n".repeat(7_000),
        (0..8_000).map(|i| format!("k{i}: 1\n")).collect(),
        format!("x: 1{}", "0".repeat(64_000)),
        format!(
            "apiVersion: v1\nkind: PodList\nitems: [{}]",
            "{}, ".repeat(16_000)
        ),
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{}]}}",
            "{}, ".repeat(10_000)
        ),
    ];
    for text in cases {
        let cost = read(text.as_bytes());
        let most = BASE + BYTES_PER_BYTE * text.len() + REPEATED;
        let begin: String = text.chars().take(40).collect();
        println!("{begin:?}: {} KiB, {:?}", cost.bytes >> 10, cost.time);
        assert!(cost.bytes <= most, "{begin:?}: {} bytes", cost.bytes);
        // Ten times a small file's: some of these have half a million values.
        assert!(cost.time <= SOON * 10, "{begin:?}: {:?}", cost.time);
    }
}
