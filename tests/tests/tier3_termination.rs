//! Real containers that end: in which order, how long it may take, and what is known of them afterwards.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use tests::agent::PodView as _;
use tests::scenario::with_agent;
use tests::wait::eventually;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn sidecars_end_after_the_others_and_the_last_one_first() {
    with_agent(async |node, agent| {
        node.put("a.yaml", SIDECARS)?;
        let pod = agent.ready("a", LIMIT).await?;
        for name in ["outer", "inner", "main", "other"] {
            agent.logged(&pod, name, "runs", LIMIT).await?;
        }
        node.remove("a.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        // Each says when it was asked and when it ended, by the one clock of the machine.
        let times = |name: &str| -> Result<(f64, f64)> {
            let log = agent.container_log(&pod, name)?;
            let time = |word: &str| -> Result<f64> {
                let line = log.lines().find(|line| line.starts_with(word));
                let line = line.with_context(|| format!("{name} never {word}: {log:?}"))?;
                Ok(line[word.len()..].trim().parse()?)
            };
            Ok((time("asked")?, time("ended")?))
        };
        let [outer, inner, main, other] = ["outer", "inner", "main", "other"].map(times);
        let (outer, inner, main, other) = (outer?, inner?, main?, other?);
        println!("outer {outer:?} inner {inner:?} main {main:?} other {other:?}");
        ensure!(
            (main.0 - other.0).abs() < 0.5,
            "main and other were not asked together"
        );
        ensure!(
            inner.0 >= main.1 && inner.0 >= other.1,
            "inner was asked too early"
        );
        ensure!(outer.0 >= inner.1, "outer was asked too early");
        Ok(())
    });
}

const SIDECARS: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 20
  initContainers:
  - name: outer
    image: busybox:1.36
    restartPolicy: Always
    env: [{ name: LAST, value: "0.1" }]
    command: &script
    - sh
    - -c
    - |
      now() { read u x < /proc/uptime; echo $1 $u; }
      trap 'now asked; sleep $LAST; now ended; exit 0' TERM
      echo runs
      sleep 100000 & wait
  - name: inner
    image: busybox:1.36
    restartPolicy: Always
    env: [{ name: LAST, value: "1.5" }]
    command: *script
  containers:
  - name: main
    image: busybox:1.36
    env: [{ name: LAST, value: "2" }]
    command: *script
  - name: other
    image: busybox:1.36
    env: [{ name: LAST, value: "0.5" }]
    command: *script
"#;

#[test]
fn a_sidecar_whose_turn_does_not_come_ends_with_the_grace_period() {
    with_agent(async |node, agent| {
        node.put("a.yaml", STUBBORN_MAIN)?;
        let pod = agent.ready("a", LIMIT).await?;
        for name in ["helper", "main"] {
            agent.logged(&pod, name, "runs", LIMIT).await?;
        }
        let start = Instant::now();
        node.remove("a.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        let took = start.elapsed().as_secs_f64();
        // The main container lives its four seconds; the sidecar waits as long for its turn, and is then given two.
        ensure!((3.9..11.5).contains(&took), "it took {took} s");
        let log = agent.container_log(&pod, "helper")?;
        ensure!(log.contains("hook") && log.contains("asked"), "{log:?}");
        let place = |word: &str| log.find(word);
        ensure!(place("hook") < place("asked"), "{log:?}");
        Ok(())
    });
}

const STUBBORN_MAIN: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 4
  initContainers:
  - name: helper
    image: busybox:1.36
    restartPolicy: Always
    command: [sh, -c, "trap 'echo asked; exit 0' TERM; echo runs; sleep 100000 & wait"]
    lifecycle:
      preStop: { exec: { command: [sh, -c, "echo hook > /proc/1/fd/1"] } }
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "trap '' TERM; echo runs; while :; do sleep 0.1; done"]
"#;

#[test]
fn a_pod_that_takes_no_notice_is_gone_when_its_grace_period_ends() {
    with_agent(async |node, agent| {
        for (name, grace, ends) in [("one", 1, 2.0), ("five", 5, 5.0)] {
            let manifest = DEAF
                .replace("NAME", name)
                .replace("GRACE", &grace.to_string());
            node.put("deaf.yaml", &manifest)?;
            let pod = agent.ready(name, LIMIT).await?;
            agent.logged(&pod, "main", "runs", LIMIT).await?;
            let id = pod
                .container("main")?
                .container_id
                .clone()
                .context("no id")?;
            let pid = node.container_pid(id.trim_start_matches("containerd://"))?;
            let start = Instant::now();
            node.remove("deaf.yaml")?;
            eventually("its process is gone", LIMIT, async || {
                ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
                Ok(())
            })
            .await?;
            let took = start.elapsed().as_secs_f64();
            println!("grace {grace}: gone after {took:.2} s");
            // Notice of the manifest is taken within a second and a half.
            ensure!(
                (ends - 0.1..ends + 2.0).contains(&took),
                "{name}: it took {took} s"
            );
            agent.gone(&pod, LIMIT).await?;
        }
        Ok(())
    });
}

const DEAF: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  terminationGracePeriodSeconds: GRACE
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "trap '' TERM; echo runs; while :; do sleep 0.1; done"]
"#;

fn ended(pod: &Pod, name: &str) -> Result<ContainerStateTerminated> {
    let state = pod.container(name)?.state.clone().unwrap_or_default();
    state
        .terminated
        .with_context(|| format!("{name} has not ended: {}", pod.describe()))
}

