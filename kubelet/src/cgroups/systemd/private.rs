//! systemd's private socket, as a socket zbus can read.
//!
//! On it systemd names itself `org.freedesktop.systemd1` as the sender of what it sends (sd-bus does so on every direct
//! connection), and zbus, for which a sender is a unique name (`:1.2`), gives up the connection. So each message is read
//! whole, and the sender changed to something of the same length that it takes. Nobody looks at it.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use zbus::connection::socket::{BoxedSplit, ReadHalf, Split};

/// The part of a message before its fields (D-Bus specification, "Message Format").
const HEADER: usize = 16;
/// Longest message that is read; systemd's answers here have some hundred bytes.
const MOST: usize = 1 << 20;
/// The field of the sender: code 7, a string of 24 bytes, as systemd sends it in either byte order.
const SENDER: &[u8] = b"org.freedesktop.systemd1\0";
const BEFORE_LITTLE: [u8; 8] = [7, 1, b's', 0, 24, 0, 0, 0];
const BEFORE_BIG: [u8; 8] = [7, 1, b's', 0, 0, 0, 0, 24];

/// The socket `stream`, for zbus.
pub(super) fn socket(stream: UnixStream) -> BoxedSplit {
    let (read, write) = stream.into_split();
    let read = Reader {
        socket: read,
        raw: Vec::new(),
        ready: 0,
    };
    Split::new(Box::new(read), Box::new(write))
}

struct Reader {
    socket: OwnedReadHalf,
    /// What was read and not handed out.
    raw: Vec<u8>,
    /// How much of it may be handed out.
    ready: usize,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready == 0 {
            self.ready = match message_length(&self.raw)? {
                Some(whole) if whole <= self.raw.len() => {
                    give_a_unique_sender(&mut self.raw[..whole]);
                    whole
                }
                Some(_) => 0,
                // Lines of the handshake.
                None => self.raw.len(),
            };
            if self.ready == 0 && self.socket.read_buf(&mut self.raw).await? == 0 {
                return Ok(0);
            }
        }
        let length = self.ready.min(buffer.len());
        buffer[..length].copy_from_slice(&self.raw[..length]);
        self.raw.drain(..length);
        self.ready -= length;
        Ok(length)
    }
}

impl ReadHalf for Reader {
    fn recvmsg<'reader, 'buffer, 'read>(
        &'reader mut self,
        buffer: &'buffer mut [u8],
    ) -> Pin<Box<dyn Future<Output = io::Result<(usize, Vec<OwnedFd>)>> + Send + 'read>>
    where
        'reader: 'read,
        'buffer: 'read,
        Self: 'read,
    {
        Box::pin(async move { Ok((self.read(buffer).await?, Vec::new())) })
    }

    /// So that the handshake ends with an answer of systemd's. Without one the first call follows so closely that
    /// systemd may read it together with the handshake, and then does not look at it until another one comes. Files are
    /// never sent here.
    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// How long the message is that `raw` begins with, as far as that can be told: at least so long. `None` where it is no
/// message.
fn message_length(raw: &[u8]) -> io::Result<Option<usize>> {
    let number = |at: usize| {
        let bytes = raw.get(at..at + 4)?.try_into().ok()?;
        let number = match raw[0] {
            b'l' => u32::from_le_bytes(bytes),
            _ => u32::from_be_bytes(bytes),
        };
        usize::try_from(number).ok()
    };
    match raw.first() {
        Some(b'l' | b'B') => {}
        _ => return Ok(None),
    }
    let (Some(body), Some(fields)) = (number(4), number(12)) else {
        return Ok(Some(HEADER));
    };
    if body > MOST || fields > MOST {
        let text = "systemd sent a message that is too long";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(HEADER + fields.next_multiple_of(8) + body))
}

/// `org.freedesktop.systemd1` as the sender becomes `:rg.freedesktop.systemd1`.
fn give_a_unique_sender(message: &mut [u8]) {
    let (before, length) = match message[0] {
        b'l' => (
            BEFORE_LITTLE,
            [message[12], message[13], message[14], message[15]],
        ),
        _ => (
            BEFORE_BIG,
            [message[15], message[14], message[13], message[12]],
        ),
    };
    let fields = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    let end = HEADER.saturating_add(fields).min(message.len());
    let fields = &mut message[HEADER..end];
    // Fields begin at multiples of eight bytes.
    for start in (0..fields.len()).step_by(8) {
        let Some(rest) = fields[start..].strip_prefix(&before) else {
            continue;
        };
        if rest.starts_with(SENDER) {
            fields[start + before.len()] = b':';
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::AsyncWriteExt as _;

    /// An answer of systemd 252 on its private socket: the property `Version`.
    const ANSWER: &[u8] = b"l\x02\x01\x01\x19\0\0\0\x01\0\0\0\x37\0\0\0\
        \x05\x01u\0\x01\0\0\0\
        \x07\x01s\0\x18\0\0\0org.freedesktop.systemd1\0\0\0\0\0\0\0\0\
        \x08\x01g\0\x01v\0\0\
        \x01s\0\0\x10\0\0\x00252.38-1~deb12u1\0";

    #[tokio::test]
    async fn messages_come_whole_and_from_a_sender_with_a_unique_name() {
        let (client, mut server) = UnixStream::pair().unwrap();
        let (mut read, _write) = socket(client).take();
        let handshake = b"OK ef6965b396234a9592d8444fd4205d63\r\n";
        server.write_all(handshake).await.unwrap();
        let mut buffer = [0; 64];
        let (length, _) = read.recvmsg(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], handshake);

        let sent = [ANSWER, ANSWER].concat();
        let expected = String::from_utf8_lossy(&sent).replace("org.freedesktop", ":rg.freedesktop");
        tokio::spawn(async move {
            // In pieces that end anywhere.
            for piece in sent.chunks(13) {
                server.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut got = Vec::new();
        let mut buffer = [0; 29];
        loop {
            let (length, fds) = read.recvmsg(&mut buffer).await.unwrap();
            assert!(fds.is_empty());
            if length == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..length]);
        }
        assert_eq!(String::from_utf8_lossy(&got), expected);
    }

    #[test]
    fn what_only_looks_like_a_sender_stays() {
        let mut message = ANSWER.to_vec();
        let mut unlike = message.clone();
        unlike[24] = 6;
        let before = unlike.clone();
        give_a_unique_sender(&mut unlike);
        assert_eq!(unlike, before);
        give_a_unique_sender(&mut message);
        assert_eq!(message[32], b':');
        let again = message.clone();
        give_a_unique_sender(&mut message);
        assert_eq!(message, again);
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let mut message = ANSWER.to_vec();
        message[7] = 0x7f;
        assert!(message_length(&message).is_err());
        assert_eq!(message_length(b"l").unwrap(), Some(HEADER));
        assert_eq!(message_length(b"OK").unwrap(), None);
        assert_eq!(message_length(ANSWER).unwrap(), Some(ANSWER.len()));
    }
}
