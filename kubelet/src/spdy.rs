//! Frames of SPDY/3.1, as far as a client of Kubernetes' streams needs them. Pure.
//!
//! Commands, attachments and forwarded ports are streams of one connection. Of what there is to speak over it, SPDY is what
//! every runtime's streaming server speaks in full: over its WebSocket (version 4 of the channels) nobody can say that
//! standard input has ended, and containerd has no more than one forwarded connection a port there.
//!
//! Deliberately not here: connections. Headers are sent as they are, in blocks that zlib stores without compressing, so
//! that its dictionary is not needed; those that come are skipped, since none of them says anything. Flow control is none
//! of what Kubernetes' servers know: the connection's own is all there is.

/// Bytes of each frame before its content.
pub const HEAD: usize = 8;
/// What is sent in one frame at most, as Go's `io.Copy` would.
pub const MOST_DATA: usize = 32 << 10;

/// SPDY/3.1, section 2.6: the version, with the bit of a control frame.
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
/// Of a frame: the last one of its stream in this direction.
const FIN: u8 = 1;
/// How a stream of zlib begins that uses a dictionary (RFC 1950, section 2.2): its method and flags, and Adler-32 of the
/// dictionary of SPDY/3.1, section 2.6.10.1.
const ZLIB_HEAD: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// An empty stored block (RFC 1951, section 3.2.4): all that came before it can be read.
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Opens the streams of one connection.
#[derive(Debug, Default)]
pub struct Opener {
    opened: u32,
}

impl Opener {
    /// The next stream, and the frame that opens it. The names of `headers` are in small letters; they are short.
    #[must_use]
    pub fn open(&mut self, headers: &[(&str, &str)]) -> (u32, Vec<u8>) {
        // A client's are odd.
        let stream = self.opened * 2 + 1;
        let mut block = Vec::new();
        let number = |block: &mut Vec<u8>, length: usize| {
            block.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        };
        number(&mut block, headers.len());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            number(&mut block, text.len());
            block.extend(text.as_bytes());
        }
        let mut content = stream.to_be_bytes().to_vec();
        // Of no other stream; the highest priority, as all of them; no slot.
        content.extend([0; 6]);
        if self.opened == 0 {
            content.extend(ZLIB_HEAD);
        }
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        block.truncate(usize::from(length));
        content.push(0);
        content.extend(length.to_le_bytes());
        content.extend((!length).to_le_bytes());
        content.extend(block);
        content.extend(FLUSH);
        self.opened += 1;
        (stream, control(SYN_STREAM, &content))
    }
}

/// What comes before `length` bytes of a stream, at most [`MOST_DATA`]; `last` when none come after them.
#[must_use]
pub fn data(stream: u32, length: usize, last: bool) -> [u8; HEAD] {
    head(
        stream & 0x7fff_ffff,
        if last { FIN } else { 0 },
        length.min(MOST_DATA),
    )
}

/// The answer to a [`Frame::Ping`] with this content.
#[must_use]
pub fn pong(id: [u8; 4]) -> Vec<u8> {
    control(PING, &id)
}

fn control(kind: u16, content: &[u8]) -> Vec<u8> {
    let word = u32::from(CONTROL) << 16 | u32::from(kind);
    let mut frame = head(word, 0, content.len()).to_vec();
    frame.extend(content);
    frame
}

fn head(word: u32, flags: u8, length: usize) -> [u8; HEAD] {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    let second = u32::from(flags) << 24 | length;
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&word.to_be_bytes());
    head[4..].copy_from_slice(&second.to_be_bytes());
    head
}

/// What a frame is, by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream.
    Data {
        /// Which.
        stream: u32,
        /// How many.
        length: usize,
        /// There are no more.
        last: bool,
    },
    /// A stream has ended at once; four bytes say which, and four why.
    Reset,
    /// Four bytes that are to be sent back as they are ([`pong`]).
    Ping,
    /// All else: so many bytes that say nothing to a client.
    Other {
        /// Of the content.
        length: usize,
    },
}

impl Frame {
    /// Reads a head.
    #[must_use]
    pub fn of(head: [u8; HEAD]) -> Self {
        let [a, b, c, d, flags, rest @ ..] = head;
        let word = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if word & 0x8000_0000 == 0 {
            return Self::Data {
                stream: word,
                length,
                last: flags & FIN != 0,
            };
        }
        match (u16::from_be_bytes([c, d]), length) {
            (RST_STREAM, 8) => Self::Reset,
            (PING, 4) => Self::Ping,
            _ => Self::Other { length },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPDY/3.1, section 2.6.1: SYN_STREAM; RFC 1951, section 3.2.4: a stored block.
    #[test]
    fn a_stream_is_opened() {
        let mut opener = Opener::default();
        let (stream, frame) = opener.open(&[("port", "80")]);
        assert_eq!(stream, 1);
        let expected = [
            &[0x80, 3, 0, 1, 0, 0, 0, 44][..],
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            &ZLIB_HEAD,
            &[0, 18, 0, 0xed, 0xff],
            &[0, 0, 0, 1],
            &[0, 0, 0, 4],
            b"port",
            &[0, 0, 0, 2],
            b"80",
            &FLUSH,
        ];
        assert_eq!(frame, expected.concat());
        let (stream, frame) = opener.open(&[]);
        assert_eq!(stream, 3);
        let expected = [
            &[0x80, 3, 0, 1, 0, 0, 0, 24][..],
            &[0, 0, 0, 3, 0, 0, 0, 0, 0, 0],
            &[0, 4, 0, 0xfb, 0xff],
            &[0, 0, 0, 0],
            &FLUSH,
        ];
        assert_eq!(frame, expected.concat());
    }

    /// RFC 1950, section 2.2.
    #[test]
    fn the_head_of_zlib_is_one() {
        let first = u32::from(ZLIB_HEAD[0]) * 256 + u32::from(ZLIB_HEAD[1]);
        assert_eq!(first % 31, 0);
        assert_eq!(ZLIB_HEAD[1] & 0x20, 0x20);
    }

    #[test]
    fn heads_are_read_as_they_are_written() {
        assert_eq!(data(5, 258, false), [0, 0, 0, 5, 0, 0, 1, 2]);
        for (length, last) in [(0, true), (MOST_DATA, false)] {
            let read = Frame::of(data(7, length, last));
            let expected = Frame::Data {
                stream: 7,
                length,
                last,
            };
            assert_eq!(read, expected);
        }
        let ping = pong([0, 0, 0, 9]);
        assert_eq!(ping, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
        let head = |bytes: &[u8]| Frame::of(<[u8; HEAD]>::try_from(&bytes[..HEAD]).unwrap());
        assert_eq!(head(&ping), Frame::Ping);
        assert_eq!(head(&[0x80, 3, 0, 3, 0, 0, 0, 8]), Frame::Reset);
        // SYN_REPLY, and a PING and a RST_STREAM of a length that they do not have.
        for kind in [2, 3, 6] {
            let other = Frame::Other { length: 0x01_02_03 };
            assert_eq!(head(&[0x80, 3, 0, kind, 1, 1, 2, 3]), other);
        }
    }
}
