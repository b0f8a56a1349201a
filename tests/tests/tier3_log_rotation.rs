//! Real containers that write to their logs as fast as they can: the logs stay within (files + 1) × size and a second of
//! writing, on a disk with nothing free too; and the writers, and whoever reads, go on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::images::BUSYBOX;
use tests::manifest::PodManifest;
use tests::node_api::ask;
use tests::scenario::with_nothing;
use tests::small_disk::{SmallDisk, fill_bytes};
use tests::wait::eventually;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);
/// `containerLogMaxFiles`.
const FILES: u64 = 3;

#[test]
fn a_flood_stays_within_its_bound_and_is_read_through() {
    const SIZE: u64 = 10 << 20;
    with_nothing(async |node, agent| {
        if agent.is_foreign() {
            eprintln!("skipped: upstream looks at logs each ten seconds, however fast they grow");
            return Ok(());
        }
        agent.configure("containerLogMaxSize", "10Mi")?;
        agent.configure("containerLogMaxFiles", FILES)?;
        agent.configure("containerLogMaxWorkers", 2)?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put("flood.yaml", &flood())?;
        let pod = agent.ready("flood", LIMIT).await?;
        let dir = agent.log_directory(&pod, "main");
        let sampler = Sampler::begin(dir.clone());

        eventually("the second flood is over", LIMIT * 2, async || {
            let log = agent.container_log(&pod, "calm")?;
            ensure!(log.contains("second over"), "{log}");
            Ok(())
        })
        .await?;
        let seen = sampler.end()?;
        eprintln!("{seen:?}");
        ensure!(seen.files > FILES, "it was not rotated: {seen:?}");
        let bound = (FILES + 1) * SIZE + seen.fastest;
        ensure!(seen.most <= bound, "more than {bound}: {seen:?}");

        // What was written before the last rotation is in another file.
        eventually("the log is read", LIMIT, async || {
            let line = last_lines(node, &pod, 1)?;
            ensure!(line == "it is calm\n", "{line:?}");
            Ok(())
        })
        .await?;
        ensure!(unfinished(&dir)?.is_empty(), "{:?}", unfinished(&dir)?);
        unharmed(agent, &pod)
    });
}

#[test]
fn a_log_is_rotated_with_nothing_free_on_its_disk() {
    const SIZE: u64 = 1 << 20;
    with_nothing(async |node, agent| {
        if agent.is_foreign() {
            eprintln!("skipped: upstream looks at logs each ten seconds, however fast they grow");
            return Ok(());
        }
        let disk = SmallDisk::mount_on(node, "pod-logs", 48, 4096)?;
        agent.configure("containerLogMaxSize", "1Mi")?;
        agent.configure("containerLogMaxFiles", FILES)?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put(
            "endless.yaml",
            &PodManifest::script("endless", ENDLESS).text(),
        )?;
        let pod = agent.ready("endless", LIMIT).await?;
        let dir = node.inside(&agent.log_directory(&pod, "main"));
        let newest = async |what: &str, than: Option<u64>| {
            eventually(what, LIMIT, async || {
                let log = fs::metadata(dir.join("0.log")).context("no log")?;
                let bytes = log.len();
                ensure!(Some(log.ino()) != than, "{bytes} bytes, {:?}", names(&dir));
                Ok(log.ino())
            })
            .await
        };
        eventually("there are all files", LIMIT, async || {
            let names = names(&dir)?;
            ensure!(names.len() as u64 == FILES, "{names:?}");
            Ok(())
        })
        .await?;

        // Somebody takes the rest, and again what rotation gives back.
        let other = disk.path().join("other");
        fill_bytes(&other)?;
        let sampler = Sampler::begin(dir.clone());
        let mut log = newest("a log on a full disk", None).await?;
        for _ in 0..3 {
            log = newest("it is rotated on a full disk", Some(log)).await?;
        }

        // An agent that begins on the full disk finds a log that has grown meanwhile, as far as it could.
        agent.kill()?;
        eventually("the log has grown", LIMIT, async || {
            let bytes = fs::metadata(dir.join("0.log"))?.len();
            ensure!(bytes > 0, "{:?}", names(&dir));
            Ok(())
        })
        .await?;
        fill_bytes(&disk.path().join("another"))?;
        agent.start().await?;
        log = fs::metadata(dir.join("0.log"))?.ino();
        log = newest("it is rotated by the next agent", Some(log)).await?;
        newest("and again", Some(log)).await?;
        eventually("the log is read", LIMIT, async || {
            let lines = last_lines(node, &pod, 2)?;
            ensure!(lines.contains("0000"), "{lines:?}");
            Ok(())
        })
        .await?;
        let seen = sampler.end()?;
        eprintln!("{seen:?}");
        let bound = (FILES + 1) * SIZE + seen.fastest;
        ensure!(seen.most <= bound, "more than {bound}: {seen:?}");
        ensure!(unfinished(&dir)?.is_empty(), "{:?}", unfinished(&dir)?);
        unharmed(agent, &pod)
    });
}

