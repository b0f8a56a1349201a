//! The agent's process on a private node: ours, or any other kubelet that `KUBELET=<path>` names.
//!
//! Everything it is told is in flags and fields that upstream's kubelet 1.36 has too, so that the scenarios can be
//! run against it, and differ in nothing but the binary.

mod events;
mod view;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::containerd::Node;
use crate::wait::{Never, eventually};

pub use events::{SOCKET, Seen};
pub use view::PodView;

/// The environment variable with the path, and flags behind it, of another kubelet to test.
pub const KUBELET_VARIABLE: &str = "KUBELET";
/// The node's name, which is the end of every static pod's name.
pub const NODE_NAME: &str = "node";
/// The one search domain of the `resolvConf` that the agent is given.
pub const RESOLV_CONF: &str = "nameserver 192.0.2.53\nsearch example.test\noptions timeout:1\n";
/// `clusterDNS` of the agent's configuration (a documentation address, RFC 5737).
pub const CLUSTER_DNS: &str = "192.0.2.10";

/// The read-only port (upstream's default).
const READ_ONLY: &str = "127.0.0.1:10255";
/// The health port (upstream's default).
const HEALTHZ: &str = "127.0.0.1:10248";
/// How long an agent may take to serve, on a machine busy with a build.
const START: Duration = Duration::from_secs(60);
/// How long an agent may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(30);

/// The agent of one node. It ends with the node at the latest.
pub struct Agent<'n> {
    node: &'n Node,
    binary: PathBuf,
    flags: Vec<String>,
    foreign: bool,
    process: Mutex<Option<Child>>,
}

impl<'n> Agent<'n> {
    /// The agent that tests run: `$KUBELET`, or the one built into the directory of the running test.
    ///
    /// # Errors
    /// When there is no such binary.
    pub fn new(node: &'n Node) -> Result<Self> {
        Self::with(node, crate::profile_dir()?.join("kubelet"))
    }

    /// As [`Agent::new`], with another binary of our own.
    ///
    /// # Errors
    /// When there is no such binary.
    pub fn with(node: &'n Node, own: PathBuf) -> Result<Self> {
        Self::foreign(node).unwrap_or_else(|| Self::own(node, own))
    }

    /// Our own agent, whatever `$KUBELET` says.
    ///
    /// # Errors
    /// When there is no such binary.
    pub fn ours(node: &'n Node) -> Result<Self> {
        Self::own(node, crate::profile_dir()?.join("kubelet"))
    }

    /// Our own agent of a binary that is named, whatever `$KUBELET` says.
    ///
    /// # Errors
    /// When there is no such binary.
    pub fn own(node: &'n Node, binary: PathBuf) -> Result<Self> {
        Self::of(node, binary, Vec::new(), false)
    }

    /// The kubelet of `$KUBELET`, where it is set: a path, and flags behind it.
    #[must_use]
    pub fn foreign(node: &'n Node) -> Option<Result<Self>> {
        let command = std::env::var(KUBELET_VARIABLE).ok()?;
        let mut words = command.split_whitespace().map(str::to_owned);
        let path = words.next()?;
        Some(Self::of(node, path.into(), words.collect(), true))
    }

    fn of(node: &'n Node, source: PathBuf, flags: Vec<String>, foreign: bool) -> Result<Self> {
        ensure!(
            source.is_file(),
            "no kubelet at {} (cargo build --workspace makes it)",
            source.display()
        );
        // Into the node's directory: the place it was built in may be one that the node has its own of.
        let binary = node.path(if foreign {
            "foreign-kubelet"
        } else {
            "kubelet-binary"
        });
        // An earlier agent's may be a link to the source: a copy onto that would empty the source.
        if !binary.exists() && fs::hard_link(&source, &binary).is_err() {
            fs::copy(&source, &binary)
                .with_context(|| format!("copy {} to the node", source.display()))?;
        }
        let agent = Self {
            node,
            binary,
            flags,
            foreign,
            process: Mutex::new(None),
        };
        agent.write_config()?;
        Ok(agent)
    }

    /// The same with one flag more.
    #[must_use]
    pub fn with_flag(mut self, flag: String) -> Self {
        self.flags.push(flag);
        self
    }

    /// Whether it is another kubelet than ours.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// The binary that it runs.
    #[must_use]
    pub fn binary(&self) -> &std::path::Path {
        &self.binary
    }

