//! A listener and the connections it takes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// How long a client may take to send a request's head; it bounds an idle connection too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections one listener serves at once; others wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
/// How long to wait when no connection can be taken (out of files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// Most bytes of a request's head that are buffered.
const MOST_HEAD_BYTES: usize = 16 * 1024;

/// A port that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose}{}", hint(.source))]
pub struct BindError {
    address: SocketAddr,
    purpose: &'static str,
    source: io::Error,
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; stop what listens there (another kubelet?), or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        _ => "",
    }
}

/// Where connections come from.
#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A bound port or socket with its routes.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    routes: Router,
    purpose: &'static str,
}

impl Server {
    /// Listens on `address`; connections wait until [`Server::run`].
    ///
    /// # Errors
    /// When the address is taken or is not this host's.
    pub async fn bind(
        address: SocketAddr,
        purpose: &'static str,
        routes: Router,
    ) -> Result<Self, BindError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| BindError {
                address,
                purpose,
                source,
            })?;
        Ok(Self {
            listener: Listener::Tcp(listener),
            routes,
            purpose,
        })
    }

    /// Serves on a socket that listens already.
    pub(super) fn of_socket(listener: UnixListener, purpose: &'static str, routes: Router) -> Self {
        Self {
            listener: Listener::Unix(listener),
            routes,
            purpose,
        }
    }

    /// The address, with the port the kernel chose when 0 was asked for.
    ///
    /// # Errors
    /// When the kernel does not tell, or it is a socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr(),
            Listener::Unix(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Serves until dropped, and its connections with it.
    pub async fn run(self) -> Infallible {
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                // The semaphore is never closed.
                continue;
            };
            let routes = self.routes.clone();
            let accepted = match &self.listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    connections.spawn(serve(stream, routes, slot));
                }),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    connections.spawn(serve(stream, routes, slot));
                }),
            };
            match accepted {
                Ok(()) => {}
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(
                        err = &error as &dyn std::error::Error,
                        purpose = self.purpose,
                        "Cannot take a connection"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    _slot: OwnedSemaphorePermit,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MOST_HEAD_BYTES);
    let service = TowerToHyperService::new(routes);
    // A client that goes away in the middle is its own business.
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
