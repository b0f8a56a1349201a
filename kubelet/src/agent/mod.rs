//! The whole agent: built from its configuration, run until it is told to stop.
//!
//! Owns: the singleton tasks. Inputs: a [`Config`]. Outputs: an exit. Tasks: all that ARCHITECTURE.md lists as living as
//! long as the agent. Does not: touch a running pod when it ends.

mod build;
mod cluster;
mod driver;
mod error;
mod images;
mod levels;
mod managers;
mod metrics_routes;
mod ports;
mod pressure;
mod resources;
mod shutting_down;
mod socket_routes;
mod sources;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use cri_proto::{ConnectOptions, Connection};
use tokio::sync::{oneshot, watch};
use tokio::task::{Id, JoinSet};

use crate::api::Endpoint;
use crate::checkpoint::{self, CheckpointInputs, run_checkpoint};
use crate::clock::Clock;
use crate::config::Config;
use crate::events::{self, About};
use crate::images::archives::run_archives;
use crate::join::{ServingCertificate, Troubles};
use crate::logging::LogHandle;
use crate::logs::{LogsConfig, RotationConfig, RotationLimits, run_rotation};
use crate::managers::devices::run_devices;
use crate::managers::pod_resources::{PodResourcesInputs, run_pod_resources};
use crate::metrics;
use crate::observe::run_events;
use crate::plugins::{Registrars, run_plugins};
use crate::resident::run_giving_back;
use crate::server::{HealthChecks, Heartbeat};
use crate::service::{Reloads, Service, StatusInputs, Watchdog, run_reloads, run_status};
use crate::shutdown::LogindHost;
use crate::sources::{ApiPods, Desired, StalePods, run_merge};
use crate::status::StatusBoard;
use crate::workers::{KnownNode, Tools, run_registry};
pub(crate) use build::node_features;
use cluster::Cluster;
pub use driver::DriverError;
pub use error::AgentError;
use ports::Ports;
use shutting_down::{shutdown_plan, watch_shutdown};
use sources::{Sources, start_sources};

/// Tasks that live as long as the agent, by name.
#[derive(Default)]
struct Singletons {
    tasks: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

impl Singletons {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.names.push((id, name));
    }

    /// Waits for the first that ends, which none should.
    async fn ended(&mut self) -> AgentError {
        let (id, why) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (Some(id), "it returned".to_owned()),
            Some(Err(error)) => (Some(error.id()), error.to_string()),
            None => std::future::pending().await,
        };
        let named = self.names.iter().find(|(known, _)| Some(*known) == id);
        AgentError::TaskEnded {
            task: named.map_or("task", |(_, name)| name),
            why,
        }
    }
}

/// What the agent has besides its configuration. A test, with several agents on one machine, gives each its own.
pub struct Surroundings {
    /// Wall clock and monotonic time.
    pub clock: Clock,
    /// Where the links to containers' logs go.
    pub log_links: PathBuf,
    /// Where the pods' statuses go.
    pub board: StatusBoard,
    /// Who announces a shutdown of the machine.
    pub logind: LogindHost,
    /// Who is told how the agent is.
    pub service: Service,
    /// What has the configuration read again; none where nothing does.
    pub reloads: Option<Reloads>,
    /// The log, for who may change it over the node's API; none where nobody may.
    pub log: Option<LogHandle>,
}

impl Surroundings {
    /// Those of a node.
    #[must_use]
    pub fn of_node() -> Self {
        Self {
            clock: Clock::system(),
            log_links: LogsConfig::default().links_dir,
            board: StatusBoard::new(),
            logind: LogindHost::of_node(),
            service: Service::default(),
            reloads: None,
            log: None,
        }
    }
}

