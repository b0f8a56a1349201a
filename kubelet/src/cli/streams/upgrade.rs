//! From a request to the agent to a connection that speaks SPDY.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::super::socket;
use super::{CliError, StreamError};

/// How long the agent may take, which asks the runtime.
const PATIENCE: Duration = Duration::from_secs(130);
/// Bytes of an answer's head, and of a refusal's words.
const MOST: usize = 16 << 10;

/// The protocol of commands (`k8s.io/streaming`, `StreamProtocolV4Name`).
pub(super) const COMMANDS: &str = "v4.channel.k8s.io";
/// The protocol of forwarded ports (`PortForwardProtocolV1Name`).
pub(super) const PORTS: &str = "portforward.k8s.io";

/// Asks the agent for the stream at `path`, which speaks `protocol`.
///
/// # Errors
/// When nobody answers, or with no stream.
pub(super) async fn upgrade(
    socket: &Path,
    path: &str,
    protocol: &str,
) -> Result<UnixStream, StreamError> {
    match tokio::time::timeout(PATIENCE, ask(socket, path, protocol)).await {
        Ok(asked) => asked,
        Err(_) => {
            Err(CliError::Silent(socket.to_owned(), std::io::ErrorKind::TimedOut.into()).into())
        }
    }
}

async fn ask(socket: &Path, path: &str, protocol: &str) -> Result<UnixStream, StreamError> {
    let silent = |error| CliError::Silent(socket.to_owned(), error);
    let stream = socket::connect(socket).map_err(silent)?;
    stream.set_nonblocking(true).map_err(silent)?;
    let mut stream = UnixStream::from_std(stream).map_err(silent)?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(silent)?;
    // Byte by byte: what comes behind the head is another's to read.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MOST {
            return Err(CliError::Garbled("its head has no end".to_owned()).into());
        }
        head.push(stream.read_u8().await.map_err(silent)?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    match status {
        Some(101) if head.contains("\r\nupgrade: spdy/3.1\r\n") => Ok(stream),
        Some(status) => {
            let length = head.lines().find_map(|line| {
                let length = line.strip_prefix("content-length:")?;
                length.trim().parse().ok()
            });
            let mut words = vec![0; length.unwrap_or(0).min(MOST)];
            stream.read_exact(&mut words).await.map_err(silent)?;
            let words = String::from_utf8_lossy(&words).trim().to_owned();
            Err(StreamError::Refused(status, words))
        }
        None => Err(CliError::Garbled("it has no status".to_owned()).into()),
    }
}

/// A value in a query: what could mean something else there is escaped (RFC 3986, section 2.3).
pub(super) fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_query_is_escaped() {
        assert_eq!(escaped("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(escaped("a b&c=d%\u{e4}\n"), "a%20b%26c%3Dd%25%C3%A4%0A");
    }
}
