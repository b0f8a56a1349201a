//! From lines of a log to what is sent of them. Pure.

use std::borrow::Cow;

use super::line::{Format, Line, Stream};
use super::{LogOptions, Streams};

/// How much of a line of no known format a message shows, bytes.
const SHOWN: usize = 256;

/// The log is in no known format, by its first line; or a line is of no known stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EmitError {
    #[error("failed to get parse function: unsupported log format: {0:?}")]
    Format(String),
    #[error("unexpected stream type")]
    Stream,
}

/// Takes the lines of a log in their order and writes what is wanted of them.
#[derive(Debug)]
pub(super) struct Emitter {
    options: LogOptions,
    format: Option<Format>,
    /// What is sent next begins a line.
    at_line_start: bool,
    /// Bytes that may still be sent.
    bytes_left: u64,
    /// Lines that may still be sent; none where that has no bound.
    lines_left: Option<u64>,
    long: Option<Long>,
}

/// A long line whose beginning has been taken.
#[derive(Clone, Copy, Debug)]
struct Long {
    /// Whether it is sent.
    visible: bool,
    /// Whether its newline is the runtime's.
    partial: bool,
    /// Whether it could be read, and so counts.
    counts: bool,
    /// Its last byte so far.
    last: Option<u8>,
}

impl Emitter {
    pub(super) fn new(options: LogOptions) -> Self {
        Self {
            options,
            format: None,
            at_line_start: true,
            bytes_left: options.limit_bytes.unwrap_or(u64::MAX),
            // What is written while the log is being followed comes on top.
            lines_left: options.tail.filter(|_| !options.follow),
            long: None,
        }
    }

    /// Whether no more is sent, whatever comes.
    pub(super) fn is_done(&self) -> bool {
        self.bytes_left == 0 || self.lines_left == Some(0)
    }

    /// Whether the beginning of a long line was taken, and not its end.
    pub(super) fn is_within_a_line(&self) -> bool {
        self.long.is_some()
    }

