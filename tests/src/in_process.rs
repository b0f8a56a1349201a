//! The whole agent in a thread of this process, on a fake runtime and a directory of its own.
//!
//! It is built from a configuration file and flags like the binary. cgroups are off, ports are closed: statuses are read
//! from the board that `/pods` is served from. Ending the thread is to its tasks what SIGKILL is to the process: nothing
//! of them runs on, and the runtime sees its connections break.

mod containers;
mod log;
mod machine;
mod socket;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kubelet::agent::{self, Surroundings};
use kubelet::clock::WallStep;
use kubelet::config::{self, Config, Environment, Invocation};
use kubelet::server::PodsView as _;
use kubelet::service::{self, Service};
use kubelet::shutdown::{Bus, LogindHost};
use kubelet::status::StatusBoard;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;

pub use self::containers::subject;
use self::log::Log;
use crate::agent::{NODE_NAME, PodView as _};
use crate::fake_runtime::FakeRuntime;
use crate::wait::eventually;

/// How long anything may take that takes a moment, on a machine busy with a build.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Lines of the agent's log that a failed test shows.
const LOG_TAIL: usize = 150;

/// A node with a fake runtime, and the agent on it when one was started.
pub struct FakeNode {
    /// The runtime; it outlives the agent.
    pub runtime: FakeRuntime,
    directory: tempfile::TempDir,
    settings: Mutex<Value>,
    flags: Mutex<BTreeMap<String, String>>,
    agent: Mutex<Option<RunningAgent>>,
    board: Mutex<StatusBoard>,
    log: Log,
    clock: WallStep,
    service: Mutex<service::Environment>,
    /// The machine's boot; none for the one that it is really in.
    boot: Mutex<Option<String>>,
}

struct RunningAgent {
    /// How far its clock is to jump; gone, it is to end.
    orders: mpsc::UnboundedSender<Duration>,
    thread: JoinHandle<Result<()>>,
}

/// Runs `test` on a node with an agent, and checks that no two instances of one container ever ran.
///
/// # Panics
/// When `test` fails; with the end of the agent's log and the runtime's calls.
pub fn with_agent(test: impl AsyncFnOnce(&FakeNode) -> Result<()>) {
    with_node(async |node| {
        node.start_agent()?;
        test(node).await
    });
}

/// As [`with_agent`], without an agent yet.
///
/// # Panics
/// As [`with_agent`].
pub fn with_node(test: impl AsyncFnOnce(&FakeNode) -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no tokio runtime: {error}"));
    runtime.block_on(async {
        let node = match FakeNode::new().await {
            Ok(node) => node,
            Err(error) => panic!("no node: {error:?}"),
        };
        let done = test(&node).await.and_then(|()| {
            node.kill_agent_if_any()?;
            let violations = node.runtime.violations();
            ensure!(
                violations.is_empty(),
                "two instances ran at a time: {violations:?}"
            );
            Ok(())
        });
        if let Err(error) = done {
            let agent = node.kill_agent_if_any();
            let changes = node.runtime.changes();
            panic!(
                "{error:#}\nthe agent: {agent:?}\nthe runtime was asked to: {changes:#?}\nthe agent's log ends:\n{}",
                node.log_tail()
            );
        }
    });
}

