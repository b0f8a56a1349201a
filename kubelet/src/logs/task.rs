//! The task that rotates the logs of running containers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::RuntimeClient;
use jiff::tz::TimeZone;
use tokio::task::JoinSet;

use super::schedule::Schedule;
use super::{LogsError, PodLogs, Rotation, RotationLimits};
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::observe::Observer;

/// How logs are rotated.
#[derive(Clone, Copy, Debug)]
pub struct RotationConfig {
    /// When, and how many files are kept.
    pub limits: RotationLimits,
    /// `containerLogMonitorInterval`.
    pub interval: Duration,
    /// `containerLogMaxWorkers`: logs rotated at the same time; 1 or more.
    pub workers: usize,
}

/// Rotates logs for as long as the agent lives. While no container runs it only waits for the first one; a log that
/// does not grow is looked at ever more rarely, up to each eight intervals.
pub async fn run_rotation(
    config: RotationConfig,
    logs: PodLogs,
    observer: Arc<Observer>,
    runtime: RuntimeClient,
    clock: Clock,
) {
    let rotator = Arc::new(Rotator {
        limits: config.limits,
        logs,
        runtime,
        clock: clock.clone(),
    });
    let mut changes = observer.changes();
    let mut schedule = Schedule::new(config.interval, config.limits.max_size);
    loop {
        changes.borrow_and_update();
        let now = clock.now().monotonic;
        schedule.set_running(observer.running_logs(), now);
        let due = schedule.due(now);
        if !due.is_empty() {
            for (id, size) in rotator.look(due, config.workers.max(1)).await {
                schedule.looked(&id, size, now);
            }
        }
        let rest = schedule.next(clock.now().monotonic);
        let rested = async {
            match rest {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: a channel that keeps its news, and a timer that is made anew.
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = rested => {}
        }
    }
}

struct Rotator {
    limits: RotationLimits,
    logs: PodLogs,
    runtime: RuntimeClient,
    clock: Clock,
}

impl Rotator {
    /// Looks at the logs, rotates those that are over the limit, and returns the sizes that were found. A log that
    /// could not be read counts as one that did not grow: the reason is in the agent's log.
    async fn look(
        self: &Arc<Self>,
        due: Vec<(String, String)>,
        workers: usize,
    ) -> Vec<(String, Option<u64>)> {
        let this = self.clone();
        let sizes = tokio::task::spawn_blocking(move || {
            let sizes = this.logs.sizes();
            if let Err(error) = &sizes {
                let error = error_chain(error);
                tracing::warn!(error, "cannot look at the logs of containers");
            }
            let size = |(id, path): (String, String)| {
                let size = match &sizes {
                    Ok(sizes) => sizes.of(path.as_ref()),
                    Err(_) => Ok(Some(0)),
                };
                (id, path, size)
            };
            due.into_iter().map(size).collect::<Vec<_>>()
        });
        let mut found = Vec::new();
        let mut rotations = JoinSet::new();
        // The look panicked, or the agent ends: the next round looks again.
        for (id, path, size) in sizes.await.unwrap_or_default() {
            let size = size.unwrap_or_else(|error| {
                tracing::warn!(
                    id,
                    path,
                    error = error_chain(&error),
                    "cannot look at a container's log"
                );
                Some(0)
            });
            if size.is_none_or(|size| size >= self.limits.max_size) {
                while rotations.len() >= workers {
                    rotations.join_next().await;
                }
                let this = self.clone();
                let id = id.clone();
                rotations.spawn(async move { this.rotate(&id, path.into()).await });
            }
            found.push((id, size));
        }
        while rotations.join_next().await.is_some() {}
        found
    }

    /// Rotates one log and has the runtime begin a new one.
    async fn rotate(self: Arc<Self>, id: &str, path: PathBuf) {
        let shown = path.display().to_string();
        let warn = |what: &str, error: &LogsError| {
            tracing::warn!(id, path = shown, error = error_chain(error), "{what}");
        };
        let this = self.clone();
        let of = path.clone();
        let now = TimeZone::system().to_datetime(self.clock.now().wall);
        let rotate = move || this.logs.rotate(&of, &this.limits, now);
        let renamed = match tokio::task::spawn_blocking(rotate).await {
            Ok(Ok(Rotation::NotNeeded)) | Err(_) => return,
            Ok(Ok(Rotation::Missing)) => None,
            Ok(Ok(Rotation::Rotated { name })) => Some(name),
            Ok(Err(error)) => return warn("cannot rotate a container's log", &error),
        };
        let Err(error) = self.runtime.reopen_container_log(id).await else {
            tracing::debug!(id, path = shown, renamed, "the runtime writes a new log");
            return;
        };
        tracing::warn!(
            id,
            path = shown,
            error = error_chain(&error),
            "the runtime cannot reopen a container's log"
        );
        if let Some(name) = renamed {
            let this = self.clone();
            let undo = move || this.logs.undo_rotation(&path, &name);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(undo).await {
                warn("cannot give a container's log its name back", &error);
            }
        }
    }
}