#[test]
fn termination_messages_are_cut_to_size() {
    with_agent(async |node, agent| {
        node.put("a.yaml", MESSAGES)?;
        let pod = agent.phase("a", "Failed", LIMIT).await?;
        let message =
            |name: &str| -> Result<String> { Ok(ended(&pod, name)?.message.unwrap_or_default()) };
        // Six containers share 12288 bytes: 2048 each, the first ones of the last 4096 of the file.
        let file = message("file")?;
        let lines: String = (1..=2000).map(|n| format!("{n:04}\n")).collect();
        let expected = &lines[lines.len() - 4096..][..2048];
        ensure!(file == expected, "{} bytes: {file:.20}...", file.len());
        // The last 80 lines of the log, the last 2048 bytes of those.
        let log = message("log")?;
        let expected: String = (1921..=2000).map(|n| format!("{n:04}\n")).collect();
        ensure!(log == expected, "{log:?}");
        let long = message("long")?;
        let line = |n| format!("{n:0100}\n");
        let all: String = (1..=50).map(line).collect();
        ensure!(
            long == all[all.len() - 2048..],
            "{} bytes: {long:?}",
            long.len()
        );
        // A file outranks the log, success has no need of it, and another path is a path.
        ensure!(message("both")? == "file", "{:?}", message("both")?);
        ensure!(message("good")?.is_empty(), "{:?}", message("good")?);
        ensure!(message("path")? == "elsewhere", "{:?}", message("path")?);
        Ok(())
    });
}

const MESSAGES: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  restartPolicy: Never
  containers:
  - name: file
    image: busybox:1.36
    command: [sh, -c, "seq -w 1 2000 > /dev/termination-log; exit 1"]
  - name: log
    image: busybox:1.36
    terminationMessagePolicy: FallbackToLogsOnError
    command: [sh, -c, "seq -w 1 2000; exit 1"]
  - name: long
    image: busybox:1.36
    terminationMessagePolicy: FallbackToLogsOnError
    command: [sh, -c, "for n in $(seq 1 50); do printf '%0100d\\n' $n; done; exit 1"]
  - name: both
    image: busybox:1.36
    terminationMessagePolicy: FallbackToLogsOnError
    command: [sh, -c, "echo log; echo -n file > /dev/termination-log; exit 1"]
  - name: good
    image: busybox:1.36
    terminationMessagePolicy: FallbackToLogsOnError
    command: [sh, -c, "echo log; exit 0"]
  - name: path
    image: busybox:1.36
    terminationMessagePath: /tmp/words
    command: [sh, -c, "echo -n elsewhere > /tmp/words; exit 1"]
"#;

#[test]
fn a_message_of_the_runtime_comes_before_that_of_the_container() {
    with_agent(async |node, agent| {
        node.put("a.yaml", UNSTARTABLE)?;
        let pod = eventually("the start has failed", LIMIT, async || {
            let pod = agent.pod("a")?;
            ended(&pod, "main")?;
            Ok(pod)
        })
        .await?;
        let end = ended(&pod, "main")?;
        let message = end.message.unwrap_or_default();
        println!("{message}");
        ensure!(
            end.reason.as_deref() == Some("StartError") && end.exit_code == 128,
            "{}",
            pod.describe()
        );
        ensure!(
            message.starts_with("failed to create containerd task"),
            "{message}"
        );
        Ok(())
    });
}

const UNSTARTABLE: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.36
    command: [/no/such/binary]
"#;

#[test]
fn an_out_of_memory_kill_is_called_so() {
    with_agent(async |node, agent| {
        node.put("a.yaml", HUNGRY)?;
        let pod = agent.phase("a", "Failed", LIMIT).await?;
        let end = ended(&pod, "main")?;
        ensure!(
            end.reason.as_deref() == Some("OOMKilled") && end.exit_code == 137,
            "{}",
            pod.describe()
        );
        Ok(())
    });
}

const HUNGRY: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.36
    resources: { limits: { memory: 16Mi } }
    command: [sh, -c, "exec tail /dev/zero"]
"#;

#[test]
fn an_agent_that_comes_back_ends_a_pod_within_what_was_left() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        let out = node.path("out");
        fs::create_dir_all(&out)?;
        node.put(
            "a.yaml",
            &INTERRUPTED.replace("OUT", &out.display().to_string()),
        )?;
        let pod = agent.ready("a", LIMIT).await?;
        agent.logged(&pod, "main", "runs", LIMIT).await?;
        let start = Instant::now();
        node.remove("a.yaml")?;
        eventually("the hook has begun", LIMIT, async || {
            ensure!(fs::read_to_string(out.join("hook")).is_ok_and(|text| !text.is_empty()));
            Ok(())
        })
        .await?;
        agent.kill()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        agent.start().await?;
        agent.gone(&pod, LIMIT).await?;
        let took = start.elapsed().as_secs_f64();
        ensure!((7.0..14.0).contains(&took), "it took {took} s");
        let hook = fs::read_to_string(out.join("hook"))?;
        ensure!(hook == "begun\n", "the hook was run again: {hook:?}");
        Ok(())
    });
}

const INTERRUPTED: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  terminationGracePeriodSeconds: 8
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "trap '' TERM; echo runs; while :; do sleep 0.1; done"]
    lifecycle:
      preStop: { exec: { command: [sh, -c, "echo begun >> /out/hook; sleep 5"] } }
    volumeMounts: [{ name: out, mountPath: /out }]
  volumes:
  - name: out
    hostPath: { path: OUT, type: Directory }
"#;
