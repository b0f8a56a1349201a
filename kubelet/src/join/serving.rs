//! The certificate of the node's API, by request (`serverTLSBootstrap`): asked for once the node's addresses are known,
//! again when they change, and renewed in time.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

use super::certificate::{self, Leaf, Names, new_key};
use super::request::{Purpose, certificate_for};
use super::store::{Store, StoreError};
use super::troubles::Complaints;
use super::{JoinError, rotation};
use crate::clock::Clock;
use crate::config::Config;
use crate::errors::error_chain;
use crate::metrics::kubelet;
use crate::node::OwnNode;
use crate::node::types::Address;

/// A certificate with its chain, and its key, both PEM.
pub struct ServingPair {
    certificate: Vec<u8>,
    key: Vec<u8>,
    leaf: Leaf,
}

impl ServingPair {
    /// Reads both; they may be the same text.
    fn read(certificate: Vec<u8>, key: Vec<u8>) -> Result<Self, JoinError> {
        let leaf = Leaf::read(&certificate)?;
        Ok(Self {
            certificate,
            key,
            leaf,
        })
    }

    /// The pair in these files, which may be one.
    pub(crate) fn of_files(certificate: &Path, key: &Path) -> Result<Self, JoinError> {
        let text = |path: &Path| std::fs::read(path).map_err(StoreError::new("read", path));
        Self::read(text(certificate)?, text(key)?)
    }

    /// PEM.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// PEM.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Until when it may be used.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.leaf.validity.not_after
    }
}

/// Without the key.
impl std::fmt::Debug for ServingPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingPair")
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}

/// What the node's API is served with now; none while there is nothing.
pub type Serving = watch::Receiver<Option<Arc<ServingPair>>>;

/// Keeps the certificate of the node's API.
#[derive(Debug)]
pub struct ServingCertificate {
    store: Store,
    /// The node's name.
    node: String,
    /// `AllowDNSOnlyNodeCSR`.
    dns_is_enough: bool,
    clock: Clock,
    current: watch::Sender<Option<Arc<ServingPair>>>,
    complaints: Complaints,
    /// What the current certificate was asked for with, by this agent.
    granted: Option<Names>,
}

/// How an attempt ended.
enum Outcome {
    Issued,
    Failed,
    /// The node has other addresses than were asked for.
    Outdated,
}

impl ServingCertificate {
    /// With the certificate that lies on the disk, where it has not expired: the last that was issued, else that of
    /// `tlsCertFile`, else `kubelet-server.crt` (upstream's order). What cannot be read is said, and replaced.
    #[must_use]
    pub fn load(config: &Config, clock: Clock, complaints: Complaints) -> Self {
        let store = Store::of_servers(&config.paths.certificates);
        let found = on_disk(&store, config.server.tls_files.as_ref());
        let valid = found.filter(|pair| clock.wall() < pair.not_after());
        kubelet()
            .certificates
            .server_until(valid.as_ref().map(|pair| pair.not_after().as_second()));
        Self {
            store,
            node: config.node.name.clone(),
            dns_is_enough: config.gates.enabled("AllowDNSOnlyNodeCSR"),
            clock,
            current: watch::Sender::new(valid.map(Arc::new)),
            complaints,
            granted: None,
        }
    }

    /// What is served with, as it changes.
    #[must_use]
    pub fn current(&self) -> Serving {
        self.current.subscribe()
    }

    /// Asks for certificates by way of `client`, as what `own` says of the node's addresses. Never ends.
    pub async fn run(mut self, client: Client, mut own: watch::Receiver<OwnNode>) {
        let mut delays = rotation::delays();
        let mut at = self.deadline();
        loop {
            let wanted = names_of(&own.borrow_and_update());
            let Some(wanted) = wanted.filter(|names| self.suffice(names)) else {
                if self.current.borrow().is_none() {
                    let text = "the node's API has no serving certificate: it is asked for once the node has an address";
                    self.complain(text);
                }
                changed(&mut own).await;
                continue;
            };
            if !self.is_due(at, &wanted) {
                // Cancel-safe: both only wait.
                tokio::select! {
                    () = rotation::until(&self.clock, at.unwrap_or_default()) => {}
                    () = changed(&mut own) => {}
                }
                continue;
            }
            match self.attempt(&client, &wanted, &mut own).await {
                Outcome::Issued => {
                    delays.reset();
                    at = self.deadline();
                    let pair = self.current.borrow().clone();
                    if let Some(pair) = pair {
                        let validity = pair.leaf.validity;
                        tokio::time::sleep(rotation::pause(validity, self.clock.wall())).await;
                    }
                }
                Outcome::Outdated => {
                    tracing::info!(
                        "the node's addresses have changed: the request for its serving certificate is given up"
                    );
                }
                Outcome::Failed => delays.pause().await,
            }
        }
    }

    /// When the current certificate is to be renewed; none where there is none.
    fn deadline(&self) -> Option<Timestamp> {
        let current = self.current.borrow();
        let validity = current.as_ref()?.leaf.validity;
        let at = rotation::deadline(validity);
        tracing::info!(%at, not_after = %validity.not_after, "the serving certificate is to be renewed");
        Some(at)
    }

    /// Upstream asks for nothing without an address, unless told that a name is enough.
    fn suffice(&self, names: &Names) -> bool {
        !names.ips.is_empty() || self.dns_is_enough && !names.dns.is_empty()
    }

