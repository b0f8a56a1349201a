//! The sockets of the fake, and how they are cut.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cri_proto::v1::image_service_server::ImageServiceServer;
use cri_proto::v1::runtime_service_server::RuntimeServiceServer;
use cri_proto::{ConnectOptions, Connection, MAX_RECEIVE_BYTES};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::service::Service;

/// Bytes in flight of an in-memory connection.
const PIPE_BYTES: usize = 256 * 1024;

/// The listening side, while it listens. Dropping it stops listening and leaves the socket's file, as a kill does.
#[derive(Debug)]
pub(super) struct Listening {
    tasks: Vec<JoinHandle<()>>,
    pipes: mpsc::Sender<DuplexStream>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Listening {
    /// Listens on `socket`, replacing a file that is there, and for in-memory connections.
    pub(super) fn start(service: &Service, socket: &Path) -> io::Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListenerStream::new(UnixListener::bind(socket)?);
        let (pipes, receiver) = mpsc::channel(4);
        let piped = ReceiverStream::new(receiver).map(io::Result::Ok);
        Ok(Self {
            tasks: vec![serve(service, listener), serve(service, piped)],
            pipes,
        })
    }

    pub(super) fn pipes(&self) -> mpsc::Sender<DuplexStream> {
        self.pipes.clone()
    }
}

fn serve<S, I>(service: &Service, incoming: I) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    I: Stream<Item = io::Result<S>> + Send + 'static,
{
    let cut = service.cuts();
    let incoming = incoming.map(move |stream| stream.map(|stream| Cuttable::new(stream, &cut)));
    let router = Server::builder()
        .add_service(
            RuntimeServiceServer::new(service.clone()).max_decoding_message_size(MAX_RECEIVE_BYTES),
        )
        .add_service(
            ImageServiceServer::new(service.clone()).max_decoding_message_size(MAX_RECEIVE_BYTES),
        );
    tokio::spawn(async move {
        if let Err(error) = router.serve_with_incoming(incoming).await {
            tracing::warn!(%error, "the fake runtime's server ended");
        }
    })
}

/// A connection through memory: the only kind that paused time does not outrun.
pub(super) fn in_memory(
    listening: Arc<std::sync::Mutex<Option<Listening>>>,
    options: ConnectOptions,
) -> Connection {
    Connection::with_dialer("the fake runtime", options, move || {
        let pipes = super::locked(&listening).as_ref().map(Listening::pipes);
        async move {
            let pipes = pipes.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            pipes
                .send(theirs)
                .await
                .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(ours)
        }
    })
}

/// A stream that fails once it is cut, on both sides, as when the process behind it was killed.
struct Cuttable<S> {
    stream: S,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
}

impl<S> Cuttable<S> {
    fn new(stream: S, cuts: &watch::Sender<u64>) -> Self {
        let mut cuts = cuts.subscribe();
        Self {
            stream,
            cut: Box::pin(async move {
                // The sender gone is the same as a cut: the fake is no more.
                let _ = cuts.changed().await;
            }),
            is_cut: false,
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(cx).is_ready();
        if self.is_cut {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl<S: Unpin> Connected for Cuttable<S> {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Cuttable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cuttable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
