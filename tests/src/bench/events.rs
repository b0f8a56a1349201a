//! When containers start and end, by containerd's own events: the same clock for whatever drives containerd.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use containerd_client::events::{TaskExit, TaskStart};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::tonic::Request;
use cri_proto::{ConnectOptions, Connection};
use nix::unistd::Pid;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const FILTERS: [&str; 2] = [
    r#"namespace==k8s.io,topic=="/tasks/start""#,
    r#"namespace==k8s.io,topic=="/tasks/exit""#,
];

/// What is known of one container or sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// When its start was heard of.
    pub started: Instant,
    /// Its first process, seen from the machine.
    pub pid: Pid,
    /// When its end was heard of.
    pub ended: Option<Instant>,
}

/// Follows one containerd. The task ends with this.
pub struct TaskEvents {
    lives: Arc<Mutex<HashMap<String, Life>>>,
    /// Commands that were run in containers, and have ended.
    commands: Arc<AtomicU64>,
    changed: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl TaskEvents {
    /// Subscribes at the socket `endpoint`.
    ///
    /// # Errors
    /// When containerd does not take the subscription.
    pub async fn follow(endpoint: &str) -> Result<Self> {
        let connection = Connection::connect(endpoint, ConnectOptions::default())?;
        let mut client = EventsClient::new(connection.channel());
        let request = SubscribeRequest {
            filters: FILTERS.map(str::to_owned).to_vec(),
        };
        let lives: Arc<Mutex<HashMap<String, Life>>> = Arc::default();
        let seen = lives.clone();
        let commands: Arc<AtomicU64> = Arc::default();
        let counted = commands.clone();
        let (changes, changed) = watch::channel(());
        // containerd answers the subscription with its first event, so that cannot be waited for.
        let task = tokio::spawn(async move {
            // Held so that the connection lives.
            let _connection = connection;
            let Ok(stream) = client.subscribe(Request::new(request)).await else {
                return;
            };
            let mut stream = stream.into_inner();
            while let Ok(Some(envelope)) = stream.message().await {
                let now = Instant::now();
                let Some(event) = envelope.event else {
                    continue;
                };
                let mut lives = seen.lock().unwrap_or_else(PoisonError::into_inner);
                match envelope.topic.as_str() {
                    "/tasks/start" => {
                        if let Ok(start) = TaskStart::decode(event.value.as_slice()) {
                            let life = Life {
                                started: now,
                                pid: Pid::from_raw(start.pid.cast_signed()),
                                ended: None,
                            };
                            lives.insert(start.container_id, life);
                        }
                    }
                    _ => {
                        let Ok(exit) = TaskExit::decode(event.value.as_slice()) else {
                            continue;
                        };
                        if exit.id != exit.container_id {
                            counted.fetch_add(1, Ordering::Relaxed);
                        } else if let Some(life) = lives.get_mut(&exit.id) {
                            life.ended = Some(now);
                        }
                    }
                }
                drop(lives);
                changes.send_replace(());
            }
        });
        Ok(Self {
            lives,
            commands,
            changed,
            task,
        })
    }

    /// Waits until `ask` finds what it looks for among all that has happened.
    ///
    /// # Errors
    /// When it has not within `limit`, or the events ended.
    pub async fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut(&HashMap<String, Life>) -> Option<T>,
    ) -> Result<T> {
        let mut changed = self.changed.clone();
        let look = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = ask(&self.lives.lock().unwrap_or_else(PoisonError::into_inner))
                {
                    return Ok(found);
                }
                changed
                    .changed()
                    .await
                    .context("containerd's events ended")?;
            }
        };
        tokio::time::timeout(limit, look)
            .await
            .with_context(|| format!("not within {limit:?}: {what}"))?
    }

    /// What is known of the container `id`.
    #[must_use]
    pub fn life(&self, id: &str) -> Option<Life> {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.get(id).copied()
    }

    /// How many commands that were run in containers have ended, so far.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Everything that was started, so far.
    #[must_use]
    pub fn started(&self) -> usize {
        self.lives
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl Drop for TaskEvents {
    fn drop(&mut self) {
        self.task.abort();
    }
}
