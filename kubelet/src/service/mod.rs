//! The agent as a service of systemd's: when it is ready, what it is doing, that it is alive, and what a SIGHUP asks for.
//!
//! Owns: what the service manager is told ([`Service`]), the watchdog, reading the configuration again ([`Reloads`]).
//! Inputs: `NOTIFY_SOCKET` and `WATCHDOG_USEC` ([`Environment`]), whether the sources were read, the pods' statuses, why the
//! runtime does not answer, the health checks, SIGHUP. Outputs: messages to the service manager (sd_notify(3)), log lines,
//! other log levels. Tasks: the status line and the reloads, both as long as the agent, and one thread for the watchdog,
//! so that it can name a hang of the very threads that run the tasks. Without a `NOTIFY_SOCKET` there are only the
//! reloads; at rest the watchdog has the one timer.
//!
//! The protocol is spoken here rather than by the crate sd-notify: that one asks the environment, which the agent clears
//! for its children, at each message, and waits for a manager that does not receive.
//!
//! Deliberately not here: ending the agent (`main` does, at what [`signals`] tell it), deciding what is healthy
//! (`server`), the journal (`logging`).

mod environment;
mod notify;
mod refusal;
mod reload;
pub mod signals;
mod status;
mod task;
mod watchdog;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use environment::Environment;
pub use refusal::refuse;
pub use reload::{Reloader, Reloads, run_reloads};
pub use task::{StatusInputs, run_status};
pub use watchdog::Watchdog;

use notify::Manager;

/// Why the agent cannot be the service that it is to be.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// As upstream: a ping each half second or less is a mistake.
    #[error(
        "configure watchdog timeout too small: WATCHDOG_USEC is {0:?}; WatchdogSec of the unit must be more than 1s"
    )]
    WatchdogTooShort(String),
    /// `WATCHDOG_USEC` is no number of microseconds.
    #[error("configure watchdog: WATCHDOG_USEC is {0:?}, not a number of microseconds")]
    WatchdogUnreadable(String),
}

/// What the service manager is told, by whoever knows. Cheap to clone; without a service manager it says nothing.
#[derive(Clone, Default)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    manager: Option<Manager>,
    watchdog: Option<Duration>,
    credentials: Option<PathBuf>,
    /// The manager has been told that the service has started.
    ready: AtomicBool,
    /// What hangs.
    hang: Mutex<Option<String>>,
    /// What the last reload left behind, for the status line.
    note: watch::Sender<Option<Arc<str>>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("manager", &self.inner.manager)
            .field("watchdog", &self.inner.watchdog)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// The service that the variables of `environment` make of this process.
    ///
    /// # Errors
    /// When the watchdog's time is none, or a second or less. The manager can be told nevertheless:
    /// [`Environment::service_without_watchdog`].
    pub fn of(environment: &Environment) -> Result<Self, ServiceError> {
        let watchdog = environment.watchdog()?;
        Ok(Self {
            inner: Arc::new(Inner {
                manager: environment.manager(),
                watchdog,
                credentials: environment.credentials.as_ref().map(PathBuf::from),
                ..Inner::default()
            }),
        })
    }

    /// Whether there is somebody to tell.
    #[must_use]
    pub fn has_manager(&self) -> bool {
        self.inner.manager.is_some()
    }

    /// The directory with the credentials that the manager gives to the service.
    #[must_use]
    pub fn credentials(&self) -> Option<&Path> {
        self.inner.credentials.as_deref()
    }

    /// The one line that `systemctl status` shows.
    pub fn status(&self, text: &str) {
        self.tell(&status_line(text));
    }

    /// The agent ends because it was asked to.
    pub fn stopping(&self) {
        self.tell(&format!(
            "STOPPING=1\n{}",
            status_line("stopping; pods go on running")
        ));
    }

    /// The start is over, with `text` for a status. Whether the manager has heard it.
    fn ready(&self, text: &str) -> bool {
        let heard = self.tell(&format!("READY=1\n{}", status_line(text)));
        if heard {
            self.inner.ready.store(true, Ordering::Release);
        }
        heard
    }

    /// The configuration is being read again. Before the start is over that is a part of it, and nobody's business.
    fn reloading(&self) {
        if self.inner.ready.load(Ordering::Acquire) {
            let now = crate::clock::monotonic_micros();
            self.tell(&format!(
                "RELOADING=1\nMONOTONIC_USEC={now}\n{}",
                status_line("reading the configuration again")
            ));
        }
    }

    /// The configuration has been read again; `note` is what remains to be said of it.
    fn reloaded(&self, note: Option<String>) {
        if self.inner.ready.load(Ordering::Acquire) {
            self.tell("READY=1");
        }
        // Renews the status line, whether the note is another one or not.
        self.inner.note.send_replace(note.map(Into::into));
    }

    fn hang(&self) -> Option<String> {
        self.inner
            .hang
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_hang(&self, hang: Option<String>) {
        let lock = self.inner.hang.lock();
        let mut known = lock.unwrap_or_else(PoisonError::into_inner);
        let over = known.is_some() && hang.is_none();
        *known = hang;
        drop(known);
        if over {
            // The status line is the pods' again.
            self.inner.note.send_modify(|_| {});
        }
    }

    /// Whether the manager has heard it, or there is none.
    fn tell(&self, message: &str) -> bool {
        let manager = self.inner.manager.as_ref();
        manager.is_none_or(|manager| manager.tell(message))
    }
}

/// Bytes of a status: systemd takes messages of 4096, and people read one line.
const MOST_STATUS: usize = 1000;

/// `STATUS=…`, on one line.
fn status_line(text: &str) -> String {
    let mut line = String::from("STATUS=");
    for c in text.chars() {
        if line.len() + c.len_utf8() > MOST_STATUS {
            line.push('…');
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}

#[cfg(test)]
mod tests;
