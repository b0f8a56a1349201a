//! The whole agent on a fake runtime: hooks that last, fail and are cut short, and ends of pods that do not come.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::fake_runtime::{ExecAnswer, Fault, Program};
use tests::in_process::{FakeNode, LIMIT, subject, with_agent, with_node};
use tests::wait::{eventually, throughout};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const FOR_EVER: Duration = Duration::from_secs(100_000);

fn manifest(name: &str, grace: u32, containers: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: {grace}, \
         containers: [{containers}]}}}}"
    )
}

const POST_START: &str =
    "{name: main, image: 'busybox:1', lifecycle: {postStart: {exec: {command: [hook]}}}}";
const PRE_STOP: &str =
    "{name: main, image: 'busybox:1', lifecycle: {preStop: {exec: {command: [hook]}}}}";
const NEXT: &str = "{name: next, image: 'busybox:1'}";

fn exec(node: &FakeNode, container: &str, takes: Duration) {
    node.runtime.exec(&subject(container), move |_| ExecAnswer {
        takes,
        ..ExecAnswer::default()
    });
}

async fn asked(node: &FakeNode, method: &str, times: usize) -> Result<()> {
    let what = format!("{method} is called {times} times");
    eventually(&what, LIMIT, async || {
        let calls = node.runtime.calls_of(method).len();
        ensure!(calls >= times, "{calls} calls");
        Ok(())
    })
    .await
}

/// Seconds from the first call of `from` to the first call of `to`.
fn between(node: &FakeNode, from: &str, to: &str) -> Result<f64> {
    let began = |method: &str| {
        let calls = node.runtime.calls_of(method);
        calls
            .first()
            .map(|call| call.began)
            .with_context(|| format!("no {method}"))
    };
    Ok((began(to)? - began(from)?).as_secs_f64())
}

#[test]
fn hooks_that_last_hold_up_their_own_pod_and_nobody_elses() {
    with_agent(async |node| {
        // More than there are places for starts.
        for n in 0..12 {
            exec(node, &format!("slow{n}/main"), FOR_EVER);
            let containers = format!("{POST_START}, {NEXT}");
            node.put(
                &format!("slow{n}.yaml"),
                &manifest(&format!("slow{n}"), 1, &containers),
            )?;
        }
        asked(node, "ExecSync", 12).await?;
        let start = Instant::now();
        node.put("quick.yaml", &manifest("quick", 1, NEXT))?;
        node.ready("quick").await?;
        ensure!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
        for n in 0..12 {
            let pod = node.pod(&format!("slow{n}"))?;
            let main = pod.container("main")?;
            let waiting = main.state.as_ref().and_then(|s| s.waiting.as_ref());
            let reason = waiting.and_then(|w| w.reason.as_deref());
            ensure!(
                pod.phase() == "Pending"
                    && reason == Some("ContainerCreating")
                    && main.started == Some(false),
                "{}",
                pod.describe()
            );
        }
        ensure!(node.running_now("slow0/next").is_empty());
        // Told to stop, it does not wait for its hook.
        let pod = node.pod("slow0")?;
        let start = Instant::now();
        node.remove("slow0.yaml")?;
        node.gone(&pod).await?;
        ensure!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
        Ok(())
    });
}

#[test]
fn the_status_of_others_goes_on_while_a_hook_runs() {
    with_agent(async |node| {
        exec(node, "a/main", FOR_EVER);
        let containers = format!("{NEXT}, {POST_START}");
        node.put("a.yaml", &manifest("a", 1, &containers))?;
        asked(node, "ExecSync", 1).await?;
        let next = node.running("a/next", 1).await?;
        node.runtime.kill_container(&next[0].id, 7);
        eventually("the end of the other container shows", LIMIT, async || {
            let pod = node.pod("a")?;
            let ended = pod
                .container("next")?
                .state
                .clone()
                .and_then(|s| s.terminated);
            ensure!(
                ended.is_some_and(|end| end.exit_code == 7),
                "{}",
                pod.describe()
            );
            Ok(())
        })
        .await
    });
}

#[test]
fn a_container_whose_hook_runs_is_not_probed() {
    with_agent(async |node| {
        let hook = 4 * SECOND;
        node.runtime.exec(&subject("a/main"), move |command| {
            let is_hook = command.first().is_some_and(|word| word == "hook");
            ExecAnswer {
                takes: if is_hook { hook } else { Duration::ZERO },
                ..ExecAnswer::default()
            }
        });
        let probed = "{name: main, image: 'busybox:1', lifecycle: {postStart: {exec: {command: [hook]}}}, \
                      readinessProbe: {periodSeconds: 1, exec: {command: [ready]}}}";
        node.put("a.yaml", &manifest("a", 1, probed))?;
        node.ready("a").await?;
        let asked = node.runtime.calls_of("ExecSync");
        let [hooked, probed, ..] = asked.as_slice() else {
            anyhow::bail!("{} commands", asked.len());
        };
        let after = probed.began - hooked.began;
        ensure!(
            (hook..hook + 2 * SECOND).contains(&after),
            "probed {after:?} after the hook began"
        );
        Ok(())
    });
}

