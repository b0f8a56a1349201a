//! A client of streams over SPDY/3.1, as `kubectl` speaks it to the node's API: several streams in one connection.

use anyhow::{Context as _, Result, ensure};
use kubelet::spdy::{self, Frame, HEAD, MOST_DATA, Opener};

use crate::containerd::Node;
use crate::node_api::{Upgraded, open};

/// The protocol of commands.
pub const COMMANDS: &str = "v4.channel.k8s.io";
/// The protocol of forwarded ports.
pub const PORTS: &str = "portforward.k8s.io";

/// A connection of streams.
pub struct Spdy {
    connection: Upgraded,
    opener: Opener,
}

/// What came on a stream.
#[derive(Debug)]
pub struct Piece {
    /// Which.
    pub stream: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// No more will come.
    pub last: bool,
}

impl Spdy {
    /// Asks the node's API for the streams at `path`.
    ///
    /// # Errors
    /// When it does not switch to them.
    pub fn open(node: &Node, path: &str, protocol: &str) -> Result<Self> {
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\nX-Stream-Protocol-Version: {protocol}\r\n"
        );
        let connection = open(node, "POST", path, &headers)?;
        ensure!(
            connection.head.starts_with("http/1.1 101 "),
            "{path}: {}",
            connection.head
        );
        let opener = Opener::default();
        Ok(Self { connection, opener })
    }

    /// Opens a stream with these headers.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn stream(&mut self, headers: &[(&str, &str)]) -> Result<u32> {
        let (stream, frame) = self.opener.open(headers);
        self.connection.send(&frame)?;
        Ok(stream)
    }

    /// Opens the two streams of a connection to a forwarded port: that of its data, that of an error.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn port(&mut self, port: u16, request: &str) -> Result<(u32, u32)> {
        let port = port.to_string();
        let headers = |kind| {
            [
                ("streamtype", kind),
                ("port", &*port),
                ("requestid", request),
            ]
        };
        let error = self.stream(&headers("error"))?;
        self.send(error, b"", true)?;
        let data = self.stream(&headers("data"))?;
        Ok((data, error))
    }

    /// Sends `bytes`; `last` when none come after them.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&mut self, stream: u32, bytes: &[u8], last: bool) -> Result<()> {
        let mut pieces = bytes.chunks(MOST_DATA).peekable();
        if pieces.peek().is_none() {
            return self.connection.send(&spdy::data(stream, 0, last));
        }
        while let Some(piece) = pieces.next() {
            let last = last && pieces.peek().is_none();
            let head = spdy::data(stream, piece.len(), last);
            self.connection.send(&[&head, piece].concat())?;
        }
        Ok(())
    }

    /// What comes next, on any stream; none when the other side has closed the connection.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn receive(&mut self) -> Result<Option<Piece>> {
        loop {
            let Ok(head) = self.connection.receive(HEAD) else {
                return Ok(None);
            };
            let head: [u8; HEAD] = head.try_into().ok().context("a head")?;
            match Frame::of(head) {
                Frame::Data {
                    stream,
                    length,
                    last,
                } => {
                    let bytes = self.connection.receive(length)?;
                    return Ok(Some(Piece {
                        stream,
                        bytes,
                        last,
                    }));
                }
                Frame::Reset => {
                    let content = self.connection.receive(8)?;
                    let stream = content.first_chunk().copied().context("a stream")?;
                    return Ok(Some(Piece {
                        stream: u32::from_be_bytes(stream),
                        bytes: Vec::new(),
                        last: true,
                    }));
                }
                Frame::Ping => {
                    let id = self.connection.receive(4)?;
                    let id = id.try_into().ok().context("an id")?;
                    self.connection.send(&spdy::pong(id))?;
                }
                Frame::Other { length } => {
                    self.connection.receive(length)?;
                }
            }
        }
    }

    /// Gives `take` what comes on `stream` until it has ended; other streams are left out. Whether it was ended, and not
    /// the connection closed.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn until_end(&mut self, stream: u32, mut take: impl FnMut(&[u8])) -> Result<bool> {
        while let Some(piece) = self.receive()? {
            if piece.stream == stream {
                take(&piece.bytes);
                if piece.last {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The text of `stream` until it has ended.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn text(&mut self, stream: u32) -> Result<String> {
        let mut text = Vec::new();
        self.until_end(stream, |bytes| text.extend(bytes))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
