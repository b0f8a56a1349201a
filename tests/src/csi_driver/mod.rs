//! A storage driver for tests: a real gRPC server for CSI's Node service that bind-mounts directories, and the plugin that
//! registers it.
//!
//! Owns: its two sockets below the agent's root directory, a directory for each volume, the mounts that it was asked for.
//! Inputs: calls of an agent; orders of a test ([`CsiDriver::fail`], [`CsiDriver::hang`]). Outputs: what it was asked
//! ([`CsiDriver::calls`]).
//! Tasks: those of the servers, on a thread with a runtime of its own: when it is stopped, connections and calls under way
//! end as those of a process that is killed do. Mounts stay, as a kernel's do, until the last of its clones is dropped.

mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use cri_proto::csi::node_server::NodeServer;
use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use cri_proto::pluginregistration::registration_server::RegistrationServer;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{UnmountFlags, unmount};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::containerd::Node;
use crate::wait::eventually;

/// One call, as it arrived. Fields that the call does not have are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// `NodeStageVolume` …
    pub method: &'static str,
    /// `volume_id`.
    pub volume: String,
    /// `target_path`, or that of a device or file system.
    pub target: String,
    /// `staging_target_path`.
    pub staged_at: String,
    /// `volume_context`.
    pub context: BTreeMap<String, String>,
    /// `publish_context`.
    pub publish_context: BTreeMap<String, String>,
    /// `secrets`.
    pub secrets: BTreeMap<String, String>,
    /// `mount_flags`.
    pub flags: Vec<String>,
    /// `volume_mount_group`.
    pub group: String,
    /// Whether it is wanted as a raw device.
    pub block: bool,
    /// `readonly`.
    pub read_only: bool,
    /// `access_mode`, by number.
    pub access_mode: i32,
    /// `capacity_range.required_bytes`.
    pub bytes: i64,
}

/// What the driver is like.
#[derive(Clone, Debug)]
pub struct Traits {
    /// Its name.
    pub name: String,
    /// What it says that it can do.
    pub abilities: Vec<Ability>,
    /// Where it says that the node is.
    pub topology: BTreeMap<String, String>,
    /// `max_volumes_per_node`.
    pub most_volumes: i64,
    /// The type and versions that its plugin registers with.
    pub plugin: (String, Vec<String>),
}

impl Traits {
    /// A driver called `name` that can do what `abilities` says.
    #[must_use]
    pub fn new(name: &str, abilities: &[Ability]) -> Self {
        Self {
            name: name.to_owned(),
            abilities: abilities.to_vec(),
            topology: BTreeMap::new(),
            most_volumes: 0,
            plugin: ("CSIPlugin".to_owned(), vec!["1.0.0".to_owned()]),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    /// What the agent has said of the registration.
    told: Vec<(bool, String)>,
    /// Methods that fail, and how.
    failing: BTreeMap<&'static str, tonic::Code>,
    mounted: BTreeSet<PathBuf>,
    /// What is wrong with its volumes.
    condition: Option<String>,
}

/// What the servers of all its lives share.
#[derive(Debug)]
struct Shared {
    traits: Traits,
    data: PathBuf,
    state: Mutex<State>,
    /// Methods that do not answer.
    hanging: watch::Sender<BTreeSet<&'static str>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for path in state.mounted.iter().rev() {
            // What is unmounted already is.
            let _ = unmount(path, UnmountFlags::DETACH);
        }
    }
}

/// Has this thread see the mounts of another namespace, and mount in it.
fn enter(namespace: &Path) -> Result<()> {
    let namespace = fs::File::open(namespace)?;
    // A thread that shares its root with others may not.
    unshare(CloneFlags::CLONE_FS)?;
    Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
}

/// The driver; see the module.
pub struct CsiDriver {
    shared: Arc<Shared>,
    endpoint: PathBuf,
    registration: PathBuf,
    running: Mutex<Option<Runtime>>,
    /// The mount namespace that it mounts in; none for that of the test.
    namespace: Option<PathBuf>,
}

