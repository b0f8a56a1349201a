//! Faults on a private node: what can go wrong around an agent, done to it on purpose, and the one thing that may never
//! follow from it.
//!
//! Owns: a [`Rig`], which is a node with an agent that talks to containerd through a [`proxy`], a watch on the instances
//! of containers ([`instances`]), and the pods that the manifests want ([`pods`]). Inputs: [`strike::Fault`]s, from a
//! test one by one or from a seed ([`schedule`]). Output: an error with the journal of the run. Threads: the proxy's, and
//! the watch's; both see what happens while the test waits for a command.
//!
//! Two things are asked: that per pod identity at most one instance of each container runs, at every moment; and that
//! in the end exactly the pods of the manifests run ([`settled`]).
//!
//! Deliberately not here: stepped clocks, which are injected into the agent in its own process; faults of a runtime that
//! a real containerd does not have ([`crate::fake_runtime`]).

pub mod instances;
pub mod journal;
pub mod pods;
pub mod proxy;
mod reserve;
pub mod schedule;
pub mod settled;
pub mod strike;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri_proto::{ConnectOptions, Connection};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::agent::Agent;
use crate::containerd::Node;
use crate::scenario;
use instances::Instances;
use journal::Journal;
use pods::{Pods, Wanted};
use proxy::Proxy;

/// `runtimeRequestTimeout` of the agent, times [`patience`]: what hangs is given up in the time of a test.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How many times as long as on a usual machine everything may take; 1 where it is not set.
const PATIENCE: &str = "FAULTS_PATIENCE";
/// Size of the file system that the agent's root directory lies on.
const ROOT_SIZE: &str = "size=24m";

/// How many times as long as on a usual machine things may take here: on an emulated processor a call of the runtime takes
/// longer than the agent of these tests would wait for one.
#[must_use]
pub fn patience() -> u32 {
    let said = std::env::var(PATIENCE).ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// How long the agent waits for an answer of the runtime.
#[must_use]
pub fn request_timeout() -> Duration {
    REQUEST_TIMEOUT * patience()
}

/// A node, an agent, and what is needed to do them harm.
pub struct Rig<'n> {
    /// The node.
    pub node: &'n Node,
    /// The agent.
    pub agent: &'n Agent<'n>,
    /// Between them.
    pub proxy: Proxy,
    /// The containers that run.
    pub instances: Instances,
    /// What happened.
    pub journal: Journal,
    runtime: Connection,
    wanted: RefCell<Pods>,
    /// Sandboxes that hold names, and are none of the agent's.
    strangers: RefCell<Vec<String>>,
    /// How often containers of a pod were killed, since its manifest was written.
    deaths: RefCell<BTreeMap<String, u32>>,
    /// The agent was ended on purpose.
    down: Cell<bool>,
}

