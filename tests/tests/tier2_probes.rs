//! The whole agent on a fake runtime: what probes find reaches status and plan.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::PodView as _;
use tests::fake_runtime::{ExecAnswer, Program};
use tests::in_process::{FakeNode, LIMIT, subject, with_agent};
use tests::wait::{eventually, eventually_asking_each, throughout};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn pod(name: &str, probes: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 3, \
         containers: [{{name: main, image: 'busybox:1', {probes}}}]}}}}"
    )
}

const READY: &str =
    "readinessProbe: {exec: {command: [ready]}, periodSeconds: 1, failureThreshold: 1}";

/// Answers each command with 0 while its switch is on, and notes when it did not.
#[derive(Clone)]
struct Switch {
    passes: Arc<AtomicBool>,
    failed_at: Arc<Mutex<Option<Instant>>>,
}

impl Switch {
    fn of(node: &FakeNode, container: &str, passes: bool) -> Self {
        let switch = Self {
            passes: Arc::new(AtomicBool::new(passes)),
            failed_at: Arc::default(),
        };
        let own = switch.clone();
        node.runtime.exec(&subject(container), move |_| {
            let passes = own.passes.load(Ordering::SeqCst);
            if !passes {
                let mut failed_at = own.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a test measures on its own clock"
                )]
                failed_at.get_or_insert_with(Instant::now);
            }
            ExecAnswer::code(i32::from(!passes))
        });
        switch
    }

    fn set(&self, passes: bool) {
        self.passes.store(passes, Ordering::SeqCst);
    }
}

fn condition(pod: &Pod, kind: &str) -> Result<(bool, String)> {
    let status = pod.status.as_ref().context("no status")?;
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == kind);
    let condition = condition.with_context(|| format!("no condition {kind}"))?;
    let since = condition.last_transition_time.as_ref();
    Ok((
        condition.status == "True",
        since.map(|t| t.0.to_string()).unwrap_or_default(),
    ))
}

#[test]
fn ready_follows_the_failing_probe_within_50_milliseconds() {
    with_agent(async |node| {
        let switch = Switch::of(node, "a/main", false);
        node.put("a.yaml", &pod("a", READY))?;
        let running = eventually("it runs, and is not ready", LIMIT, async || {
            let pod = node.pod("a")?;
            ensure!(pod.phase() == "Running", "{}", pod.describe());
            Ok(pod)
        })
        .await?;
        ensure!(!condition(&running, "Ready")?.0);
        switch.set(true);
        node.ready("a").await?;
        for _ in 0..3 {
            *switch.failed_at.lock().unwrap() = None;
            switch.set(false);
            eventually_asking_each(MILLI, "it is not ready", LIMIT, async || {
                ensure!(!condition(&node.pod("a")?, "Ready")?.0);
                Ok(())
            })
            .await?;
            let failed_at = switch.failed_at.lock().unwrap().context("nothing failed")?;
            let took = failed_at.elapsed();
            ensure!(
                took < 50 * MILLI,
                "Ready came {took:?} after the failing probe"
            );
            switch.set(true);
            node.ready("a").await?;
        }
        ensure!(
            node.running_now("a/main")[0]
                .config
                .metadata
                .clone()
                .unwrap_or_default()
                .attempt
                == 0
        );
        let log = node.log();
        ensure!(log.contains("Readiness probe failed: "), "{log}");
        Ok(())
    });
}