/// Runs the agent until `stop` resolves. Running pods are left as they are.
///
/// # Errors
/// When it cannot start, or one of its tasks ends.
pub async fn run(
    config: Config,
    mut surroundings: Surroundings,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    check_kubeconfig(&config).await?;
    let clock = surroundings.clock.clone();
    let (service, reloads) = (surroundings.service.clone(), surroundings.reloads.take());
    let log = surroundings.log.take();
    // Before the first event: the API server is told of it when there is a connection.
    let joins = config.api.is_some();
    let outbox = joins.then(|| events::recorder().outbox(&config.node.name));
    About::node(&config.node.name).normal("Starting", "Starting kubelet.");
    let options = ConnectOptions {
        request_timeout: config.runtime.request_timeout,
        observer: Some(|method, elapsed, failed| {
            metrics::kubelet().runtime_call(method, elapsed, failed);
        }),
        ..ConnectOptions::default()
    };
    let connection = Connection::connect(&unix(&config.runtime.socket), options.clone())?;
    let images = match config.runtime.image_socket == config.runtime.socket {
        true => connection.clone(),
        false => Connection::connect(&unix(&config.runtime.image_socket), options)?,
    };
    let shutdown = shutdown_plan(&config, &surroundings);
    let (objects, local) = watch::channel(Arc::default());
    let connections = (&connection, &images);
    let tools = build::tools(&config, surroundings, connections, local)?;
    let tools = Arc::new(tools);
    let mut singletons = Singletons::default();
    let (refuse, refused) = oneshot::channel();
    let levels = build::node_levels(&config, &tools)?;
    let begun = levels.at_start().await?;
    singletons.spawn("cgroups of all pods", levels.keep(begun, refuse));
    let heartbeat = Heartbeat::new(clock.clone());
    let (feeds, heard) = cluster::channels();
    let serving = serving(&config, &clock, &feeds);
    let (stale, heard_stale) = watch::channel(Arc::default());
    let stats = metrics_routes::stats(&config, &tools, &images);
    let reading = metrics_routes::routes(&config, stats.clone());
    let ports = Ports {
        config: &config,
        tools: &tools,
        checks: HealthChecks::new(heartbeat.clone(), config.sources.sync_every),
        serving: serving.as_ref().map(ServingCertificate::current),
        reviews: heard.reviews,
        log,
        reading: reading.clone(),
    };
    let mut listening = ports.open().await?;
    let sources = start_sources(&config, clock.clone(), objects, &mut singletons);
    let told = tools.objects.clone().run_local();
    singletons.spawn("objects of manifests", told);
    // Until the end of this function, whichever way it ends.
    let _socket = ports::open_socket(
        (&config, &tools, &sources, &heard_stale),
        reading,
        heartbeat.clone(),
        heard.troubles.clone(),
        &mut listening,
    )?;
    listening.serve(&mut singletons);
    let _watchdog = be_a_service(
        &config,
        &tools,
        &service,
        &sources,
        (&heartbeat, clock),
        heard.troubles,
        &mut singletons,
    );
    if let Some(reloads) = reloads {
        let credentials = images::credentials(&config);
        let task = run_reloads(reloads, service.clone(), sources.rescan, credentials);
        singletons.spawn("reloads", task);
    }
    if let Some(rotation) = rotation(&config) {
        let (logs, observer) = (tools.logs.clone(), tools.observer.clone());
        let (runtime, clock) = (tools.runtime.clone(), tools.clock.clone());
        let task = run_rotation(rotation, logs, observer, runtime, clock);
        singletons.spawn("log rotation", task);
    }
    if config.agent.image_archives.is_some() {
        let task = run_archives(tools.archives.clone(), tools.observer.state());
        singletons.spawn("image archives", task);
    }
    singletons.spawn(
        "runtime events",
        run_events(tools.observer.clone(), connection),
    );
    let shutdown = watch_shutdown(shutdown, &tools.clock, &mut singletons);
    let mut desired = sources.desired;
    let object = KnownNode::new(heard.node.clone(), heard_stale.clone());
    if joins {
        let (pods, stale_pods) = (heard.pods.clone(), heard_stale.clone());
        desired = with_api_pods(desired, pods, stale_pods, &mut singletons);
    }
    let (all, tasks) = (desired.clone(), &mut singletons);
    let evictions = pressure::begin(&config, &tools, &images, stats, all, tasks)?;
    if let (Some(api), Some(outbox)) = (config.api.clone(), outbox) {
        let kept = CheckpointInputs {
            root: config.paths.root.clone(),
            credentials: service.credentials().map(PathBuf::from),
            settings: config.agent.api_pods,
            clock: tools.clock.clone(),
            pods: heard.pods,
            node: heard.node,
            renewed: heard.renewed,
            objects: tools.objects.clone(),
            board: tools.board.clone(),
            observer: tools.observer.clone(),
            dirs: tools.dirs.clone(),
            stale,
        };
        singletons.spawn("checkpoint of pods", Box::pin(run_checkpoint(kept)));
        let cluster = Cluster {
            resources: resources::node_resources(&config)?,
            config: config.clone(),
            api,
            tools: tools.clone(),
            images: images.images(),
            shutdown: shutdown.state.clone(),
            pressure: evictions.pressure.clone(),
            desired: desired.clone(),
            feeds,
            serving,
            stale: heard_stale,
            outbox,
        };
        singletons.spawn("cluster", Box::pin(cluster.run()));
    } else {
        checkpoint::forget(&config.paths.root).await;
    }
    singletons.spawn("device plugins", run_devices(tools.devices.clone()));
    let resources = pod_resources(&config, &tools);
    singletons.spawn("podresources", run_pod_resources(resources));
    let (csi, devices) = (tools.csi.clone(), tools.devices.clone());
    let plugins = run_plugins(config.paths.root.clone(), Registrars { csi, devices });
    singletons.spawn("plugins", Box::pin(plugins));
    let sweeps = tools.csi.clone().run_sweeps();
    singletons.spawn("staged volumes", Box::pin(sweeps));
    let changes = tools.board.changes();
    singletons.spawn("unused code", run_giving_back(changes));
    singletons.spawn(
        "registry of pods",
        run_registry(tools, desired, heartbeat, shutdown, evictions, object),
    );
    tracing::info!(node = config.node.name, "kubelet has started");
    tokio::select! {
        () = stop => {
            service.stopping();
            Ok(())
        }
        Ok(error) = refused => Err(error),
        error = singletons.ended() => Err(error),
    }
}

