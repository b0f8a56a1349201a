//! Many pods on the fake runtime: what the agent itself costs a pod, with no containerd to hide behind.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::manifest;
use super::process::{self, Memory, ThreadTimes};
use crate::agent::{Agent, PodView as _};
use crate::containerd::Node;
use crate::fake_runtime::FakeRuntime;
use crate::images::BUSYBOX;
use crate::wait::eventually;

const LIMIT: Duration = Duration::from_secs(300);
/// For the agent, to come to rest after its start or a burst.
const SETTLE: Duration = Duration::from_secs(5);

/// What so many pods cost.
#[derive(Clone, Debug, Serialize)]
pub struct Crowd {
    /// How many.
    pub pods: usize,
    /// From the manifests in place until every container ran, seconds.
    pub burst: f64,
    /// Processor time of the agent for that, seconds.
    pub cpu: f64,
    /// Calls to the runtime for that, of any kind.
    pub calls: usize,
    /// At rest afterwards.
    pub memory: Memory,
    /// System calls a minute, at rest.
    pub idle_syscalls: f64,
    /// Processor time of the agent for one container that dies and is replaced, the mean of ten, seconds.
    pub cpu_of_a_death: f64,
}

/// Measures the agent at `binary` with `pods` pods, and watches it for `idle` at rest.
///
/// # Errors
/// When something does not come to pass.
pub async fn measure(binary: &Path, pods: usize, idle: Duration) -> Result<Crowd> {
    let node = Node::without_containerd()?;
    let runtime = FakeRuntime::start().await?;
    runtime.add_image(BUSYBOX);
    let agent = Agent::own(&node, binary.to_owned())?;
    agent.configure("containerRuntimeEndpoint", runtime.endpoint())?;
    agent.configure("maxPods", pods + 10)?;
    agent.start().await?;
    sleep(SETTLE).await;
    let staging = node.path("staging");
    fs::create_dir(&staging)?;
    for pod in 0..pods {
        fs::write(
            staging.join(format!("pod-{pod}.yaml")),
            manifest(&format!("pod-{pod}")),
        )?;
    }
    let pid = agent.pid()?;
    runtime.forget_calls();
    let before = process::cpu_time(pid)?;
    let start = Instant::now();
    for pod in 0..pods {
        let file = format!("pod-{pod}.yaml");
        fs::rename(staging.join(&file), node.manifests().join(&file))?;
    }
    let all = |runtime: &FakeRuntime| (runtime.running("main").len() == pods).then_some(());
    let all = runtime.wait_for(LIMIT, all).await;
    all.with_context(|| format!("not all of {pods} pods ran within {LIMIT:?}"))?;
    let burst = start.elapsed().as_secs_f64();
    shown_ready(&agent, pods).await?;
    let cpu = (process::cpu_time(pid)? - before).as_secs_f64();
    let calls = runtime.calls().len();
    sleep(SETTLE).await;
    let memory = process::memory(pid)?;
    let idle_syscalls = per_minute(process::syscalls(pid, idle).await?, idle);
    let cpu_of_a_death = deaths(&runtime, &agent, pods).await?;
    ensure!(
        runtime.violations().is_empty(),
        "{:?}",
        runtime.violations()
    );
    Ok(Crowd {
        pods,
        burst,
        cpu,
        calls,
        memory,
        idle_syscalls,
        cpu_of_a_death,
    })
}

async fn shown_ready(agent: &Agent<'_>, pods: usize) -> Result<()> {
    eventually("every pod is shown ready", LIMIT, async || {
        let shown = agent.pods()?;
        let ready = shown
            .iter()
            .filter(|pod| pod.statuses().iter().any(|s| s.ready));
        let ready = ready.count();
        ensure!(ready == pods, "{ready} of {pods}");
        Ok(())
    })
    .await
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per_minute(calls: u64, span: Duration) -> f64 {
    calls as f64 * 60.0 / span.as_secs_f64()
}

/// A single death must not cost more because others live beside it.
async fn deaths(runtime: &FakeRuntime, agent: &Agent<'_>, pods: usize) -> Result<f64> {
    const DEATHS: u32 = 10;
    let pid = agent.pid()?;
    let before = ThreadTimes::of(pid)?;
    let victims: Vec<String> = runtime.running("main").into_iter().map(|c| c.id).collect();
    let mut died = 0;
    for victim in victims.iter().take(DEATHS as usize) {
        ensure!(runtime.kill_container(victim, 1), "{victim} did not run");
        died += 1;
        let back = |runtime: &FakeRuntime| (runtime.running("main").len() == pods).then_some(());
        let back = runtime.wait_for(LIMIT, back).await;
        back.context("a container that died did not come back")?;
    }
    sleep(Duration::from_secs(2)).await;
    let used = ThreadTimes::of(pid)?.since(&before);
    Ok(used.as_secs_f64() / f64::from(died.max(1)))
}

/// Several crowds as a table of Markdown.
#[must_use]
pub fn table(crowds: &[Crowd]) -> String {
    let mut text = String::from(
        "| pods on the fake runtime | all running | agent's processor time | a pod | runtime calls a pod | MB resident \
         (anonymous) | kB anonymous a pod | system calls a minute at rest | processor time of a death |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let first = crowds.first().map_or(0, |crowd| crowd.memory.anon);
    for crowd in crowds {
        #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
        let (pods, calls, rss, anon, more) = (
            crowd.pods as f64,
            crowd.calls as f64,
            crowd.memory.rss as f64 / 1024.0,
            crowd.memory.anon as f64 / 1024.0,
            crowd.memory.anon.saturating_sub(first) as f64,
        );
        let _ = writeln!(
            text,
            "| {} | {:.2} s | {:.2} s | {:.1} ms | {:.1} | {rss:.1} ({anon:.1}) | {:.0} | {:.0} | {:.2} ms |",
            crowd.pods,
            crowd.burst,
            crowd.cpu,
            crowd.cpu / pods * 1e3,
            calls / pods,
            more / pods,
            crowd.idle_syscalls,
            crowd.cpu_of_a_death * 1e3
        );
    }
    text
}