impl CsiDriver {
    /// A driver for the agent whose root directory is `root`, with its volumes in `data`. It does not run yet.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(root: &Path, data: &Path, traits: Traits) -> Result<Self> {
        let plugins = root.join("plugins").join(&traits.name);
        let registry = root.join("plugins_registry");
        for dir in [&plugins, &registry, data] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        Ok(Self {
            endpoint: plugins.join("csi.sock"),
            registration: registry.join(format!("{}-reg.sock", traits.name)),
            shared: Arc::new(Shared {
                traits,
                data: data.to_owned(),
                state: Mutex::default(),
                hanging: watch::Sender::default(),
            }),
            running: Mutex::default(),
            namespace: None,
        })
    }

    /// The same, which mounts where the processes of `node` see it.
    #[must_use]
    pub fn on(mut self, node: &Node) -> Self {
        let root = node.inside(Path::new("/"));
        self.namespace = root.parent().map(|process| process.join("ns/mnt"));
        self
    }

    fn running(&self) -> MutexGuard<'_, Option<Runtime>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to serve, and to register.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub fn start(&self) -> Result<()> {
        self.stop();
        self.shared.state().told.clear();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start({
                let namespace = self.namespace.clone();
                move || {
                    if let Some(namespace) = &namespace
                        && let Err(error) = enter(namespace)
                    {
                        panic!("enter {}: {error:#}", namespace.display());
                    }
                }
            })
            .build()?;
        let service = service::Service {
            shared: self.shared.clone(),
            endpoint: self.endpoint.display().to_string(),
        };
        {
            let _within = runtime.enter();
            let driver = UnixListener::bind(&self.endpoint).context("the driver's socket")?;
            let plugin = UnixListener::bind(&self.registration).context("the plugin's socket")?;
            let nodes = Server::builder().add_service(NodeServer::new(service.clone()));
            runtime.spawn(nodes.serve_with_incoming(UnixListenerStream::new(driver)));
            let plugins = Server::builder().add_service(RegistrationServer::new(service));
            runtime.spawn(plugins.serve_with_incoming(UnixListenerStream::new(plugin)));
        }
        *self.running() = Some(runtime);
        Ok(())
    }

    /// Ends at once, with all connections and calls; its sockets go.
    pub fn stop(&self) {
        if let Some(runtime) = self.running().take() {
            runtime.shutdown_background();
        }
        for socket in [&self.registration, &self.endpoint] {
            // It may not be there.
            let _ = fs::remove_file(socket);
        }
    }

    /// Waits until the agent has said that the plugin is registered, since it last began.
    ///
    /// # Errors
    /// When it has not; what it has said.
    pub async fn registered(&self) -> Result<()> {
        eventually(
            "the plugin is registered",
            crate::cluster::LIMIT,
            async || {
                let told = self.told();
                let last = told.last().context("it was told nothing")?;
                anyhow::ensure!(last.0, "it was told {told:?}");
                Ok(())
            },
        )
        .await
    }

    /// What the agent has said of the registration, each time.
    #[must_use]
    pub fn told(&self) -> Vec<(bool, String)> {
        self.shared.state().told.clone()
    }

    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// The calls of `method` so far.
    #[must_use]
    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.method == method);
        calls
    }

    /// Has a method fail from now on, or no longer.
    pub fn fail(&self, method: &'static str, code: Option<tonic::Code>) {
        let mut state = self.shared.state();
        match code {
            Some(code) => drop(state.failing.insert(method, code)),
            None => drop(state.failing.remove(method)),
        }
    }

    /// Has a method not answer from now on; or answer again, those under way too.
    pub fn hang(&self, method: &'static str, hangs: bool) {
        self.shared.hanging.send_modify(|hanging| {
            match hangs {
                true => hanging.insert(method),
                false => hanging.remove(method),
            };
        });
    }

    /// Has it say from now on what is wrong with its volumes, or that nothing is.
    pub fn set_condition(&self, wrong: Option<&str>) {
        self.shared.state().condition = wrong.map(str::to_owned);
    }

    /// What is mounted for the agent now.
    #[must_use]
    pub fn mounted(&self) -> Vec<PathBuf> {
        self.shared.state().mounted.iter().cloned().collect()
    }

    /// The directory of a volume's own files.
    #[must_use]
    pub fn volume(&self, id: &str) -> PathBuf {
        self.shared.data.join(id)
    }
}

impl Drop for CsiDriver {
    fn drop(&mut self) {
        self.stop();
    }
}