/// A worker that waits for a container to stop is no reason for another one's readiness to wait.
#[test]
fn ready_follows_the_probe_while_another_container_is_being_stopped() {
    with_agent(async |node| {
        let switch = Switch::of(node, "a/main", true);
        let dead = Switch::of(node, "a/deaf", true);
        node.runtime
            .program("deaf", Program::forever().ignoring_stop());
        let deaf =
            "livenessProbe: {exec: {command: [alive]}, periodSeconds: 1, failureThreshold: 1}";
        let manifest = pod("a", READY)
            .replace("Seconds: 3, ", "Seconds: 8, ")
            .replace(
                "}]}}",
                &format!("}}, {{name: deaf, image: 'busybox:1', {deaf}}}]}}}}"),
            );
        node.put("a.yaml", &manifest)?;
        node.ready("a").await?;
        dead.set(false);
        eventually("the other container is being stopped", LIMIT, async || {
            ensure!(!node.runtime.calls_of("StopContainer").is_empty());
            Ok(())
        })
        .await?;
        ensure!(condition(&node.pod("a")?, "Ready")?.0);
        switch.set(false);
        let not_ready = eventually_asking_each(MILLI, "it is not ready", LIMIT, async || {
            let pod = node.pod("a")?;
            ensure!(!condition(&pod, "Ready")?.0);
            ensure!(pod.container("deaf")?.ready && !pod.container("main")?.ready);
            Ok(pod)
        })
        .await?;
        let failed_at = switch.failed_at.lock().unwrap().context("nothing failed")?;
        let took = failed_at.elapsed();
        ensure!(
            took < 50 * MILLI,
            "Ready came {took:?} after the failing probe"
        );
        ensure!(
            node.running_now("a/deaf")[0]
                .config
                .metadata
                .clone()
                .unwrap_or_default()
                .attempt
                == 0
        );
        // And it has flipped once, whatever is published afterwards.
        let since = condition(&not_ready, "Ready")?;
        eventually("the other container is replaced", LIMIT, async || {
            let pod = node.pod("a")?;
            ensure!(
                pod.container("deaf")?.restart_count == 1,
                "{}",
                pod.describe()
            );
            ensure!(
                condition(&pod, "Ready")? == since,
                "{:?} {since:?}",
                condition(&pod, "Ready")?
            );
            Ok(())
        })
        .await
    });
}

#[test]
fn a_container_that_does_not_live_is_replaced() {
    with_agent(async |node| {
        let switch = Switch::of(node, "a/main", false);
        let probe =
            "livenessProbe: {exec: {command: [alive]}, periodSeconds: 1, failureThreshold: 2}";
        node.put("a.yaml", &pod("a", probe))?;
        eventually("it is replaced", LIMIT, async || {
            let pod = node.pod("a")?;
            ensure!(
                pod.container("main")?.restart_count == 1,
                "{}",
                pod.describe()
            );
            Ok(())
        })
        .await?;
        switch.set(true);
        node.ready("a").await?;
        let log = node.log();
        ensure!(log.contains("Liveness probe failed: "), "{log}");
        ensure!(
            log.contains("Container main failed liveness probe, will be restarted"),
            "{log}"
        );
        throughout("it lives on", 3 * SECOND, async || {
            ensure!(node.pod("a")?.container("main")?.restart_count == 1);
            Ok(())
        })
        .await
    });
}

#[test]
fn the_other_probes_wait_for_the_startup_probe() {
    with_agent(async |node| {
        let commands: Arc<Mutex<Vec<String>>> = Arc::default();
        let passes = Arc::new(AtomicBool::new(false));
        let (noted, passing) = (commands.clone(), passes.clone());
        node.runtime.exec(&subject("a/main"), move |command| {
            noted.lock().unwrap().push(command.join(" "));
            let started = passing.load(Ordering::SeqCst);
            // Before it has started, nothing but a failure can be got from it.
            ExecAnswer::code(i32::from(!started))
        });
        let probes = format!(
            "{READY}, startupProbe: {{exec: {{command: [started]}}, periodSeconds: 1, failureThreshold: 60}}, \
             livenessProbe: {{exec: {{command: [alive]}}, periodSeconds: 1, failureThreshold: 1}}"
        );
        node.put("a.yaml", &pod("a", &probes))?;
        eventually(
            "it is asked three times whether it has started",
            LIMIT,
            async || {
                ensure!(commands.lock().unwrap().len() >= 3);
                Ok(())
            },
        )
        .await?;
        let pod = node.pod("a")?;
        ensure!(
            pod.container("main")?.started == Some(false),
            "{}",
            pod.describe()
        );
        ensure!(commands.lock().unwrap().iter().all(|c| c == "started"));
        passes.store(true, Ordering::SeqCst);
        let pod = node.ready("a").await?;
        ensure!(pod.container("main")?.started == Some(true));
        ensure!(pod.container("main")?.restart_count == 0);
        let asked = commands.lock().unwrap().len();
        eventually("it is asked whether it lives", LIMIT, async || {
            ensure!(
                commands.lock().unwrap()[asked..]
                    .iter()
                    .any(|c| c == "alive")
            );
            Ok(())
        })
        .await?;
        ensure!(
            commands.lock().unwrap()[asked..]
                .iter()
                .all(|c| c != "started")
        );
        Ok(())
    });
}

