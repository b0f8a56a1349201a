//! All that the fake holds, and the changes to it. Nothing here waits; time comes from [`Clock`].

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri_proto::v1;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tonic::Status;

use super::fault::Fault;
use super::images::Images;
use super::program::{ExecScript, Program, names};
use super::record::{Call, Violation};
use super::users;

/// A sandbox of the fake.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// As asked for.
    pub config: v1::PodSandboxConfig,
    /// As asked for.
    pub runtime_handler: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Ready, or stopped.
    pub ready: bool,
    /// Its address; none on the node's network.
    pub ip: Option<String>,
    /// `UpdatePodSandboxResources`: the last one.
    pub resources: Option<v1::LinuxContainerResources>,
}

/// A container of the fake.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// `namespace/pod/container`.
    pub subject: String,
    /// As asked for.
    pub config: v1::ContainerConfig,
    /// The image's id.
    pub image_id: String,
    /// As CRI shows it.
    pub state: v1::ContainerState,
    /// Whether its process runs; differs from `state` while an end is not yet shown (see
    /// [`super::FakeRuntime::show_ends_late`]).
    pub running: bool,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 when never started.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 when not ended.
    pub finished_at: i64,
    /// Of meaning when ended.
    pub exit_code: i32,
    /// `OOMKilled`, `StartError`; empty where the code says it all.
    pub reason: String,
    /// Why it could not be started.
    pub message: String,
    /// What its process does.
    pub program: Program,
    /// Whether its stop signal was sent.
    pub signalled: bool,
    /// `UpdateContainerResources`: the last one, else as asked for.
    pub resources: Option<v1::LinuxContainerResources>,
}

impl Container {
    /// Its name in the pod's spec.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |m| &m.name)
    }

    /// Where what is mounted at `at` lies on the node.
    ///
    /// # Errors
    /// When nothing is mounted there.
    pub fn mounted(&self, at: &str) -> Result<PathBuf> {
        let mut mounts = self.config.mounts.iter();
        let found = mounts.find(|mount| mount.container_path == at);
        let found = found.with_context(|| format!("nothing is mounted at {at}"))?;
        Ok(PathBuf::from(&found.host_path))
    }

    /// Counts the instances of one container.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.config.metadata.as_ref().map_or(0, |m| m.attempt)
    }
}

/// Nanoseconds since the epoch that follow tokio's clock, paused or not, and never show one value twice.
#[derive(Debug)]
pub(super) struct Clock {
    epoch: i64,
    began: Instant,
    last: i64,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "read once; from here on tokio's clock is followed"
    )]
    fn start() -> Self {
        let epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
        Self {
            epoch,
            began: Instant::now(),
            last: 0,
        }
    }

    fn now(&mut self) -> i64 {
        let elapsed = i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.last = self.epoch.saturating_add(elapsed).max(self.last + 1);
        self.last
    }

    fn step(&mut self, nanos: i64) {
        self.epoch = self.epoch.saturating_add(nanos);
        // Backwards too: what is shown from now on is new all the same.
        self.last = 0;
    }
}

/// Which of containerd's two lists of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Sandbox,
    Container,
}

