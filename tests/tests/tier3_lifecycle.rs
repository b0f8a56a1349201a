//! Real containers: manifests come, change and go; containers end and are started again.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::agent::PodView as _;
use tests::scenario::with_agent;
use tests::wait::{eventually, throughout};
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);

/// A pod of one container that runs `script`, and says so in the environment variable `VERSION`.
fn pod(name: &str, version: &str, script: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: busybox:1.36
    env:
    - name: VERSION
      value: "{version}"
    command: [sh, -c, "{script}"]
"#
    )
}

/// Runs until it is asked to stop, and then stops at once.
const IDLE: &str = "trap 'exit 0' TERM; echo version $VERSION; sleep 100000 & wait";

#[test]
fn edits_in_quick_succession_end_in_the_last_state() {
    with_agent(async |node, agent| {
        let pause = || tokio::time::sleep(Duration::from_millis(30));
        for round in 0..3 {
            for version in 0..4 {
                node.put("a.yaml", &pod("a", &format!("{round}.{version}"), IDLE))?;
                node.put("short.yaml", &pod("short", "x", IDLE))?;
                pause().await;
            }
            node.remove("a.yaml")?;
            node.remove("short.yaml")?;
            pause().await;
            node.put("a.yaml", &pod("a", &format!("{round}.again"), IDLE))?;
            pause().await;
        }
        node.put("a.yaml", &pod("a", "last", IDLE))?;
        // The same pod from another file is another pod of the same name: the old one has to go first.
        fs::rename(
            node.manifests().join("a.yaml"),
            node.manifests().join("b.yaml"),
        )?;
        let (pod, running) = eventually("one pod, of the last state", LIMIT * 2, async || {
            let pods = agent.pods()?;
            let running = node.running()?;
            let lines: Vec<String> = pods.iter().map(|pod| pod.describe()).collect();
            ensure!(
                pods.len() == 1 && running.len() == 2,
                "{lines:?}, running {running:?}"
            );
            let status = pods[0].container("main")?;
            ensure!(status.ready, "{lines:?}");
            let version = agent.container_log(&pods[0], "main")?;
            ensure!(version == "version last\n", "{version:?}");
            Ok((pods[0].clone(), running))
        })
        .await?;
        ensure!(pod.metadata.name.as_deref() == Some("a-node"));
        throughout("nothing else comes", Duration::from_secs(3), async || {
            ensure!(node.running()? == running, "{:?}", node.running()?);
            Ok(())
        })
        .await
    });
}

#[test]
fn fifty_manifests_at_once_all_run() {
    with_agent(async |node, agent| {
        let start = Instant::now();
        for n in 0..50 {
            node.put(&format!("{n}.yaml"), &pod(&format!("p{n}"), "1", IDLE))?;
        }
        let pods = eventually("fifty pods are ready", LIMIT * 3, async || {
            let pods = agent.pods()?;
            let ready = |p: &&k8s_openapi::api::core::v1::Pod| p.statuses().iter().all(|s| s.ready);
            let running = pods.iter().filter(|p| p.phase() == "Running");
            let ready = running.filter(ready).count();
            ensure!(ready == 50, "{ready} of {} are", pods.len());
            Ok(pods)
        })
        .await?;
        println!("50 pods ready after {:.1?}", start.elapsed());
        let addresses: BTreeSet<&str> = pods.iter().map(|pod| pod.ip()).collect();
        ensure!(addresses.len() == 50, "{addresses:?}");
        ensure!(
            node.running()?.len() == 100,
            "a sandbox and a container each"
        );
        ensure!(
            pods.iter()
                .all(|pod| pod.statuses().iter().all(|s| s.restart_count == 0))
        );
        for n in 0..50 {
            node.remove(&format!("{n}.yaml"))?;
        }
        eventually("all are gone", LIMIT * 2, async || {
            let running = node.running()?.len();
            ensure!(running == 0, "{running} tasks run");
            Ok(())
        })
        .await
    });
}

