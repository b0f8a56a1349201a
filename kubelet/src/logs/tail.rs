//! The end of a log, as a message.

use std::io::{self, Read, Seek, SeekFrom};

/// Lines and bytes of a log that stand in for a termination message (the Kubernetes document "Determine the reason
/// for pod failure").
const LINES: usize = 80;
const BYTES: usize = 2048;
/// What is read of a log for that. The runtime cuts lines at 16 KiB, so this has several whole ones, or all 80 where
/// they are short.
const READ: u64 = 64 << 10;

/// The last 80 lines of `log`, the last 2048 bytes of those, without time, stream and tag. Bytes that are not UTF-8
/// are replaced.
pub(super) fn last_lines(log: &mut (impl Read + Seek)) -> io::Result<String> {
    let length = log.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(READ);
    log.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    log.take(READ).read_to_end(&mut bytes)?;
    let mut text = bytes.as_slice();
    if start > 0 {
        // The first line is most likely a part of one.
        let end = text.iter().position(|&byte| byte == b'\n');
        text = end.map_or(text, |end| &text[end + 1..]);
    }
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    let mut message = Vec::new();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        message.extend(content(line));
    }
    let cut = message.len().saturating_sub(BYTES);
    Ok(String::from_utf8_lossy(&message[cut..]).into_owned())
}

/// What the container wrote of one line `<time> <stream> <tags> <content>`; a partial one (tag `P`) goes on in the
/// next line. A line of another shape is taken as it is.
fn content(line: &[u8]) -> &[u8] {
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let (Some(_), Some(b"stdout" | b"stderr"), Some(tags), Some(content)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return line;
    };
    let is_partial = tags.split(|&byte| byte == b':').next() == Some(b"P");
    match content.strip_suffix(b"\n") {
        Some(content) if is_partial => content,
        _ => content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(log: &[u8]) -> String {
        last_lines(&mut io::Cursor::new(log)).unwrap()
    }

    #[test]
    fn prefixes_go_and_partial_lines_join() {
        let log = b"2024-01-01T00:00:00.000000001Z stdout F first line\n\
            2024-01-01T00:00:00.000000002Z stderr P sec\n\
            2024-01-01T00:00:00.000000003Z stderr F ond\n\
            2024-01-01T00:00:00.000000003Z stderr F \n\
            2024-01-01T00:00:00.000000004Z stdout F:x end";
        assert_eq!(of(log), "first line\nsecond\n\nend");
        assert_eq!(of(b""), "");
        assert_eq!(of(b"no log at all\n"), "no log at all\n");
    }

    #[test]
    fn eighty_lines_and_two_kilobytes_at_most() {
        let line = |n: usize, text: &str| format!("t stdout F {n}{text}\n");
        let short: String = (0..100).map(|n| line(n, "")).collect();
        let message = of(short.as_bytes());
        assert!(
            message.starts_with("20\n21\n") && message.ends_with("99\n"),
            "{message}"
        );
        let long: String = (0..100).map(|n| line(n, &"x".repeat(3000))).collect();
        let message = of(long.as_bytes());
        assert_eq!(message.len(), 2048);
        assert_eq!(message, "x".repeat(2047) + "\n");
    }

    #[test]
    fn one_endless_line_is_cut() {
        let log = format!("t stdout F {}", "y".repeat(1 << 20));
        assert_eq!(of(log.as_bytes()), "y".repeat(2048));
    }
}