#[derive(Debug)]
pub(super) struct Store {
    clock: Clock,
    ids: u64,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, Container>,
    reserved: BTreeMap<(Kind, String), String>,
    addresses: u32,
    pub(super) images: Images,
    /// Who pulled what: image and user.
    pub(super) pulls: Vec<(String, String)>,
    programs: Vec<(String, VecDeque<Program>)>,
    execs: Vec<(String, ExecScript)>,
    pub(super) faults: Vec<Fault>,
    pub(super) calls: Vec<Call>,
    /// How many calls were taken out of `calls`.
    pub(super) forgotten: usize,
    pub(super) violations: Vec<Violation>,
    pub(super) runtime_ready: bool,
    pub(super) network_ready: bool,
    /// Whether its handler mounts recursively read-only.
    pub(super) recursive_read_only: bool,
    /// Whether its handler makes user namespaces.
    pub(super) user_namespaces: bool,
    pub(super) has_events: bool,
    pub(super) cgroup_driver: Option<v1::CgroupDriver>,
    pub(super) end_lag: Duration,
    /// Where images are said to be; none for the fake's own directory.
    pub(super) image_directory: Option<PathBuf>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::start(),
            ids: 0,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            reserved: BTreeMap::new(),
            addresses: 0,
            images: Images::default(),
            pulls: Vec::new(),
            programs: Vec::new(),
            execs: Vec::new(),
            faults: Vec::new(),
            calls: Vec::new(),
            forgotten: 0,
            violations: Vec::new(),
            runtime_ready: true,
            network_ready: true,
            recursive_read_only: false,
            user_namespaces: false,
            has_events: true,
            cgroup_driver: None,
            end_lag: Duration::ZERO,
            image_directory: None,
        }
    }

    pub(super) fn now(&mut self) -> i64 {
        self.clock.now()
    }

    pub(super) fn step_clock(&mut self, nanos: i64) {
        self.clock.step(nanos);
    }

    /// 64 hexadecimal digits that say nothing of the order of creation, as the runtime's.
    pub(super) fn new_id(&mut self) -> String {
        self.ids += 1;
        let digest = Sha256::digest(self.ids.to_le_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn reserve(&mut self, kind: Kind, name: &str) -> Result<String, Status> {
        let key = (kind, name.to_owned());
        if let Some(holder) = self.reserved.get(&key) {
            let what = match kind {
                Kind::Sandbox => "sandbox",
                Kind::Container => "container",
            };
            return Err(Status::unknown(format!(
                "failed to reserve {what} name {name:?}: name {name:?} is reserved for {holder:?}"
            )));
        }
        let id = self.new_id();
        self.reserved.insert(key, id.clone());
        Ok(id)
    }

    pub(super) fn release(&mut self, id: &str) {
        self.reserved.retain(|_, holder| holder != id);
    }

    /// 10.88.0.0/16, from 10.88.0.2 on; none is given twice.
    fn new_address(&mut self) -> String {
        self.addresses += 1;
        let number = self.addresses + 1;
        format!("10.88.{}.{}", (number >> 8) & 0xff, number & 0xff)
    }

    pub(super) fn script(&mut self, pattern: &str, programs: Vec<Program>) {
        self.programs.retain(|(have, _)| have != pattern);
        self.programs.push((pattern.into(), programs.into()));
    }

    pub(super) fn script_exec(&mut self, pattern: &str, script: ExecScript) {
        self.execs.retain(|(have, _)| have != pattern);
        self.execs.push((pattern.into(), script));
    }

    pub(super) fn exec_script(&self, subject: &str) -> Option<ExecScript> {
        let mut scripts = self.execs.iter().rev();
        let (_, script) = scripts.find(|(pattern, _)| names(pattern, subject))?;
        Some(script.clone())
    }

    /// The program of the next instance: each in turn, the last one again and again.
    fn next_program(&mut self, subject: &str) -> Program {
        let mut scripts = self.programs.iter_mut().rev();
        let Some((_, programs)) = scripts.find(|(pattern, _)| names(pattern, subject)) else {
            return Program::forever();
        };
        if programs.len() > 1 {
            return programs.pop_front().unwrap_or_default();
        }
        programs.front().cloned().unwrap_or_default()
    }

    pub(super) fn add_sandbox(
        &mut self,
        id: &str,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) {
        let ip = (!on_host_network(&config)).then(|| self.new_address());
        let sandbox = Sandbox {
            id: id.into(),
            config,
            runtime_handler,
            created_at: self.now(),
            ready: true,
            ip,
            resources: None,
        };
        self.sandboxes.insert(id.into(), sandbox);
    }

    pub(super) fn add_container(
        &mut self,
        id: &str,
        sandbox_id: &str,
        config: v1::ContainerConfig,
    ) -> Result<(), Status> {
        let Some(sandbox) = self.sandboxes.get(sandbox_id) else {
            return Err(Status::not_found(format!(
                "failed to find sandbox id {sandbox_id:?}: not found"
            )));
        };
        if !sandbox.ready {
            return Err(Status::not_found(format!(
                "failed to get sandbox container task: no running task found: task {sandbox_id} not found: not found"
            )));
        }
        users::check(sandbox, &config)?;
        let subject = format!(
            "{}/{}",
            sandbox_subject(&sandbox.config),
            container_name(&config)
        );
        let wanted = config.image.as_ref().map_or("", |image| &image.image);
        let Some(image) = self.images.find(wanted) else {
            return Err(Status::not_found(format!(
                "failed to resolve image {wanted:?}: not found"
            )));
        };
        let container = Container {
            id: id.into(),
            sandbox_id: sandbox_id.into(),
            image_id: image.id.clone(),
            state: v1::ContainerState::ContainerCreated,
            running: false,
            created_at: self.now(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            program: Program::forever(),
            signalled: false,
            resources: config.linux.as_ref().and_then(|l| l.resources.clone()),
            subject,
            config,
        };
        self.containers.insert(id.into(), container);
        Ok(())
    }

    /// Starts the process of a container, and returns its program. Here is where two instances would meet.
    pub(super) fn start(&mut self, id: &str) -> Result<Program, Status> {
        let container = self.container(id)?;
        let (state, subject) = (container.state, container.subject.clone());
        let sandbox_id = container.sandbox_id.clone();
        if state != v1::ContainerState::ContainerCreated {
            return Err(Status::unknown(format!(
                "failed to set starting state for container {id:?}: container is in {} state",
                state.as_str_name()
            )));
        }
        if !self.sandboxes.get(&sandbox_id).is_some_and(|s| s.ready) {
            return Err(Status::unknown(format!(
                "sandbox container {sandbox_id:?} is not running"
            )));
        }
        let program = self.next_program(&subject);
        let at = self.now();
        if let Some(error) = &program.start_error {
            let message = format!("failed to create containerd task: {error}");
            let container = self.container_mut(id)?;
            container.state = v1::ContainerState::ContainerExited;
            container.finished_at = at;
            // What containerd records of a container that could not be started.
            container.exit_code = 128;
            container.reason = "StartError".into();
            container.message.clone_from(&message);
            return Err(Status::unknown(message));
        }
        let running: Vec<String> = self
            .containers
            .values()
            .filter(|c| c.running && c.subject == subject)
            .map(|c| c.id.clone())
            .collect();
        if !running.is_empty() {
            let started = id.into();
            self.violations.push(Violation {
                subject,
                started,
                running,
                at,
            });
        }
        let container = self.container_mut(id)?;
        container.running = true;
        container.state = v1::ContainerState::ContainerRunning;
        container.started_at = at;
        container.program = program.clone();
        Ok(program)
    }

    /// Notes that the process ended; false when it did not run. [`Store::show_end`] makes it visible.
    pub(super) fn end(&mut self, id: &str, exit_code: i32, reason: &str) -> bool {
        let at = self.now();
        let Some(container) = self.containers.get_mut(id).filter(|c| c.running) else {
            return false;
        };
        container.running = false;
        container.finished_at = at;
        container.exit_code = exit_code;
        container.reason = reason.into();
        true
    }

    pub(super) fn show_end(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id)
            && !container.running
            && container.state == v1::ContainerState::ContainerRunning
        {
            container.state = v1::ContainerState::ContainerExited;
        }
    }

    pub(super) fn container(&self, id: &str) -> Result<&Container, Status> {
        self.containers.get(id).ok_or_else(|| no_container(id))
    }

    pub(super) fn container_mut(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers.get_mut(id).ok_or_else(|| no_container(id))
    }

    pub(super) fn sandbox(&self, id: &str) -> Result<&Sandbox, Status> {
        self.sandboxes.get(id).ok_or_else(|| {
            Status::not_found(format!(
                "an error occurred when try to find sandbox {id:?}: not found"
            ))
        })
    }

    pub(super) fn containers_of(&self, sandbox_id: &str) -> Vec<String> {
        self.containers
            .values()
            .filter(|c| c.sandbox_id == sandbox_id)
            .map(|c| c.id.clone())
            .collect()
    }

    /// What a call with this id is about; empty for an id that is not known.
    pub(super) fn subject_of(&self, id: &str) -> String {
        let container = self.containers.get(id).map(|c| c.subject.clone());
        let sandbox = || self.sandboxes.get(id).map(|s| sandbox_subject(&s.config));
        container.or_else(sandbox).unwrap_or_default()
    }
}

fn no_container(id: &str) -> Status {
    Status::not_found(format!(
        "an error occurred when try to find container {id:?}: not found"
    ))
}

pub(super) fn on_host_network(config: &v1::PodSandboxConfig) -> bool {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.as_ref())
        .is_some_and(|options| options.network() == v1::NamespaceMode::Node)
}

/// `namespace/pod`.
pub(super) fn sandbox_subject(config: &v1::PodSandboxConfig) -> String {
    let metadata = config.metadata.clone().unwrap_or_default();
    format!("{}/{}", metadata.namespace, metadata.name)
}

pub(super) fn container_name(config: &v1::ContainerConfig) -> &str {
    config.metadata.as_ref().map_or("", |m| &m.name)
}
