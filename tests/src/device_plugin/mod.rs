//! A device plugin for tests: a real gRPC server for `v1beta1.DevicePlugin`, which registers as plugins do.
//!
//! Owns: its socket in the agent's `device-plugins`, and one in `plugins_registry` where it is to register there.
//! Inputs: calls of an agent; orders of a test ([`DevicePlugin::set`], [`DevicePlugin::fail`], [`DevicePlugin::hang`]).
//! Outputs: what it was asked ([`DevicePlugin::calls_of`]).
//! Tasks: those of the servers, on a thread with a runtime of its own: when it is stopped, connections and calls under way
//! end as those of a process that is killed do.

mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use cri_proto::deviceplugin::device_plugin_server::DevicePluginServer;
use cri_proto::deviceplugin::registration_client::RegistrationClient;
use cri_proto::deviceplugin::{
    ContainerAllocateResponse, Device, DevicePluginOptions, NumaNode, RegisterRequest, TopologyInfo,
};
use cri_proto::plugin_channel;
use cri_proto::pluginregistration::registration_server::RegistrationServer;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;
use tonic::transport::Server;

use crate::wait::eventually;

/// How long the agent may take to be there for a registration.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// One call, as it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// `Allocate` …
    pub method: &'static str,
    /// The devices that it is about, sorted.
    pub devices: Vec<String>,
    /// Of `GetPreferredAllocation`: how many are wanted.
    pub wanted: i32,
}

/// A device called `id`, that works, on these NUMA nodes.
#[must_use]
pub fn device(id: &str, nodes: &[i64]) -> Device {
    let nodes: Vec<NumaNode> = nodes.iter().map(|id| NumaNode { id: *id }).collect();
    Device {
        id: id.to_owned(),
        health: "Healthy".to_owned(),
        topology: (!nodes.is_empty()).then_some(TopologyInfo { nodes }),
    }
}

/// The same, which does not work.
#[must_use]
pub fn broken(id: &str) -> Device {
    Device {
        health: "Unhealthy".to_owned(),
        ..device(id, &[])
    }
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    /// What the agent has said of the registration in `plugins_registry`.
    told: Vec<(bool, String)>,
    /// Methods that fail, and how.
    failing: BTreeMap<&'static str, (Code, String)>,
    options: DevicePluginOptions,
    /// What it prefers, best first.
    preferred: Vec<String>,
    /// What a container gets with any of its devices; the variable `DEVICES` with their ids comes to it.
    given: ContainerAllocateResponse,
}

/// What the servers of all its lives share.
#[derive(Debug)]
struct Shared {
    resource: String,
    endpoint: PathBuf,
    state: Mutex<State>,
    devices: watch::Sender<Vec<Device>>,
    /// Methods that do not answer.
    hanging: watch::Sender<BTreeSet<&'static str>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The plugin; see the module.
pub struct DevicePlugin {
    shared: Arc<Shared>,
    directory: PathBuf,
    registration: PathBuf,
    running: Mutex<Option<Runtime>>,
}

impl DevicePlugin {
    /// A plugin for the agent whose root directory is `root`, with these devices of `resource`. It does not run yet.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(root: &Path, resource: &str, devices: Vec<Device>) -> Result<Self> {
        let directory = root.join("device-plugins");
        let registry = root.join("plugins_registry");
        for dir in [&directory, &registry] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let name = resource.replace('/', "_");
        Ok(Self {
            shared: Arc::new(Shared {
                resource: resource.to_owned(),
                endpoint: directory.join(format!("{name}.sock")),
                state: Mutex::default(),
                devices: watch::Sender::new(devices),
                hanging: watch::Sender::default(),
            }),
            registration: registry.join(format!("{name}-reg.sock")),
            directory,
            running: Mutex::default(),
        })
    }

    /// The same, which wants to be told before containers start.
    #[must_use]
    pub fn told_before_start(self) -> Self {
        self.shared.state().options.pre_start_required = true;
        self
    }

    /// The same, which prefers these devices, best first.
    #[must_use]
    pub fn preferring(self, ids: &[&str]) -> Self {
        let mut state = self.shared.state();
        state.options.get_preferred_allocation_available = true;
        state.preferred = ids.iter().map(ToString::to_string).collect();
        drop(state);
        self
    }

    /// The same, whose devices come with `given` besides the variable `DEVICES`.
    #[must_use]
    pub fn giving(self, given: ContainerAllocateResponse) -> Self {
        self.shared.state().given = given;
        self
    }

