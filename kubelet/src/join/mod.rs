//! How a node comes to its client certificate: by a bootstrap kubeconfig the first time, by the certificate before it from
//! then on.
//!
//! Owns: `<cert-dir>/kubelet-client-current.pem` and its predecessors, laid out as upstream does, and the kubeconfig where it
//! is not there; private keys are never on disk with another mode than 0600.
//! Inputs: `--kubeconfig`, `--bootstrap-kubeconfig`, `--cert-dir`, `rotateCertificates`; the API server, which has somebody
//! approve what is asked for. Outputs: [`Joined`]: clients of the API server, and what keeps their certificate fresh.
//! Tasks: [`ClientCertificate::run`], asleep until the certificate is to be renewed.
//! Does not: approve anything, discover the API server (the bootstrap kubeconfig names it), or make serving certificates.

mod bootstrap;
mod certificate;
mod request;
mod rotation;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use crate::api::{ApiError, ClientOptions, Clients, Endpoint, Identity, Pem, Rates, Retry};
use crate::clock::Clock;
use crate::config::{ApiConfig, Config};
use crate::errors::error_chain;

pub use self::certificate::CertificateError;
pub(crate) use self::certificate::valid_until;
pub use self::request::RequestError;
pub use self::rotation::ClientCertificate;
pub(crate) use self::store::write_whole;
pub use self::store::{Store, StoreError};

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
}

/// A node that is known to the API server.
#[derive(Debug)]
pub struct Joined {
    /// The clients.
    pub clients: Clients,
    /// What keeps their certificate fresh; none where that is not configured, or there is none.
    pub certificate: Option<ClientCertificate>,
}

/// Comes to clients of the API server, by bootstrap where the kubeconfig is of no use; tries until it works.
pub async fn join(config: &Config, api: &ApiConfig, clock: &Clock) -> Joined {
    let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut said = None;
    let joining = Joining { config, api, clock };
    loop {
        match joining.once().await {
            Ok(joined) => return joined,
            Err(error) => {
                let text = error_chain(&error);
                if said.as_ref() != Some(&text) {
                    tracing::error!("cannot connect to the API server: {text}; it is tried again");
                    said = Some(text);
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
}

impl Joining<'_> {
    async fn once(&self) -> Result<Joined, JoinError> {
        let endpoint = self.endpoint().await?;
        let store = Store::of_clients(&self.config.paths.certificates);
        let Identity::Certificate { certificate, key } = &endpoint.identity else {
            let clients = self.open(endpoint, None).await?;
            return Ok(Joined {
                clients,
                certificate: None,
            });
        };
        if !self.api.rotate_client_certificate {
            let clients = self.open(endpoint, None).await?;
            return Ok(Joined {
                clients,
                certificate: None,
            });
        }
        // kubeadm's first node has its pair within the kubeconfig: kept at once, so that it can be replaced.
        let adopted = !store.current().exists();
        if adopted {
            store.update(&certificate.read()?, &key.read()?, self.clock.wall())?;
        }
        let current = Pem::File(store.current());
        let identity = Identity::Certificate {
            certificate: current.clone(),
            key: current,
        };
        let clients = self.open(endpoint, Some(identity)).await?;
        let name = self.config.node.name.clone();
        Ok(Joined {
            clients,
            certificate: Some(ClientCertificate::new(
                store,
                name,
                self.clock.clone(),
                adopted,
            )),
        })
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
            Ok(_) => tracing::info!("the kubeconfig's certificate is of no use, or no more"),
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
        let validity = certificate::validity(&text);
        key.read().is_ok() && validity.is_ok_and(|validity| self.clock.wall() <= validity.not_after)
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
        let node = &self.config.node;
        let options = ClientOptions {
            rates: Rates {
                requests: self.api.rate,
                events: self.api.event_rate,
            },
            heartbeat_deadline: node.status_update_every.min(node.lease),
            identity,
        };
        Clients::open(endpoint, options, self.clock.clone()).await
    }
}