#[test]
fn a_new_agent_flips_nothing() {
    with_agent(async |node| {
        let _passes = Switch::of(node, "a/main", true);
        let _fails = Switch::of(node, "b/main", false);
        let probes = format!(
            "{READY}, startupProbe: {{exec: {{command: [started]}}, periodSeconds: 1, failureThreshold: 60}}"
        );
        node.put("a.yaml", &pod("a", &probes))?;
        node.put("b.yaml", &pod("b", READY))?;
        let before = node.ready("a").await?;
        let other = node.phase("b", "Running").await?;
        for _ in 0..3 {
            node.kill_agent()?;
            node.start_agent()?;
            let mut shown = 0;
            throughout("Ready is as it was", 2 * SECOND, async || {
                for (name, before) in [("a", &before), ("b", &other)] {
                    let Ok(pod) = node.pod(name) else { continue };
                    shown += 1;
                    for kind in ["Ready", "ContainersReady"] {
                        let (was, is) = (condition(before, kind)?, condition(&pod, kind)?);
                        ensure!(was == is, "{name} {kind}: was {was:?}, is {is:?}");
                    }
                    if let Ok(container) = pod.container("main")
                        && container
                            .state
                            .as_ref()
                            .is_some_and(|s| s.running.is_some())
                    {
                        ensure!(
                            container.started == Some(true) && container.ready == (name == "a")
                        );
                    }
                }
                Ok(())
            })
            .await?;
            ensure!(shown > 20, "the pods were shown {shown} times");
        }
        Ok(())
    });
}

#[test]
fn a_command_that_takes_too_long_fails_and_never_runs_twice() {
    with_agent(async |node| {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let noted = calls.clone();
        node.runtime.exec(&subject("a/main"), move |_| {
            #[expect(
                clippy::disallowed_methods,
                reason = "a test measures on its own clock"
            )]
            noted.lock().unwrap().push(Instant::now());
            ExecAnswer {
                takes: 60 * SECOND,
                ..ExecAnswer::default()
            }
        });
        node.put("a.yaml", &pod("a", READY))?;
        eventually("it is asked four times", LIMIT, async || {
            ensure!(calls.lock().unwrap().len() >= 4);
            Ok(())
        })
        .await?;
        let log = node.log();
        let text = "Readiness probe failed: command timed out: \"ready\" timed out after 1s";
        ensure!(log.contains(text), "{log}");
        let calls = calls.lock().unwrap();
        // The runtime answers a second after the agent has given a command up; the next one waits for that.
        for pair in calls.windows(2) {
            let between = pair[1] - pair[0];
            ensure!(between > 1900 * MILLI, "the next one after {between:?}");
        }
        Ok(())
    });
}

#[test]
fn a_panic_in_a_probes_task_is_shown_and_the_task_begun_again() {
    with_agent(async |node| {
        let switch = Switch::of(node, "a/main", false);
        node.panic_at(&["Unhealthy", "Readiness probe failed"]);
        node.put("a.yaml", &pod("a", READY))?;
        eventually("the panic is shown", LIMIT, async || {
            let log = node.log();
            ensure!(log.contains("a probe's task panicked"), "{log}");
            ensure!(
                log.contains(
                    "Readiness probe errored and resulted in unknown state: the agent failed"
                ),
                "{log}"
            );
            Ok(())
        })
        .await?;
        switch.set(true);
        node.ready("a").await?;
        Ok(())
    });
}

#[test]
fn a_pod_that_ends_is_asked_only_whether_it_is_ready() {
    with_agent(async |node| {
        let commands: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = commands.clone();
        node.runtime.exec(&subject("a/main"), move |command| {
            noted.lock().unwrap().push(command.join(" "));
            ExecAnswer::code(0)
        });
        node.runtime
            .program("main", Program::forever().stopping_with(0, 5 * SECOND));
        let probes =
            format!("{READY}, livenessProbe: {{exec: {{command: [alive]}}, periodSeconds: 1}}");
        let manifest = pod("a", &probes).replace("Seconds: 3", "Seconds: 30");
        node.put("a.yaml", &manifest)?;
        let pod = node.ready("a").await?;
        eventually("it is asked whether it lives", LIMIT, async || {
            ensure!(commands.lock().unwrap().iter().any(|c| c == "alive"));
            Ok(())
        })
        .await?;
        node.remove("a.yaml")?;
        eventually("it is being stopped", LIMIT, async || {
            ensure!(!node.runtime.calls_of("StopContainer").is_empty());
            Ok(())
        })
        .await?;
        commands.lock().unwrap().clear();
        node.gone(&pod).await?;
        let asked = commands.lock().unwrap().clone();
        ensure!(
            asked.len() >= 3 && asked.iter().all(|c| c == "ready"),
            "{asked:?}"
        );
        Ok(())
    });
}