impl FakeNode {
    async fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("fake-node-").tempdir()?;
        fs::create_dir(directory.path().join("manifests"))?;
        fs::write(
            directory.path().join("resolv.conf"),
            "nameserver 192.0.2.53\n",
        )?;
        let runtime = FakeRuntime::start().await?;
        let at = |name: &str| directory.path().join(name);
        let settings = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "staticPodPath": at("manifests"),
            "containerRuntimeEndpoint": runtime.endpoint(),
            "podLogsDir": at("pod-logs"),
            "volumePluginDir": at("volume-plugins"),
            "resolvConf": at("resolv.conf"),
            // Several nodes of a test process have one network.
            "enableServer": false,
            "healthzPort": 0,
            "readOnlyPort": 0,
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            // The disk of a test machine may be nearly full: nothing is evicted, no image is collected.
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
        });
        Ok(Self {
            runtime,
            directory,
            settings: Mutex::new(settings),
            flags: Mutex::default(),
            agent: Mutex::default(),
            board: Mutex::default(),
            log: Log::default(),
            clock: WallStep::default(),
            service: Mutex::default(),
            boot: Mutex::default(),
        })
    }

    /// A path in the node's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory that the agent keeps of a pod.
    #[must_use]
    pub fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.path("kubelet").join("pods").join(pod.uid())
    }

    /// Sets a field of the configuration, for agents started from now on.
    pub fn configure(&self, field: &str, value: Value) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings[field] = value;
    }

    /// Sets a flag (`--kubeconfig`), for agents started from now on.
    pub fn set_flag(&self, flag: &str, value: &str) {
        let mut flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
        flags.insert(flag.to_owned(), value.to_owned());
    }

    /// What a service manager gives to agents started from now on.
    pub fn serve(&self, environment: service::Environment) {
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = environment;
    }

    /// Writes a manifest as a careful person does: beside, then renamed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, name: &str, manifest: &str) -> Result<()> {
        let hidden = self.path("manifests").join(format!(".{name}.new"));
        fs::write(&hidden, manifest)?;
        fs::rename(hidden, self.path("manifests").join(name))
            .with_context(|| format!("put manifest {name}"))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.path("manifests").join(name))
            .with_context(|| format!("remove manifest {name}"))
    }

    /// Writes the configuration file, `kubelet.yaml` in the node's directory, and gives the arguments of an agent with it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn arguments(&self) -> Result<Vec<String>> {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.path("kubelet.yaml");
        fs::write(&file, serde_json::to_vec_pretty(&*settings)?)?;
        let mut arguments = vec![
            format!("--config={}", file.display()),
            format!("--root-dir={}", self.path("kubelet").display()),
            format!("--cert-dir={}", self.path("pki").display()),
            format!("--hostname-override={NODE_NAME}"),
        ];
        let flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
        arguments.extend(flags.iter().map(|(flag, value)| format!("{flag}={value}")));
        Ok(arguments)
    }

    fn config(&self) -> Result<Config> {
        let Invocation::Run(line) = config::parse_arguments(self.arguments()?, &[])? else {
            bail!("the arguments do not run an agent");
        };
        Ok(config::load(&line, &Environment::of_host()?)?.config)
    }

    /// Starts an agent.
    ///
    /// # Errors
    /// When one runs already, or its configuration is wrong.
    pub fn start_agent(&self) -> Result<()> {
        let mut slot = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(slot.is_none(), "an agent runs already");
        let config = self.config()?;
        let board = StatusBoard::new();
        *self.board.lock().unwrap_or_else(PoisonError::into_inner) = board.clone();
        let (orders, mut taken) = mpsc::unbounded_channel();
        let log = self.log.clone();
        let environment = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        let service = Service::of(&environment)?;
        drop(environment);
        let surroundings = Surroundings {
            clock: self.clocks(),
            log_links: self.path("log-links"),
            board,
            logind: LogindHost {
                bus: Bus::At(format!("unix:path={}", self.path("bus").display())),
                drop_ins: self.path("logind.conf.d"),
            },
            service,
            reloads: None,
            log: None,
        };
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::INFO)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        let dispatch = tracing::Dispatch::new(subscriber);
        let body = move || {
            let _logging = tracing::dispatcher::set_default(&dispatch);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                // For the threads of blocking calls: as long as the thread lives.
                .on_thread_start(move || {
                    std::mem::forget(tracing::dispatcher::set_default(&dispatch));
                })
                .build()?;
            let done = runtime.block_on(agent::run(config, surroundings, async {
                while let Some(jump) = taken.recv().await {
                    machine::jump(jump).await;
                }
            }));
            runtime.shutdown_background();
            Ok(done?)
        };
        // Code without optimisation that reads and writes API types needs a deep stack.
        let thread = std::thread::Builder::new()
            .stack_size(8 << 20)
            .spawn(body)?;
        *slot = Some(RunningAgent { orders, thread });
        Ok(())
    }

    /// Ends the agent where it stands.
    ///
    /// # Errors
    /// When none runs, or it had ended with an error.
    pub fn kill_agent(&self) -> Result<()> {
        let mut slot = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = slot.take().context("no agent runs")?;
        drop(agent.orders);
        let ended = agent.thread.join();
        ended.map_err(|_| anyhow!("the agent's thread panicked"))?
    }

    /// Has the time that the agent goes by jump ahead, as if it had been stopped for so long.
    ///
    /// # Errors
    /// When no agent runs.
    pub fn pass_time(&self, by: Duration) -> Result<()> {
        let slot = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = slot.as_ref().context("no agent runs")?;
        agent.orders.send(by).context("the agent has ended")
    }

    /// Whether the agent that was started has ended by itself; why, [`FakeNode::kill_agent`] says.
    #[must_use]
    pub fn agent_ended(&self) -> bool {
        let slot = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref()
            .is_some_and(|agent| agent.thread.is_finished())
    }

    /// Nothing is wrong with an agent that runs, or was ended by the test.
    fn kill_agent_if_any(&self) -> Result<()> {
        let slot = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = slot.is_some();
        drop(slot);
        if runs { self.kill_agent() } else { Ok(()) }
    }

    fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// All that the agents of this node have logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Makes the next task of the agent that logs a line with all of `parts` panic in the midst of it.
    pub fn panic_at(&self, parts: &[&str]) {
        self.log.panic_at(parts);
    }

    /// Makes the next thread of the agent that logs a line with all of `parts` hang in the midst of it, until
    /// [`FakeNode::let_go`].
    pub fn hang_at(&self, parts: &[&str]) {
        self.log.hang_at(parts);
    }

    /// Ends what [`FakeNode::hang_at`] began.
    pub fn let_go(&self) {
        self.log.let_go();
    }

    /// The pods with their statuses, as `/pods` shows them.
    #[must_use]
    pub fn pods(&self) -> Vec<Pod> {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = board.pods().into_iter();
        pods.map(|pod| Pod {
            status: board.status(&pod),
            ..Pod::clone(&pod)
        })
        .collect()
    }

    /// The one pod called `name` in its manifest.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let full = format!("{name}-{NODE_NAME}");
        let mut pods = self.pods();
        pods.retain(|pod| pod.metadata.name.as_deref() == Some(&full));
        ensure!(pods.len() <= 1, "{} pods {full}", pods.len());
        pods.pop().with_context(|| format!("no pod {full}"))
    }

    /// Waits until the pod is Running with every container ready.
    ///
    /// # Errors
    /// When it is not within [`LIMIT`].
    pub async fn ready(&self, name: &str) -> Result<Pod> {
        eventually(&format!("pod {name} is ready"), LIMIT, async || {
            let pod = self.pod(name)?;
            let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
            let ready = pod.statuses().iter().filter(|s| s.ready).count();
            ensure!(
                pod.phase() == "Running" && ready == containers,
                "{}",
                pod.describe()
            );
            Ok(pod)
        })
        .await
    }

    /// Waits until the pod is in `phase`.
    ///
    /// # Errors
    /// When it is not within [`LIMIT`].
    pub async fn phase(&self, name: &str, phase: &str) -> Result<Pod> {
        eventually(&format!("pod {name} is {phase}"), LIMIT, async || {
            let pod = self.pod(name)?;
            ensure!(pod.phase() == phase, "{}", pod.describe());
            Ok(pod)
        })
        .await
    }

    /// Waits until a container waits for `reason`.
    ///
    /// # Errors
    /// When it does not within [`LIMIT`].
    pub async fn waiting(&self, name: &str, container: &str, reason: &str) -> Result<Pod> {
        eventually(
            &format!("{name}/{container}: {reason}"),
            LIMIT,
            async || {
                let pod = self.pod(name)?;
                let state = pod.container(container)?.state.clone();
                let waiting = state.and_then(|state| state.waiting);
                let found = waiting.and_then(|waiting| waiting.reason);
                ensure!(found.as_deref() == Some(reason), "{}", pod.describe());
                Ok(pod)
            },
        )
        .await
    }

    /// Waits until the pod is neither shown nor running, and its directory is gone.
    ///
    /// # Errors
    /// When something is left after [`LIMIT`].
    pub async fn gone(&self, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        eventually(&format!("{name} is gone"), LIMIT, async || {
            ensure!(self.pods().iter().all(|p| p.uid() != pod.uid()), "shown");
            let label = "io.kubernetes.pod.uid";
            let own = |labels: &std::collections::BTreeMap<String, String>| {
                labels.get(label).map(String::as_str) == Some(pod.uid())
            };
            let containers = self.runtime.containers();
            ensure!(
                !containers
                    .iter()
                    .any(|c| c.running && own(&c.config.labels)),
                "a container runs"
            );
            let sandboxes = self.runtime.sandboxes();
            ensure!(
                !sandboxes.iter().any(|s| s.ready && own(&s.config.labels)),
                "a sandbox is ready"
            );
            ensure!(!self.pod_dir(pod).exists(), "its directory is there");
            Ok(())
        })
        .await
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        // Whether it had failed was for the test to find out.
        let _ = self.kill_agent_if_any();
    }
}
