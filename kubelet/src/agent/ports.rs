//! What the agent listens on.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use kube::Client;
use tokio::sync::watch;

use super::{AgentError, Singletons, Sources, socket_routes};
use crate::config::{Authorization, Config, SOCKET_NAME, SocketSetting};
use crate::errors::error_chain;
use crate::events;
use crate::join::{Serving, Troubles};
use crate::logging::LogHandle;
use crate::server::auth::{self, Access, AccessSettings, ClientAuthority};
use crate::server::checkpoint::{self, Checkpoints};
use crate::server::container_logs::{self, ContainerLogs};
use crate::server::streaming::{self, Streaming};
use crate::server::{
    self, CertificateSource, Debugging, HealthChecks, Heartbeat, NodeApi, ObservedRuntime,
    OverviewInputs, Pages, Server, ServerType, ServingTls, SetVerbosity, SocketError, SocketFile,
    TlsOptions, counted, self_signed,
};
use crate::sources::StalePods;
use crate::workers::Tools;

/// What `/logs` shows.
const SYSTEM_LOGS: &str = "/var/log";
/// Where checkpoints of containers are, below the root directory.
const CHECKPOINTS: &str = "checkpoints";

/// What the ports are made of.
pub(super) struct Ports<'a> {
    pub(super) config: &'a Config,
    pub(super) tools: &'a Tools,
    pub(super) checks: HealthChecks,
    /// What the cluster's signer has issued; none where it is not asked (`serverTLSBootstrap`).
    pub(super) serving: Option<Serving>,
    /// How the API server is asked about users, once the node has joined.
    pub(super) reviews: watch::Receiver<Option<Client>>,
    pub(super) log: Option<LogHandle>,
    /// Stats and metrics.
    pub(super) reading: Router,
}

