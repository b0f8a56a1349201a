//! The moving parts: processes that end, waits for them, and what every call goes through.

use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use cri_proto::v1;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::fault::{self, Effect};
use super::messages;
use super::program::{EXIT_SIGKILL, OnStop};
use super::record::Call;
use super::store::{Kind, Store};

/// Events kept for a listener that is slow.
const EVENTS_KEPT: usize = 4096;

/// The runtime itself; the gRPC services are implemented on it, and clones share it.
#[derive(Clone, Debug)]
pub(super) struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Mutex<Store>,
    changed: watch::Sender<u64>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
    cuts: watch::Sender<u64>,
    directory: PathBuf,
}

impl Service {
    pub(super) fn new(directory: &Path) -> Self {
        Self(Arc::new(Inner {
            store: Mutex::new(Store::new()),
            changed: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS_KEPT),
            cuts: watch::Sender::new(0),
            directory: directory.into(),
        }))
    }

    /// The store, to look at. Changes go through [`Service::change`], so that waits see them.
    pub(super) fn lock(&self) -> MutexGuard<'_, Store> {
        super::locked(&self.0.store)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.lock());
        self.0.changed.send_modify(|count| *count += 1);
        result
    }

    /// Waits until `probe` finds what it looks for.
    pub(super) async fn until<T>(&self, mut probe: impl FnMut(&Store) -> Option<T>) -> T {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(found) = probe(&self.lock()) {
                return found;
            }
            if changed.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Changes whenever the store does.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    pub(super) fn cuts(&self) -> watch::Sender<u64> {
        self.0.cuts.clone()
    }

    /// Breaks every connection there is.
    pub(super) fn cut(&self) {
        self.0.cuts.send_modify(|count| *count += 1);
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0.directory
    }

    pub(super) fn events(&self) -> broadcast::Receiver<v1::ContainerEventResponse> {
        self.0.events.subscribe()
    }

    pub(super) fn emit(&self, kind: v1::ContainerEventType, id: &str, sandbox_id: &str) {
        let mut store = self.lock();
        let at = store.now();
        // Nobody listening is fine.
        let _ = self
            .0
            .events
            .send(messages::event(&store, kind, id, sandbox_id, at));
    }

    /// Notes the call, lets the faults have it, does `work`, and notes the answer. `work` is given the call's number.
    pub(super) async fn perform<T, F>(
        &self,
        method: &'static str,
        id: &str,
        subject: String,
        work: impl FnOnce(Self, usize) -> F,
    ) -> Result<Response<T>, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let call = Call {
            method,
            subject,
            id: id.into(),
            began: Instant::now(),
            ended: None,
            code: None,
        };
        let (number, effect) = self.change(|store| {
            let effect = fault::take(&mut store.faults, &call);
            store.calls.push(call);
            (store.forgotten + store.calls.len() - 1, effect)
        });
        let work = work(self.clone(), number);
        let service = self.clone();
        let regardless = matches!(effect, Some(Effect::TakesRegardless(_)));
        let all = async move {
            let Some(effect) = effect else {
                return work.await;
            };
            effect.before(|| service.cut()).await?;
            let done = work.await?;
            effect.after(|| service.cut()).await?;
            Ok(done)
        };
        let result = if regardless {
            let task = tokio::spawn(all);
            task.await
                .unwrap_or_else(|error| Err(Status::internal(error.to_string())))
        } else {
            all.await
        };
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.note(number, |call| {
            call.code = Some(code);
            call.ended = Some(Instant::now());
        });
        result.map(Response::new)
    }

    /// Adds to what is noted of a call.
    pub(super) fn note(&self, number: usize, note: impl FnOnce(&mut Call)) {
        self.change(|store| {
            let index = number.checked_sub(store.forgotten);
            if let Some(call) = index.and_then(|index| store.calls.get_mut(index)) {
                note(call);
            }
        });
    }

    /// Takes a name for an object to be made; it is free again once the reservation is dropped, unless kept.
    pub(super) fn reserve(&self, kind: Kind, name: &str) -> Result<Reservation, Status> {
        let id = self.change(|store| store.reserve(kind, name))?;
        Ok(Reservation {
            service: self.clone(),
            id,
            kept: false,
        })
    }

    /// Starts the process of a container, which then ends as its program says.
    pub(super) fn start(&self, id: &str) -> Result<(), Status> {
        let program = self.change(|store| store.start(id))?;
        self.open_log(id)?;
        if let Some((after, code)) = program.end {
            self.end_after(id, after, code);
        }
        Ok(())
    }

    /// Makes the container's log, empty, where its kubelet has made the directory for it.
    ///
    /// # Errors
    /// When there is no such container.
    pub(super) fn open_log(&self, id: &str) -> Result<(), Status> {
        let log = {
            let store = self.lock();
            store.container(id)?.log_path(&store)
        };
        // A container without a directory for its log has none: most tests' own have not.
        let made = OpenOptions::new().create(true).append(true).open(&log);
        if let Err(error) = made
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(Status::unknown(format!("open {log}: {error}")));
        }
        Ok(())
    }

    fn end_after(&self, id: &str, after: Duration, code: i32) {
        let (service, id) = (self.weak(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if let Some(service) = service.upgrade() {
                Self(service).end(&id, code, "");
            }
        });
    }

    fn weak(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    /// Ends the process of a container; false when it did not run.
    pub(super) fn end(&self, id: &str, code: i32, reason: &str) -> bool {
        let lag = self.lock().end_lag;
        if !self.change(|store| store.end(id, code, reason)) {
            return false;
        }
        let (sandbox_id, files) = {
            let store = self.lock();
            let Some(container) = store.containers.get(id) else {
                return true;
            };
            (container.sandbox_id.clone(), last_words(container))
        };
        for (path, content) in files {
            if let Err(error) = std::fs::write(&path, content) {
                tracing::warn!(path = %path.display(), %error, "a scripted program cannot write");
            }
        }
        let stopped = v1::ContainerEventType::ContainerStoppedEvent;
        if lag.is_zero() {
            self.change(|store| store.show_end(id));
            self.emit(stopped, id, &sandbox_id);
            return true;
        }
        self.emit(stopped, id, &sandbox_id);
        let (service, id) = (self.weak(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(lag).await;
            if let Some(service) = service.upgrade() {
                Self(service).change(|store| store.show_end(&id));
            }
        });
        true
    }

    /// Stop signal, `grace`, SIGKILL; returns when the end shows. A container that does not run is left as it is.
    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<(), Status> {
        if self.lock().container(id)?.state != v1::ContainerState::ContainerRunning {
            return Ok(());
        }
        if !grace.is_zero() {
            let first = self.change(|store| {
                let container = store.container_mut(id)?;
                let first = !std::mem::replace(&mut container.signalled, true);
                Ok::<_, Status>(first.then_some(container.program.on_stop))
            })?;
            if let Some(OnStop::Ends { after, code }) = first {
                if after.is_zero() {
                    self.end(id, code, "");
                } else {
                    self.end_after(id, after, code);
                }
            }
            let ended = tokio::time::timeout(grace, self.until_shown(id)).await;
            if ended.is_ok() {
                return Ok(());
            }
        }
        self.end(id, EXIT_SIGKILL, "");
        self.until_shown(id).await;
        Ok(())
    }

    async fn until_shown(&self, id: &str) {
        self.until(|store| {
            let state = store.containers.get(id).map(|c| c.state);
            (state != Some(v1::ContainerState::ContainerRunning)).then_some(())
        })
        .await;
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let containers = self.lock().containers_of(id);
        for container in containers {
            // Removed by somebody else in the meantime is fine.
            let _ = self.stop(&container, Duration::ZERO).await;
        }
        self.sandbox_ends(id);
        Ok(())
    }

    /// The sandbox's own process ends; false when it had before.
    pub(super) fn sandbox_ends(&self, id: &str) -> bool {
        let ended = self.change(|store| match store.sandboxes.get_mut(id) {
            Some(sandbox) => std::mem::replace(&mut sandbox.ready, false),
            None => false,
        });
        if ended {
            self.emit(v1::ContainerEventType::ContainerStoppedEvent, id, id);
        }
        ended
    }

    pub(super) async fn remove_container(&self, id: &str) {
        if self.stop(id, Duration::ZERO).await.is_err() {
            return;
        }
        let removed = self.change(|store| {
            store.release(id);
            store.containers.remove(id)
        });
        if let Some(container) = removed {
            let deleted = v1::ContainerEventType::ContainerDeletedEvent;
            self.emit(deleted, id, &container.sandbox_id);
        }
    }
}

/// What a container's program writes as it ends, by path on the host.
fn last_words(container: &super::store::Container) -> Vec<(PathBuf, String)> {
    let host_path = |wanted: &str| {
        let mut mounts = container.config.mounts.iter();
        mounts
            .find(|mount| mount.container_path == wanted)
            .map(|mount| PathBuf::from(&mount.host_path))
    };
    let writes = container.program.writes.iter();
    writes
        .filter_map(|(path, content)| Some((host_path(path)?, content.clone())))
        .collect()
}

/// A name that is taken, and the id of what will be made under it.
#[derive(Debug)]
pub(super) struct Reservation {
    service: Service,
    pub(super) id: String,
    kept: bool,
}

impl Reservation {
    /// The object is there: the name is its own until it is removed.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            self.service.change(|store| store.release(&self.id));
        }
    }
}