#[test]
fn a_killed_container_is_back_and_its_neighbour_stays() {
    with_agent(async |node, agent| {
        node.put("pair.yaml", PAIR)?;
        let before = agent.ready("pair", LIMIT).await?;
        let victim = before.container("victim")?;
        ensure!(victim.restart_count == 0);
        let id = victim.container_id.clone().context("no container id")?;
        let start = Instant::now();
        node.kill_container(&id)?;
        let after = eventually("the victim is back", LIMIT, async || {
            let pod = agent.ready("pair", LIMIT).await?;
            let status = pod.container("victim")?;
            ensure!(status.restart_count == 1, "{}", pod.describe());
            Ok(pod)
        })
        .await?;
        println!("replaced after {:.0?}", start.elapsed());
        let victim = after.container("victim")?;
        ensure!(victim.container_id.as_ref() != Some(&id));
        let last = victim
            .last_state
            .as_ref()
            .and_then(|s| s.terminated.as_ref());
        let last = last.context("no last state")?;
        ensure!(last.exit_code == 137 && last.container_id.as_ref() == Some(&id));
        ensure!(before.uid() == after.uid() && before.ip() == after.ip());
        let neighbour = |pod: &k8s_openapi::api::core::v1::Pod| {
            pod.instances()
                .into_iter()
                .find(|(name, _, _)| name == "neighbour")
        };
        ensure!(neighbour(&before).is_some() && neighbour(&before) == neighbour(&after));
        Ok(())
    });
}

const PAIR: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: pair
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: victim
    image: busybox:1.36
    command: [sleep, "100000"]
  - name: neighbour
    image: busybox:1.36
    command: [sleep, "100000"]
"#;

#[test]
fn a_crash_loop_backs_off_and_no_other_pod_notices() {
    with_agent(async |node, agent| {
        node.put("calm.yaml", &pod("calm", "1", IDLE))?;
        let calm = agent.ready("calm", LIMIT).await?.instances();
        node.put("crash.yaml", &pod("crash", "1", "exit 7"))?;
        let second_ended = eventually("the crash loop backs off", LIMIT, async || {
            let pod = agent.pod("crash")?;
            let status = pod.container("main")?;
            let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
            let waiting = waiting.with_context(|| pod.describe())?;
            ensure!(
                waiting.reason.as_deref() == Some("CrashLoopBackOff"),
                "{}",
                pod.describe()
            );
            let message = waiting.message.as_deref().unwrap_or_default();
            let expected = format!(
                "back-off 10s restarting failed container=main pod=crash-node_default({})",
                pod.uid()
            );
            ensure!(message == expected, "{message}");
            let last = status
                .last_state
                .as_ref()
                .and_then(|s| s.terminated.as_ref());
            let last = last.with_context(|| pod.describe())?;
            ensure!(last.exit_code == 7 && last.reason.as_deref() == Some("Error"));
            ensure!(status.restart_count == 1 && pod.phase() == "Running");
            Ok(last.finished_at.clone())
        })
        .await?;
        // It holds back for ten seconds, and then tries again. The times are the runtime's, in whole seconds. The third
        // attempt lives for milliseconds: whoever looks late finds it as the last state of a container that waits.
        let held_back = eventually("the third attempt", LIMIT, async || {
            let pod = agent.pod("crash")?;
            let status = pod.container("main")?;
            ensure!(status.restart_count == 2, "{}", pod.describe());
            let state = status.state.clone().unwrap_or_default();
            let last = status.last_state.clone().unwrap_or_default().terminated;
            let last = last.with_context(|| pod.describe())?;
            let running = state.running.and_then(|r| r.started_at);
            let ended = state.terminated.and_then(|t| t.started_at);
            let (started, before) = match running.or(ended) {
                Some(started) => (Some(started), last.finished_at),
                None => (last.started_at, second_ended.clone()),
            };
            let (started, before) = started.zip(before).with_context(|| pod.describe())?;
            let held_back = started.0.as_second() - before.0.as_second();
            // Created and not started yet: the last state is still that of the second attempt.
            ensure!(held_back > 0, "{}", pod.describe());
            Ok(held_back)
        })
        .await?;
        ensure!((9..25).contains(&held_back), "{held_back} s");
        ensure!(agent.pod("calm")?.instances() == calm);
        Ok(())
    });
}

