//! The task that rotates the logs of running containers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::RuntimeClient;
use jiff::tz::TimeZone;
use tokio::task::JoinSet;

use super::look::Looked;
use super::schedule::{Due, Found, Schedule};
use super::writes::Writes;
use super::{LogsError, PodLogs, Rotation, RotationLimits};
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::observe::Observer;

/// Word of writes is taken together this often at most: many logs that are written to wake the task no more than few.
const GATHER: Duration = Duration::from_millis(200);
/// What is written faster is not compressed, bytes a second: it would keep a processor busy with what is about to go.
const COMPRESSED_PACE: u64 = 2_000_000;

/// How logs are rotated.
#[derive(Clone, Copy, Debug)]
pub struct RotationConfig {
    /// When, and how many files are kept.
    pub limits: RotationLimits,
    /// `containerLogMonitorInterval`: between two looks at a log that is written to, at most.
    pub interval: Duration,
    /// `containerLogMaxWorkers`: logs rotated, and logs compressed, at the same time; 1 or more.
    pub workers: usize,
}

/// Rotates logs for as long as the agent lives. While no container writes it only waits for one that does.
pub async fn run_rotation(
    config: RotationConfig,
    logs: PodLogs,
    observer: Arc<Observer>,
    runtime: RuntimeClient,
    clock: Clock,
) {
    let rotator = Arc::new(Rotator {
        limits: config.limits,
        logs: logs.clone(),
        runtime,
        clock: clock.clone(),
        writes: Writes::default(),
    });
    let workers = config.workers.max(1);
    let mut compression = Compression::new(logs, workers);
    let mut changes = observer.changes();
    let mut schedule = Schedule::new(config.interval, config.limits.max_size);
    // Until then what is written is not heard of.
    let mut deaf_until = Duration::ZERO;
    let mut others_run = true;
    loop {
        let now = clock.now().monotonic;
        if std::mem::take(&mut others_run) {
            changes.borrow_and_update();
            schedule.set_running(observer.running_logs(), now);
            rotator.writes.keep(|id| schedule.has(id));
        }
        let due = schedule.due(now);
        if !due.is_empty() {
            rotator
                .round(due, workers, &mut schedule, &mut compression)
                .await;
            rotator.writes.keep(|id| schedule.has(id));
        }
        let now = clock.now().monotonic;
        let deaf = deaf_until.saturating_sub(now);
        let rest = match (schedule.next(now), deaf.is_zero()) {
            (Some(next), true) => Some(next),
            (Some(next), false) => Some(next.min(deaf)),
            (None, true) => None,
            (None, false) => Some(deaf),
        };
        let rested = async {
            match rest {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: a channel that keeps its news, events that stay until they are taken, tasks that stay until they
        // are joined, and a timer that is made anew.
        tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => others_run = true,
                Err(_) => return,
            },
            written = rotator.writes.heard(), if deaf.is_zero() => {
                let now = clock.now().monotonic;
                for id in written {
                    schedule.written(&id, now);
                }
                deaf_until = now + GATHER;
            }
            () = compression.done() => {}
            () = rested => {}
        }
    }
}

/// Rotated logs that are being compressed, and those that are next: beside the rotation, which it would hold up.
struct Compression {
    logs: PodLogs,
    workers: usize,
    running: JoinSet<PathBuf>,
    of: BTreeSet<PathBuf>,
    next: BTreeSet<PathBuf>,
}

impl Compression {
    fn new(logs: PodLogs, workers: usize) -> Self {
        Self {
            logs,
            workers,
            running: JoinSet::new(),
            of: BTreeSet::new(),
            next: BTreeSet::new(),
        }
    }

    /// Has what was rotated of a log compressed, as soon as there is a worker.
    fn ask(&mut self, log: PathBuf) {
        self.next.insert(log);
        self.begin();
    }

    fn begin(&mut self) {
        while self.running.len() < self.workers {
            // One at a time of each log.
            let free = self.next.iter().find(|log| !self.of.contains(*log));
            let Some(log) = free.cloned() else {
                return;
            };
            self.next.remove(&log);
            self.of.insert(log.clone());
            let logs = self.logs.clone();
            self.running.spawn_blocking(move || {
                if let Err(error) = logs.compress_older(&log) {
                    let (path, error) = (log.display(), error_chain(&error));
                    tracing::warn!(%path, error, "cannot compress a container's log");
                }
                log
            });
        }
    }

