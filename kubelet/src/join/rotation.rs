//! The next certificate, by the one before it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::JoinError;
use super::certificate::{Validity, new_key, validity};
use super::request::certificate_for;
use super::store::Store;
use crate::api::{self, Clients};
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::metrics::kubelet;

/// The longest sleep: the wall clock may step, and certificates go by it.
const NAP: Duration = Duration::from_secs(3600);
/// After a failure: 2 s, doubling four times (upstream's `wait.Backoff` of the certificate manager), then …
const FIRST: Duration = Duration::from_secs(2);
/// … this.
const MOST: Duration = Duration::from_secs(32);

/// Keeps the node's client certificate fresh.
#[derive(Debug)]
pub struct ClientCertificate {
    store: Store,
    node: String,
    clock: Clock,
    at_once: bool,
}

impl ClientCertificate {
    /// For the pair in `store`, of the node `node`; one that is not its own (`at_once`) is replaced without delay.
    pub(super) fn new(store: Store, node: String, clock: Clock, at_once: bool) -> Self {
        Self {
            store,
            node,
            clock,
            at_once,
        }
    }

    /// Renews the certificate when seven to nine tenths of its time are over, and has `clients` use the new one. Never ends.
    pub async fn run(mut self, clients: Clients) {
        let mut retry = api::Retry::new(FIRST, MOST);
        loop {
            if !std::mem::take(&mut self.at_once) {
                self.wait().await;
            }
            match self.renew(&clients).await {
                Ok(()) => {
                    tracing::info!("the node has a new client certificate");
                    clients.reset();
                    retry.reset();
                    // One that is short-lived, or dated back, may be due at once.
                    tokio::time::sleep(MOST).await;
                }
                Err(error) => {
                    kubelet().client_renew_errors.inc();
                    tracing::error!(
                        "cannot renew the client certificate: {}",
                        error_chain(&error)
                    );
                    retry.pause().await;
                    self.at_once = true;
                }
            }
        }
    }

    /// Until it is time. A pair that cannot be read is asked for at once.
    async fn wait(&self) {
        let text = self.store.read().unwrap_or_default();
        let Ok(validity) = validity(&text) else {
            return;
        };
        kubelet().client_certificate_until(validity.not_after.as_second());
        let at = deadline(validity, api::random());
        tracing::info!(%at, not_after = %validity.not_after, "the client certificate is to be renewed");
        loop {
            let left = at.duration_since(self.clock.wall());
            let Ok(left) = Duration::try_from(left) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(NAP)).await;
        }
    }

    async fn renew(&self, clients: &Clients) -> Result<(), JoinError> {
        let key = new_key()?;
        let certificate = certificate_for(&clients.main, &self.node, &key).await?;
        let key = key.serialize_pem();
        self.store
            .update(&certificate, key.as_bytes(), self.clock.wall())?;
        Ok(())
    }
}

/// When a certificate is to be renewed: after seven tenths of its time, and up to two more (`random` of them).
fn deadline(validity: Validity, random: f64) -> Timestamp {
    let all = validity.not_after.duration_since(validity.not_before);
    let part = all.as_secs_f64() * (0.7 + 0.2 * random);
    let part = SignedDuration::try_from_secs_f64(part).unwrap_or_default();
    validity
        .not_before
        .checked_add(part)
        .unwrap_or(validity.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_between_seven_and_nine_tenths() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let validity = Validity {
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at("2026-01-11T00:00:00Z"),
        };
        assert_eq!(deadline(validity, 0.0), at("2026-01-08T00:00:00Z"));
        let last = deadline(validity, 1.0).duration_since(at("2026-01-10T00:00:00Z"));
        assert!(last.abs() < SignedDuration::from_secs(1));
    }
}