    /// Whether a certificate is to be asked for now. One whose signer has left out a name is as good as it gets: nobody
    /// would be helped by asking for the same again.
    fn is_due(&self, at: Option<Timestamp>, wanted: &Names) -> bool {
        let current = self.current.borrow();
        let (Some(at), Some(current)) = (at, current.as_ref()) else {
            return true;
        };
        let fits = current.leaf.is_for(&self.node, wanted) || self.granted.as_ref() == Some(wanted);
        !fits || at <= self.clock.wall()
    }

    async fn attempt(
        &mut self,
        client: &Client,
        wanted: &Names,
        own: &mut watch::Receiver<OwnNode>,
    ) -> Outcome {
        // Cancel-safe: a request that is no more what is wanted is given up on purpose.
        let asked = tokio::select! {
            asked = self.ask(client, wanted) => asked,
            () = self.differ(own, wanted) => return Outcome::Outdated,
        };
        let pair = match asked {
            Ok(pair) => Arc::new(pair),
            Err(error) => {
                kubelet().certificates.server_renew_errors.inc();
                let without = self.without();
                self.complain(&format!(
                    "cannot have a serving certificate: {}{without}; it is asked for again",
                    error_chain(&error)
                ));
                return Outcome::Failed;
            }
        };
        if !pair.leaf.is_for(&self.node, wanted) {
            tracing::warn!("the serving certificate is not for all that was asked for ({wanted})");
        }
        let not_after = pair.not_after();
        tracing::info!(%not_after, names = %wanted, "the node's API has a new serving certificate");
        kubelet()
            .certificates
            .server_until(Some(not_after.as_second()));
        self.granted = Some(wanted.clone());
        if let Some(before) = self.current.send_replace(Some(pair)) {
            let lived = self
                .clock
                .wall()
                .duration_since(before.leaf.validity.not_before);
            let lived = lived.try_into().unwrap_or_default();
            kubelet().certificates.server_rotation.observe(lived);
        }
        self.complaints.say(Purpose::Serving, None);
        Outcome::Issued
    }

    async fn ask(&self, client: &Client, wanted: &Names) -> Result<ServingPair, JoinError> {
        let key = new_key()?;
        let request = certificate::request(&self.node, wanted, &key)?;
        let waits = |name: &str| {
            let text = format!(
                "the certificate signing request {name} waits for its approval (`kubectl certificate approve {name}`){}",
                self.without()
            );
            self.complaints.say(Purpose::Serving, Some(&text));
            if self.current.borrow().is_none() {
                tracing::warn!("{text}");
            }
        };
        let certificate = certificate_for(client, Purpose::Serving, &request, waits).await?;
        let key = key.serialize_pem().into_bytes();
        let pair = ServingPair::read(certificate, key)?;
        self.store
            .update(&pair.certificate, &pair.key, self.clock.wall())?;
        Ok(pair)
    }

    /// Until the node has other names and addresses than `wanted`. Cancel-safe.
    async fn differ(&self, own: &mut watch::Receiver<OwnNode>, wanted: &Names) {
        loop {
            changed(own).await;
            let now = names_of(&own.borrow_and_update());
            if now.is_some_and(|now| now != *wanted && self.suffice(&now)) {
                return;
            }
        }
    }

    /// What it means while there is no certificate that can be served with.
    fn without(&self) -> &'static str {
        let current = self.current.borrow();
        let valid = |pair: &Arc<ServingPair>| self.clock.wall() < pair.not_after();
        match current.as_ref().is_some_and(valid) {
            true => "",
            false => {
                "; until then no connection to the node's API comes about (`kubectl logs` and `exec` say \"remote error: tls: internal error\")"
            }
        }
    }

    fn complain(&self, text: &str) {
        if !self.complaints.is(Purpose::Serving, text) {
            tracing::warn!("{text}");
            self.complaints.say(Purpose::Serving, Some(text));
        }
    }
}

/// The first pair that is there.
fn on_disk(
    store: &Store,
    configured: Option<&(std::path::PathBuf, std::path::PathBuf)>,
) -> Option<ServingPair> {
    let current = store.current();
    let by_hand = store.by_hand();
    let places = [
        Some((current.as_path(), current.as_path())),
        configured.map(|(certificate, key)| (certificate.as_path(), key.as_path())),
        Some((by_hand.0.as_path(), by_hand.1.as_path())),
    ];
    let present = |(certificate, key): &(&Path, &Path)| certificate.exists() && key.exists();
    let (certificate, key) = places.into_iter().flatten().find(present)?;
    match ServingPair::of_files(certificate, key) {
        Ok(pair) => Some(pair),
        Err(error) => {
            tracing::warn!(
                "{} is no serving certificate that can be used: {}",
                certificate.display(),
                error_chain(&error)
            );
            None
        }
    }
}

/// What the node is called and reached by; none while its object is not known.
fn names_of(own: &OwnNode) -> Option<Names> {
    let OwnNode::There(node) = own else {
        return None;
    };
    let mut names = Names::default();
    let addresses = node.status.addresses.iter();
    for Address { kind, address } in addresses.filter(|one| !one.address.is_empty()) {
        let ip: Option<IpAddr> = address.parse().ok();
        match (kind.as_str(), ip) {
            ("Hostname" | "ExternalIP" | "InternalIP", Some(ip)) => {
                names.ips.insert(ip);
            }
            ("Hostname", None) | ("ExternalDNS" | "InternalDNS", _) => {
                names.dns.insert(address.clone());
            }
            _ => {}
        }
    }
    Some(names)
}

/// The next change; none comes once the watch is gone, and with it the agent.
async fn changed(own: &mut watch::Receiver<OwnNode>) {
    if own.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
