//! How a node comes to its certificates: as a client of the API server by a bootstrap kubeconfig the first time, by the
//! certificate before it from then on; for the node's API, where that is configured, as a client that has one.
//!
//! Owns: `<cert-dir>/kubelet-client-current.pem`, `kubelet-server-current.pem` and their predecessors, laid out as upstream
//! does, and the kubeconfig where it is not there; private keys are never on disk with another mode than 0600.
//! Inputs: `--kubeconfig`, `--bootstrap-kubeconfig`, `--cert-dir`, `rotateCertificates`, `serverTLSBootstrap`; the API server,
//! which has somebody approve what is asked for; the node's addresses, as its object has them.
//! Outputs: [`Joined`]: clients of the API server, and what keeps their certificate fresh; [`Serving`]: what the node's API is
//! served with; [`Troubles`]: what is wrong with either.
//! Tasks: [`ClientCertificate::run`] and [`ServingCertificate::run`], asleep until a certificate is to be renewed.
//! Does not: approve anything, discover the API server (the bootstrap kubeconfig names it), serve, or make certificates that
//! nobody else signs (`server/self_signed`).

mod bootstrap;
mod certificate;
mod client;
mod rejoin;
mod request;
mod rotation;
mod serving;
mod store;
#[cfg(test)]
mod tests;
mod troubles;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::{ApiError, ClientOptions, Clients, Endpoint, Identity, Pem, Rates, Retry};
use crate::clock::Clock;
use crate::config::{ApiConfig, Config};
use crate::errors::error_chain;

pub use self::certificate::CertificateError;
pub(crate) use self::certificate::{pin_of, valid_until};
pub use self::client::ClientCertificate;
use self::rejoin::Rejoin;
pub use self::request::{Purpose, RequestError};
pub use self::serving::{Serving, ServingCertificate, ServingPair};
pub use self::store::{Store, StoreError};
pub use self::troubles::{Complaints, Troubles};

/// Why a node has no client certificate yet.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A kubeconfig, or what it refers to.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A certificate or key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// What was asked of the API server.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node's certificate is of no use any more, and there is no other way in.
    #[error(
        "the node's client certificate {file} expired at {at}: the API server {server} lets this node in no more. Its pods run on, and \
         static pods are looked after. Join it again in place, with a token that `kubeadm token create` prints on a control-plane \
         node: `{command}`"
    )]
    Expired {
        /// Where it is.
        file: String,
        /// When that was.
        at: Timestamp,
        /// `HOST:PORT`.
        server: String,
        /// What mends it, but for the token.
        command: String,
    },
}

/// A node that is known to the API server.
#[derive(Debug)]
pub struct Joined {
    /// The clients.
    pub clients: Clients,
    /// What keeps their certificate fresh; none where that is not configured, or there is none.
    pub certificate: Option<ClientCertificate>,
}

/// Comes to clients of the API server, by bootstrap where the kubeconfig is of no use; tries until it works. What is in the
/// way goes to `complaints`, and to the log once.
pub async fn join(
    config: &Config,
    api: &ApiConfig,
    clock: &Clock,
    complaints: &Complaints,
) -> Joined {
    let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(30));
    let joining = Joining {
        config,
        api,
        clock,
        complaints,
    };
    loop {
        match joining.once().await {
            Ok(joined) => {
                complaints.say(Purpose::Client, None);
                return joined;
            }
            Err(error) => {
                let expired = matches!(error, JoinError::Expired { .. });
                let text = match expired {
                    true => error.to_string(),
                    false => format!("cannot connect to the API server: {}", error_chain(&error)),
                };
                if !complaints.is(Purpose::Client, &text) {
                    complaints.say(Purpose::Client, Some(&text));
                    match expired {
                        true => tracing::error!(reason = "ClientCertificateExpired", "{text}"),
                        false => tracing::error!("{text}; it is tried again"),
                    }
                }
                retry.pause().await;
            }
        }
    }
}

struct Joining<'a> {
    config: &'a Config,
    api: &'a ApiConfig,
    clock: &'a Clock,
    complaints: &'a Complaints,
}