    fn write_config(&self) -> Result<()> {
        let node = self.node;
        fs::write(node.path("resolv.conf"), RESOLV_CONF).context("write resolv.conf")?;
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "staticPodPath": node.manifests(),
            "containerRuntimeEndpoint": format!("unix://{}", node.socket().display()),
            "podLogsDir": node.path("pod-logs"),
            "volumePluginDir": node.path("volume-plugins"),
            "resolvConf": node.path("resolv.conf"),
            "clusterDNS": [CLUSTER_DNS],
            "clusterDomain": "cluster.local",
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "readOnlyPort": 10255,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": node.cgroup_root(),
            // Both default to true; a test machine may have either.
            "failCgroupV1": false,
            "failSwapOn": false,
            // The default, -999, needs CAP_SYS_RESOURCE.
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": false,
            // The disk of a test machine may be nearly full: nothing is evicted, no image is collected.
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
        });
        fs::write(
            node.path("kubelet.yaml"),
            serde_json::to_vec_pretty(&config)?,
        )
        .context("write the agent's configuration")
    }

    /// Changes one field of its configuration, for the next start.
    ///
    /// # Errors
    /// When the configuration cannot be read or written.
    pub fn configure(&self, field: &str, value: impl Into<serde_json::Value>) -> Result<()> {
        let path = self.node.path("kubelet.yaml");
        let text = fs::read(&path).context("read the agent's configuration")?;
        let mut config: serde_json::Value = serde_json::from_slice(&text)?;
        config[field] = value.into();
        fs::write(path, serde_json::to_vec_pretty(&config)?)
            .context("write the agent's configuration")
    }

    /// Puts a copy of its binary in the place of its binary, as an upgrade does: what runs keeps the old file.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn replace_binary(&self) -> Result<()> {
        let new = self.binary.with_extension("new");
        fs::copy(&self.binary, &new).context("copy the agent's binary")?;
        fs::rename(new, &self.binary).context("put the copy in place")
    }

    /// The directory of a container's logs.
    #[must_use]
    pub fn log_directory(&self, pod: &Pod, container: &str) -> PathBuf {
        self.node.path("pod-logs").join(format!(
            "{}_{}_{}/{container}",
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            pod.metadata.name.as_deref().unwrap_or_default(),
            pod.uid()
        ))
    }

    /// Starts it, and waits until its health port says `ok` and its pods can be read.
    ///
    /// # Errors
    /// When it ends or does not serve within a minute.
    pub async fn start(&self) -> Result<()> {
        self.spawn()?;
        eventually("the agent serves", START, async || {
            if let Some(status) = self.ended()? {
                return Err(Never(format!("the agent ended: {status}")).into());
            }
            self.healthz()?;
            self.pods().map(drop)
        })
        .await
        .with_context(|| self.node.log_tail("kubelet.log"))
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn spawn(&self) -> Result<()> {
        let mut process = self.lock();
        if let Some(child) = process.as_mut() {
            ensure!(child.try_wait()?.is_some(), "the agent runs already");
        }
        let node = self.node;
        let mut command = node.command(&self.binary);
        command
            .arg(format!("--config={}", node.path("kubelet.yaml").display()))
            .arg(format!("--root-dir={}", node.path("kubelet").display()))
            .arg(format!("--cert-dir={}", node.path("pki").display()))
            .arg(format!("--hostname-override={NODE_NAME}"))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(node.log("kubelet.log")?)
            .stderr(node.log("kubelet.log")?);
        *process = Some(command.spawn().context("start the agent")?);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, when it has.
    ///
    /// # Errors
    /// When it was never started.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut process = self.lock();
        let child = process.as_mut().context("the agent was not started")?;
        child.try_wait().context("look at the agent's process")
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it was never started.
    pub fn pid(&self) -> Result<Pid> {
        let process = self.lock();
        let child = process.as_ref().context("the agent was not started")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.lock();
        let child = process.as_mut().context("the agent was not started")?;
        child.kill().context("kill the agent")?;
        let status = child.wait().context("wait for the agent")?;
        ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "the agent had ended before: {status}"
        );
        Ok(())
    }

    /// Ends it with SIGTERM and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or has not ended after 30 seconds.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        kill(self.pid()?, Signal::SIGTERM).context("send SIGTERM to the agent")?;
        eventually("the agent ends", STOP, async || {
            self.ended()?.context("it runs")
        })
        .await
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let log = fs::read(self.node.path("kubelet.log")).context("read kubelet.log")?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// Asks `/healthz` of the health port.
    ///
    /// # Errors
    /// When the answer is not 200 `ok`.
    pub fn healthz(&self) -> Result<()> {
        let answer = self.node.http_get(HEALTHZ, "/healthz")?;
        ensure!(
            answer.status == 200 && answer.body == "ok",
            "/healthz: {} {}",
            answer.status,
            answer.body
        );
        Ok(())
    }

    /// The pods of `/pods` on the read-only port.
    ///
    /// # Errors
    /// When it does not answer with a `PodList`.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        let answer = self.node.http_get(READ_ONLY, "/pods")?;
        ensure!(
            answer.status == 200,
            "/pods: {} {}",
            answer.status,
            answer.body
        );
        let list: List<Pod> = serde_json::from_str(&answer.body).context("read /pods")?;
        Ok(list.items)
    }

    /// The one pod called `name` in its manifest.
    ///
    /// # Errors
    /// When there is none, or more than one (an old one that has not gone yet and its successor).
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let full = format!("{name}-{NODE_NAME}");
        let mut pods: Vec<Pod> = self.pods()?;
        pods.retain(|pod| pod.metadata.name.as_deref() == Some(&full));
        match (pods.pop(), pods.len()) {
            (Some(pod), 0) => Ok(pod),
            (None, _) => bail!("no pod {full}"),
            (Some(_), more) => bail!("{} pods {full}", more + 1),
        }
    }

    /// Waits until the pod called `name` is Running with every container ready.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub async fn ready(&self, name: &str, limit: Duration) -> Result<Pod> {
        eventually(&format!("pod {name} is ready"), limit, async || {
            let pod = self.pod(name)?;
            ensure_ready(&pod)?;
            Ok(pod)
        })
        .await
    }

    /// Waits until the pod called `name` is in `phase`.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub async fn phase(&self, name: &str, phase: &str, limit: Duration) -> Result<Pod> {
        eventually(&format!("pod {name} is {phase}"), limit, async || {
            let pod = self.pod(name)?;
            ensure!(pod.phase() == phase, "{}", pod.describe());
            Ok(pod)
        })
        .await
    }

    /// Waits until neither `/pods` nor the runtime has anything of `pod` that lives.
    ///
    /// Both are asked: upstream forgets a pod when its manifest goes, and stops it afterwards.
    ///
    /// # Errors
    /// When something is left after `limit`.
    pub async fn gone(&self, pod: &Pod, limit: Duration) -> Result<()> {
        let what = format!("pod {} is gone", pod.describe());
        eventually(&what, limit, async || {
            for left in self.pods()? {
                ensure!(left.uid() != pod.uid(), "{}", left.describe());
            }
            let running = self.node.running_of(pod.uid())?;
            ensure!(running.is_empty(), "running: {running:?}");
            Ok(())
        })
        .await
    }

    /// What the container has logged so far, without times and stream names.
    ///
    /// # Errors
    /// When it has no log file, or a line is not of the CRI log format.
    pub fn container_log(&self, pod: &Pod, container: &str) -> Result<String> {
        let dir = self.log_directory(pod, container);
        let mut files: Vec<(u32, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let path = entry?.path();
            let attempt = path.file_stem().and_then(|stem| stem.to_str());
            if let Some(attempt) = attempt.and_then(|stem| stem.parse().ok()) {
                files.push((attempt, path));
            }
        }
        files.sort();
        let mut text = String::new();
        for (_, path) in files {
            for line in fs::read_to_string(&path)?.lines() {
                // <time> <stream> <F|P> <text>
                let mut fields = line.splitn(4, ' ');
                let (_, _, tag) = (fields.next(), fields.next(), fields.next());
                let tag = tag.with_context(|| format!("line {line:?} of {}", path.display()))?;
                text.push_str(fields.next().unwrap_or_default());
                if tag.starts_with('F') {
                    text.push('\n');
                }
            }
        }
        Ok(text)
    }

    /// Waits until the container's log has `needle`, and gives all of the log.
    ///
    /// # Errors
    /// When it has not after `limit`.
    pub async fn logged(
        &self,
        pod: &Pod,
        container: &str,
        needle: &str,
        limit: Duration,
    ) -> Result<String> {
        let what = format!("container {container} logs {needle:?}");
        eventually(&what, limit, async || {
            let log = self.container_log(pod, container)?;
            ensure!(log.contains(needle), "its log: {log:?}");
            Ok(log)
        })
        .await
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ensure_ready(pod: &Pod) -> Result<()> {
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let ready = pod.statuses().iter().filter(|status| status.ready).count();
    ensure!(
        pod.phase() == "Running" && ready == containers,
        "{}",
        pod.describe()
    );
    Ok(())
}