#[test]
fn deletion_asks_first_and_kills_after_the_grace_period() {
    with_agent(async |node, agent| {
        let out = node.path("out");
        fs::create_dir(&out)?;
        let manifest = GRACE.replace("OUT", &out.display().to_string());
        node.put("grace.yaml", &manifest)?;
        let pod = agent.ready("grace", LIMIT).await?;
        for file in ["polite.ready", "stubborn.ready"] {
            eventually("the traps are set", LIMIT, async || {
                ensure!(out.join(file).exists(), "no {file}");
                Ok(())
            })
            .await?;
        }
        let start = Instant::now();
        node.remove("grace.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        let took = start.elapsed();
        // The polite one had the second it wanted; the stubborn one lived its four seconds, and no longer.
        let polite = fs::read_to_string(out.join("polite"))?;
        ensure!(polite == "asked\nfinished\n", "{polite:?}");
        let stubborn = fs::read_to_string(out.join("stubborn"))?;
        ensure!(stubborn == "asked\n", "{stubborn:?}");
        let seconds = took.as_secs_f32();
        ensure!((3.5..12.0).contains(&seconds), "it took {took:?}");
        Ok(())
    });
}

const GRACE: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: grace
spec:
  terminationGracePeriodSeconds: 4
  containers:
  - name: polite
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      trap 'echo asked >> /out/polite; sleep 1; echo finished >> /out/polite; exit 0' TERM
      touch /out/polite.ready
      sleep 100000 & wait
    volumeMounts:
    - { name: out, mountPath: /out }
  - name: stubborn
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      trap 'echo asked >> /out/stubborn' TERM
      touch /out/stubborn.ready
      while :; do sleep 0.1; done
    volumeMounts:
    - { name: out, mountPath: /out }
  volumes:
  - name: out
    hostPath: { path: OUT, type: Directory }
"#;

#[test]
fn restart_policies_decide_the_final_phase() {
    with_agent(async |node, agent| {
        for (name, policy, script) in [
            ("never-good", "Never", "exit 0"),
            ("never-bad", "Never", "exit 3"),
            ("failure-good", "OnFailure", "exit 0"),
            // Fails once, and then finds its own trace.
            (
                "failure-once",
                "OnFailure",
                "test -e /keep/x || { touch /keep/x; exit 5; }",
            ),
        ] {
            let manifest = RUN_ONCE.replace("NAME", name);
            let manifest = manifest.replace("POLICY", policy).replace("SCRIPT", script);
            node.put(&format!("{name}.yaml"), &manifest)?;
        }
        for (name, phase, code, restarts) in [
            ("never-good", "Succeeded", 0, 0),
            ("never-bad", "Failed", 3, 0),
            ("failure-good", "Succeeded", 0, 0),
            ("failure-once", "Succeeded", 0, 1),
        ] {
            let pod = agent.phase(name, phase, LIMIT).await?;
            let status = pod.container("main")?;
            ensure!(status.restart_count == restarts, "{}", pod.describe());
            let ended = status.state.as_ref().and_then(|s| s.terminated.as_ref());
            let ended = ended.with_context(|| pod.describe())?;
            let reason = if code == 0 { "Completed" } else { "Error" };
            ensure!(
                ended.exit_code == code && ended.reason.as_deref() == Some(reason),
                "{}",
                pod.describe()
            );
        }
        // What has ended stays ended.
        throughout("no task runs", Duration::from_secs(2), async || {
            let containers: usize = node.running()?.len();
            ensure!(containers == 0 || agent.is_foreign(), "{containers} run");
            for name in ["never-good", "never-bad", "failure-good"] {
                ensure!(agent.pod(name)?.container("main")?.restart_count == 0);
            }
            Ok(())
        })
        .await
    });
}

const RUN_ONCE: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  restartPolicy: POLICY
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "SCRIPT"]
    volumeMounts:
    - { name: keep, mountPath: /keep }
  volumes:
  - name: keep
    emptyDir: {}
"#;

#[test]
fn init_containers_run_one_after_another_before_the_others() {
    with_agent(async |node, agent| {
        node.put("init.yaml", include_str!("../../examples/init.yaml"))?;
        let pod = agent.ready("init", LIMIT).await?;
        let log = agent.logged(&pod, "main", "main", LIMIT).await?;
        ensure!(log == "first\nsecond\nmain\n", "{log:?}");
        for name in ["first", "second"] {
            let status = pod.container(name)?;
            let ended = status.state.as_ref().and_then(|s| s.terminated.as_ref());
            let ended = ended.with_context(|| format!("{name} has not ended"))?;
            ensure!(ended.exit_code == 0 && status.ready, "{status:?}");
        }
        Ok(())
    });
}
