//! The node's client certificate after the first one: each by way of the one before it.

use std::path::PathBuf;

use kube::Client;

use super::certificate::{self, Names, Validity, new_key, validity};
use super::rejoin::Rejoin;
use super::request::{Purpose, certificate_for};
use super::store::Store;
use super::troubles::Complaints;
use super::{JoinError, rotation};
use crate::api::{ClientOptions, Clients, Endpoint};
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::metrics::kubelet;

/// Keeps the node's client certificate fresh.
#[derive(Debug)]
pub struct ClientCertificate {
    pub(super) store: Store,
    /// The node's name.
    pub(super) node: String,
    pub(super) clock: Clock,
    /// The pair is not the node's own, and is replaced without delay.
    pub(super) at_once: bool,
    /// `--bootstrap-kubeconfig`, by which an expired one is replaced where there is such a file, and the ways of a
    /// client made of it.
    pub(super) bootstrap: Option<(PathBuf, ClientOptions)>,
    pub(super) rejoin: Rejoin,
    pub(super) complaints: Complaints,
}

impl ClientCertificate {
    /// Renews the certificate when seven to nine tenths of its life are over, and has `clients` use the new one from
    /// their next request on. Never ends.
    pub async fn run(mut self, clients: Clients) {
        let mut delays = rotation::delays();
        loop {
            if !std::mem::take(&mut self.at_once) {
                self.wait().await;
            }
            match self.renew(&clients).await {
                Ok(validity) => {
                    tracing::info!(not_after = %validity.not_after, "the node has a new client certificate");
                    self.fresh(validity, &clients);
                    delays.reset();
                    tokio::time::sleep(rotation::pause(validity, self.clock.wall())).await;
                }
                Err(error) => {
                    kubelet().certificates.client_renew_errors.inc();
                    self.complain(&error);
                    delays.pause().await;
                    // Somebody may have joined the node meanwhile.
                    let now = self.clock.wall();
                    let valid = self.validity().filter(|valid| now < valid.not_after);
                    match valid.filter(|_| matches!(error, JoinError::Expired { .. })) {
                        Some(valid) => self.fresh(valid, &clients),
                        None => self.at_once = true,
                    }
                }
            }
        }
    }

    /// There is another certificate: what is asked from now on is asked with it.
    fn fresh(&self, validity: Validity, clients: &Clients) {
        kubelet()
            .certificates
            .client_until(validity.not_after.as_second());
        self.complaints.say(Purpose::Client, None);
        clients.renew();
    }

    /// Says what is wrong; that the certificate has expired once, and nothing less from then on.
    fn complain(&self, error: &JoinError) {
        let about = Purpose::Client;
        if matches!(error, JoinError::Expired { .. }) {
            let text = error.to_string();
            if !self.complaints.is(about, &text) {
                tracing::error!(reason = "ClientCertificateExpired", "{text}");
                self.complaints.say(about, Some(&text));
            }
            return;
        }
        let text = format!(
            "cannot renew the client certificate: {}",
            error_chain(error)
        );
        tracing::error!("{text}");
        self.complaints.say(about, Some(&text));
    }

    /// Until it is time. A pair that cannot be read is asked for at once.
    async fn wait(&self) {
        let Some(validity) = self.validity() else {
            return;
        };
        kubelet()
            .certificates
            .client_until(validity.not_after.as_second());
        let at = rotation::deadline(validity);
        tracing::info!(%at, not_after = %validity.not_after, "the client certificate is to be renewed");
        rotation::until(&self.clock, at).await;
    }

    fn validity(&self) -> Option<Validity> {
        validity(&self.store.read().unwrap_or_default()).ok()
    }

    /// The next certificate, by the one before it; by the bootstrap kubeconfig where that has expired.
    async fn renew(&self, clients: &Clients) -> Result<Validity, JoinError> {
        let before = self.validity();
        let expired = before.filter(|before| before.not_after <= self.clock.wall());
        let Some(expired) = expired else {
            let asked = self.ask(&clients.main);
            let Some(before) = before else {
                return asked.await;
            };
            // Cancel-safe: one only waits, and a request whose answer nobody may read any more is given up on purpose.
            return tokio::select! {
                done = asked => done,
                () = rotation::until(&self.clock, before.not_after) => Err(self.rejoin.error(before)),
            };
        };
        match self.by_bootstrap().await? {
            Some(client) => self.ask(&client).await,
            // Nobody would be asked but who refuses.
            None => Err(self.rejoin.error(expired)),
        }
    }

    async fn ask(&self, client: &Client) -> Result<Validity, JoinError> {
        let key = new_key()?;
        let request = certificate::request(&self.node, &Names::default(), &key)?;
        let certificate = certificate_for(client, Purpose::Client, &request, |_| {}).await?;
        let validity = validity(&certificate)?;
        let key = key.serialize_pem();
        self.store
            .update(&certificate, key.as_bytes(), self.clock.wall())?;
        Ok(validity)
    }

    /// A client of the bootstrap kubeconfig, where there is one.
    async fn by_bootstrap(&self) -> Result<Option<Client>, JoinError> {
        let present = self.bootstrap.as_ref().filter(|(path, _)| path.exists());
        let Some((path, options)) = present else {
            return Ok(None);
        };
        let endpoint = Endpoint::read(path).await?;
        let clients = Clients::open(endpoint, options.clone(), self.clock.clone()).await?;
        Ok(Some(clients.main))
    }
}