    /// Waits for the end of one, and begins the next; for ever while there is none. Cancel-safe.
    async fn done(&mut self) {
        match self.running.join_next().await {
            Some(Ok(log)) => {
                self.of.remove(&log);
            }
            // It panicked: which it was is not known.
            Some(Err(_)) => self.of.clear(),
            None => std::future::pending().await,
        }
        self.begin();
    }
}

struct Rotator {
    limits: RotationLimits,
    logs: PodLogs,
    runtime: RuntimeClient,
    clock: Clock,
    writes: Writes,
}

impl Rotator {
    /// Looks at logs, and rotates those that are over the limit.
    async fn round(
        self: &Arc<Self>,
        due: Vec<Due>,
        workers: usize,
        schedule: &mut Schedule,
        compression: &mut Compression,
    ) {
        let this = self.clone();
        let looked = tokio::task::spawn_blocking(move || this.logs.look(due, &this.writes));
        // The look panicked, or the agent ends: the next round looks again.
        let looked = looked.await.unwrap_or_default();
        let now = self.clock.now().monotonic;
        let mut rotations = JoinSet::new();
        for Looked { id, path, found } in looked {
            if schedule.looked(&id, found, now) {
                self.make_room(&id, path.clone().into()).await;
            }
            let is_over = match found {
                Found::Elsewhere => false,
                Found::Lacking => true,
                Found::Size { bytes, .. } => bytes >= self.limits.max_size,
            };
            if !is_over {
                continue;
            }
            while rotations.len() >= workers {
                self.rotated(rotations.join_next().await, schedule, compression);
            }
            let this = self.clone();
            rotations.spawn(async move {
                let done = this.rotate(&id, path.clone().into()).await;
                (id, path, done)
            });
        }
        while let Some(end) = rotations.join_next().await {
            self.rotated(Some(end), schedule, compression);
        }
    }

    fn rotated(
        &self,
        end: Option<Result<(String, String, bool), tokio::task::JoinError>>,
        schedule: &mut Schedule,
        compression: &mut Compression,
    ) {
        let Some(Ok((id, path, done))) = end else {
            return;
        };
        let now = self.clock.now().monotonic;
        match done {
            true => schedule.begun_anew(&id, now),
            false => {
                schedule.looked(&id, Found::Lacking, now);
            }
        }
        if done && schedule.pace(&id) <= COMPRESSED_PACE {
            compression.ask(path.into());
        }
    }

    /// Has a log that cannot grow go on in the room of its oldest file.
    async fn make_room(self: &Arc<Self>, id: &str, path: PathBuf) {
        let (this, of) = (self.clone(), path.clone());
        let made = tokio::task::spawn_blocking(move || this.logs.make_room(&of)).await;
        let path = path.display();
        match made {
            Ok(Ok(true)) => {
                tracing::warn!(id, %path, "the disk is full: a container's oldest log went for the next lines");
            }
            Ok(Err(error)) => {
                let error = error_chain(&error);
                tracing::warn!(id, %path, error, "cannot make room for a container's log");
            }
            Ok(Ok(false)) | Err(_) => {}
        }
    }

    /// Rotates one log and has the runtime begin a new one; says whether that was done.
    async fn rotate(self: Arc<Self>, id: &str, path: PathBuf) -> bool {
        let shown = path.display().to_string();
        let warn = |what: &str, error: &LogsError| {
            tracing::warn!(id, path = shown, error = error_chain(error), "{what}");
        };
        let this = self.clone();
        let of = path.clone();
        let now = TimeZone::system().to_datetime(self.clock.now().wall);
        let rotate = move || this.logs.rotate(&of, &this.limits, now);
        let renamed = match tokio::task::spawn_blocking(rotate).await {
            Ok(Ok(Rotation::NotNeeded)) => return true,
            Err(_) => return false,
            Ok(Ok(Rotation::Missing)) => None,
            Ok(Ok(Rotation::Rotated { name })) => Some(name),
            Ok(Err(error)) => {
                warn("cannot rotate a container's log", &error);
                return false;
            }
        };
        let Err(error) = self.runtime.reopen_container_log(id).await else {
            tracing::debug!(id, path = shown, renamed, "the runtime writes a new log");
            return true;
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
        false
    }
}
