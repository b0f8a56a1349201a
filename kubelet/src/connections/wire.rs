//! Streams that make hyper and rustls hear what Go's client hears.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection, whatever it goes over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What an answer begins with that speaks HTTP without TLS.
const PLAIN_HTTP: &[u8] = b"HTTP/";

/// A stream that remembers what came first, for a server that speaks no TLS.
pub(super) struct FirstBytes<S> {
    stream: S,
    seen: Vec<u8>,
}

impl<S> FirstBytes<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            seen: Vec::new(),
        }
    }

    /// Whether the other end answered in plain HTTP.
    pub(super) fn is_plain_http(&self) -> bool {
        self.seen.starts_with(PLAIN_HTTP)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        let wanted = PLAIN_HTTP.len().saturating_sub(self.seen.len());
        let came = &buffer.filled()[before..];
        self.seen.extend_from_slice(&came[..came.len().min(wanted)]);
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A stream on which nothing is heard before something was said. A server that answers before it is asked, such as a pipe
/// into `nc -l`, would otherwise be no HTTP server for hyper; for Go's client it is one.
pub(super) struct AskFirst<S> {
    stream: S,
    asked: bool,
    listener: Option<Waker>,
}

impl<S> AskFirst<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            asked: false,
            listener: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AskFirst<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.listener = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AskFirst<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        if done.is_ready() && !self.asked {
            self.asked = true;
            if let Some(listener) = self.listener.take() {
                listener.wake();
            }
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
