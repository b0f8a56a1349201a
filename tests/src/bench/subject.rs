//! A kubelet that is measured: ours, or any other.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use tokio::time::{Instant, sleep};

use super::events::{Life, TaskEvents};
use super::floor::Floor;
use super::manifest;
use super::process::{self, Memory, ThreadTimes};
use super::sample::Burst;
use crate::agent::{Agent, PodView as _};
use crate::containerd::Node;
use crate::wait::{eventually, eventually_asking_each};

const LIMIT: Duration = Duration::from_secs(300);
/// From the start of an agent to the first thing asked of it.
const SETTLE: Duration = Duration::from_secs(3);
/// From a burst to a look at the memory: past the decay of any allocator.
const AFTER_BURST: Duration = Duration::from_secs(15);
/// Between two looks at `/pods` when a time is measured.
const FINE: Duration = Duration::from_millis(5);

/// A kubelet and how it is called.
pub struct Subject<'n> {
    /// `this agent`, or the command of another.
    pub name: String,
    node: &'n Node,
    agent: Agent<'n>,
    floor: Floor,
    /// Counts pods: a name is never used twice, for what is left of one pod must not slow its namesake.
    next: u64,
}

impl<'n> Subject<'n> {
    /// Nothing is started yet.
    #[must_use]
    pub fn new(name: &str, node: &'n Node, agent: Agent<'n>, floor: Floor) -> Self {
        Self {
            name: name.to_owned(),
            node,
            agent,
            floor,
            next: 0,
        }
    }

