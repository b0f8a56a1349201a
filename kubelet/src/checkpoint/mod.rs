//! What the agent keeps of the API server's pods, for an agent that begins while the API server is away.
//!
//! Owns: `<root>/api-pods`: the spec of each pod as it was last seen, the configMaps and secrets that it refers to, the
//! services of its namespace, the node's labels and taints, and when the node's lease was renewed last.
//! Inputs: the API server's pods, the board, `objects/`, the node's object, the boot, what the runtime holds.
//! Outputs: those files; at the start, where the API server has not been heard within a few seconds, [`StalePods`] and what
//! they refer to, until its first list replaces all of it.
//! Tasks: one, which is the first of these at the start and the other from the first list on.
//! Does not: keep tokens (their files in the volumes stay as they are), tell the API server anything, decide what becomes
//! of a pod once the API server has been heard.
//!
//! ```text
//! begins ──▶ waits ──5 s──▶ restores ──first list──▶ keeps
//!              └──────────────first list──────────────▲
//! ```
//! After a mere restart of the agent (the boot is the same), the pods go on of which the runtime still holds something. After
//! a reboot none do, unless the settings say so, and then only those that `choice` lets.
//! Files are sealed where systemd gives the agent a key (`seal`), and private to root in any case.

mod choice;
mod files;
mod keep;
mod restore;
mod seal;
mod store;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::ApiPodSettings;
use crate::dir::DirError;
use crate::errors::error_chain;
use crate::node::NodeObject;
use crate::objects::Objects;
use crate::observe::Observer;
use crate::poddir::PodDirs;
use crate::sources::{ApiPods, StalePods};
use crate::status::StatusBoard;
use store::Store;

pub use seal::{CREDENTIAL, KeyError};

/// What the task is made of.
pub struct CheckpointInputs {
    /// The agent's root directory.
    pub root: PathBuf,
    /// Where systemd puts the service's credentials.
    pub credentials: Option<PathBuf>,
    /// What may be kept and restored.
    pub settings: ApiPodSettings,
    /// Both clocks, and the boot.
    pub clock: Clock,
    /// The API server's pods, once it has been heard.
    pub pods: watch::Receiver<Arc<ApiPods>>,
    /// The node's own object.
    pub node: watch::Receiver<Option<Arc<NodeObject>>>,
    /// When the node's lease was renewed last.
    pub renewed: watch::Receiver<Option<Timestamp>>,
    /// What pods refer to.
    pub objects: Objects,
    /// Which pods have been admitted.
    pub board: StatusBoard,
    /// What the runtime holds.
    pub observer: Arc<Observer>,
    /// The volumes with the pods' tokens.
    pub dirs: PodDirs,
    /// Where pods from before go.
    pub stale: watch::Sender<Arc<StalePods>>,
}

/// Why nothing is kept. Retry with the next start.
#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    /// The directory.
    #[error("cannot set up the directory of what is kept of the API server's pods")]
    Directory(#[from] DirError),
    /// A key that is of no use. Nothing is written in clear instead.
    #[error("cannot use the key of what is kept of the API server's pods")]
    Key(#[from] KeyError),
    /// The thread that did it ended early.
    #[error("the work on what is kept of the API server's pods was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// Restores what may be, and keeps what there is from then on. Never ends before the channels do.
///
/// What cannot be kept costs what it is for, and nothing else.
pub async fn run_checkpoint(inputs: CheckpointInputs) {
    let enabled = inputs.settings.checkpoint;
    match open(&inputs).await {
        Ok(Some(store)) => {
            let store = Arc::new(store);
            restore::restore(&inputs, &store).await;
            keep::keep(inputs, store).await;
        }
        Ok(None) => without(inputs).await,
        Err(error) => {
            if enabled {
                tracing::error!(
                    reason = "CheckpointFailed",
                    "nothing is kept of the API server's pods: {}",
                    error_chain(&error)
                );
            }
            without(inputs).await;
        }
    }
}

/// Removes what was kept, on a node that is none of a cluster any more.
pub async fn forget(root: &Path) {
    let of = root.to_owned();
    let removed = tokio::task::spawn_blocking(move || Store::remove(&of)).await;
    if let Ok(Err(error)) = removed {
        let error = error_chain(&error);
        tracing::warn!(error, "cannot remove what was kept of an API server's pods");
    }
}

/// Opens the store; removes it where nothing is to be kept.
async fn open(inputs: &CheckpointInputs) -> Result<Option<Store>, CheckpointError> {
    let (root, credentials) = (inputs.root.clone(), inputs.credentials.clone());
    let enabled = inputs.settings.checkpoint;
    let opened = tokio::task::spawn_blocking(move || {
        if !enabled {
            Store::remove(&root)?;
            return Ok(None);
        }
        let seal = seal::Seal::of_credentials(credentials.as_deref())?;
        Ok(Some(Store::open(&root, seal)?))
    });
    opened.await?
}

/// Nothing is kept: waits for as long as the agent lives.
async fn without(mut inputs: CheckpointInputs) {
    while inputs.pods.changed().await.is_ok() {}
}
