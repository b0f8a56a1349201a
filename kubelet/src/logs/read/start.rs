//! Where the last lines of a file begin.

use std::io::{self, Read, Seek, SeekFrom};

/// What is read at once, from the end on.
const BLOCK: u64 = 64 << 10;

/// Where in a file the lines begin that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// Bytes before it.
    pub(super) at: u64,
    /// Lines that are wanted and that the file does not have.
    pub(super) lacking: u64,
}

/// Where the last `lines` lines of `file` begin; a last line without its newline comes on top of them. Reads from the end
/// only as far as that, whatever the size.
pub(super) fn of_last(file: &mut (impl Read + Seek), lines: u64) -> io::Result<Beginning> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut left = lines;
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(begin))?;
        block.clear();
        file.by_ref().take(end - begin).read_to_end(&mut block)?;
        let newlines = block.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if newlines > left {
            // The newline before the first line that is wanted: it has `left` others behind it in this block.
            let newlines = block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n');
            let before = newlines.map(|(at, _)| at as u64);
            let skipped = usize::try_from(left).unwrap_or(usize::MAX);
            let mut before = before.skip(skipped).map(|at| begin + at + 1);
            let at = before.next().unwrap_or(begin);
            return Ok(Beginning { at, lacking: 0 });
        }
        left -= newlines;
        end = begin;
    }
    Ok(Beginning {
        at: 0,
        lacking: left,
    })
}

/// The same of a stream, which can only be read from its beginning: `open` gives it anew, as often as it is asked.
pub(super) fn of_last_in_stream<R: Read>(
    mut open: impl FnMut() -> io::Result<R>,
    lines: u64,
) -> io::Result<Beginning> {
    let all = pass_lines(open()?, u64::MAX)?.lines;
    let Some(before) = all.checked_sub(lines).filter(|before| *before > 0) else {
        return Ok(Beginning {
            at: 0,
            lacking: lines.saturating_sub(all),
        });
    };
    let at = pass_lines(open()?, before)?.bytes;
    Ok(Beginning { at, lacking: 0 })
}

/// What was read of a stream.
#[derive(Default)]
struct Passed {
    lines: u64,
    bytes: u64,
}

/// Reads over the first `most` lines.
fn pass_lines(mut stream: impl Read, most: u64) -> io::Result<Passed> {
    let mut passed = Passed::default();
    let mut block = vec![0; 64 << 10];
    loop {
        let read = match stream.read(&mut block) {
            Ok(0) => return Ok(passed),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let ends = block[..read].iter().enumerate();
        for (at, _) in ends.filter(|(_, byte)| **byte == b'\n') {
            passed.lines += 1;
            if passed.lines == most {
                passed.bytes += at as u64 + 1;
                return Ok(passed);
            }
        }
        passed.bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn naive(text: &[u8], lines: u64) -> u64 {
        let mut ends: Vec<u64> = vec![0];
        ends.extend(
            text.iter()
                .enumerate()
                .filter(|(_, b)| **b == b'\n')
                .map(|(at, _)| at as u64 + 1),
        );
        let whole = ends.len() as u64 - 1;
        ends[usize::try_from(whole.saturating_sub(lines)).unwrap()]
    }

    #[test]
    fn of_a_few_lines() {
        for (text, lines, at) in [
            ("", 3, 0),
            ("a\nb\nc\n", 0, 6),
            ("a\nb\nc\n", 1, 4),
            ("a\nb\nc\n", 3, 0),
            ("a\nb\nc\n", 9, 0),
            ("a\nb\nc", 1, 2),
            ("a\nb\nc", 0, 4),
        ] {
            let found = of_last(&mut Cursor::new(text), lines).unwrap();
            assert_eq!(found.at, at, "{lines} of {text:?}");
        }
    }

    #[test]
    fn across_blocks() {
        let line = [b'x'; 1000];
        let text: Vec<u8> = (0..500).flat_map(|_| [&line[..], b"\n"].concat()).collect();
        for lines in [0, 1, 64, 65, 66, 131, 499, 500, 501, u64::MAX] {
            let found = of_last(&mut Cursor::new(&text), lines).unwrap();
            assert_eq!(found.at, naive(&text, lines), "{lines}");
        }
    }

    /// Fails when more is read than a few blocks.
    struct Frugal<R>(R, u64);

    impl<R: Read> Read for Frugal<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1 += read as u64;
            assert!(self.1 <= 4 * BLOCK, "{} bytes were read", self.1);
            Ok(read)
        }
    }

    impl<R: Seek> Seek for Frugal<R> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn the_end_of_a_gibibyte_costs_no_more_than_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        let end: String = (0..1000)
            .map(|n| format!("line {n} of the end\n"))
            .collect();
        io::Write::write_all(&mut file, end.as_bytes()).unwrap();
        let whole = (1 << 30) + end.len() as u64;
        let last = "line 999 of the end\n".len() as u64;
        let mut frugal = Frugal(file, 0);
        assert_eq!(of_last(&mut frugal, 1).unwrap().at, whole - last);
        assert_eq!(of_last(&mut frugal, 10).unwrap().at, whole - 10 * last);
    }

    proptest! {
        #[test]
        fn as_counting_from_the_front(
            text in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'x')], 0..2000),
            times in 1_usize..50,
            lines in 0_u64..3000,
        ) {
            let text = text.repeat(times);
            let found = of_last(&mut Cursor::new(&text), lines).unwrap();
            prop_assert_eq!(found.at, naive(&text, lines));
            let whole = text.iter().filter(|byte| **byte == b'\n').count() as u64;
            prop_assert_eq!(found.lacking, lines.saturating_sub(whole));
            let stream = of_last_in_stream(|| Ok(&text[..]), lines).unwrap();
            prop_assert_eq!(stream, found);
        }
    }
}