/// Runs `test` on a rig whose agent runs, and asks at the end whether any two instances ran at a time.
///
/// # Panics
/// When the node or the agent does not start, or `test` fails; with the journal, and the logs in the target directory.
pub fn with_rig(name: &str, test: impl AsyncFnOnce(&Rig<'_>) -> Result<()>) {
    scenario::with_nothing(async |node, agent| {
        let journal = Journal::default();
        let rig = Rig::start(node, agent, journal.clone()).await?;
        let tested = test(&rig).await;
        println!("{name}: {:.0} s of faults", journal.seconds());
        let asked = tested.and_then(|()| rig.instances.ensure_single());
        let evidence = rig.leave_evidence(name);
        asked.with_context(|| format!("{evidence}\n{journal}"))
    });
}

impl<'n> Rig<'n> {
    async fn start(node: &'n Node, agent: &'n Agent<'n>, journal: Journal) -> Result<Self> {
        let instances = Instances::watch(node.bundles(), journal.clone())?;
        let proxy = Proxy::start(&node.path("proxy.sock"), &node.socket(), journal.clone())?;
        let root = node.path("kubelet");
        fs::create_dir(&root).context("create the agent's root directory")?;
        let root = root
            .to_str()
            .context("path of the agent's root directory")?;
        node.run("mount", &["-t", "tmpfs", "-o", ROOT_SIZE, "tmpfs", root])?;
        let endpoint = format!("unix://{}", proxy.socket().display());
        agent.configure("containerRuntimeEndpoint", endpoint)?;
        let timeout = format!("{}s", request_timeout().as_secs());
        agent.configure("runtimeRequestTimeout", timeout)?;
        node.start_containerd().await?;
        let socket = format!("unix://{}", node.socket().display());
        let options = ConnectOptions {
            request_timeout: Duration::from_secs(10) * patience(),
            backoff_max: Duration::from_millis(200),
            ..ConnectOptions::default()
        };
        let rig = Self {
            node,
            agent,
            proxy,
            instances,
            journal,
            runtime: Connection::connect(&socket, options)?,
            wanted: RefCell::default(),
            strangers: RefCell::default(),
            deaths: RefCell::default(),
            down: Cell::new(true),
        };
        agent.start().await?;
        rig.down.set(false);
        Ok(rig)
    }

    /// The pods wanted.
    #[must_use]
    pub fn wanted(&self) -> Pods {
        self.wanted.borrow().clone()
    }

    /// Writes a pod's manifest, and removes the one it had before when that was another file.
    ///
    /// # Errors
    /// When a file cannot be written or removed.
    pub fn put(&self, name: &str, pod: Wanted) -> Result<()> {
        self.journal.note(format_args!("manifest: {name} {pod:?}"));
        self.deaths.borrow_mut().remove(name);
        let before = self
            .wanted
            .borrow_mut()
            .insert(name.to_owned(), pod.clone());
        // Without the directory there is nothing to write to: all is written when it is made again.
        if !self.node.manifests().exists() {
            return Ok(());
        }
        self.node.put(&pod.file, &pod.manifest(name))?;
        match before {
            Some(before) if before.file != pod.file => self.node.remove(&before.file),
            _ => Ok(()),
        }
    }

    /// Removes a pod's manifest.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.journal.note(format_args!("manifest: {name} goes"));
        let before = self.wanted.borrow_mut().remove(name);
        match before {
            Some(before) if self.node.manifests().exists() => self.node.remove(&before.file),
            _ => Ok(()),
        }
    }

    /// Changes a pod's manifest, so that the pod is replaced.
    ///
    /// # Errors
    /// When it is not wanted, or its manifest cannot be written.
    pub fn edit(&self, name: &str) -> Result<()> {
        let mut pod = self.wanted().remove(name).context("edit a pod")?;
        pod.version += 1;
        self.put(name, pod)
    }

    /// A handle on the agent's process, which no other process of that number can be mistaken for.
    ///
    /// # Errors
    /// When it does not run.
    pub fn agent_process(&self) -> Result<Arc<OwnedFd>> {
        let pid = Pid::from_raw(self.agent.pid()?.as_raw()).context("process id 0")?;
        let process = pidfd_open(pid, PidfdFlags::empty());
        process.map(Arc::new).context("open the agent's process")
    }

    /// The agent is about to be ended on purpose.
    pub fn expect_death(&self) {
        self.down.set(true);
    }

    /// Kills the agent, unless something has already.
    ///
    /// # Errors
    /// When it ended otherwise.
    pub fn kill_agent(&self) -> Result<()> {
        self.expect_death();
        if self.agent.ended()?.is_none() {
            self.journal.note("the agent is killed");
            self.agent.kill()?;
        }
        Ok(())
    }

    /// Starts the agent when it was ended on purpose.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn revive_agent(&self) -> Result<()> {
        if self.down.take() && self.agent.ended()?.is_some() {
            self.journal.note("the agent is started");
            self.agent.spawn()?;
        }
        Ok(())
    }

    /// A path below the agent's root directory, as it sees it.
    #[must_use]
    pub fn root(&self, below: &str) -> PathBuf {
        self.node.inside(&self.node.path("kubelet").join(below))
    }

    /// Copies the logs and the journal to where they outlive the node; the text says where.
    fn leave_evidence(&self, name: &str) -> String {
        let place = crate::target_dir().map(|target| target.join("faults").join(name));
        let kept = place.and_then(|place| {
            fs::create_dir_all(&place)?;
            for log in ["kubelet.log", "containerd.log"] {
                fs::copy(self.node.path(log), place.join(log))?;
            }
            fs::write(place.join("journal"), self.journal.whole())?;
            Ok(place)
        });
        match kept {
            Ok(place) => format!("logs and journal: {}", place.display()),
            Err(error) => format!("the logs could not be kept: {error:#}"),
        }
    }
}
