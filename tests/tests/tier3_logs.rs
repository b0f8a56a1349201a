//! Real containers: their logs are rotated, compressed and bounded, and no line is lost.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::scenario::with_nothing;
use tests::wait::{eventually, throughout};

const LIMIT: Duration = Duration::from_secs(60);

/// Files of a container's log, the one that is written to included.
const MOST_FILES: usize = 3;

#[test]
fn a_chatty_containers_log_is_rotated_and_goes_on() {
    with_nothing(async |node, agent| {
        agent.configure("containerLogMaxSize", "8Ki")?;
        agent.configure("containerLogMaxFiles", MOST_FILES)?;
        agent.configure("containerLogMonitorInterval", "3s")?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put("chatty.yaml", CHATTY)?;
        let pod = agent.ready("chatty", LIMIT).await?;
        let dir = agent.log_directory(&pod, "main");

        let last = eventually("one log of each kind", LIMIT, async || {
            let names = names(&dir)?;
            let compressed = names.iter().filter(|name| name.ends_with(".gz")).count();
            ensure!(names.len() == MOST_FILES && compressed == 1, "{names:?}");
            let numbers = numbers(&dir, &names)?;
            let (first, last) = (numbers.first(), numbers.last().copied());
            let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
            ensure!(
                gap.is_none(),
                "from {first:?} on, lines are lost at {gap:?}"
            );
            last.context("no line")
        })
        .await?;
        eventually("the log has new lines", LIMIT, async || {
            let newest = numbers(&dir, &["0.log".to_owned()])?.pop();
            ensure!(newest > Some(last + 1000), "{newest:?}, {last} before");
            Ok(())
        })
        .await?;
        throughout("the files are few", Duration::from_secs(7), async || {
            let mut names = names(&dir)?;
            // What is being compressed is there twice for a moment.
            names.retain(|name| !name.ends_with(".tmp"));
            names.dedup_by(|b, a| b.trim_end_matches(".gz") == *a);
            ensure!(names.len() <= MOST_FILES, "{names:?}");
            Ok(())
        })
        .await
    });
}

#[test]
fn no_line_is_lost_or_doubled_and_a_reader_goes_on() {
    with_nothing(async |node, agent| {
        agent.configure("containerLogMaxSize", "16Ki")?;
        agent.configure("containerLogMaxFiles", 50)?;
        agent.configure("containerLogMonitorInterval", "3s")?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put("counter.yaml", COUNTER)?;
        let pod = agent.ready("counter", LIMIT).await?;
        let dir = agent.log_directory(&pod, "main");

        // As `kubectl logs --follow`: the file under the log's name, to its end, then the one that is there instead.
        let mut follower = Follower::open(dir.join("0.log"))?;
        eventually("the follower has the last line", LIMIT * 2, async || {
            follower.read()?;
            ensure!(
                follower.text.ends_with("line 10000\n"),
                "{} bytes",
                follower.text.len()
            );
            Ok(())
        })
        .await?;
        ensure!(follower.files >= 4, "it followed {} files", follower.files);
        let whole: Vec<u64> = (1..=10_000).collect();
        ensure!(
            numbers_of(&follower.text)? == whole,
            "the follower missed lines"
        );

        let names = names(&dir)?;
        ensure!(
            names.len() >= 4 && names.iter().any(|name| name.ends_with(".gz")),
            "{names:?}"
        );
        ensure!(
            numbers(&dir, &names)? == whole,
            "the files lack lines: {names:?}"
        );

        // Somebody takes the log away: the runtime is told to begin a new one.
        fs::remove_file(dir.join("0.log"))?;
        eventually("the log is back", LIMIT, async || {
            ensure!(dir.join("0.log").exists(), "it is not");
            Ok(())
        })
        .await
    });
}

/// Reads a log that is rotated.
struct Follower {
    path: PathBuf,
    file: fs::File,
    text: String,
    files: u32,
}

impl Follower {
    fn open(path: PathBuf) -> Result<Self> {
        Ok(Self {
            file: fs::File::open(&path)?,
            path,
            text: String::new(),
            files: 1,
        })
    }

    fn read(&mut self) -> Result<()> {
        loop {
            // Looked at first: what was written before the log was replaced is read below.
            let now = fs::metadata(&self.path).map(|meta| meta.ino()).ok();
            self.file.read_to_string(&mut self.text)?;
            if now.is_none_or(|now| self.file.metadata().is_ok_and(|meta| meta.ino() == now)) {
                return Ok(());
            }
            // The runtime writes to the old file until it has reopened the log, which it just has.
            self.file.read_to_string(&mut self.text)?;
            self.file = fs::File::open(&self.path)?;
            self.files += 1;
        }
    }
}

/// The files of a log, the oldest lines first.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    // `0.log` itself is the newest; the others sort by time.
    names.sort_by_key(|name| (name == "0.log", name.clone()));
    Ok(names)
}

/// What the container counted, in the order of the files.
fn numbers(dir: &Path, names: &[String]) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for name in names {
        let path = dir.join(name);
        let text = match name.ends_with(".gz") {
            true => {
                let unpacked = Command::new("gzip").arg("-dc").arg(&path).output()?;
                ensure!(unpacked.status.success(), "gzip -dc {}", path.display());
                unpacked.stdout
            }
            false => fs::read(&path)?,
        };
        let text = String::from_utf8(text)?;
        numbers.extend(numbers_of(&text).with_context(|| name.clone())?);
    }
    Ok(numbers)
}

fn numbers_of(text: &str) -> Result<Vec<u64>> {
    // The runtime may be in the middle of the last line.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let number = |line: &str| {
        let number = line.rsplit_once("line ").and_then(|(_, n)| n.parse().ok());
        number.with_context(|| format!("{line:?}"))
    };
    whole.lines().map(number).collect()
}

const CHATTY: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: chatty
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      trap 'exit 0' TERM
      n=0
      while :; do
        n=$((n + 1)); echo line $n
        test $((n % 20)) -gt 0 || sleep 0.05
      done
"#;

const COUNTER: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: counter
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      trap 'exit 0' TERM
      n=0
      while [ $n -lt 10000 ]; do
        n=$((n + 1)); echo line $n
        test $((n % 40)) -gt 0 || sleep 0.1
      done
      sleep 100000 & wait
"#;
