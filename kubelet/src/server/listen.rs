//! A listener and the connections it takes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::auth::ShownCertificates;
use super::tls::ServingTls;

/// How long to wait when no connection can be taken (out of files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// How long a client may take to shake hands (Go's default in HTTP clients).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A record of TLS (RFC 8446, 5.1 and 6): alert, version 1.2, two bytes: fatal, `internal_error`.
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];
/// What is read of a ClientHello before it is refused: the largest record of TLS.
const LONGEST_HELLO: usize = 5 + (16 << 10);

/// What clients of one listener may have in sum.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How many connections are served at once; others wait in the kernel's queue. One whose request was an upgrade is
    /// not counted: the stream's room counts those.
    connections: usize,
    /// How long a client may take to send a request's head; it bounds an idle connection too.
    head: Duration,
    /// Most bytes of a request's head that are buffered.
    head_bytes: usize,
}

/// Of ports for a few clients of the same machine or network.
const SMALL: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(30),
    head_bytes: 16 << 10,
};

/// Of the agent's own socket: a command to execute is part of the head here too.
const OWN: Limits = Limits {
    head_bytes: LARGE.head_bytes,
    ..SMALL
};

/// Of the node's API. The API server keeps a connection to each node for each log that somebody follows; a command to
/// execute is part of the head.
const LARGE: Limits = Limits {
    connections: 512,
    // As upstream's idle timeout.
    head: Duration::from_secs(90),
    head_bytes: 128 << 10,
};

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
    Tls(TcpListener, Arc<ServingTls>),
    Unix(UnixListener),
}

/// A bound port or socket with its routes.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    routes: Router,
    purpose: &'static str,
    limits: Limits,
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
        Ok(Self {
            listener: Listener::Tcp(listen(address, purpose).await?),
            routes,
            purpose,
            limits: SMALL,
        })
    }

    /// As [`Server::bind`], for the node's API over TLS. Requests have the certificates of their client as
    /// [`ShownCertificates`], where it has shown any.
    ///
    /// # Errors
    /// When the address is taken or is not this host's.
    pub async fn bind_tls(
        address: SocketAddr,
        purpose: &'static str,
        tls: Arc<ServingTls>,
        routes: Router,
    ) -> Result<Self, BindError> {
        Ok(Self {
            listener: Listener::Tls(listen(address, purpose).await?, tls),
            routes,
            purpose,
            limits: LARGE,
        })
    }

    /// Serves on a socket that listens already.
    pub(super) fn of_socket(listener: UnixListener, purpose: &'static str, routes: Router) -> Self {
        Self {
            listener: Listener::Unix(listener),
            routes,
            purpose,
            limits: OWN,
        }
    }

    /// The address, with the port the kernel chose when 0 was asked for.
    ///
    /// # Errors
    /// When the kernel does not tell, or it is a socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) | Listener::Tls(listener, _) => listener.local_addr(),
            Listener::Unix(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Serves until dropped, and its connections with it.
    pub async fn run(self) -> Infallible {
        let limits = self.limits;
        let slots = Arc::new(Semaphore::new(limits.connections));
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
                    connections.spawn(serve(stream, routes, limits, None, slot));
                }),
                Listener::Tls(listener, tls) => listener.accept().await.map(|(stream, _)| {
                    let tls = Arc::clone(tls);
                    connections.spawn(serve_tls(stream, tls, routes, limits, slot));
                }),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let routes = super::socket::for_peer(&stream, routes);
                    connections.spawn(serve(stream, routes, limits, None, slot));
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

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, BindError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| BindError {
        address,
        purpose,
        source,
    })
}

async fn serve_tls(
    stream: TcpStream,
    tls: Arc<ServingTls>,
    routes: Router,
    limits: Limits,
    slot: OwnedSemaphorePermit,
) {
    // Small answers, such as what is typed into a terminal, do not wait for each other; where that cannot be had they do.
    let _ = stream.set_nodelay(true);
    let Some(config) = tls.config() else {
        // Upstream's words.
        tracing::debug!("TLS handshake error: no serving certificate available for the kubelet");
        return refuse(stream).await;
    };
    let handshake = TlsAcceptor::from(config).accept(stream);
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(
                err = &error as &dyn std::error::Error,
                "TLS handshake error"
            );
            return;
        }
        Err(_) => return,
    };
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().filter(|all| !all.is_empty());
    let shown = shown.map(|all| ShownCertificates(all.into()));
    serve(stream, routes, limits, shown, slot).await;
}

/// Answers a handshake as upstream does that has no certificate: with the alert `internal_error`, by which people know what is
/// the matter ("remote error: tls: internal error").
async fn refuse(mut stream: TcpStream) {
    let answered = async {
        // Whoever has not been heard out finds the connection reset, and no alert.
        let mut hello = vec![0; LONGEST_HELLO];
        if stream.read(&mut hello).await? == 0 {
            return Ok(());
        }
        stream.write_all(&INTERNAL_ERROR).await?;
        stream.shutdown().await
    };
    // Whoever goes away before needs no answer.
    let _ = tokio::time::timeout(HANDSHAKE_TIMEOUT, answered).await;
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    limits: Limits,
    shown: Option<ShownCertificates>,
    _slot: OwnedSemaphorePermit,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes);
    let routes = routes.map_request(move |mut request: Request<Incoming>| {
        if let Some(shown) = &shown {
            request.extensions_mut().insert(shown.clone());
        }
        request
    });
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // A client that goes away in the middle is its own business.
    let _ = connection.with_upgrades().await;
}
