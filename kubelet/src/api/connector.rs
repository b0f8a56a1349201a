//! Opens connections to the API server.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::sockets::{Held, Sockets};
use super::tls::TlsSource;
use crate::connections::Dialer;

/// How long a connection, its handshake included, may take to come about (client-go's dialler).
const PATIENCE: Duration = Duration::from_secs(30);
/// TCP asks a silent peer whether it is there this often (client-go's dialler): for servers without HTTP/2.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Opens connections to one API server. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) tls: Arc<TlsSource>,
    pub(super) server_name: ServerName<'static>,
    pub(super) sockets: Arc<Sockets>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<ApiStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let opened = tokio::time::timeout(PATIENCE, connector.open_now(&uri)).await;
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the connection took too long");
            opened.map_err(late)?.map(TokioIo::new)
        })
    }
}

impl Connector {
    async fn open_now(&self, uri: &Uri) -> io::Result<ApiStream> {
        let mut redials = self.sockets.redials();
        loop {
            // Cancel-safe: what was begun is given up on purpose. The sender lives as long as `self`.
            tokio::select! {
                opened = self.open(uri) => return opened,
                _ = redials.changed() => {}
            }
        }
    }

    async fn open(&self, uri: &Uri) -> io::Result<ApiStream> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let dialer = Dialer {
            linger: None,
            patience: None,
        };
        let stream = dialer.dial(host, port).await.map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, TCP_KEEP_ALIVE)?;
        sockopt::set_tcp_keepintvl(&stream, TCP_KEEP_ALIVE)?;
        let held = self.sockets.hold(&stream)?;
        let transport = match secure {
            true => {
                let connector = TlsConnector::from(self.tls.config());
                let secured = connector.connect(self.server_name.clone(), stream).await?;
                Transport::Tls(Box::new(secured))
            }
            false => Transport::Plain(stream),
        };
        held.hears();
        Ok(ApiStream { transport, held })
    }
}

/// A connection to the API server.
#[derive(Debug)]
pub(super) struct ApiStream {
    transport: Transport,
    held: Held,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for ApiStream {
    fn connected(&self) -> Connected {
        match &self.transport {
            Transport::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl AsyncRead for ApiStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if buffer.filled().len() > before {
            self.held.hears();
        }
        read
    }
}

impl AsyncWrite for ApiStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
