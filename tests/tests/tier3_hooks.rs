//! Real containers with hooks: when postStart and preStop run, and what comes of a pod when they fail or last.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::scenario::with_agent;
use tests::wait::eventually;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);

/// What the containers of a pod wrote, each line with the machine's uptime in seconds before it.
struct Diary(std::path::PathBuf);

impl Diary {
    /// A directory that manifests name `OUT`, and whose file `diary` their containers write.
    fn new(node: &Node) -> Result<Self> {
        let out = node.path("out");
        fs::create_dir_all(&out)?;
        Ok(Self(out))
    }

    /// The manifest with the directory in its place and `note WORD` as a command.
    fn manifest(&self, text: &str) -> String {
        let note = "note() { read u x < /proc/uptime; echo $u $* >> /out/diary; }";
        text.replace("OUT", &self.0.display().to_string())
            .replace("NOTE", note)
    }

    fn read(&self) -> Result<Vec<(f64, String)>> {
        let text = fs::read_to_string(self.0.join("diary")).unwrap_or_default();
        text.lines()
            .map(|line| {
                let (time, word) = line.split_once(' ').context("a line without a time")?;
                Ok((time.parse()?, word.to_owned()))
            })
            .collect()
    }

    fn words(&self) -> Result<Vec<String>> {
        Ok(self.read()?.into_iter().map(|(_, word)| word).collect())
    }

    /// When `word` was written first.
    fn time(&self, word: &str) -> Result<f64> {
        let lines = self.read()?;
        let found = lines.iter().find(|(_, w)| w == word);
        found
            .map(|(time, _)| *time)
            .with_context(|| format!("no {word:?} in {lines:?}"))
    }

    async fn wrote(&self, word: &str) -> Result<()> {
        eventually(&format!("{word:?} is written"), LIMIT, async || {
            self.time(word).map(drop)
        })
        .await
    }
}

fn uptime() -> Result<f64> {
    let text = fs::read_to_string(Path::new("/proc/uptime"))?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// Removes the manifest and waits until nothing of the pod runs; gives when it was removed and how long it took.
async fn end(node: &Node, agent: &Agent<'_>, file: &str, pod: &Pod) -> Result<(f64, f64)> {
    let (began, start) = (uptime()?, Instant::now());
    node.remove(file)?;
    agent.gone(pod, LIMIT).await?;
    Ok((began, start.elapsed().as_secs_f64()))
}

/// A manifest that goes is acted on this much later at most: a pause for editors, upstream's look each second.
const NOTICE: f64 = 1.5;
/// A kill takes this long at most, with the network and the cgroup of the pod.
const WORK: f64 = 4.0;

#[test]
fn post_start_comes_before_the_next_container_and_before_started() {
    with_agent(async |node, agent| {
        let diary = Diary::new(node)?;
        node.put("a.yaml", &diary.manifest(POST_START))?;
        diary.wrote("first runs").await?;
        let mut seen = Vec::new();
        eventually("the hook is done", LIMIT, async || {
            let done = diary.words()?.iter().any(|w| w == "second runs");
            let pod = agent.pod("a")?;
            let status = pod.container("first")?;
            let line = format!(
                "{:?} started={:?} ready={} phase={}",
                status.state,
                status.started,
                status.ready,
                pod.phase()
            );
            if seen.last() != Some(&line) && !done {
                ensure!(!status.ready && status.started != Some(true), "{line}");
                seen.push(line);
            }
            ensure!(done);
            Ok(())
        })
        .await?;
        println!("while the hook ran: {seen:#?}");
        let pod = agent.ready("a", LIMIT).await?;
        ensure!(
            pod.statuses().iter().all(|s| s.restart_count == 0),
            "{}",
            pod.describe()
        );
        let words = diary.words()?;
        ensure!(
            words == ["first runs", "hook begins", "hook ends", "second runs"],
            "{words:?}"
        );
        Ok(())
    });
}

const POST_START: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: first
    image: busybox:1.36
    command: [sh, -c, "NOTE; note first runs; touch /tmp/up; sleep 100000"]
    lifecycle:
      postStart:
        exec:
          command: [sh, -c, "NOTE; while ! test -e /tmp/up; do sleep 0.1; done; note hook begins; sleep 3; note hook ends"]
    volumeMounts:
    - { name: out, mountPath: /out }
  - name: second
    image: busybox:1.36
    command: [sh, -c, "NOTE; note second runs; sleep 100000"]
    volumeMounts:
    - { name: out, mountPath: /out }
  volumes:
  - name: out
    hostPath: { path: OUT, type: Directory }
"#;

#[test]
fn a_failed_post_start_ends_the_container_and_it_comes_back() {
    with_agent(async |node, agent| {
        let diary = Diary::new(node)?;
        node.put("a.yaml", &diary.manifest(FAILING))?;
        let mut seen = Vec::new();
        let pod = eventually("the container is restarted", LIMIT, async || {
            let pod = agent.pod("a")?;
            let status = pod.container("main")?;
            let waiting = status.state.as_ref().and_then(|s| s.waiting.clone());
            if let Some(waiting) = waiting
                && seen.last() != Some(&waiting)
            {
                seen.push(waiting);
            }
            ensure!(status.restart_count >= 1, "{}", pod.describe());
            let back_off = seen
                .iter()
                .any(|w| w.reason.as_deref() == Some("CrashLoopBackOff"));
            ensure!(back_off, "{seen:?}");
            Ok(pod)
        })
        .await?;
        println!("{seen:#?}");
        let failed = seen
            .iter()
            .find(|w| w.reason.as_deref() == Some("PostStartHookError"));
        let failed = failed.context("never waited for PostStartHookError")?;
        let expected = format!(
            "Exec lifecycle hook ([sh -c echo no; exit 9]) for Container \"main\" in Pod \"a-node_default({})\" failed - \
             error: command 'sh -c echo no; exit 9' exited with 9: , message: \"no\\n\"",
            pod.uid()
        );
        ensure!(failed.message.as_deref() == Some(&expected), "{failed:?}");
        let status = pod.container("main")?;
        let last = status.last_state.clone().and_then(|s| s.terminated);
        let last = last.with_context(|| format!("{status:?}"))?;
        ensure!(last.exit_code == 77, "it was not asked to end: {last:?}");
        // Its preStop hook is run as for any other kill.
        ensure!(
            diary.words()?.starts_with(&["preStop".to_owned()]),
            "{:?}",
            diary.words()?
        );
        Ok(())
    });
}

const FAILING: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "trap 'exit 77' TERM; touch /tmp/up; sleep 100000 & wait"]
    lifecycle:
      postStart: { exec: { command: [sh, -c, "echo no; exit 9"] } }
      preStop: { exec: { command: [sh, -c, "NOTE; while ! test -e /tmp/up; do sleep 0.1; done; note preStop"] } }
    volumeMounts:
    - { name: out, mountPath: /out }
  volumes:
  - name: out
    hostPath: { path: OUT, type: Directory }