#[test]
fn a_hook_that_is_never_answered_does_not_outlive_its_sandbox() {
    with_agent(async |node| {
        node.runtime.fault(Fault::on("ExecSync").times(1).hangs());
        node.put("a.yaml", &manifest("a", 1, POST_START))?;
        asked(node, "ExecSync", 1).await?;
        node.runtime.kill_sandbox(&node.runtime.sandboxes()[0].id);
        let pod = node.ready("a").await?;
        ensure!(
            pod.container("main")?.restart_count == 1,
            "{}",
            pod.describe()
        );
        ensure!(node.runtime.calls_of("ExecSync").len() == 2);
        ensure!(node.runtime.violations().is_empty());
        Ok(())
    });
}

#[test]
fn an_agent_that_comes_back_runs_no_post_start_again() {
    with_agent(async |node| {
        exec(node, "a/main", 2 * SECOND);
        node.put("a.yaml", &manifest("a", 1, POST_START))?;
        asked(node, "ExecSync", 1).await?;
        // In the midst of it.
        node.kill_agent()?;
        node.start_agent()?;
        let first = node.ready("a").await?;
        node.kill_agent()?;
        node.start_agent()?;
        throughout("it stays as it is", 3 * SECOND, async || {
            // Until it has looked at the runtime, it shows what it has on file, and no containers.
            if let Ok(pod) = node.pod("a")
                && pod.instances().iter().all(|(_, id, _)| !id.is_empty())
            {
                ensure!(pod.instances() == first.instances(), "{}", pod.describe());
            }
            Ok(())
        })
        .await?;
        let calls = node.runtime.calls_of("ExecSync").len();
        ensure!(calls == 1, "{calls} calls");
        ensure!(node.ready("a").await?.instances() == first.instances());
        Ok(())
    });
}

#[test]
fn a_pre_stop_hook_is_run_once_whatever_happens_to_the_stop() {
    with_agent(async |node| {
        exec(node, "a/main", SECOND);
        let fault = Fault::on("StopContainer").times(2);
        let fault = fault.fails(tests::fake_runtime::Code::Internal, "not now");
        node.runtime.fault(fault);
        node.put("a.yaml", &manifest("a", 20, PRE_STOP))?;
        let pod = node.ready("a").await?;
        node.remove("a.yaml")?;
        asked(node, "StopContainer", 1).await?;
        node.kill_agent()?;
        node.start_agent()?;
        node.gone(&pod).await?;
        ensure!(node.runtime.calls_of("ExecSync").len() == 1);
        ensure!(node.runtime.calls_of("StopContainer").len() == 3);
        let hook = between(node, "ExecSync", "StopContainer")?;
        ensure!((0.9..1.5).contains(&hook), "asked to stop after {hook} s");
        Ok(())
    });
}

#[test]
fn a_hook_and_a_signal_share_the_grace_period() {
    with_agent(async |node| {
        exec(node, "a/main", FOR_EVER);
        node.runtime
            .program(&subject("a/main"), Program::forever().ignoring_stop());
        node.put("a.yaml", &manifest("a", 3, PRE_STOP))?;
        let pod = node.ready("a").await?;
        let start = Instant::now();
        node.remove("a.yaml")?;
        node.gone(&pod).await?;
        let took = start.elapsed().as_secs_f64();
        let hook = between(node, "ExecSync", "StopContainer")?;
        ensure!((2.9..3.5).contains(&hook), "asked to stop after {hook} s");
        // The two seconds that every container gets.
        let stop = between(node, "StopContainer", "StopPodSandbox")?;
        ensure!((1.9..2.5).contains(&stop), "stopped after {stop} s");
        ensure!(took < 7.0, "{took} s");
        eventually("the hook's failure is told", LIMIT, async || {
            ensure!(node.log().contains("FailedPreStopHook"));
            Ok(())
        })
        .await
    });
}

