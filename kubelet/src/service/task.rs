//! The task that tells the service manager when the start is over, and renews the status line when it changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use static_pods::watch::ManifestSet;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Service;
use super::status::Facts;
use crate::join::Troubles;
use crate::server::HealthChecks;
use crate::sources::Desired;
use crate::status::StatusBoard;

/// The shortest time between two status lines, so that a crash loop is no load.
const PAUSE: Duration = Duration::from_secs(1);

/// What the status line is made of.
pub struct StatusInputs {
    /// Whether the sources have been read.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// What is wrong with manifests; none without such a source.
    pub manifests: Option<watch::Receiver<Arc<ManifestSet>>>,
    /// `staticPodPath`.
    pub manifest_path: Option<PathBuf>,
    /// Why the runtime does not answer.
    pub away: watch::Receiver<Option<Arc<str>>>,
    /// The runtime's socket.
    pub runtime: PathBuf,
    /// The pods.
    pub board: StatusBoard,
    /// What `/healthz` asks.
    pub checks: HealthChecks,
    /// What is wrong with the node's certificates.
    pub troubles: watch::Receiver<Troubles>,
}

/// Tells the manager of `service` that it is ready, once, and from then on how it is, whenever that changes. Runs as long
/// as the agent; at rest it has no timer.
pub async fn run_status(service: Service, inputs: StatusInputs) {
    let mut changes = inputs.board.changes();
    let mut note = service.inner.note.subscribe();
    let StatusInputs {
        mut desired,
        mut manifests,
        mut away,
        mut troubles,
        ..
    } = inputs;
    let from = inputs.manifest_path.map(|path| path.display().to_string());
    let runtime = inputs.runtime.display().to_string();
    let mut ready = false;
    let mut told: Option<String> = None;
    loop {
        changes.mark_unchanged();
        let read = desired.borrow_and_update().ready;
        let why = away.borrow_and_update().clone();
        let set = manifests
            .as_mut()
            .map(|set| set.borrow_and_update().clone());
        // What a reload has told the manager stands in the place of the line.
        if note.has_changed().unwrap_or_default() {
            told = None;
        }
        let left = note.borrow_and_update().clone();
        let certificates = troubles.borrow_and_update().clone();
        let hang = service.hang();
        let pods = inputs.board.snapshot();
        let line = Facts {
            hang: hang.as_deref(),
            reading: from.as_deref().filter(|_| !read),
            runtime: why.as_deref().map(|why| (runtime.as_str(), why)),
            troubles: Some(&certificates),
            pods: &pods,
            setbacks: inputs.board.setbacks(),
            manifests: set.as_deref(),
            note: left.as_deref(),
        }
        .line();
        drop(pods);
        // Its ports listen since before the sources were opened.
        let begins = !ready && read && inputs.checks.all().is_ok();
        let heard = if begins {
            ready = service.ready(&line);
            ready
        } else if told.as_ref() != Some(&line) {
            service.tell(&super::status_line(&line))
        } else {
            true
        };
        told = heard.then_some(line);
        let since = Instant::now();
        // Cancel-safe: each arm is a channel that keeps its news, or a timer. A channel without a sender is of an agent
        // that ends.
        tokio::select! {
            _ = changes.changed() => {}
            _ = desired.changed() => {}
            _ = away.changed() => {}
            () = of_some(&mut troubles) => {}
            _ = of(&mut manifests) => {}
            _ = note.changed() => told = None,
            () = sleep(PAUSE), if !heard => {}
        }
        if ready {
            sleep_until(since + PAUSE).await;
        }
    }
}

/// One whose sender may have gone with the node's membership of a cluster.
async fn of_some<T>(channel: &mut watch::Receiver<T>) {
    if channel.changed().await.is_err() {
        std::future::pending().await
    }
}

async fn of<T>(channel: &mut Option<watch::Receiver<T>>) {
    match channel {
        Some(channel) => {
            let _ = channel.changed().await;
        }
        None => std::future::pending().await,
    }
}
