//! Slices of systemd, made and ended over D-Bus (org.freedesktop.systemd1(5)).
//!
//! Owns: transient slices of the pods' levels. Inputs: a unit's name, its parent, its properties. Outputs: the answers
//! of systemd's jobs. Tasks: none of its own; each [`Session`] has the reader of its connection, and ends with it.
//! Deliberately not here: the files below a slice, which are written as with the other driver.
//!
//! A session is one piece of work (one pod, or the levels of the node) on a connection of its own: a bus that hangs or
//! is restarted costs that piece of work alone, nothing is connected while nothing is to be done, and no signal of
//! systemd wakes an idle agent. The system bus comes first; systemd's private socket, which needs no bus daemon and is
//! root's alone, where that gives no answer.

mod private;
mod properties;
mod session;
#[cfg(test)]
pub(super) mod tests;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Version;
use session::Session;

pub(super) use properties::{Property, properties, whole_percent};

/// Pieces of work at once. A bus allows each user some hundred connections.
const SESSIONS: usize = 16;

/// Where systemd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The socket of a bus that systemd is on.
    Bus(PathBuf),
    /// A socket of systemd's own.
    Private(PathBuf),
}

impl Endpoint {
    fn path(&self) -> &PathBuf {
        match self {
            Self::Bus(path) | Self::Private(path) => path,
        }
    }
}

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For systemd's first answer on an endpoint.
    pub open: Duration,
    /// For a call, and the job it begins.
    pub job: Duration,
}

/// Where systemd is, and how long is waited for it.
#[derive(Clone, Debug)]
pub struct SystemdConfig {
    /// A directory where systemd runs the machine (sd_booted(3)).
    pub booted: PathBuf,
    /// The endpoints, the preferred one first.
    pub endpoints: Vec<Endpoint>,
    /// How long is waited.
    pub deadlines: Deadlines,
}

impl Default for SystemdConfig {
    fn default() -> Self {
        Self {
            booted: "/run/systemd/system".into(),
            endpoints: vec![
                Endpoint::Bus("/run/dbus/system_bus_socket".into()),
                Endpoint::Private("/run/systemd/private".into()),
            ],
            deadlines: Deadlines {
                open: Duration::from_secs(5),
                // As runc waits for a job.
                job: Duration::from_secs(30),
            },
        }
    }
}

/// What systemd did not do. Worth another try with back-off.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// No endpoint answers.
    #[error("cannot reach systemd over D-Bus: {0}; is dbus running, and the agent root?")]
    Unreachable(String),
    /// No answer, or no end of a job, in time.
    #[error("systemd has not answered {call} of {unit} within {after:?}")]
    NoAnswer {
        /// The call.
        call: &'static str,
        /// The unit.
        unit: String,
        /// The deadline.
        after: Duration,
    },
    /// Refused, or the connection broke.
    #[error("{call} of {unit} failed")]
    Call {
        /// The call.
        call: &'static str,
        /// The unit.
        unit: String,
        /// Why.
        #[source]
        source: Box<zbus::Error>,
    },
    /// A job that did not do its work.
    #[error("{call} of {unit}: systemd ended the job as {result:?}; see 'systemctl status {unit}'")]
    Job {
        /// The call.
        call: &'static str,
        /// The unit.
        unit: String,
        /// systemd's word: `failed`, `canceled`, `timeout`, `dependency`, `skipped`.
        result: String,
    },
}

impl SystemdError {
    /// Whether the connection is at fault, so that another one may do.
    fn is_connection(&self) -> bool {
        matches!(self, Self::Call { source, .. } if !matches!(**source, zbus::Error::MethodError(..)))
    }

    fn is_named(&self, name: &str) -> bool {
        let Self::Call { source, .. } = self else {
            return false;
        };
        matches!(&**source, zbus::Error::MethodError(error, ..) if error.as_str() == name)
    }
}

/// A slice to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slice {
    /// `kubepods-burstable.slice`.
    pub(super) unit: String,
    /// The slice it lies in.
    pub(super) parent: String,
    /// For people.
    pub(super) description: String,
    /// What it is limited to.
    pub(super) properties: Vec<Property>,
}

/// What a session is for. Done twice, it has the same effect.
#[derive(Clone, Copy)]
enum Work<'a> {
    Ensure(Version, &'a [Slice]),
    Set(&'a str, &'a [Property]),
    Stop(&'a str),
}

/// The way to systemd.
#[derive(Debug)]
pub(super) struct Systemd {
    endpoints: Vec<Endpoint>,
    deadlines: Deadlines,
    permits: Semaphore,
}

impl Systemd {
    pub(super) fn new(config: &SystemdConfig) -> Self {
        Self {
            endpoints: config.endpoints.clone(),
            deadlines: config.deadlines,
            permits: Semaphore::new(SESSIONS),
        }
    }

    /// systemd's version: `252`.
    pub(super) async fn version(&self) -> Result<u32, SystemdError> {
        Ok(self.open().await?.version)
    }

    /// Makes `slices`, the outer ones first; those that are there are given their properties.
    pub(super) async fn ensure(
        &self,
        version: Version,
        slices: &[Slice],
    ) -> Result<(), SystemdError> {
        Box::pin(self.perform(Work::Ensure(version, slices))).await
    }

    /// Gives a slice that is there its properties.
    pub(super) async fn set(&self, unit: &str, wanted: &[Property]) -> Result<(), SystemdError> {
        Box::pin(self.perform(Work::Set(unit, wanted))).await
    }

    /// Stops a slice and all in it. One that is gone is fine.
    pub(super) async fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        Box::pin(self.perform(Work::Stop(unit))).await
    }

    /// Does `work` in a session; once more in another one where the connection broke. Kilobytes while it lasts, and to be
    /// boxed: workers hold it.
    async fn perform(&self, work: Work<'_>) -> Result<(), SystemdError> {
        // Never closed.
        let _permit = self.permits.acquire().await;
        match self.open().await?.perform(work).await {
            Err(error) if error.is_connection() => self.open().await?.perform(work).await,
            done => done,
        }
    }

    async fn open(&self) -> Result<Session, SystemdError> {
        let mut tried = Vec::new();
        for endpoint in &self.endpoints {
            let opened = Session::open(endpoint, self.deadlines);
            let why = match tokio::time::timeout(self.deadlines.open, opened).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {:?}", self.deadlines.open),
            };
            tried.push(format!("{}: {why}", endpoint.path().display()));
        }
        Err(SystemdError::Unreachable(tried.join("; ")))
    }
}
