//! Logs of containers, what they use, and what becomes of pods, as it happens.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::scenario::{with_agent, with_nothing};
use tests::wait::eventually;

use super::{Running, ask};
use crate::LIMIT;

/// Lines that the container of [`COUNTER`] writes.
const LINES: usize = 4000;

/// The lines from `first` on.
fn lines(first: usize) -> String {
    (first..=LINES).map(|n| format!("line {n}\n")).collect()
}

/// Nobody wants to see megabytes of a text that differs.
fn ensure_same(what: &str, found: &str, expected: &str) -> Result<()> {
    let differ = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
    ensure!(
        found == expected,
        "{what}: {} bytes for {}, first {differ:?}",
        found.len(),
        expected.len()
    );
    Ok(())
}

#[test]
fn a_log_is_read_across_its_files_and_followed_to_its_containers_end() {
    with_nothing(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        agent.configure("containerLogMaxSize", "16Ki")?;
        agent.configure("containerLogMaxFiles", 50)?;
        agent.configure("containerLogMonitorInterval", "3s")?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put("counter.yaml", COUNTER)?;
        let pod = agent.ready("counter", LIMIT).await?;
        let follow = ["logs", "-f", "counter"];
        let mut follower = Running::start(node, agent, "follower", &follow)?;
        follower
            .prints(&format!("\nline {LINES}\n"), LIMIT * 2)
            .await?;
        let dir = agent.log_directory(&pod, "main");
        eventually("the log has been rotated", LIMIT, async || {
            let files = std::fs::read_dir(&dir)?.count();
            ensure!(files >= 3, "{files} files");
            Ok(())
        })
        .await?;

        let shown = |words: &[&str]| {
            let (code, text) = ask(node, agent, &[&["logs"], words].concat())?;
            ensure!(code == Some(0), "{words:?}: {code:?} {text}");
            Ok(text)
        };
        ensure_same("all", &shown(&["counter"])?, &lines(1))?;
        ensure_same("all", &shown(&["counter-node", "main"])?, &lines(1))?;
        ensure_same(
            "the end",
            &shown(&["counter", "--tail=3000"])?,
            &lines(1001),
        )?;
        ensure_same(
            "little",
            &shown(&["counter", "--limit-bytes", "9"])?,
            "line 1\nli",
        )?;
        let last = shown(&["counter", "--tail=1", "--timestamps"])?;
        let (time, line) = last.split_once(' ').context(last.clone())?;
        ensure!(line == format!("line {LINES}\n"), "{last}");
        ensure_same(
            "since",
            &shown(&["counter", "--since-time", time])?,
            &lines(LINES),
        )?;

        node.kill_container(
            &pod.container("main")?
                .container_id
                .clone()
                .unwrap_or_default(),
        )?;
        let code = follower.ends(LIMIT).await?;
        ensure!(code == Some(0), "{code:?} {}", follower.remarked()?);
        ensure_same("followed", &follower.printed()?, &lines(1))?;
        ensure!(follower.remarked()?.is_empty(), "{}", follower.remarked()?);
        eventually("the instance before has its log", LIMIT, async || {
            let (_, text) = ask(node, agent, &["logs", "--previous", "counter"])?;
            ensure_same("previous", &text, &lines(1))
        })
        .await
    });
}