    /// Size of the binary, bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn binary_size(&self) -> Result<u64> {
        Ok(fs::metadata(self.agent.binary())
            .context("look at the binary")?
            .len())
    }

    /// Starts it, and gives it time to come to rest.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn start(&self) -> Result<()> {
        self.agent.start().await?;
        sleep(SETTLE).await;
        Ok(())
    }

    /// Takes its pods away and ends it.
    ///
    /// # Errors
    /// When it does not end, or something runs on.
    pub async fn end(&self) -> Result<()> {
        for file in fs::read_dir(self.node.manifests())? {
            fs::remove_file(file?.path())?;
        }
        eventually("every pod is gone", LIMIT, async || {
            let running = self.floor.running().await?.len();
            ensure!(running == 0, "{running} containers run");
            Ok(())
        })
        .await?;
        self.agent.terminate().await?;
        self.floor.clear().await
    }

    /// Puts the manifests of `pods` pods into place, and waits until all run.
    ///
    /// # Errors
    /// When one does not.
    pub async fn burst(&mut self, events: &TaskEvents, pods: usize) -> Result<Burst> {
        self.burst_of(events, pods, manifest).await
    }

    /// As [`Subject::burst`], with manifests that `manifest` makes of names.
    ///
    /// # Errors
    /// When one does not run.
    pub async fn burst_of(
        &mut self,
        events: &TaskEvents,
        pods: usize,
        manifest: impl Fn(&str) -> String,
    ) -> Result<Burst> {
        let before = events.started();
        let names: Vec<String> = (0..pods).map(|_| self.next_name()).collect();
        let staging = self.node.path("staging");
        fs::create_dir_all(&staging)?;
        for name in &names {
            fs::write(staging.join(format!("{name}.yaml")), manifest(name))?;
        }
        let start = Instant::now();
        for name in &names {
            let file = format!("{name}.yaml");
            fs::rename(staging.join(&file), self.node.manifests().join(&file))?;
        }
        // A sandbox and a container each.
        events
            .wait("every pod's start", LIMIT, |lives| {
                (lives.len() >= before + 2 * pods).then_some(())
            })
            .await?;
        let ids = eventually("every pod runs", LIMIT, async || {
            let running = self.floor.running().await?;
            ensure!(running.len() == pods, "{} of {pods} run", running.len());
            Ok(running)
        })
        .await?;
        Burst::of(events, start, &ids).await
    }

    fn next_name(&mut self) -> String {
        self.next += 1;
        format!("bench-{}", self.next)
    }

    /// Kills one of its running containers. From the kill to its successor's start.
    ///
    /// # Errors
    /// When nothing runs, or nothing comes.
    pub async fn replace(&self, events: &TaskEvents, container: &str) -> Result<Duration> {
        let life = events.life(container).context("it never started")?;
        let before = events.started();
        let killed = Instant::now();
        kill(life.pid, Signal::SIGKILL).context("kill a container")?;
        let started = events
            .wait("a killed container's successor", LIMIT, |lives| {
                if lives.len() == before {
                    return None;
                }
                newest(lives)
            })
            .await?;
        Ok(started - killed)
    }

    /// Removes the manifest of one pod. From that to its container's end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn remove(&self, events: &TaskEvents) -> Result<Duration> {
        let file = fs::read_dir(self.node.manifests())?.next();
        let file = file.context("no manifest is left")??.path();
        let name = file
            .file_stem()
            .context("a manifest's name")?
            .to_string_lossy();
        // The status may be a moment behind: the container it names has to run.
        let id = eventually("the pod to remove runs", LIMIT, async || {
            let pod = self.agent.ready(&name, Duration::ZERO).await?;
            let id = pod.container("main")?.container_id.clone();
            let id = id.unwrap_or_default();
            let id = id.trim_start_matches("containerd://").to_owned();
            let life = events.life(&id).context("it never started")?;
            ensure!(life.ended.is_none(), "it has ended");
            Ok(id)
        })
        .await?;
        let start = Instant::now();
        fs::remove_file(&file)?;
        let ended = events
            .wait("the end of a removed pod", LIMIT, |lives| {
                lives.get(&id)?.ended
            })
            .await?;
        Ok(ended - start)
    }

    /// Starts the agent with one manifest in place. From the start of its process to the container's.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn first_pod(&mut self, events: &TaskEvents) -> Result<Duration> {
        let name = self.next_name();
        self.node.put(&format!("{name}.yaml"), &manifest(&name))?;
        // A file that is being written is left alone for a second; this one is old.
        sleep(Duration::from_secs(2)).await;
        let before = events.started();
        let start = Instant::now();
        self.agent.spawn()?;
        let started = events
            .wait("the first pod's start", LIMIT, |lives| {
                (lives.len() == before + 2).then(|| newest(lives)).flatten()
            })
            .await?;
        Ok(started - start)
    }

    /// Ends the agent and starts it again over `pods` running pods. From its start until `/pods` shows all of them
    /// ready.
    ///
    /// # Errors
    /// When it does not, or a container was started anew.
    pub async fn adopt(&self, events: &TaskEvents, pods: usize) -> Result<Duration> {
        self.agent.terminate().await?;
        let before = events.started();
        let start = Instant::now();
        self.agent.spawn()?;
        eventually_asking_each(FINE, "every pod is adopted", LIMIT, async || {
            let shown = self.agent.pods()?;
            let ready = |pod: &&k8s_openapi::api::core::v1::Pod| {
                pod.phase() == "Running" && pod.statuses().iter().all(|status| status.ready)
            };
            let ready = shown.iter().filter(ready).count();
            ensure!(ready == pods, "{ready} of {pods}");
            Ok(())
        })
        .await?;
        let took = start.elapsed();
        ensure!(events.started() == before, "a container was started anew");
        Ok(took)
    }

    /// The memory it holds once a burst is over.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn memory_at_rest(&self) -> Result<Memory> {
        sleep(AFTER_BURST).await;
        process::memory(self.agent.pid()?)
    }

    /// The memory it holds now.
    ///
    /// # Errors
    /// When it does not run.
    pub fn memory(&self) -> Result<Memory> {
        process::memory(self.agent.pid()?)
    }

    /// Waits until so many pods are ready.
    ///
    /// # Errors
    /// When they are not.
    pub async fn all_ready(&self, pods: usize) -> Result<()> {
        eventually("every pod is ready", LIMIT, async || {
            let shown = self.agent.pods()?;
            let ready = |pod: &&k8s_openapi::api::core::v1::Pod| {
                !pod.statuses().is_empty() && pod.statuses().iter().all(|status| status.ready)
            };
            let ready = shown.iter().filter(ready).count();
            ensure!(ready == pods, "{ready} of {pods}");
            Ok(())
        })
        .await
    }

    /// Processor time used since it was started.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.agent.pid()?)
    }

    /// Thousandths of a core used while nothing happens for `span`.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn idle_cpu(&self, span: Duration) -> Result<f64> {
        let pid = self.agent.pid()?;
        let before = ThreadTimes::of(pid)?;
        let start = Instant::now();
        sleep(span).await;
        let used = ThreadTimes::of(pid)?.since(&before);
        Ok(used.as_secs_f64() / start.elapsed().as_secs_f64() * 1000.0)
    }

    /// System calls while nothing happens for a minute; counted for `span`.
    ///
    /// # Errors
    /// When it does not run, or strace does not.
    pub async fn idle_syscalls(&self, span: Duration) -> Result<f64> {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let calls = process::syscalls(self.agent.pid()?, span).await? as f64;
        Ok(calls * 60.0 / span.as_secs_f64())
    }
}

fn newest(lives: &HashMap<String, Life>) -> Option<Instant> {
    lives.values().map(|life| life.started).max()
}