/// What listens and does not answer yet: whoever hears from one of them finds the others there.
#[derive(Default)]
pub(super) struct Listening(Vec<(&'static str, Server)>);

impl Listening {
    /// Answers, on all of them.
    pub(super) fn serve(self, singletons: &mut Singletons) {
        for (task, server) in self.0 {
            singletons.spawn(task, async move { match server.run().await {} });
        }
    }
}

impl Ports<'_> {
    /// Opens the ports that are configured, before anything else happens: a port that is taken is an error of the start.
    pub(super) async fn open(self) -> Result<Listening, AgentError> {
        let mut open = Listening::default();
        let configured = &self.config.server;
        if let Some(address) = configured.healthz {
            let routes = server::healthz_routes(self.checks.clone());
            let server = Server::bind(address, "healthz", routes).await?;
            open.0.push(("healthz server", server));
        }
        let api = self.node_api();
        if let Some(address) = configured.read_only {
            let routes = counted(server::read_only_routes(api.clone()), ServerType::ReadOnly);
            let server = Server::bind(address, "the read-only port", routes).await?;
            open.0.push(("read-only server", server));
        }
        let Some(address) = configured.main else {
            return Ok(open);
        };
        if !self.can_know_anybody() {
            tracing::info!(
                "port: {address} stays closed: without an API server to ask, only client certificates say who asks, and authentication.x509.clientCAFile is not set"
            );
            return Ok(open);
        }
        let access = self.access()?;
        let tls = self.tls(access.authority.clone())?;
        let access = Access::new(access, self.reviews, &self.tools.clock);
        let routes = auth::guarded(server::node_api_routes(api), Arc::new(access));
        let routes = counted(routes, ServerType::ReadWrite);
        let server = Server::bind_tls(address, "the node's API", Arc::new(tls), routes).await?;
        open.0.push(("node API", server));
        Ok(open)
    }

    /// Whether there is anybody who would not be refused.
    fn can_know_anybody(&self) -> bool {
        let access = &self.config.server.access;
        self.config.api.is_some() || access.client_ca.is_some() || access.anonymous
    }

    fn access(&self) -> Result<AccessSettings, AgentError> {
        let access = &self.config.server.access;
        let clock = &self.tools.clock;
        let read = |file: &std::path::PathBuf| ClientAuthority::new(file.clone(), clock.clone());
        let authority = access.client_ca.as_ref().map(read).transpose()?;
        let alone = self.config.api.is_none();
        let authorization = match access.authorization {
            Authorization::Webhook { .. } if alone => {
                tracing::warn!(
                    "authorization.mode: Webhook has no API server to ask: everything on the node's API is refused; set AlwaysAllow to allow it to whoever is known"
                );
                None
            }
            set => Some(set),
        };
        Ok(AccessSettings {
            node: self.config.node.name.clone(),
            anonymous: access.anonymous,
            authority: authority.map(Arc::new),
            tokens: access.token_webhook.filter(|_| !alone),
            authorization,
            exec_verb: self.config.agent.exec_verb,
        })
    }

    fn tls(&self, authority: Option<Arc<ClientAuthority>>) -> Result<ServingTls, AgentError> {
        let config = self.config;
        let reload = config.gates.enabled("ReloadKubeletServerCertificateFile");
        let files = |(certificate, key)| CertificateSource::Files {
            certificate,
            key,
            reload,
        };
        let source = match (&self.serving, &config.server.tls_files) {
            (Some(serving), _) => {
                CertificateSource::Issued(serving.clone(), self.tools.clock.clone())
            }
            (None, Some(configured)) => files(configured.clone()),
            (None, None) => {
                let directory = &config.paths.certificates;
                let made = self_signed(directory, &config.node.name, &self.tools.clock)?;
                files(made)
            }
        };
        let options = TlsOptions {
            only_13: config.server.only_tls13,
            cipher_suites: config.server.tls_cipher_suites.clone(),
        };
        Ok(ServingTls::new(source, authority, options)?)
    }

    /// Here the routers of the rooms are put together.
    fn node_api(&self) -> NodeApi {
        let (config, tools) = (self.config, self.tools);
        let debugging = config.server.debugging_handlers.then(|| Debugging {
            handlers: Router::new()
                .merge(server::running_pods_routes(tools.runtime.clone()))
                .merge(container_logs::routes(self.container_logs()))
                .merge(streams(config, tools))
                .merge(self.checkpoints()),
            configz: config.server.configz.clone(),
            system_logs: config
                .server
                .system_log_handler
                .then(|| Path::new(SYSTEM_LOGS).to_owned()),
            set_verbosity: config
                .server
                .debug_flags_handler
                .then(|| self.set_verbosity()),
            profiling: config.server.profiling_handler,
            pages: self.pages(),
        });
        NodeApi {
            checks: self.checks.clone(),
            pods: Arc::new(tools.board.clone()),
            reading: self.reading.clone(),
            debugging,
        }
    }

    fn pages(&self) -> Pages {
        let gates = &self.config.gates;
        let flags = self.config.server.flags.clone();
        Pages {
            flags: gates.enabled("ComponentFlagz").then_some(flags),
            status: (gates.enabled("ComponentStatusz")).then(|| self.tools.clock.clone()),
        }
    }

    fn checkpoints(&self) -> Router {
        if !self.config.gates.enabled("ContainerCheckpoint") {
            return Router::new();
        }
        checkpoint::routes(Checkpoints {
            pods: Arc::new(self.tools.board.clone()),
            runtime: observed(self.tools),
            directory: self.config.paths.root.join(CHECKPOINTS),
            clock: self.tools.clock.clone(),
        })
    }

    fn container_logs(&self) -> ContainerLogs<ObservedRuntime> {
        let tools = self.tools;
        ContainerLogs {
            pods: Arc::new(tools.board.clone()),
            logs: tools.logs.clone(),
            runtime: observed(tools),
            clock: tools.clock.clone(),
            split_streams: self.config.gates.enabled("PodLogsQuerySplitStreams"),
            rotated: false,
        }
    }

    fn set_verbosity(&self) -> SetVerbosity {
        let log = self.log.clone();
        Arc::new(move |verbosity| {
            let Some(log) = &log else {
                return false;
            };
            log.set_verbosity(verbosity);
            true
        })
    }
}

fn observed(tools: &Tools) -> ObservedRuntime {
    ObservedRuntime {
        observer: tools.observer.clone(),
        runtime: tools.runtime.clone(),
    }
}

/// exec, attach and port-forward; each port has streams of its own number.
fn streams(config: &Config, tools: &Tools) -> Router {
    streaming::routes(Streaming {
        pods: Arc::new(tools.board.clone()),
        runtime: observed(tools),
        idle: config.server.streaming_idle_timeout,
    })
}

/// Opens the agent's own socket, as it is configured. Where nobody asked for one, going without is no error: pods come
/// first.
pub(super) fn open_socket(
    (config, tools, sources, stale): (&Config, &Tools, &Sources, &watch::Receiver<Arc<StalePods>>),
    reading: Router,
    heartbeat: Heartbeat,
    troubles: watch::Receiver<Troubles>,
    open: &mut Listening,
) -> Result<Option<SocketFile>, SocketError> {
    let path = match &config.agent.socket {
        SocketSetting::None => return Ok(None),
        // What upstream does not have, a node of a cluster has only where it was asked for.
        SocketSetting::Unset if config.api.is_some() => return Ok(None),
        SocketSetting::Unset => config.paths.root.join(SOCKET_NAME),
        SocketSetting::At(path) => path.clone(),
    };
    let reading = reading.merge(streams(config, tools));
    let pods = Arc::new(tools.board.clone());
    let overview = OverviewInputs {
        node: config.node.name.to_string(),
        clock: tools.clock.clone(),
        checks: HealthChecks::new(heartbeat, config.sources.sync_every),
        runtime: config.runtime.socket.clone(),
        away: tools.observer.away(),
        manifest_path: config.sources.static_pod_path.clone(),
        manifests: sources.manifests.clone(),
        objects: sources.objects.clone(),
        desired: sources.desired.clone(),
        kubeconfig: config.api.as_ref().map(|api| api.kubeconfig.clone()),
        troubles,
        stale: stale.clone(),
        board: tools.board.clone(),
        stuck: tools.stuck.clone(),
        admission: tools.node.admission.clone(),
    };
    let reading = reading.merge(socket_routes::routes(config, tools));
    let routes = server::socket_routes(pods, events::recorder(), overview, reading);
    match Server::bind_socket(&path, routes) {
        Ok((server, file)) => {
            open.0.push(("socket", server));
            Ok(Some(file))
        }
        Err(error) if config.agent.socket == SocketSetting::Unset => {
            tracing::warn!(
                "{}; 'kubelet get', 'kubelet status' and their like cannot be answered",
                error_chain(&error)
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