#[test]
fn what_runs_is_read_measured_and_watched() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        let mut pods = Running::start(node, agent, "pods", &["get", "pods", "-w"])?;
        let mut events = Running::start(node, agent, "events", &["events", "-w"])?;
        node.put("pair.yaml", PAIR)?;
        agent.ready("pair", LIMIT).await?;
        let watched = pods.prints("   2/2     Running ", LIMIT).await?;
        let head = watched.lines().next().unwrap_or_default();
        ensure!(
            head.starts_with("NAME ") && head.contains(" READY   STATUS "),
            "{watched}"
        );
        events.prints(" pod/pair-node{side} ", LIMIT).await?;

        eventually("both containers have written", LIMIT, async || {
            let words = ["logs", "pair", "--all-containers", "--prefix", "--tail=1"];
            let (code, all) = ask(node, agent, &words)?;
            let lines: Vec<&str> = all.lines().collect();
            ensure!(code == Some(0) && lines.len() == 3, "{all}");
            for (line, begin) in lines
                .iter()
                .zip(["first] first", "main] main ", "side] side "])
            {
                ensure!(
                    line.starts_with(&format!("[pod/pair-node/{begin}")),
                    "{all}"
                );
            }
            Ok(())
        })
        .await?;
        let (code, text) = ask(node, agent, &["logs", "pair", "--tail=1"])?;
        ensure!(
            code == Some(0)
                && text.starts_with("main ")
                && text
                    .ends_with("\nDefaulted container \"main\" out of: main, side, first (init)\n"),
            "{text}"
        );
        for (words, said) in [
            (
                ["pair", "-c", "nobody"],
                "container nobody is not valid for pod pair-node out of: main, side, first (init)",
            ),
            (
                ["wep", "-n", "default"],
                "pods \"wep\" not found in namespace \"default\": there are pair-node",
            ),
            (
                ["pair", "-p", "main"],
                "previous terminated container \"main\" in pod \"pair-node\" not found",
            ),
        ] {
            let (code, text) = ask(node, agent, &[&["logs"], &words[..]].concat())?;
            ensure!(code == Some(1) && text.contains(said), "{text}");
        }
        // Whoever has read enough goes, and nobody complains.
        let piped = Command::new("sh")
            .arg("-c")
            .arg("\"$0\" logs -f pair -c main --root-dir \"$1\" | head -n 2")
            .arg(agent.binary())
            .arg(node.path("kubelet"))
            .stdin(Stdio::null())
            .output()?;
        let (output, remarks) = (
            String::from_utf8(piped.stdout)?,
            String::from_utf8(piped.stderr)?,
        );
        ensure!(
            output.lines().count() == 2 && remarks.is_empty(),
            "{output} {remarks}"
        );

        let table = |words: &[&str]| {
            let (code, text) = ask(node, agent, &[&["top"], words].concat())?;
            ensure!(code == Some(0), "{text}");
            let rows = text
                .lines()
                .map(|line| line.split_whitespace().map(str::to_owned).collect());
            Ok(rows.collect::<Vec<Vec<String>>>())
        };
        let is = |cell: &str, unit: &str| {
            cell.strip_suffix(unit)
                .is_some_and(|n| n.parse::<u64>().is_ok())
        };
        let pods_used = table(&["pods"])?;
        ensure!(
            pods_used[0] == ["NAME", "CPU(cores)", "MEMORY(bytes)"],
            "{pods_used:?}"
        );
        let [name, cpu, memory] = &pods_used[1][..] else {
            anyhow::bail!("{pods_used:?}");
        };
        ensure!(
            name == "pair-node" && is(cpu, "m") && is(memory, "Mi"),
            "{pods_used:?}"
        );
        let containers = table(&["pod", "pair", "--containers", "--no-headers"])?;
        let names: Vec<&[String]> = containers.iter().map(|row| &row[..2]).collect();
        ensure!(
            names == [["pair-node", "main"], ["pair-node", "side"]],
            "{containers:?}"
        );
        let of_node = table(&["node"])?;
        ensure!(
            of_node[0] == ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"],
            "{of_node:?}"
        );
        let [name, cpu, share, memory, part] = &of_node[1][..] else {
            anyhow::bail!("{of_node:?}");
        };
        ensure!(
            name == "node" && is(cpu, "m") && is(share, "%") && is(memory, "Mi") && is(part, "%"),
            "{of_node:?}"
        );

        node.remove("pair.yaml")?;
        pods.prints(" Terminating ", LIMIT).await?;
        events.prints(" Killing ", LIMIT).await?;
        agent.terminate().await?;
        for watcher in [&mut pods, &mut events] {
            let code = watcher.ends(Duration::from_secs(30)).await?;
            let remarks = watcher.remarked()?;
            ensure!(
                code == Some(1) && remarks.contains("the agent ended"),
                "{code:?} {remarks}"
            );
        }
        Ok(())
    });
}

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
    imagePullPolicy: Never
    command:
    - sh
    - -c
    - |
      trap 'exit 0' TERM
      n=0
      while [ $n -lt 4000 ]; do
        n=$((n + 1)); echo line $n
        test $((n % 40)) -gt 0 || sleep 0.1
      done
      sleep 100000 & wait
"#;

const PAIR: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: pair
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: first
    image: busybox:1.36
    imagePullPolicy: Never
    command: [sh, -c, echo first]
  containers:
  - name: main
    image: busybox:1.36
    imagePullPolicy: Never
    command: [sh, -c, "trap 'exit 0' TERM; n=0; while :; do n=$((n + 1)); echo main $n; sleep 0.2; done"]
  - name: side
    image: busybox:1.36
    imagePullPolicy: Never
    command: [sh, -c, "trap 'exit 0' TERM; n=0; while :; do n=$((n + 1)); echo side $n; sleep 0.2; done"]
"#;
