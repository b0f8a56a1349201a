//! The clients of one API server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::HeaderValue;
use kube::Client;
use kube::client::ConfigExt as _;
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::ServerName;
use tower::ServiceBuilder;

use super::connector::Connector;
use super::kubeconfig::{ApiError, Endpoint, Identity};
use super::rate::Bucket;
use super::returned::Health;
use super::service::{ApiService, Pool, Requests};
use super::sockets::Sockets;
use super::tls::TlsSource;
use super::token::TokenFile;
use crate::clock::Clock;
use crate::config::{self, Rate};

/// The API server answers within a minute or not at all (its `--request-timeout`); watches begin their answer at once.
const DEADLINE: Duration = Duration::from_secs(70);
/// How long a heartbeat may take: upstream's least of `nodeStatusUpdateFrequency` and the lease's duration.
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(10);

/// Connections for watches of single objects, besides the one for everything.
const MORE_CONNECTIONS: usize = 4;

/// How often requests are made.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// `kubeAPIQPS` and `kubeAPIBurst`.
    pub requests: Rate,
    /// `eventRecordQPS` and `eventBurst`.
    pub events: Rate,
}

/// What a client is made of besides the kubeconfig.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How often requests are made.
    pub rates: Rates,
    /// How long a heartbeat may take; at most ten seconds are given.
    pub heartbeat_deadline: Duration,
    /// Who this node is, where that is not what the kubeconfig says.
    pub identity: Option<Identity>,
}

/// Clients of the API server. Cheap to clone.
#[derive(Clone)]
pub struct Clients {
    /// For everything that has none of its own.
    pub main: Client,
    /// For events: over the same connection, at a rate of their own.
    pub events: Client,
    /// For what is asked on behalf of those who use the node's API: over the same connection, at a rate of their own. Who
    /// asks a lot holds up nobody but who asks likewise.
    pub reviews: Client,
    /// For the lease and the node's status: over a connection of its own, at no rate, and nothing is waited for long.
    pub heartbeat: Client,
    /// For watches of single objects, of which a node may have more than go over one connection: each over a connection of
    /// its own, which is made once it is used.
    pub watches: Arc<[Client]>,
    pools: Vec<Arc<Pool>>,
    /// The one of the heartbeats, which is among them.
    beats: Arc<Pool>,
    health: Arc<Health>,
}

impl Clients {
    /// Reads certificates and tokens, and runs the kubeconfig's command for credentials where it has one. Nothing is
    /// connected yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When something is missing or cannot be used.
    pub async fn open(
        endpoint: Endpoint,
        options: ClientOptions,
        clock: Clock,
    ) -> Result<Self, ApiError> {
        // A command for credentials may take its time.
        let built = tokio::task::spawn_blocking(move || Self::build(&endpoint, &options, &clock));
        match built.await {
            Ok(built) => built,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn build(
        endpoint: &Endpoint,
        options: &ClientOptions,
        clock: &Clock,
    ) -> Result<Self, ApiError> {
        let name = endpoint.server_name();
        let server_name =
            ServerName::try_from(name.clone()).map_err(|_| ApiError::ServerName { name })?;
        // As Go programs have it.
        let http2 = std::env::var_os("DISABLE_HTTP2").is_none_or(|value| value.is_empty());
        let identity = options.identity.clone();
        let identity = identity.unwrap_or_else(|| endpoint.identity.clone());
        let tls = Arc::new(TlsSource::new(endpoint, identity, http2)?);
        let pool = || {
            Arc::new(Pool::new(Connector {
                tls: tls.clone(),
                server_name: server_name.clone(),
                sockets: Arc::new(Sockets::default()),
            }))
        };
        let (shared, own) = (pool(), pool());
        let more: Vec<_> = (0..MORE_CONNECTIONS).map(|_| pool()).collect();
        let health = Arc::new(Health::default());
        let client = |pool: &Arc<Pool>, rate: Option<Rate>, deadline: Duration, beat: bool| {
            let requests = Requests {
                pool: pool.clone(),
                health: health.clone(),
                clock: clock.clone(),
                bucket: rate.map(|rate| Mutex::new(Bucket::new(rate))),
                user_agent: user_agent(),
                token: endpoint.token_file.clone().map(TokenFile::new),
                deadline,
                cut_when_late: beat,
                watches: Mutex::new(HashMap::new()),
            };
            client(endpoint, ApiService(Arc::new(requests)))
        };
        let beat = options.heartbeat_deadline.min(HEARTBEAT_DEADLINE);
        Ok(Self {
            main: client(&shared, Some(options.rates.requests), DEADLINE, false)?,
            events: client(&shared, Some(options.rates.events), DEADLINE, false)?,
            reviews: client(&shared, Some(options.rates.requests), DEADLINE, false)?,
            heartbeat: client(&own, None, beat, true)?,
            watches: more
                .iter()
                .map(|pool| client(pool, Some(options.rates.requests), DEADLINE, false))
                .collect::<Result<_, _>>()?,
            beats: own.clone(),
            pools: [shared, own].into_iter().chain(more).collect(),
            health,
        })
    }

    /// Has what is asked from now on go over new connections, with the certificate that is there then. Nothing that is under
    /// way is disturbed: an API server judges a certificate when a request begins.
    pub fn renew(&self) {
        for pool in &self.pools {
            pool.renew();
        }
    }

    /// The server is back. It may have been `silent`, the last time at that moment.
    pub(super) fn returned(&self, silent: Option<Instant>) {
        for pool in &self.pools {
            pool.returned(silent);
        }
    }

    /// Closes the connection of heartbeats.
    pub(super) fn cut_heartbeats(&self) {
        self.beats.cut();
    }

    pub(super) fn health(&self) -> Arc<Health> {
        self.health.clone()
    }
}

fn client(endpoint: &Endpoint, service: ApiService) -> Result<Client, ApiError> {
    let unusable = |source: kube::Error| ApiError::Credentials {
        path: endpoint.path.clone(),
        source: Box::new(source),
    };
    let config = &endpoint.config;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(unusable)?)
        .layer(config.extra_headers_layer().map_err(unusable)?)
        .service(service);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// In upstream's form: command, release of Kubernetes, platform; then this agent's own version instead of a commit.
fn user_agent() -> HeaderValue {
    let release = config::KUBERNETES_VERSION;
    let text = format!(
        "kubelet/{release} (linux/{}) agent/{}",
        crate::node::architecture(),
        env!("CARGO_PKG_VERSION")
    );
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("kubelet"))
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}
