//! Between one connection of streams and what is on this side of it.

use std::convert::Infallible;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::StreamError;
use super::terminal::Sizes;
use crate::spdy::{self, Frame, HEAD, Opener};

/// What is carried at once in each direction, bytes.
const BUFFER: usize = 16 << 10;
/// Most bytes of an error that are kept; more are read and forgotten.
const MOST_ERROR: usize = 64 << 10;
/// Ctrl-P, Ctrl-Q: what lets go of a container (kubectl's).
const DETACH: [u8; 2] = [0x10, 0x11];

pub(super) type Input = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection whose streams are being opened.
pub(super) struct Session {
    connection: UnixStream,
    opener: Opener,
    /// Frames that are not sent yet.
    first: Vec<u8>,
    error: u32,
    input: Option<(u32, Input)>,
    outputs: Vec<(u32, Output)>,
    sizes: Option<(u32, Sizes)>,
    detachable: bool,
}

/// How a session has ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// What came on the stream of errors.
    pub(super) error: Vec<u8>,
    /// The other side has ended that stream, and did not merely go.
    pub(super) told: bool,
}

impl Session {
    /// Over a `connection` that was upgraded. The stream of errors is opened with these headers.
    pub(super) fn new(connection: UnixStream, error: &[(&str, &str)]) -> Self {
        let mut session = Self {
            connection,
            opener: Opener::default(),
            first: Vec::new(),
            error: 0,
            input: None,
            outputs: Vec::new(),
            sizes: None,
            detachable: false,
        };
        session.error = session.open(error);
        session
    }

    fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let (stream, frame) = self.opener.open(headers);
        self.first.extend(frame);
        stream
    }

    /// Nothing is said on the stream of errors.
    pub(super) fn only_hear_errors(&mut self) {
        self.first.extend(spdy::data(self.error, 0, true));
    }

    /// A stream for what `input` has.
    pub(super) fn read_from(&mut self, headers: &[(&str, &str)], input: Input) {
        let stream = self.open(headers);
        self.input = Some((stream, input));
    }

    /// A stream whose bytes go to `output`.
    pub(super) fn write_to(&mut self, headers: &[(&str, &str)], output: Output) {
        let stream = self.open(headers);
        self.outputs.push((stream, output));
    }

    /// One stream for both ways.
    pub(super) fn join(&mut self, headers: &[(&str, &str)], input: Input, output: Output) {
        let stream = self.open(headers);
        self.input = Some((stream, input));
        self.outputs.push((stream, output));
    }

    /// A stream for the sizes of the terminal.
    pub(super) fn resize(&mut self, headers: &[(&str, &str)], sizes: Sizes) {
        let stream = self.open(headers);
        self.sizes = Some((stream, sizes));
    }

    /// What is typed may let go of the other side.
    pub(super) fn detachable(&mut self) {
        self.detachable = true;
    }

    /// Carries until the other side has ended all streams that it says something on, or has gone. `None` when it was let
    /// go.
    ///
    /// # Errors
    /// When the connection breaks, or an output cannot be written.
    pub(super) async fn carry(self) -> Result<Option<Ended>, StreamError> {
        let (read, mut write) = self.connection.into_split();
        write
            .write_all(&self.first)
            .await
            .map_err(StreamError::Broken)?;
        let (pongs, pings) = mpsc::unbounded_channel();
        let incoming = Incoming {
            read,
            pongs,
            error: self.error,
            outputs: self.outputs,
            ended: Ended::default(),
        };
        let outgoing = Outgoing {
            write,
            pings,
            input: self.input,
            sizes: self.sizes,
            detachable: self.detachable,
        };
        // Cancel-safe: whichever is done first is the end of both.
        tokio::select! {
            ended = incoming.run() => ended.map(Some),
            () = outgoing.run() => Ok(None),
        }
    }
}

/// What the other side says.
struct Incoming {
    read: OwnedReadHalf,
    /// What is to be sent back.
    pongs: mpsc::UnboundedSender<[u8; 4]>,
    error: u32,
    /// Those that have not ended.
    outputs: Vec<(u32, Output)>,
    ended: Ended,
}

impl Incoming {
    async fn run(mut self) -> Result<Ended, StreamError> {
        let mut buffer = vec![0; BUFFER];
        while !(self.outputs.is_empty() && self.ended.told) {
            let mut head = [0; HEAD];
            match self.read.read_exact(&mut head).await {
                Ok(_) => {}
                // A runtime that is done closes, more or less politely.
                Err(error) if is_gone(&error) => break,
                Err(error) => return Err(StreamError::Broken(error)),
            }
            match Frame::of(head) {
                Frame::Data {
                    stream,
                    length,
                    last,
                } => {
                    self.pass(stream, length, &mut buffer).await?;
                    if last {
                        self.end(stream).await?;
                    }
                }
                Frame::Reset => {
                    let stream = self.read.read_u32().await.map_err(StreamError::Broken)?;
                    self.read.read_u32().await.map_err(StreamError::Broken)?;
                    self.end(stream & 0x7fff_ffff).await?;
                }
                Frame::Ping => {
                    let id = self.read.read_u32().await.map_err(StreamError::Broken)?;
                    // Nobody to send it is nobody to wait for it.
                    let _ = self.pongs.send(id.to_be_bytes());
                }
                Frame::Other { length } => self.pass(0, length, &mut buffer).await?,
            }
        }
        for (_, mut output) in std::mem::take(&mut self.outputs) {
            output.flush().await.map_err(unwritten)?;
        }
        Ok(self.ended)
    }

