//! One line of a log: what the runtime wrote before the container's own bytes. Pure.
//!
//! Two formats: CRI's `<time> <stream> <tags> <content>` and that of Docker's `json-file`.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

/// What a time is at least: `2006-01-02T15:04:05Z`.
const SHORTEST_TIME: usize = 20;
/// The part of it before fraction and zone.
const SECONDS: usize = 19;
/// Digits of a fraction in times that are shown.
const NANOS: usize = 9;
/// The instant Go has where none was written.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// How the lines of one log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `<time> <stream> <tags> <content>`.
    Cri,
    /// `{"log":"…","stream":"…","time":"…"}`.
    Docker,
}

impl Format {
    /// The format that `line`, the first of a log, is written in.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        let formats = [Self::Cri, Self::Docker].into_iter();
        let mut fitting = formats.filter(|format| format.parse(line).is_some());
        fitting.next()
    }

    /// Reads a line, or the beginning of one that is long; none where it has another shape.
    pub(super) fn parse(self, line: &[u8]) -> Option<Line<'_>> {
        match self {
            Self::Cri => cri(line),
            Self::Docker => docker(line),
        }
    }
}

/// Where a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
    /// Only Docker's format can have another.
    Other,
}

/// A line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) time: Time<'a>,
    pub(super) stream: Stream,
    /// The container had not ended its line here: the newline is the runtime's.
    pub(super) partial: bool,
    /// What the container wrote, and the newline at the end.
    pub(super) content: Cow<'a, [u8]>,
}

fn cri(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let time = Time::parse(fields.next()?)?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tags = fields.next()?;
    Some(Line {
        time,
        stream,
        partial: tags.split(|&byte| byte == b':').next() == Some(b"P"),
        content: Cow::Borrowed(fields.next()?),
    })
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Option<&'a str>,
}

fn docker(line: &[u8]) -> Option<Line<'_>> {
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    Some(Line {
        time: Time::parse(entry.time.unwrap_or(NO_TIME).as_bytes())?,
        stream: match &*entry.stream {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            _ => Stream::Other,
        },
        partial: false,
        content: match entry.log {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        },
    })
}

/// An RFC 3339 time as it is written in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time<'a>(&'a str);

impl<'a> Time<'a> {
    /// Takes `2006-01-02T15:04:05`, a fraction or none, and `Z` or an offset; none for anything else.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        if text.len() < SHORTEST_TIME {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let (seconds, rest) = text.split_at_checked(SECONDS)?;
        let shape = seconds.bytes().zip("0000-00-00T00:00:00".bytes());
        let fits = |(byte, like): (u8, u8)| match like {
            b'0' => byte.is_ascii_digit(),
            like => byte == like,
        };
        let zone = match rest.strip_prefix('.') {
            Some(rest) => {
                let zone = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                if zone.len() == rest.len() {
                    return None;
                }
                zone
            }
            None => rest,
        };
        (shape.into_iter().all(fits) && is_zone(zone) && in_range(seconds)).then_some(Self(text))
    }

    /// The instant; none for a day that its month does not have.
    pub(super) fn instant(self) -> Option<Timestamp> {
        self.0.parse().ok().or_else(|| {
            // Digits beyond the ninth are no time for the parser.
            let mut shown = Vec::with_capacity(40);
            self.write_prefix(&mut shown);
            std::str::from_utf8(&shown).ok()?.trim_end().parse().ok()
        })
    }

    /// Writes it with nine digits of a fraction, and a space behind it. The zone stays as it was written.
    pub(super) fn write_prefix(self, out: &mut Vec<u8>) {
        let (seconds, rest) = self.0.split_at(SECONDS);
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        let zone = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = &rest.as_bytes()[..rest.len() - zone.len()];
        let digits = &digits[..digits.len().min(NANOS)];
        out.extend_from_slice(seconds.as_bytes());
        out.push(b'.');
        out.extend_from_slice(digits);
        out.resize(out.len() + NANOS - digits.len(), b'0');
        let zone = match zone {
            "+00:00" | "-00:00" => "Z",
            zone => zone,
        };
        out.extend_from_slice(zone.as_bytes());
        out.push(b' ');
    }
}

fn is_zone(zone: &str) -> bool {
    match zone.as_bytes() {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()),
        _ => false,
    }
}

