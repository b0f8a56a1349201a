//! The whole agent on a fake runtime, beside a fake logind on a real D-Bus: the machine shuts down.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::json;
use tests::agent::PodView as _;
use tests::fake_runtime::Program;
use tests::in_process::{FakeNode, LIMIT, subject, with_node};
use tests::logind::FakeLogind;
use tests::wait::{eventually, throughout};
use tokio::time::Instant;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// More than any test asks for.
const AMPLE: Duration = Duration::from_secs(600);
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

fn manifest(name: &str, spec: &str, container: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 8, {spec} \
         containers: [{{name: main, image: 'busybox:1', {container}}}]}}}}"
    )
}

fn plain(name: &str) -> String {
    manifest(name, "", "")
}

const CRITICAL: &str = "priorityClassName: system-node-critical,";

/// Runs `test` on a node whose pods have 20 seconds to end, 10 of them for critical ones, with no agent yet.
fn with_logind(test: impl AsyncFnOnce(&FakeNode, &mut FakeLogind) -> Result<()>) {
    with_logind_of(AMPLE, test);
}

fn with_logind_of(
    delay: Duration,
    test: impl AsyncFnOnce(&FakeNode, &mut FakeLogind) -> Result<()>,
) {
    with_node(async |node| {
        node.configure("shutdownGracePeriod", json!("20s"));
        node.configure("shutdownGracePeriodCriticalPods", json!("10s"));
        let mut logind = FakeLogind::start(node, delay).await?;
        test(node, &mut logind).await
    });
}

/// Has every pod of `names` take a moment to end, and waits for them and for the lock.
async fn begin(node: &FakeNode, logind: &FakeLogind, names: &[&str]) -> Result<()> {
    for name in names {
        slow(node, name, 500 * MILLI);
        node.put(&format!("{name}.yaml"), &plain(name))?;
    }
    node.start_agent()?;
    for name in names {
        node.ready(name).await?;
    }
    logind.holds(1).await
}

fn slow(node: &FakeNode, pod: &str, takes: Duration) {
    let program = Program::forever().stopping_with(143, takes);
    node.runtime
        .program(&subject(&format!("{pod}/main")), program);
}

fn something_runs(node: &FakeNode) -> bool {
    let containers = node.runtime.containers();
    let sandboxes = node.runtime.sandboxes();
    containers.iter().any(|c| c.running) || sandboxes.iter().any(|s| s.ready)
}