    /// Reads so many bytes of a stream, to where they go; to nowhere for one that there is not.
    async fn pass(
        &mut self,
        stream: u32,
        length: usize,
        buffer: &mut [u8],
    ) -> Result<(), StreamError> {
        let mut left = length;
        while left > 0 {
            let most = left.min(buffer.len());
            let read = self.read.read(&mut buffer[..most]).await;
            let read = read.map_err(StreamError::Broken)?;
            if read == 0 {
                return Err(StreamError::Broken(io::ErrorKind::UnexpectedEof.into()));
            }
            left -= read;
            if stream == self.error {
                let room = MOST_ERROR.saturating_sub(self.ended.error.len());
                self.ended.error.extend(&buffer[..read.min(room)]);
            }
            let mut outputs = self.outputs.iter_mut();
            if let Some((_, output)) = outputs.find(|(of, _)| *of == stream) {
                output.write_all(&buffer[..read]).await.map_err(unwritten)?;
            }
        }
        Ok(())
    }

    async fn end(&mut self, stream: u32) -> Result<(), StreamError> {
        self.ended.told |= stream == self.error;
        let found = self.outputs.iter().position(|(of, _)| *of == stream);
        if let Some(at) = found {
            let (_, mut output) = self.outputs.swap_remove(at);
            output.shutdown().await.map_err(unwritten)?;
        }
        Ok(())
    }
}

/// What is said to the other side.
struct Outgoing {
    write: OwnedWriteHalf,
    pings: mpsc::UnboundedReceiver<[u8; 4]>,
    input: Option<(u32, Input)>,
    sizes: Option<(u32, Sizes)>,
    detachable: bool,
}

impl Outgoing {
    /// Is over when the other side is to be let go, and never otherwise: what it still says is worth more than that
    /// nothing can be said to it.
    async fn run(mut self) {
        if self.say().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn say(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; HEAD + BUFFER];
        let mut prefix = 0;
        if let Some((stream, sizes)) = &self.sizes {
            for size in sizes.first() {
                self.write.write_all(&in_frame(*stream, &size)).await?;
            }
        }
        loop {
            // Cancel-safe: what is read or received is taken by its own branch, and nothing is half written.
            tokio::select! {
                Some(id) = self.pings.recv() => self.write.write_all(&spdy::pong(id)).await?,
                (stream, size) = next_size(&mut self.sizes) => {
                    self.write.write_all(&in_frame(stream, &size)).await?;
                }
                (stream, read) = next_bytes(&mut self.input, &mut buffer[HEAD..]) => {
                    // What cannot be read any more is at its end.
                    let read = read.unwrap_or(0);
                    if self.detachable && lets_go(&buffer[HEAD..HEAD + read], &mut prefix) {
                        return Ok(());
                    }
                    buffer[..HEAD].copy_from_slice(&spdy::data(stream, read, read == 0));
                    self.write.write_all(&buffer[..HEAD + read]).await?;
                    if read == 0 {
                        self.input = None;
                    }
                }
            }
        }
    }
}

/// Whether the keys of [`DETACH`] have been typed, one after the other; `prefix` of them so far.
fn lets_go(typed: &[u8], prefix: &mut usize) -> bool {
    for key in typed {
        *prefix = match DETACH.get(*prefix) {
            Some(expected) if expected == key => *prefix + 1,
            _ => usize::from(*key == DETACH[0]),
        };
        if *prefix == DETACH.len() {
            return true;
        }
    }
    false
}

fn in_frame(stream: u32, text: &str) -> Vec<u8> {
    [&spdy::data(stream, text.len(), false), text.as_bytes()].concat()
}

async fn next_size(sizes: &mut Option<(u32, Sizes)>) -> (u32, String) {
    match sizes {
        Some((stream, sizes)) => (*stream, sizes.next().await),
        None => never().await,
    }
}

async fn next_bytes(
    input: &mut Option<(u32, Input)>,
    buffer: &mut [u8],
) -> (u32, io::Result<usize>) {
    match input {
        Some((stream, input)) => (*stream, input.read(buffer).await),
        None => never().await,
    }
}

async fn never<T>() -> T {
    match std::future::pending::<Infallible>().await {}
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

fn unwritten(error: io::Error) -> StreamError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => StreamError::Unread,
        _ => StreamError::Local("write".to_owned(), error),
    }
}

#[cfg(test)]
mod tests;