#[test]
fn no_hook_is_run_in_a_container_that_has_ended() {
    with_agent(async |node| {
        let containers = format!("{PRE_STOP}, {NEXT}");
        let never = manifest("a", 5, &containers).replace(
            "{terminationGrace",
            "{restartPolicy: Never, terminationGrace",
        );
        node.runtime
            .program(&subject("a/main"), Program::exits(0, SECOND));
        node.put("a.yaml", &never)?;
        let pod = eventually("one of two has ended", LIMIT, async || {
            let pod = node.pod("a")?;
            let ended = pod
                .container("main")?
                .state
                .clone()
                .and_then(|s| s.terminated);
            ensure!(ended.is_some(), "{}", pod.describe());
            Ok(pod)
        })
        .await?;
        node.remove("a.yaml")?;
        node.gone(&pod).await?;
        ensure!(node.runtime.calls_of("ExecSync").is_empty());
        Ok(())
    });
}

#[test]
fn an_orphan_is_ended_with_its_own_hook_and_grace() {
    with_agent(async |node| {
        exec(node, "a/main", SECOND);
        node.put("a.yaml", &manifest("a", 9, PRE_STOP))?;
        let pod = node.ready("a").await?;
        node.kill_agent()?;
        node.remove("a.yaml")?;
        // Nothing is left but what the runtime holds.
        std::fs::remove_dir_all(node.path("kubelet").join("manifests")).ok();
        std::fs::remove_dir_all(node.pod_dir(&pod))?;
        node.start_agent()?;
        node.gone(&pod).await?;
        ensure!(node.runtime.calls_of("ExecSync").len() == 1);
        Ok(())
    });
}

#[test]
fn a_sandbox_that_does_not_stop_blocks_its_successor_alone_and_says_so() {
    with_agent(async |node| {
        node.put("a.yaml", &manifest("a", 1, NEXT))?;
        let old = node.ready("a").await?;
        let fault = Fault::on("StopPodSandbox").about(&subject("a"));
        node.runtime.fault(fault.hangs());
        node.put("a.yaml", &manifest("a", 2, NEXT))?;
        asked(node, "StopPodSandbox", 1).await?;
        node.put("b.yaml", &manifest("b", 1, NEXT))?;
        node.ready("b").await?;
        eventually("the successor says what it waits for", LIMIT, async || {
            let pod = node.pod("a")?;
            let message = pod
                .status
                .as_ref()
                .and_then(|s| s.message.clone())
                .unwrap_or_default();
            ensure!(
                pod.uid() != old.uid() && pod.phase() == "Pending",
                "{}",
                pod.describe()
            );
            ensure!(
                message.contains("the pod that had this name before to stop: sandbox ")
                    && message.contains("StopPodSandbox after "),
                "{message:?}"
            );
            Ok(())
        })
        .await?;
        let log = node.log();
        for words in ["ExceededGracePeriod", "pod is stuck terminating"] {
            ensure!(log.contains(words), "{words} is not in the log");
        }
        // After a restart it goes on where it was.
        node.kill_agent()?;
        node.runtime.clear_faults();
        node.start_agent()?;
        node.ready("a").await?;
        ensure!(node.runtime.violations().is_empty());
        Ok(())
    });
}

#[test]
fn a_pod_that_is_back_before_all_is_given_back_shows_what_it_waits_for() {
    with_node(async |node| {
        node.start_agent()?;
        node.put("a.yaml", &manifest("a", 1, NEXT))?;
        let pod = node.ready("a").await?;
        let held = node.pod_dir(&pod).join("held");
        std::fs::create_dir(&held)?;
        let mount = |program: &str, options: &[&str]| -> Result<()> {
            let done = Command::new(program).args(options).arg(&held).status()?;
            ensure!(done.success(), "{program}: {done}");
            Ok(())
        };
        mount("mount", &["-t", "tmpfs", "none"])?;
        let blocked = async {
            node.remove("a.yaml")?;
            eventually("its directory cannot be given back", LIMIT, async || {
                ensure!(node.log().contains("step=\"directory\""));
                Ok(())
            })
            .await?;
            ensure!(node.pods().is_empty(), "it is shown");
            node.put("a.yaml", &manifest("a", 1, NEXT))?;
            eventually("it says what it waits for", LIMIT, async || {
                let again = node.pod("a")?;
                let message = again.status.as_ref().and_then(|s| s.message.clone());
                let message = message.unwrap_or_default();
                ensure!(
                    again.uid() == pod.uid() && again.phase() == "Pending",
                    "{}",
                    again.describe()
                );
                ensure!(
                    message.contains("directory") && message.contains("held"),
                    "{message:?}"
                );
                Ok(())
            })
            .await
        };
        let blocked = blocked.await;
        mount("umount", &[])?;
        blocked?;
        node.ready("a").await?;
        Ok(())
    });
}