    fn running(&self) -> MutexGuard<'_, Option<Runtime>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to serve. It has not registered yet.
    ///
    /// # Errors
    /// When its socket cannot be had.
    pub fn serve(&self) -> Result<()> {
        self.stop();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let service = service::Service(self.shared.clone());
        {
            let _within = runtime.enter();
            let socket =
                UnixListener::bind(&self.shared.endpoint).context("the plugin's socket")?;
            let plugin = Server::builder().add_service(DevicePluginServer::new(service));
            runtime.spawn(plugin.serve_with_incoming(UnixListenerStream::new(socket)));
        }
        *self.running() = Some(runtime);
        Ok(())
    }

    /// Begins to serve once the agent listens, registers at its socket, and waits until the agent has taken over its list.
    ///
    /// # Errors
    /// When the agent does not in time.
    pub async fn start(&self) -> Result<()> {
        // The agent clears the directory when it begins.
        eventually("the plugin is registered", LIMIT, async || {
            anyhow::ensure!(self.directory.join("kubelet.sock").exists(), "no agent");
            self.serve()?;
            Ok(self.register().await?)
        })
        .await?;
        eventually("its devices are known", LIMIT, async || {
            let kept = fs::read(self.directory.join("kubelet_internal_checkpoint"))?;
            let kept: serde_json::Value = serde_json::from_slice(&kept)?;
            let known = kept["Data"]["RegisteredDevices"][&self.shared.resource].as_array();
            let healthy = |device: &&Device| device.health == "Healthy";
            let own = self.shared.devices.borrow();
            let own = own.iter().filter(healthy).count();
            anyhow::ensure!(known.is_some_and(|known| known.len() == own), "{kept}");
            Ok(())
        })
        .await
    }

    /// Registers at the agent's socket.
    ///
    /// # Errors
    /// The agent's answer.
    pub async fn register(&self) -> Result<(), tonic::Status> {
        self.register_as("v1beta1", &self.shared.resource).await
    }

    /// Registers at the agent's socket, with another version or resource.
    ///
    /// # Errors
    /// The agent's answer.
    pub async fn register_as(&self, version: &str, resource: &str) -> Result<(), tonic::Status> {
        let name = self.shared.endpoint.file_name().unwrap_or_default();
        let request = RegisterRequest {
            version: version.to_owned(),
            endpoint: name.to_string_lossy().into_owned(),
            resource_name: resource.to_owned(),
            options: None,
        };
        let channel = plugin_channel(&self.directory.join("kubelet.sock"));
        let answer = RegistrationClient::new(channel).register(request).await;
        answer.map(drop)
    }

    /// Begins to serve, and registers in `plugins_registry`.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub fn serve_in_registry(&self) -> Result<()> {
        self.serve()?;
        let running = self.running();
        if let Some(runtime) = &*running {
            let _within = runtime.enter();
            let service = service::Service(self.shared.clone());
            let socket = UnixListener::bind(&self.registration).context("the plugin's socket")?;
            let plugin = Server::builder().add_service(RegistrationServer::new(service));
            runtime.spawn(plugin.serve_with_incoming(UnixListenerStream::new(socket)));
        }
        Ok(())
    }

    /// Ends at once, with all connections and calls; its sockets go.
    pub fn stop(&self) {
        if let Some(runtime) = self.running().take() {
            runtime.shutdown_background();
        }
        for socket in [&self.registration, &self.shared.endpoint] {
            // It may not be there.
            let _ = fs::remove_file(socket);
        }
    }

    /// Has other devices from now on.
    pub fn set(&self, devices: Vec<Device>) {
        self.shared.devices.send_replace(devices);
    }

    /// What the agent has said of the registration in `plugins_registry`, each time.
    #[must_use]
    pub fn told(&self) -> Vec<(bool, String)> {
        self.shared.state().told.clone()
    }

    /// The calls of `method` so far.
    #[must_use]
    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        let mut calls = self.shared.state().calls.clone();
        calls.retain(|call| call.method == method);
        calls
    }

    /// Has a method fail from now on, or no longer.
    pub fn fail(&self, method: &'static str, how: Option<(Code, &str)>) {
        let mut state = self.shared.state();
        match how {
            Some((code, text)) => drop(state.failing.insert(method, (code, text.to_owned()))),
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
}

impl Drop for DevicePlugin {
    fn drop(&mut self) {
        self.stop();
    }
}