fn in_range(seconds: &str) -> bool {
    let field = |from: usize| seconds[from..from + 2].parse::<u8>().unwrap_or(u8::MAX);
    (1..=12).contains(&field(5))
        && (1..=31).contains(&field(8))
        && field(11) < 24
        && field(14) < 60
        && field(17) < 60
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cri_line(text: &str) -> Option<(bool, Stream, String)> {
        let line = Format::Cri.parse(text.as_bytes())?;
        let content = String::from_utf8(line.content.into_owned()).unwrap();
        Some((line.partial, line.stream, content))
    }

    #[test]
    fn the_lines_of_cri() {
        let line = |rest: &str| cri_line(&format!("2016-10-06T00:17:09.669794202Z {rest}"));
        let stdout = |partial, text: &str| Some((partial, Stream::Stdout, text.to_owned()));
        assert_eq!(line("stdout P log 1\n"), stdout(true, "log 1\n"));
        assert_eq!(line("stdout F log 1\n"), stdout(false, "log 1\n"));
        assert_eq!(line("stdout F:new P \n"), stdout(false, "P \n"));
        assert_eq!(line("stdout P:new x"), stdout(true, "x"));
        let stderr = Some((false, Stream::Stderr, "  two\n".to_owned()));
        assert_eq!(line("stderr F   two\n"), stderr);
        for broken in ["", "stdout", "stdout F", "stdin F x\n", "STDOUT F x\n"] {
            assert_eq!(line(broken), None, "{broken}");
        }
        assert_eq!(cri_line("today stdout F x\n"), None);
    }

    #[test]
    fn the_lines_of_docker() {
        let parse = |text: &'static str| Format::Docker.parse(text.as_bytes());
        let line = parse(
            r#"{"log":"say \"x\"\n","stream":"stderr","time":"2016-10-20T18:39:20.57606443Z"}"#,
        );
        let line = line.unwrap();
        assert_eq!(&*line.content, b"say \"x\"\n");
        assert_eq!((line.stream, line.partial), (Stream::Stderr, false));
        let line = parse("{}").unwrap();
        assert_eq!((line.stream, line.time), (Stream::Other, Time(NO_TIME)));
        assert_eq!(parse("no json"), None);
        assert_eq!(parse(r#"{"time":"yesterday"}"#), None);
    }

    #[test]
    fn the_first_line_shows_the_format() {
        let cri = b"2016-10-06T00:17:09Z stdout F x\n";
        assert_eq!(Format::of(cri), Some(Format::Cri));
        assert_eq!(Format::of(b"{\"log\":\"x\\n\"}\n"), Some(Format::Docker));
        assert_eq!(Format::of(b"plain text\n"), None);
    }

    #[test]
    fn times_are_shown_with_nine_digits() {
        for (written, shown) in [
            ("2016-10-06T00:17:09Z", "2016-10-06T00:17:09.000000000Z "),
            ("2016-10-06T00:17:09.66Z", "2016-10-06T00:17:09.660000000Z "),
            (
                "2016-10-06T00:17:09.6697942021Z",
                "2016-10-06T00:17:09.669794202Z ",
            ),
            (
                "2016-10-06T00:17:09.1+02:00",
                "2016-10-06T00:17:09.100000000+02:00 ",
            ),
            (
                "2016-10-06T00:17:09.1+00:00",
                "2016-10-06T00:17:09.100000000Z ",
            ),
        ] {
            let mut out = Vec::new();
            let time = Time::parse(written.as_bytes()).unwrap();
            time.write_prefix(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), shown);
            assert!(time.instant().is_some(), "{written}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "2016-10-06",
            "2016-10-06 00:17:09Z",
            "2016-10-06t00:17:09Z",
            "2016-10-06T00:17:09",
            "2016-10-06T00:17:09.Z",
            "2016-10-06T00:17:09.5",
            "2016-13-06T00:17:09Z",
            "2016-10-06T24:17:09Z",
            "2016-10-06T00:17:09+0200",
            "2016-10-06T00:17:09Z[UTC]",
            "2016-10-06T00:17:0é9Z",
        ] {
            assert_eq!(Time::parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(format) = Format::of(&bytes) {
                prop_assert!(format.parse(&bytes).is_some());
            }
        }

        #[test]
        fn an_instant_is_the_one_that_is_shown(nanos in 0_i64..4_000_000_000_000_000_000) {
            let instant = Timestamp::from_nanosecond(i128::from(nanos)).unwrap();
            let written = instant.to_string();
            let time = Time::parse(written.as_bytes()).unwrap();
            let mut out = Vec::new();
            time.write_prefix(&mut out);
            let shown = String::from_utf8(out).unwrap();
            prop_assert_eq!(shown.len(), "2016-10-06T00:17:09.669794202Z ".len());
            prop_assert_eq!(shown.trim_end().parse::<Timestamp>().unwrap(), instant);
        }
    }
}