/// Waits until nobody holds the lock any more; until then something has to run, and then nothing may.
async fn released(node: &FakeNode, logind: &FakeLogind) -> Result<()> {
    let begun = Instant::now();
    loop {
        // In this order: what is released later than it is looked at may have ended meanwhile.
        let (held, runs) = (!logind.held().is_empty(), something_runs(node));
        if !held {
            ensure!(!runs, "the lock was given back while something ran");
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            bail!("the lock is still held; something runs: {runs}");
        }
        tokio::time::sleep(5 * MILLI).await;
    }
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

fn reason(pod: &Pod) -> (String, String) {
    let status = pod.status.clone().unwrap_or_default();
    (
        status.reason.unwrap_or_default(),
        status.message.unwrap_or_default(),
    )
}

fn ended_by_shutdown(pod: &Pod) -> Result<()> {
    ensure!(
        pod.phase() == "Failed" && reason(pod) == ("Terminated".into(), MESSAGE.into()),
        "{} {:?}",
        pod.describe(),
        reason(pod)
    );
    let disruption = condition(pod, "DisruptionTarget").context("no DisruptionTarget")?;
    ensure!(
        disruption.status == "True"
            && disruption.reason.as_deref() == Some("TerminationByKubelet")
            && disruption.message.as_deref() == Some(MESSAGE),
        "{disruption:?}"
    );
    Ok(())
}

/// A pod that a shutdown has ended runs again, once.
async fn runs_again(node: &FakeNode, name: &str, before: &Pod) -> Result<()> {
    let pod = eventually(&format!("{name} runs again"), LIMIT, async || {
        let pod = node.ready(name).await?;
        ensure!(pod.instances() != before.instances());
        Ok(pod)
    })
    .await?;
    let main = pod.container("main")?;
    ensure!(
        pod.uid() == before.uid() && main.restart_count == 1,
        "{}",
        pod.describe()
    );
    ensure!(condition(&pod, "DisruptionTarget").is_none());
    ensure!(reason(&pod) == (String::new(), String::new()));
    node.running(&format!("{name}/main"), 1).await.map(drop)
}

#[test]
fn the_lock_is_held_until_the_pods_have_ended_and_no_longer() {
    with_logind(async |node, logind| {
        begin(node, logind, &["a", "b"]).await?;
        let [what, who, why, mode] = &logind.held()[0];
        ensure!((&**what, &**who, &**mode) == ("shutdown", "kubelet", "delay"));
        ensure!(why == "Kubelet needs time to handle node shutdown");
        let started = Instant::now();
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        ensure!(started.elapsed() < 8 * SECOND, "{:?}", started.elapsed());
        for name in ["a", "b"] {
            ended_by_shutdown(&node.pod(name)?)?;
        }
        let file = node.path("kubelet").join("graceful_node_shutdown_state");
        let times: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
        let time = |name: &str| times[name].as_str().unwrap_or_default().to_owned();
        ensure!(time("startTime") < time("endTime"), "{times}");
        ensure!(logind.taken() == 1);
        Ok(())
    });
}

#[test]
fn critical_pods_end_when_the_others_have_though_their_priority_is_only_in_a_class() {
    with_logind(async |node, logind| {
        slow(node, "etcd", 200 * MILLI);
        node.put("etcd.yaml", &manifest("etcd", CRITICAL, ""))?;
        begin(node, logind, &["a", "b"]).await?;
        node.ready("etcd").await?;
        node.runtime.forget_calls();
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        let calls = node.runtime.calls_of("StopContainer");
        let of = |pod: &str| {
            let subject = subject(&format!("{pod}/main"));
            let mut calls = calls.iter();
            calls
                .find(|call| call.subject.ends_with(&subject))
                .with_context(|| format!("{pod} was not stopped: {calls:?}"))
        };
        let begun = of("etcd")?.began;
        for pod in ["a", "b"] {
            let ended = of(pod)?.ended.context("no answer")?;
            ensure!(begun >= ended, "etcd was stopped before {pod} had ended");
        }
        ended_by_shutdown(&node.pod("etcd")?)
    });
}

#[test]
fn windows_are_of_the_priorities_that_are_configured_and_cut_grace_periods_short() {
    with_logind(async |node, logind| {
        node.configure("shutdownGracePeriod", json!("0s"));
        node.configure("shutdownGracePeriodCriticalPods", json!("0s"));
        let window = |priority, seconds| json!({"priority": priority, "shutdownGracePeriodSeconds": seconds});
        let windows = json!([window(1000, 4), window(0, 3)]);
        node.configure("shutdownGracePeriodByPodPriority", windows);
        // Ends only when it is killed: its own eight seconds are more than its window has.
        let deaf = Program::forever().ignoring_stop();
        node.runtime.program(&subject("deaf/main"), deaf);
        node.put("deaf.yaml", &plain("deaf"))?;
        node.put("high.yaml", &manifest("high", "priority: 5000,", ""))?;
        begin(node, logind, &[]).await?;
        node.ready("deaf").await?;
        node.ready("high").await?;
        node.runtime.forget_calls();
        let started = Instant::now();
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        let calls = node.runtime.calls_of("StopContainer");
        let last = calls.last().context("nothing was stopped")?;
        ensure!(last.subject.ends_with(&subject("high/main")), "{calls:?}");
        let waited = last.began - started;
        ensure!(waited > 2 * SECOND && waited < 6 * SECOND, "{waited:?}");
        ended_by_shutdown(&node.pod("deaf")?)
    });
}

#[test]
fn pre_stop_hooks_run() {
    with_logind(async |node, logind| {
        let hook = "lifecycle: {preStop: {exec: {command: [hook]}}}";
        node.put("a.yaml", &manifest("a", "", hook))?;
        begin(node, logind, &[]).await?;
        node.ready("a").await?;
        node.runtime.forget_calls();
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        let hooks = node.runtime.calls_of("ExecSync");
        let stops = node.runtime.calls_of("StopContainer");
        ensure!(hooks.len() == 1 && stops.len() == 1, "{hooks:?} {stops:?}");
        ensure!(hooks[0].succeeded() && hooks[0].ended < Some(stops[0].began));
        Ok(())
    });
}

#[test]
fn a_shutdown_that_is_called_off_gives_everything_back() {
    with_logind(async |node, logind| {
        node.put("once.yaml", &manifest("once", "restartPolicy: Never,", ""))?;
        begin(node, logind, &["a"]).await?;
        node.ready("once").await?;
        let before = node.pod("a")?;
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        node.put("new.yaml", &plain("new"))?;
        let refused = node.phase("new", "Failed").await?;
        let words = "Pod was rejected: Pod was rejected as the node is shutting down.";
        ensure!(reason(&refused) == ("NodeShutdown".into(), words.into()));
        logind.prepare_for_shutdown(false).await?;
        logind.holds(1).await?;
        runs_again(node, "a", &before).await?;
        let new = node.ready("new").await?;
        ensure!(new.container("main")?.restart_count == 0);
        // What is never restarted has had its run.
        ended_by_shutdown(&node.pod("once")?)?;
        // And all of it once more.
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        ended_by_shutdown(&node.pod("new")?)
    });
}

#[test]
fn one_that_is_called_off_while_pods_end_lets_them_begin_again() {
    with_logind(async |node, logind| {
        begin(node, logind, &["a"]).await?;
        slow(node, "etcd", 200 * MILLI);
        node.put("etcd.yaml", &manifest("etcd", CRITICAL, ""))?;
        let etcd = node.ready("etcd").await?;
        let before = node.pod("a")?;
        node.runtime.forget_calls();
        logind.prepare_for_shutdown(true).await?;
        eventually("the pod is being ended", LIMIT, async || {
            ensure!(!node.runtime.calls_of("StopContainer").is_empty());
            Ok(())
        })
        .await?;
        logind.prepare_for_shutdown(false).await?;
        runs_again(node, "a", &before).await?;
        logind.holds(1).await?;
        // Its turn had not come.
        ensure!(node.ready("etcd").await?.instances() == etcd.instances());
        Ok(())
    });
}

#[test]
fn after_the_reboot_every_pod_runs_again() {
    with_logind(async |node, logind| {
        node.put("once.yaml", &manifest("once", "restartPolicy: Never,", ""))?;
        begin(node, logind, &["a", "b"]).await?;
        node.ready("once").await?;
        let before = [node.pod("a")?, node.pod("b")?];
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        node.kill_agent()?;
        node.runtime.reboot().await?;
        logind.reboot();
        node.start_agent()?;
        runs_again(node, "a", &before[0]).await?;
        runs_again(node, "b", &before[1]).await?;
        let once = node.phase("once", "Failed").await?;
        ensure!(reason(&once) == ("Terminated".into(), MESSAGE.into()));
        ensure!(node.running_now("once/main").is_empty());
        logind.holds(1).await
    });
}

#[test]
fn an_agent_that_begins_amid_a_shutdown_ends_what_runs_and_begins_nothing() {
    with_logind(async |node, logind| {
        begin(node, logind, &["a"]).await?;
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        node.kill_agent()?;
        node.runtime.forget_calls();
        node.start_agent()?;
        node.phase("a", "Failed").await?;
        throughout("nothing begins", SECOND, async || {
            let changes = node.runtime.changes();
            ensure!(changes.is_empty(), "{changes:?}");
            Ok(())
        })
        .await?;
        // The same with a pod that runs, and that nobody has told to end.
        logind.prepare_for_shutdown(false).await?;
        node.ready("a").await?;
        node.kill_agent()?;
        logind.prepare_for_shutdown(true).await?;
        node.start_agent()?;
        eventually("it has ended", LIMIT, async || {
            ended_by_shutdown(&node.pod("a")?)
        })
        .await
    });
}

#[test]
fn a_delay_that_is_too_short_is_made_long_enough() {
    with_logind_of(5 * SECOND, async |node, logind| {
        begin(node, logind, &[]).await?;
        ensure!(logind.longest_delay() == 20 * SECOND);
        let text = std::fs::read_to_string(node.path("logind.conf.d/99-kubelet.conf"))?;
        ensure!(text == "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=20\n");
        Ok(())
    });
}

#[test]
fn where_the_delay_stays_too_short_pods_share_what_there_is() {
    with_logind_of(4 * SECOND, async |node, logind| {
        // Nobody can make a directory of it.
        std::fs::write(node.path("logind.conf.d"), "")?;
        let deaf = Program::forever().ignoring_stop();
        node.runtime.program(&subject("deaf/main"), deaf);
        node.put("deaf.yaml", &plain("deaf"))?;
        node.put("etcd.yaml", &manifest("etcd", CRITICAL, ""))?;
        begin(node, logind, &[]).await?;
        node.ready("deaf").await?;
        node.ready("etcd").await?;
        let log = node.log();
        ensure!(
            log.contains("Set InhibitDelayMaxSec=20 in logind.conf"),
            "{log}"
        );
        let started = Instant::now();
        logind.prepare_for_shutdown(true).await?;
        eventually("the critical pod has ended", LIMIT, async || {
            ended_by_shutdown(&node.pod("etcd")?)
        })
        .await?;
        let ended = started.elapsed();
        ensure!(ended < 4 * SECOND, "{ended:?}");
        logind.holds(0).await
    });
}

#[test]
fn logind_and_the_bus_may_begin_anew() {
    with_logind(async |node, logind| {
        begin(node, logind, &["a"]).await?;
        logind.restart().await?;
        eventually("a new lock is taken", LIMIT, async || {
            ensure!(logind.taken() == 2);
            Ok(())
        })
        .await?;
        logind.holds(1).await?;
        logind.restart_bus().await?;
        eventually("and another one", LIMIT, async || {
            ensure!(logind.taken() == 3);
            Ok(())
        })
        .await?;
        logind.holds(1).await?;
        let log = node.log();
        let said = "cannot watch for shutdowns of the node; trying again in 1s, and later";
        ensure!(log.contains(said), "{log}");
        logind.prepare_for_shutdown(true).await?;
        // Neither keeps the pods from ending.
        logind.restart_bus().await?;
        released(node, logind).await?;
        ended_by_shutdown(&node.pod("a")?)
    });
}

#[test]
fn a_bus_that_comes_later_is_found() {
    with_node(async |node| {
        node.configure("shutdownGracePeriod", json!("20s"));
        node.put("a.yaml", &plain("a"))?;
        node.start_agent()?;
        // Nobody waits for it.
        node.ready("a").await?;
        let logind = FakeLogind::start(node, AMPLE).await?;
        logind.holds(1).await
    });
}

#[test]
fn without_a_period_nobody_connects() {
    with_node(async |node| {
        let logind = FakeLogind::start(node, AMPLE).await?;
        node.put("a.yaml", &plain("a"))?;
        node.start_agent()?;
        node.ready("a").await?;
        ensure!(logind.clients().await? == 0 && logind.taken() == 0);
        Ok(())
    });
}

#[test]
fn a_pod_whose_worker_is_lost_meanwhile_is_waited_for() {
    with_logind(async |node, logind| {
        begin(node, logind, &["a", "b"]).await?;
        node.panic_at(&["reason=\"Killing\"", "pod=a-"]);
        logind.prepare_for_shutdown(true).await?;
        released(node, logind).await?;
        ensure!(node.log().contains("worker panicked"));
        ended_by_shutdown(&node.pod("a")?)?;
        ended_by_shutdown(&node.pod("b")?)
    });
}