"#;

#[test]
fn a_pod_that_goes_is_not_held_up_by_its_post_start() {
    with_agent(async |node, agent| {
        // Upstream waits for the hook, as long as it lasts.
        if agent.is_foreign() {
            return Ok(());
        }
        let diary = Diary::new(node)?;
        let manifest = ENDLESS_POST_START;
        node.put("a.yaml", &diary.manifest(manifest))?;
        diary.wrote("hook begins").await?;
        let pod = agent.pod("a")?;
        let (_, took) = end(node, agent, "a.yaml", &pod).await?;
        ensure!(took < NOTICE + 2.0 + WORK, "it took {took} s");
        Ok(())
    });
}

const ENDLESS_POST_START: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]
    lifecycle:
      postStart: { exec: { command: [sh, -c, "NOTE; note hook begins; sleep 100000"] } }
    volumeMounts:
    - { name: out, mountPath: /out }
  volumes:
  - name: out
    hostPath: { path: OUT, type: Directory }
"#;

#[test]
fn pre_stop_comes_before_the_signal_and_within_the_grace_period() {
    with_agent(async |node, agent| {
        let diary = Diary::new(node)?;
        node.put("a.yaml", &diary.manifest(PRE_STOP))?;
        let pod = agent.ready("a", LIMIT).await?;
        for word in ["one runs", "two runs", "three runs"] {
            diary.wrote(word).await?;
        }
        let (began, took) = end(node, agent, "a.yaml", &pod).await?;
        println!("{:#?}", diary.read()?);
        let since = |word: &str| diary.time(word).map(|time| time - began);
        // The first one's hook takes two of its eight seconds, and then it is asked.
        let (hook, asked) = (since("one preStop begins")?, since("one asked")?);
        ensure!((0.0..NOTICE).contains(&hook), "{hook}");
        ensure!(
            (1.9..3.0).contains(&(asked - hook)),
            "asked {} s after its hook began",
            asked - hook
        );
        ensure!(since("one preStop ends")? <= asked);
        // The second one's sleeps: a hook of the agent's own.
        ensure!(
            (2.9..NOTICE + 3.7).contains(&since("two asked")?),
            "{}",
            since("two asked")?
        );
        // They did not wait for each other; the third has no hook, and takes no notice: eight seconds, and no more.
        ensure!(since("three asked")? < NOTICE, "{}", since("three asked")?);
        ensure!(
            (7.9..8.0 + NOTICE + WORK).contains(&took),
            "it took {took} s"
        );
        Ok(())
    });
}