impl Joining<'_> {
    async fn once(&self) -> Result<Joined, JoinError> {
        let endpoint = self.endpoint().await?;
        let store = Store::of_clients(&self.config.paths.certificates);
        let Identity::Certificate { certificate, key } = &endpoint.identity else {
            return self.with(endpoint).await;
        };
        if !self.api.rotate_client_certificate {
            self.check(&endpoint, None)?;
            return self.with(endpoint).await;
        }
        // kubeadm's first node has its pair within the kubeconfig: kept at once, so that it can be replaced. So is one that
        // somebody gave a node whose own has expired.
        let own = store.read().ok();
        let adopted = match &own {
            None => {
                self.check(&endpoint, None)?;
                true
            }
            Some(own) => !self.counts(own) && certificate.read().is_ok_and(|pem| self.counts(&pem)),
        };
        if adopted {
            store.update(&certificate.read()?, &key.read()?, self.clock.wall())?;
        }
        self.check(&endpoint, Some(&store))?;
        let current = Pem::File(store.current());
        let identity = Identity::Certificate {
            certificate: current.clone(),
            key: current,
        };
        let name = self.config.node.name.clone();
        let bootstrap = self.api.bootstrap_kubeconfig.clone();
        let certificate = ClientCertificate {
            rejoin: Rejoin::of(&endpoint, &name, Some(store.current())),
            store,
            node: name,
            clock: self.clock.clone(),
            at_once: adopted,
            bootstrap: bootstrap.map(|path| (path, self.options(None))),
            complaints: self.complaints.clone(),
        };
        Ok(Joined {
            clients: self.open(endpoint, Some(identity)).await?,
            certificate: Some(certificate),
        })
    }

    /// Clients that are whoever the kubeconfig says.
    async fn with(&self, endpoint: Endpoint) -> Result<Joined, JoinError> {
        Ok(Joined {
            clients: self.open(endpoint, None).await?,
            certificate: None,
        })
    }

    /// Whether a certificate can be read, and has not expired.
    fn counts(&self, pem: &[u8]) -> bool {
        let validity = certificate::validity(pem);
        validity.is_ok_and(|validity| self.clock.wall() < validity.not_after)
    }

    /// That the certificate has not expired: that in `store`, or else the kubeconfig's own. One that cannot be read is told
    /// of by who uses it.
    fn check(&self, endpoint: &Endpoint, store: Option<&Store>) -> Result<(), JoinError> {
        let pem = match (store, &endpoint.identity) {
            (Some(store), _) => store.read().ok(),
            (None, Identity::Certificate { certificate, .. }) => certificate.read().ok(),
            (None, Identity::None) => None,
        };
        let validity = pem.and_then(|pem| certificate::validity(&pem).ok());
        match validity.filter(|validity| validity.not_after <= self.clock.wall()) {
            Some(validity) => {
                let current = store.map(Store::current);
                Err(Rejoin::of(endpoint, &self.config.node.name, current).error(validity))
            }
            None => Ok(()),
        }
    }

    /// What the kubeconfig says, once it is of use.
    async fn endpoint(&self) -> Result<Endpoint, JoinError> {
        let known = Endpoint::read(&self.api.kubeconfig).await;
        let bootstrap = self.api.bootstrap_kubeconfig.as_deref();
        let Some(bootstrap) = bootstrap.filter(|path| path.exists()) else {
            return Ok(known?);
        };
        match &known {
            Ok(endpoint) if self.is_valid(endpoint) => return Ok(known?),
            Ok(endpoint) => match self.check(endpoint, None) {
                Err(error) => tracing::info!("{error}; the bootstrap kubeconfig is tried"),
                Ok(()) => tracing::info!("the kubeconfig's certificate cannot be used"),
            },
            Err(error) => tracing::info!("{}", error_chain(error)),
        }
        self.bootstrap(bootstrap).await?;
        Ok(Endpoint::read(&self.api.kubeconfig).await?)
    }

    /// Whether the kubeconfig's certificate can be used now.
    fn is_valid(&self, endpoint: &Endpoint) -> bool {
        let Identity::Certificate { certificate, key } = &endpoint.identity else {
            // Who has a token needs none.
            return true;
        };
        let Ok(text) = certificate.read() else {
            return false;
        };
        key.read().is_ok() && self.counts(&text)
    }

    async fn bootstrap(&self, path: &Path) -> Result<(), JoinError> {
        let endpoint = Endpoint::read(path).await?;
        let kubeconfig = bootstrap::kubeconfig(
            &endpoint,
            &Store::of_clients(&self.config.paths.certificates).current(),
        );
        let clients = self.open(endpoint, None).await?;
        let wanted = bootstrap::Wanted {
            node: &self.config.node.name,
            directory: &self.config.paths.certificates,
            kubeconfig: &self.api.kubeconfig,
        };
        wanted.get(&clients.main, &kubeconfig, self.clock).await
    }

    async fn open(
        &self,
        endpoint: Endpoint,
        identity: Option<Identity>,
    ) -> Result<Clients, ApiError> {
        let options = self.options(identity);
        Clients::open(endpoint, options, self.clock.clone()).await
    }

    fn options(&self, identity: Option<Identity>) -> ClientOptions {
        let node = &self.config.node;
        ClientOptions {
            rates: Rates {
                requests: self.api.rate,
                events: self.api.event_rate,
            },
            heartbeat_deadline: node.status_update_every.min(node.lease),
            identity,
        }
    }
}
