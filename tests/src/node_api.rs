//! A client of the node's API (10250) for tests: requests over TLS from within the node's network namespace, upgrades, and
//! WebSocket as `kubectl` speaks it, version 4 of its channels (one byte of a frame is its stream).

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};

use crate::containerd::Node;
use crate::http::Response;

/// Where the node's API is.
const ADDRESS: &str = "127.0.0.1:10250";
/// For connecting, and for each read and write.
const TIMEOUT: Duration = Duration::from_secs(30);
/// No message of a test is larger.
const LARGEST: u64 = 16 << 20;

/// Standard input of a command, or the data of a port.
pub const STDIN: u8 = 0;
/// Standard output of a command.
pub const STDOUT: u8 = 1;
/// Standard error of a command.
pub const STDERR: u8 = 2;
/// How a command ended: a `v1.Status` as JSON.
pub const STATUS: u8 = 3;

/// A connection over TLS that has spoken HTTP once, and its answer's head.
pub struct Upgraded {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// The status line and the headers, in small letters.
    pub head: String,
}

/// One request; the whole answer, whose body ends with the connection.
///
/// # Errors
/// When nothing answers, or not in time.
pub fn ask(node: &Node, method: &str, path: &str) -> Result<Response> {
    let asked = || -> Result<Response> {
        let mut stream = connect(node)?;
        // HTTP/1.0: nothing is chunked.
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: node\r\n\r\n")?;
        let head = read_head(&mut stream)?;
        let mut body = Vec::new();
        let read = stream.take(LARGEST).read_to_end(&mut body);
        // A server may close without TLS's goodbye.
        match read {
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                return Err(error.into());
            }
            _ => {}
        }
        Ok(Response {
            status: status_of(&head)?,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    asked().with_context(|| format!("{method} https://{ADDRESS}{path}"))
}

/// A request whose answer is read as it comes.
///
/// # Errors
/// As [`ask`].
pub fn open(node: &Node, method: &str, path: &str, headers: &str) -> Result<Upgraded> {
    let opened = || -> Result<Upgraded> {
        let mut stream = connect(node)?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: node\r\n{headers}\r\n"
        )?;
        let head = read_head(&mut stream)?;
        Ok(Upgraded { stream, head })
    };
    opened().with_context(|| format!("{method} https://{ADDRESS}{path}"))
}

/// Opens a WebSocket with `v4.channel.k8s.io`.
///
/// # Errors
/// When the server does not switch to it.
pub fn websocket(node: &Node, path: &str) -> Result<WebSocket> {
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\
        Origin: http://node\r\n";
    let upgraded = open(node, "GET", path, headers)?;
    let head = &upgraded.head;
    ensure!(head.starts_with("http/1.1 101 "), "{path}: {head}");
    // RFC 6455, section 1.3, has the same key and what comes of it.
    for header in [
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
        "sec-websocket-protocol: v4.channel.k8s.io\r\n",
    ] {
        ensure!(head.contains(header), "{path}: no {header:?} in {head}");
    }
    Ok(WebSocket(upgraded))
}

impl Upgraded {
    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("send")?;
        self.stream.flush().context("send")
    }

    /// Receives exactly so many bytes.
    ///
    /// # Errors
    /// When they do not come.
    pub fn receive(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).context("receive")?;
        Ok(bytes)
    }

    /// The next bytes, empty at the end.
    ///
    /// # Errors
    /// When none come.
    pub fn more(&mut self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 64 << 10];
        let read = match self.stream.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            read => read.context("receive")?,
        };
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// A WebSocket of channels.
pub struct WebSocket(Upgraded);

impl WebSocket {
    /// Sends `data` on a channel.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let length = data.len() + 1;
        // The last and only frame of a binary message; a mask of zeros changes nothing.
        let mut frame = vec![0x82];
        match u8::try_from(length) {
            Ok(short) if short < 126 => frame.push(0x80 | short),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(
                    u16::try_from(length)
                        .context("a long message")?
                        .to_be_bytes(),
                );
            }
        }
        frame.extend([0; 4]);
        frame.push(channel);
        frame.extend(data);
        self.0.send(&frame)
    }

    /// The next message and its channel; none once the server has closed.
    ///
    /// # Errors
    /// When none comes.
    pub fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            let mut head = [0; 2];
            match self.0.stream.read_exact(&mut head) {
                Ok(()) => {}
                // Closed without a goodbye.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error).context("receive"),
            }
            let length = match head[1] & 0x7f {
                126 => usize::from(u16::from_be_bytes(
                    self.0
                        .receive(2)?
                        .try_into()
                        .map_err(|_| anyhow!("length"))?,
                )),
                127 => bail!("a message longer than a test has"),
                length => usize::from(length),
            };
            let mut message = self.0.receive(length)?;
            match head[0] & 0x0f {
                1 | 2 if !message.is_empty() => {
                    let channel = message.remove(0);
                    return Ok(Some((channel, message)));
                }
                8 => return Ok(None),
                // Pings, and messages without content.
                _ => {}
            }
        }
    }

    /// What comes on `channel` until it ends with `end`; other channels are left out.
    ///
    /// # Errors
    /// When it does not come.
    pub fn until(&mut self, channel: u8, end: &str) -> Result<String> {
        let mut text = String::new();
        while !text.ends_with(end) {
            let (on, data) = self
                .receive()?
                .with_context(|| format!("closed after {text:?}, without {end:?}"))?;
            if on == channel {
                text.push_str(&String::from_utf8_lossy(&data));
            }
        }
        Ok(text)
    }

    /// All that comes until the server closes: the text of each of the first four channels.
    ///
    /// # Errors
    /// When the server does not close.
    pub fn rest(&mut self) -> Result<[String; 4]> {
        let mut texts = <[String; 4]>::default();
        while let Some((channel, data)) = self.receive()? {
            let text = texts.get_mut(usize::from(channel));
            let text = text.with_context(|| format!("channel {channel}"))?;
            text.push_str(&String::from_utf8_lossy(&data));
        }
        Ok(texts)
    }
}

fn connect(node: &Node) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let stream = dial(node.netns())?;
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("node")?)?;
    Ok(StreamOwned::new(connection, stream))
}

fn dial(netns: &Path) -> Result<TcpStream> {
    let address: SocketAddr = ADDRESS.parse()?;
    let netns = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    // A namespace is a thread's own: one that ends afterwards keeps the others where they are.
    let dialled = std::thread::spawn(move || {
        setns(&netns, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        TcpStream::connect_timeout(&address, TIMEOUT).context("connect")
    });
    let stream = dialled
        .join()
        .map_err(|_| anyhow!("the thread panicked"))??;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn read_head(stream: &mut impl Read) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 64 << 10, "a head without end");
        stream
            .read_exact(&mut byte)
            .context("the head of the answer")?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?.to_ascii_lowercase())
}

fn status_of(head: &str) -> Result<u16> {
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.with_context(|| format!("status line of {head:?}"))
}

/// Takes any certificate: whose the node's is, other tests ask.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
