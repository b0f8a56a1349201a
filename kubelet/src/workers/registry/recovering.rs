//! Makes out who has which CPUs and memory where the state files that should say so were corrupt.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::Registry;
use crate::errors::error_chain;
use crate::managers::running_containers;
use crate::observe::RuntimeState;

/// After a failure, the runtime is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What ends when everything is known again.
pub(super) type Recovery = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Registry {
    /// Asks the runtime what its containers have, if somebody has to know. Until then no pod is begun: nobody would know
    /// what is free.
    pub(super) fn recovery(&self) -> Option<Recovery> {
        if !self.tools.managers.are_lost() {
            return None;
        }
        let tools = self.tools.clone();
        Some(Box::pin(async move {
            let mut runtime = tools.observer.state();
            // An error means that the observer is gone, which ends the process.
            let _ = runtime
                .wait_for(|state| *state != RuntimeState::NeverSeen)
                .await;
            let running = loop {
                match running_containers(&tools.runtime).await {
                    Ok(running) => break running,
                    Err(error) => {
                        let error = error_chain(&error);
                        tracing::warn!(
                            error,
                            "cannot make out what running containers have; no pod is begun before"
                        );
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            tracing::info!(
                containers = running.len(),
                "made out what running containers have"
            );
            tools.managers.recover(&running);
        }))
    }
}

/// Waits for the end of the recovery; for ever where there is none.
pub(super) async fn recovered(recovery: &mut Option<Recovery>) {
    match recovery {
        Some(recovery) => recovery.await,
        None => std::future::pending().await,
    }
}