/// The end of the log, as the node's API gives it.
fn last_lines(node: &Node, pod: &Pod, lines: u32) -> Result<String> {
    let name = pod.metadata.name.as_deref().context("no name")?;
    let path = format!("/containerLogs/default/{name}/main?tailLines={lines}");
    let answer = ask(node, "GET", &path)?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
    Ok(answer.body)
}

/// The container of before runs, and was never started again.
fn unharmed(agent: &Agent<'_>, before: &Pod) -> Result<()> {
    let name = before.metadata.name.as_deref().context("no name")?;
    let name = name.strip_suffix("-node").unwrap_or(name);
    let now = agent.pod(name)?;
    let (before, now) = (before.container("main")?, now.container("main")?);
    ensure!(now.container_id == before.container_id, "{now:?}");
    ensure!(now.restart_count == 0 && now.ready, "{now:?}");
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// What a compression has left behind.
fn unfinished(dir: &Path) -> Result<Vec<String>> {
    let mut names = names(dir)?;
    names.retain(|name| name.ends_with(".tmp"));
    Ok(names)
}

/// What was seen of a log's files.
#[derive(Debug, Default)]
struct Seen {
    /// Bytes of all of them together, at most.
    most: u64,
    /// The most bytes that were written within a second.
    fastest: u64,
    /// Files that the runtime has written to.
    files: u64,
    /// Bytes that were written.
    written: u64,
}

/// Looks at a log's files all the time.
struct Sampler {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

impl Sampler {
    fn begin(dir: PathBuf) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let thread = std::thread::spawn(move || sample(&dir, &is_over));
        Self { over, thread }
    }

    fn end(self) -> Result<Seen> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampler")
    }
}

fn sample(dir: &Path, over: &AtomicBool) -> Result<Seen> {
    let begun = Instant::now();
    let mut seen = Seen::default();
    // The largest size of each file that is written to, by inode and time of birth: numbers are used again.
    let mut sizes = BTreeMap::new();
    let mut written: Vec<(Duration, u64)> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let mut now = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // It may be gone meanwhile.
            let Ok(file) = entry.metadata() else { continue };
            now.insert(file.ino(), file.len());
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".gz") || name.ends_with(".tmp") {
                continue;
            }
            let size = sizes.entry((file.ino(), file.created()?)).or_insert(0);
            *size = file.len().max(*size);
        }
        seen.most = seen.most.max(now.values().sum());
        written.push((begun.elapsed(), sizes.values().sum()));
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut first = 0;
    for (at, bytes) in &written {
        while *at - written[first].0 > Duration::from_secs(1) {
            first += 1;
        }
        seen.fastest = seen.fastest.max(bytes - written[first].1);
    }
    seen.files = sizes.len() as u64;
    seen.written = written.last().map_or(0, |last| last.1);
    Ok(seen)
}

/// Two floods: nothing is written before the first, and a line now and again before the second.
const FLOOD: &str = "line=$(printf '%04000d' 0)
sleep 3
timeout 8 yes $line
echo first over > /shared/said
for n in 1 2 3 4 5 6 7 8; do echo line $n; sleep 0.5; done
timeout 5 yes $line
echo
echo second over > /shared/said
while :; do echo it is calm; sleep 1; done";

/// The pod of [`FLOOD`], and a container that says how far it is.
fn flood() -> String {
    const CALM: &str = "while :; do echo; cat /shared/said; sleep 1; done";
    let mounts = json!([{ "name": "shared", "mountPath": "/shared" }]);
    let calm = json!({"name": "calm", "image": BUSYBOX, "command": ["sh", "-c", CALM],
        "volumeMounts": mounts});
    PodManifest::script("flood", FLOOD)
        .main("volumeMounts", mounts)
        .spec("volumes", json!([{ "name": "shared", "emptyDir": {} }]))
        .beside(&[calm])
        .to_string()
}

/// Bursts without end.
const ENDLESS: &str = "line=$(printf '%0400d' 0)
while :; do yes $line | head -c 300750; sleep 0.1; done";
