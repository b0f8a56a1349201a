//! One lazily opened, self-repairing HTTP/2 connection to a runtime.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::call::CallObserver;
use crate::{Endpoint, EndpointError, ImageClient, RuntimeClient};

/// Largest answer taken, as upstream's; a list of some ten thousand containers fits.
pub const MAX_RECEIVE_BYTES: usize = 16 * 1024 * 1024;

/// `runtimeRequestTimeout` of KubeletConfiguration when it is not set.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A local socket answers at once, unless its backlog is full.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How to talk to a runtime.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Deadline of an ordinary call; the others are computed from it.
    pub request_timeout: Duration,
    /// Largest answer taken, bytes.
    pub max_receive_bytes: usize,
    /// Pause after the first failed attempt to connect; doubles with each further one.
    pub backoff_min: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// Hears of each call of RuntimeService and ImageService that has ended; streams and calls given up on do not count.
    pub observer: Option<CallObserver>,
}

impl Default for ConnectOptions {
    /// Upstream's values: 2 min, 16 MiB, 100 ms, 3 s.
    fn default() -> Self {
        Self {
            request_timeout: REQUEST_TIMEOUT,
            max_receive_bytes: MAX_RECEIVE_BYTES,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(3),
            observer: None,
        }
    }
}

/// A connection to a runtime. Clones share it.
///
/// It opens with the first call, and anew with the first call after it broke. While the runtime cannot be reached, calls
/// fail at once with [`crate::CriErrorKind::Unavailable`], and between attempts to connect lies a growing pause.
#[derive(Clone)]
pub struct Connection {
    name: Arc<str>,
    channel: Channel,
    options: ConnectOptions,
    gate: Arc<Gate>,
}

impl Connection {
    /// A connection to the unix socket `endpoint` (`unix:///path` or an absolute path). Nothing is opened yet, so the
    /// runtime need not be there. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When `endpoint` names no unix socket.
    pub fn connect(endpoint: &str, options: ConnectOptions) -> Result<Self, EndpointError> {
        let endpoint = Endpoint::parse(endpoint)?;
        let name = endpoint.to_string();
        Ok(Self::with_dialer(&name, options, move || {
            let endpoint = endpoint.clone();
            async move { UnixStream::connect(endpoint.path()).await }
        }))
    }

    /// A connection over whatever `dial` opens, such as an in-memory pipe of a test. `name` stands for it in messages.
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn with_dialer<D, F, S>(name: &str, options: ConnectOptions, dial: D) -> Self
    where
        D: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let name: Arc<str> = name.into();
        let gate = Arc::new(Gate::new(&name, &options));
        let guard = Arc::clone(&gate);
        let connector = tower::service_fn(move |_| {
            let attempt = guard.enter().map(|()| dial());
            let guard = Arc::clone(&guard);
            async move {
                let dialled = tokio::time::timeout(DIAL_TIMEOUT, attempt?)
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                guard.leave(dialled).map(TokioIo::new)
            }
        });
        // The authority is sent along and means nothing on a unix socket; gRPC clients use localhost.
        let channel = tonic::transport::Endpoint::from_static("http://localhost")
            .connect_with_connector_lazy(connector);
        Self {
            name,
            channel,
            options,
            gate,
        }
    }

    /// A client of the RuntimeService.
    #[must_use]
    pub fn runtime(&self) -> RuntimeClient {
        RuntimeClient::new(self)
    }

    /// A client of the ImageService.
    #[must_use]
    pub fn images(&self) -> ImageClient {
        ImageClient::new(self)
    }

    /// The channel itself, for services other than CRI behind the same socket, such as containerd's events.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// What the connection is called in messages: `unix:///path`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// How long until the next call will try to connect again; zero unless the last attempt failed.
    #[must_use]
    pub fn next_attempt_in(&self) -> Duration {
        self.gate.pause()
    }

    /// Why the last attempt to connect failed; none when it did not.
    #[must_use]
    pub fn refusal(&self) -> Option<Arc<str>> {
        let closed = self.gate.lock();
        closed
            .as_ref()
            .map(|closed| Arc::clone(&closed.error.reason))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.name).finish()
    }
}

/// The runtime could not be reached, so that the request was never sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot connect to {endpoint}: {reason}")]
pub(crate) struct NotConnected {
    endpoint: Arc<str>,
    reason: Arc<str>,
}

/// Keeps attempts to connect apart: in between, calls get the last attempt's error.
struct Gate {
    name: Arc<str>,
    backoff_min: Duration,
    backoff_max: Duration,
    closed: Mutex<Option<Closed>>,
}

struct Closed {
    until: Instant,
    pause: Duration,
    error: NotConnected,
}

impl Gate {
    fn new(name: &Arc<str>, options: &ConnectOptions) -> Self {
        Self {
            name: Arc::clone(name),
            backoff_min: options.backoff_min,
            backoff_max: options.backoff_max,
            closed: Mutex::new(None),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Closed>> {
        // Nothing panics while it is held, and the state is whole at every moment.
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Result<(), NotConnected> {
        match &*self.lock() {
            Some(closed) if Instant::now() < closed.until => Err(closed.error.clone()),
            _ => Ok(()),
        }
    }

    fn leave<S>(&self, dialled: io::Result<S>) -> Result<S, NotConnected> {
        let mut state = self.lock();
        match dialled {
            Ok(stream) => {
                if state.take().is_some() {
                    tracing::info!(endpoint = &*self.name, "connected to the container runtime");
                }
                Ok(stream)
            }
            Err(error) => {
                let pause = match &*state {
                    Some(before) => (before.pause * 2).min(self.backoff_max),
                    None => self.backoff_min,
                };
                let error = NotConnected {
                    endpoint: Arc::clone(&self.name),
                    reason: error.to_string().into(),
                };
                // Once a fault: what follows is the same state, seen again.
                if state.is_none() {
                    tracing::warn!(%error, "the container runtime is away");
                }
                *state = Some(Closed {
                    until: Instant::now() + pause,
                    pause,
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    fn pause(&self) -> Duration {
        self.lock()
            .as_ref()
            .map(|closed| closed.until.saturating_duration_since(Instant::now()))
            .unwrap_or_default()
    }
}