const PRE_STOP: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 8
  containers:
  - name: one
    image: busybox:1.36
    command: [sh, -c, "NOTE; trap 'note one asked; exit 0' TERM; note one runs; sleep 100000 & wait"]
    lifecycle:
      preStop: { exec: { command: [sh, -c, "NOTE; note one preStop begins; sleep 2; note one preStop ends"] } }
    volumeMounts: [{ name: out, mountPath: /out }]
  - name: two
    image: busybox:1.36
    command: [sh, -c, "NOTE; trap 'note two asked; exit 0' TERM; note two runs; sleep 100000 & wait"]
    lifecycle:
      preStop: { sleep: { seconds: 3 } }
    volumeMounts: [{ name: out, mountPath: /out }]
  - name: three
    image: busybox:1.36
    command: [sh, -c, "NOTE; trap 'note three asked' TERM; note three runs; while :; do sleep 0.1; done"]
    volumeMounts: [{ name: out, mountPath: /out }]
  volumes:
  - name: out
    hostPath: { path: OUT, type: Directory }
"#;

#[test]
fn a_pre_stop_that_outlives_the_grace_period_is_not_waited_for() {
    with_agent(async |node, agent| {
        let diary = Diary::new(node)?;
        node.put("a.yaml", &diary.manifest(LONG_PRE_STOP))?;
        let pod = agent.ready("a", LIMIT).await?;
        diary.wrote("runs").await?;
        let (began, took) = end(node, agent, "a.yaml", &pod).await?;
        println!("{:#?}", diary.read()?);
        let asked = diary.time("asked")? - began;
        ensure!(
            (2.9..3.5 + NOTICE).contains(&asked),
            "asked after {asked} s"
        );
        // It is given two seconds more than the grace period, as upstream does, and no longer.
        ensure!(
            (4.9..5.0 + NOTICE + WORK).contains(&took),
            "it took {took} s"
        );
        ensure!(!diary.words()?.iter().any(|w| w == "hook ends"));
        // With what is left of the hook.
        let hook = node.run("ps", &["-eo", "args"])?;
        ensure!(!hook.contains("54321"), "the hook runs on:\n{hook}");
        Ok(())
    });
}

const LONG_PRE_STOP: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 3
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "NOTE; trap 'note asked' TERM; note runs; while :; do sleep 0.1; done"]
    lifecycle:
      preStop: { exec: { command: [sh, -c, "NOTE; note hook begins; sleep 54321; note hook ends"] } }
    volumeMounts: [{ name: out, mountPath: /out }]
  volumes:
  - name: out
    hostPath: { path: OUT, type: Directory }
"#;

#[test]
fn an_http_hook_asks_the_pod_itself_whatever_it_answers() {
    with_agent(async |node, agent| {
        let diary = Diary::new(node)?;
        node.put("a.yaml", &diary.manifest(HTTP))?;
        let pod = agent.ready("a", LIMIT).await?;
        diary.wrote("runs").await?;
        end(node, agent, "a.yaml", &pod).await?;
        let request = fs::read_to_string(node.path("out").join("request"))?;
        println!("{request}");
        let mut lines: Vec<&str> = request.split("\r\n").collect();
        ensure!(
            lines.first() == Some(&"GET /bye?why=end HTTP/1.1"),
            "{lines:?}"
        );
        lines.retain(|line| !line.is_empty());
        lines[1..].sort_unstable();
        let host = format!("Host: {}:8080", pod.ip());
        let expected = [
            "Accept-Encoding: gzip",
            "Accept: */*",
            &host,
            "User-Agent: kube-lifecycle/1.36",
            "X-Test: one",
            "X-Test: two",
        ];
        let same = lines[1..]
            .iter()
            .zip(expected)
            .all(|(a, b)| a.eq_ignore_ascii_case(b));
        ensure!(lines.len() == expected.len() + 1 && same, "{lines:#?}");
        // 500 is an answer.
        let words = diary.words()?;
        ensure!(words == ["runs", "asked"], "{words:?}");
        Ok(())
    });
}

const HTTP: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - name: main
    image: busybox:1.36
    ports:
    - { name: web, containerPort: 8080 }
    command:
    - sh
    - -c
    - |
      NOTE
      trap 'note asked; exit 0' TERM
      (printf 'HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n'; sleep 1) | nc -l -p 8080 > /out/request &
      until grep -q ':1F90 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done
      note runs
      sleep 100000 & wait
    lifecycle:
      preStop:
        httpGet:
          port: web
          path: /bye?why=end
          httpHeaders:
          - { name: X-Test, value: one }
          - { name: X-Test, value: two }
    volumeMounts: [{ name: out, mountPath: /out }]
  volumes:
  - name: out
    hostPath: { path: OUT, type: Directory }
"#;