    /// Takes a line, or what came of a long one; `ends` with what ends it. Writes to `out` what is sent.
    ///
    /// # Errors
    /// When the log is in no known format; a single line that cannot be read is left out.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        ends: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EmitError> {
        if self.is_done() {
            return Ok(());
        }
        let (mut long, content) = match self.long {
            Some(long) => (long, Cow::Borrowed(bytes)),
            None => self.begin(bytes, out)?,
        };
        let content = match content.strip_suffix(b"\n") {
            Some(without) if long.partial && ends => without,
            _ => &content,
        };
        if long.visible {
            self.send(content, out);
        }
        long.last = content.last().copied().or(long.last);
        self.long = (!ends).then_some(long);
        if ends && long.counts {
            self.at_line_start = long.last.is_none_or(|last| last == b'\n');
            self.lines_left = self.lines_left.map(|left| left - 1);
        }
        Ok(())
    }

    /// Reads the beginning of a line, and writes its time where that is wanted.
    fn begin<'a>(
        &mut self,
        bytes: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<(Long, Cow<'a, [u8]>), EmitError> {
        let format = match self.format {
            Some(format) => format,
            None => Format::of(bytes).ok_or_else(|| {
                EmitError::Format(
                    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned(),
                )
            })?,
        };
        self.format = Some(format);
        let Some(line) = format.parse(bytes) else {
            let unread = Long {
                visible: false,
                partial: false,
                counts: false,
                last: None,
            };
            return Ok((unread, Cow::Borrowed(&[])));
        };
        let visible = self.is_wanted(&line)?;
        if visible && self.options.timestamps && self.at_line_start {
            let mut prefix = Vec::with_capacity(40);
            line.time.write_prefix(&mut prefix);
            self.send(&prefix, out);
        }
        let long = Long {
            visible,
            partial: line.partial,
            counts: true,
            last: None,
        };
        Ok((long, line.content))
    }

    fn is_wanted(&self, line: &Line<'_>) -> Result<bool, EmitError> {
        if let Some(since) = self.options.since
            && line.time.instant().is_none_or(|time| time < since)
        {
            return Ok(false);
        }
        match (line.stream, self.options.streams) {
            (Stream::Other, _) => Err(EmitError::Stream),
            (_, Streams::All)
            | (Stream::Stdout, Streams::Stdout)
            | (Stream::Stderr, Streams::Stderr) => Ok(true),
            (Stream::Stdout, Streams::Stderr) | (Stream::Stderr, Streams::Stdout) => Ok(false),
        }
    }

    fn send(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let most = usize::try_from(self.bytes_left).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(most)];
        out.extend_from_slice(bytes);
        self.bytes_left -= bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: &str = "2024-01-01T00:00:01Z stdout F one\n\
        2024-01-01T00:00:02Z stdout P two \n\
        2024-01-01T00:00:03Z stdout F three\n\
        2024-01-01T00:00:04Z stderr F four\n\
        garbage\n\
        2024-01-01T00:00:05Z stdout F \n\
        2024-01-01T00:00:06Z stdout F six\n";

    fn emit(options: LogOptions, log: &str) -> Result<String, EmitError> {
        let mut emitter = Emitter::new(options);
        let mut out = Vec::new();
        for line in log.split_inclusive('\n') {
            emitter.take(line.as_bytes(), true, &mut out)?;
        }
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn partial_lines_join_and_broken_ones_go() {
        let all = emit(LogOptions::default(), LOG).unwrap();
        assert_eq!(all, "one\ntwo three\nfour\n\nsix\n");
    }

    #[test]
    fn a_time_stands_before_each_line_and_not_within_one() {
        let options = LogOptions {
            timestamps: true,
            ..LogOptions::default()
        };
        assert_eq!(
            emit(options, LOG).unwrap(),
            "2024-01-01T00:00:01.000000000Z one\n\
            2024-01-01T00:00:02.000000000Z two three\n\
            2024-01-01T00:00:04.000000000Z four\n\
            2024-01-01T00:00:05.000000000Z \n\
            2024-01-01T00:00:06.000000000Z six\n"
        );
    }

    #[test]
    fn since_is_inclusive() {
        let options = LogOptions {
            since: Some("2024-01-01T00:00:04Z".parse().unwrap()),
            ..LogOptions::default()
        };
        assert_eq!(emit(options, LOG).unwrap(), "four\n\nsix\n");
    }

    #[test]
    fn one_stream_alone() {
        let only = |streams| LogOptions {
            streams,
            ..LogOptions::default()
        };
        let stdout = emit(only(Streams::Stdout), LOG).unwrap();
        assert_eq!(stdout, "one\ntwo three\n\nsix\n");
        assert_eq!(emit(only(Streams::Stderr), LOG).unwrap(), "four\n");
    }

    #[test]
    fn bytes_are_counted_with_times() {
        let limited = |limit, timestamps| LogOptions {
            limit_bytes: Some(limit),
            timestamps,
            ..LogOptions::default()
        };
        assert_eq!(emit(limited(6, false), LOG).unwrap(), "one\ntw");
        assert_eq!(emit(limited(4, false), LOG).unwrap(), "one\n");
        assert_eq!(
            emit(limited(33, true), LOG).unwrap(),
            "2024-01-01T00:00:01.000000000Z on"
        );
    }

    #[test]
    fn as_many_lines_as_were_asked_for_and_more_when_following() {
        let tail = |follow| LogOptions {
            tail: Some(2),
            follow,
            ..LogOptions::default()
        };
        assert_eq!(emit(tail(false), LOG).unwrap(), "one\ntwo ");
        assert!(emit(tail(true), LOG).unwrap().ends_with("six\n"));
        let none = LogOptions {
            tail: Some(0),
            ..LogOptions::default()
        };
        assert_eq!(emit(none, LOG).unwrap(), "");
    }

    #[test]
    fn a_log_of_no_known_format_is_an_error() {
        let error = emit(LogOptions::default(), "what\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"failed to get parse function: unsupported log format: "what\n""#
        );
        let other = emit(LogOptions::default(), "{\"log\":\"x\"}\n").unwrap_err();
        assert_eq!(other, EmitError::Stream);
    }

    proptest! {
        /// However a line comes in parts, as long as its head is in the first one, the same is sent.
        #[test]
        fn parts_are_as_good_as_the_whole(
            lines in prop::collection::vec(("[a-z ]{0,40}", any::<bool>(), any::<bool>()), 1..12),
            cut in 0_usize..30,
            limit in prop::option::of(1_u64..200),
            tail in prop::option::of(0_u64..10),
            timestamps in any::<bool>(),
        ) {
            let options = LogOptions { limit_bytes: limit, tail, timestamps, ..LogOptions::default() };
            let mut whole = (Emitter::new(options), Vec::new());
            let mut parts = (Emitter::new(options), Vec::new());
            for (text, partial, stderr) in lines {
                let stream = if stderr { "stderr" } else { "stdout" };
                let tag = if partial { "P" } else { "F" };
                let head = format!("2024-01-01T00:00:01.5Z {stream} {tag} ");
                let line = format!("{head}{text}\n");
                whole.0.take(line.as_bytes(), true, &mut whole.1).unwrap();
                let at = (head.len() + cut).min(line.len() - 1);
                let (first, rest) = line.as_bytes().split_at(at);
                parts.0.take(first, false, &mut parts.1).unwrap();
                let middle = rest.len() / 2;
                parts.0.take(&rest[..middle], false, &mut parts.1).unwrap();
                parts.0.take(&rest[middle..], true, &mut parts.1).unwrap();
            }
            prop_assert_eq!(whole.1, parts.1);
        }
    }
}
