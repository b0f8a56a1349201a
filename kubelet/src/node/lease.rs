//! The node's lease: a word every few seconds that the agent lives.

use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::own::OwnNode;
use crate::api::{self, Retry};
use crate::clock::Clock;
use crate::errors::error_chain;

/// Where leases of nodes are.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// How often a renewal is tried before the next one is due (upstream's `maxUpdateRetries`).
const TRIES: u32 = 5;

/// What the lease says.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// The node's name, which is the lease's.
    pub node: String,
    /// `nodeLeaseDurationSeconds`; it is renewed four times in it.
    pub duration: Duration,
}

/// Creates the lease once the node has a UID to own it, and renews it; `renewed` hears when, by the wall clock. Never ends.
pub async fn run_lease(
    client: Client,
    settings: LeaseSettings,
    own: watch::Receiver<OwnNode>,
    clock: Clock,
    renewed: watch::Sender<Option<Timestamp>>,
) {
    let mut lease = Lease {
        renewed,
        client,
        settings,
        own,
        clock,
        last: None,
        said: false,
    };
    let every = lease.settings.duration / 4;
    loop {
        lease.renew().await;
        tokio::time::sleep(every.mul_f64(1.0 + 0.04 * api::random())).await;
    }
}

struct Lease {
    client: Client,
    settings: LeaseSettings,
    own: watch::Receiver<OwnNode>,
    clock: Clock,
    renewed: watch::Sender<Option<Timestamp>>,
    /// As the API server gave it back.
    last: Option<Value>,
    said: bool,
}

impl Lease {
    async fn renew(&mut self) {
        let mut retry = Retry::new(Duration::from_millis(200), Duration::from_secs(7));
        for _ in 0..TRIES {
            let tried = match self.last.take() {
                Some(last) => self.put(last).await,
                None => self.ensure().await,
            };
            match tried {
                Ok(lease) => {
                    self.last = Some(lease);
                    self.renewed.send_replace(Some(self.clock.wall()));
                    if std::mem::take(&mut self.said) {
                        tracing::info!("the node's lease is renewed again");
                    }
                    return;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.said, true) {
                        tracing::warn!("cannot renew the node's lease: {}", error_chain(&error));
                    }
                    retry.pause().await;
                }
            }
        }
    }

    /// The lease that is there, renewed, or a new one.
    async fn ensure(&mut self) -> Result<Value, kube::Error> {
        let request =
            Request::new(LEASES).get(&self.settings.node, &kube::api::GetParams::default());
        let request = request.map_err(kube::Error::BuildRequest)?;
        match self.client.request(request).await {
            Ok(lease) => self.put(lease).await,
            Err(kube::Error::Api(status)) if status.code == 404 => self.create().await,
            Err(error) => Err(error),
        }
    }

    async fn create(&mut self) -> Result<Value, kube::Error> {
        let node = &self.settings.node;
        // Without its owner it would outlive the node. The sender lives as long as the agent.
        let _ = self.own.wait_for(|own| own.uid().is_some()).await;
        let owner = self.owner();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": node,
                "namespace": "kube-node-lease",
                "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
            },
            "spec": self.spec(),
        });
        let body = serde_json::to_vec(&lease).map_err(kube::Error::SerdeError)?;
        let request = Request::new(LEASES).create(&PostParams::default(), body);
        let request = request.map_err(kube::Error::BuildRequest)?;
        self.client.request(request).await
    }

    /// Renews `lease`. One that somebody else has changed is read anew the next time.
    async fn put(&mut self, mut lease: Value) -> Result<Value, kube::Error> {
        let Value::Object(spec) = self.spec() else {
            return Ok(lease);
        };
        for (key, value) in spec {
            lease["spec"][key] = value;
        }
        if let Some(metadata) = lease["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            let owned = metadata.get("ownerReferences");
            let owned = owned
                .and_then(Value::as_array)
                .is_some_and(|all| !all.is_empty());
            if let (false, Some(owner)) = (owned, self.owner()) {
                metadata.insert("ownerReferences".to_owned(), vec![owner].into());
            }
        }
        let body = serde_json::to_vec(&lease).map_err(kube::Error::SerdeError)?;
        let request =
            Request::new(LEASES).replace(&self.settings.node, &PostParams::default(), body);
        let request = request.map_err(kube::Error::BuildRequest)?;
        let renewed = self.client.request(request).await;
        if let Err(error) = &renewed
            && !matches!(error, kube::Error::Api(_))
        {
            // Nobody answered: it is as it was, or a renewal further.
            self.last = Some(lease);
        }
        renewed
    }

    fn spec(&self) -> Value {
        json!({
            "holderIdentity": self.settings.node,
            "leaseDurationSeconds": self.settings.duration.as_secs(),
            "renewTime": micro_time(self.clock.wall()),
        })
    }

    fn owner(&self) -> Option<Value> {
        let own = self.own.borrow();
        let uid = own.uid()?;
        Some(json!({"apiVersion": "v1", "kind": "Node", "name": self.settings.node, "uid": uid}))
    }
}

/// RFC 3339 with microseconds, as a `MicroTime` is written.
fn micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_micro_time_has_six_digits() {
        let time: Timestamp = "2026-01-02T03:04:05.5Z".parse().unwrap();
        assert_eq!(micro_time(time), "2026-01-02T03:04:05.500000Z");
    }
}