/// What asks the cluster for the certificate of the node's API, where that is configured.
fn serving(config: &Config, clock: &Clock, feeds: &cluster::Feeds) -> Option<ServingCertificate> {
    if !config.server.tls_from_api || config.server.main.is_none() {
        return None;
    }
    if config.api.is_none() {
        tracing::warn!(
            "serverTLSBootstrap: without an API server nobody issues a serving certificate; what lies in {} is served with until it expires",
            config.paths.certificates.display()
        );
    }
    let complaints = feeds.complaints.clone();
    Some(ServingCertificate::load(config, clock.clone(), complaints))
}

/// What monitoring agents are told of.
fn pod_resources(config: &Config, tools: &Tools) -> PodResourcesInputs {
    PodResourcesInputs {
        root: config.paths.root.clone(),
        clock: tools.clock.clone(),
        board: tools.board.clone(),
        devices: tools.devices.clone(),
        pinned: tools.managers.clone(),
        only_active: config.gates.enabled("KubeletPodResourcesListUseActivePods"),
    }
}

/// The pods of the manifests and those of the API server as one set.
fn with_api_pods(
    files: watch::Receiver<Arc<Desired>>,
    pods: watch::Receiver<Arc<ApiPods>>,
    stale: watch::Receiver<Arc<StalePods>>,
    singletons: &mut Singletons,
) -> watch::Receiver<Arc<Desired>> {
    let (sender, desired) = watch::channel(Arc::default());
    singletons.spawn("merge of sources", run_merge(files, pods, stale, sender));
    desired
}

/// A node of a cluster has a kubeconfig that can be understood, or one to get it with. (Upstream ends with the same.)
async fn check_kubeconfig(config: &Config) -> Result<(), AgentError> {
    let Some(api) = &config.api else {
        return Ok(());
    };
    let bootstrap = api.bootstrap_kubeconfig.as_ref();
    if bootstrap.is_some_and(|path| path.exists()) {
        return Ok(());
    }
    if api.kubeconfig.exists() {
        Endpoint::read(&api.kubeconfig).await?;
        return Ok(());
    }
    Err(AgentError::Kubeconfig {
        kubeconfig: api.kubeconfig.clone(),
        bootstrap: bootstrap.cloned(),
    })
}

/// Tells the service manager how the agent is, where there is one; the pings end with what this gives.
fn be_a_service(
    config: &Config,
    tools: &Tools,
    service: &Service,
    sources: &Sources,
    (heartbeat, clock): (&Heartbeat, Clock),
    troubles: watch::Receiver<Troubles>,
    singletons: &mut Singletons,
) -> Option<Watchdog> {
    if !service.has_manager() {
        return None;
    }
    let checks = HealthChecks::new(heartbeat.clone(), config.sources.sync_every);
    let inputs = StatusInputs {
        desired: sources.desired.clone(),
        manifests: sources.manifests.clone(),
        manifest_path: config.sources.static_pod_path.clone(),
        away: tools.observer.away(),
        runtime: config.runtime.socket.clone(),
        board: tools.board.clone(),
        checks: checks.clone(),
        troubles,
    };
    let task = run_status(service.clone(), inputs);
    singletons.spawn("status of the service", task);
    Watchdog::begin(service, checks, clock)
}

/// How container logs are rotated; none where the configuration has it off.
fn rotation(config: &Config) -> Option<RotationConfig> {
    let logs = &config.container_logs;
    Some(RotationConfig {
        limits: RotationLimits {
            max_size: logs.max_size?,
            max_files: logs.max_files,
        },
        interval: logs.check_every,
        workers: usize::try_from(logs.workers).unwrap_or(usize::MAX),
    })
}

fn unix(path: &std::path::Path) -> String {
    format!("unix://{}", path.display())
}
