//! The bytes of a log's files, cut into lines. Blocks on the disk; knows neither time nor tasks.

use std::io;

use super::emit::Emitter;
use super::files::Files;
use super::{LogOptions, ReadError, start};

/// What is read at once, bytes.
const READ: usize = 64 << 10;
/// What a chunk is at least when there is more; it is larger by what was read last at the most.
const CHUNK: usize = 64 << 10;
/// What is read in one step, however little of it is sent: then whoever reads may have gone.
const STEP: usize = 4 << 20;
/// A line that is longer is sent in parts, as it comes. Runtimes cut lines at 16 KiB unless they are told otherwise;
/// Docker's take up to six times as much in their JSON.
const LONGEST: usize = 256 << 10;

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more.
    More,
    /// All has been sent that was asked for.
    Done,
    /// The end of the file.
    End {
        /// The log goes on in another file.
        replaced: bool,
    },
}

/// A log, and how far it has been read.
#[derive(Debug)]
pub(super) struct Reader {
    files: Files,
    emitter: Emitter,
    follow: bool,
    /// The beginning of a line whose end has not been read.
    buffer: Vec<u8>,
}

impl Reader {
    /// Begins where the options say.
    pub(super) fn new(mut files: Files, options: LogOptions) -> io::Result<Self> {
        if let (Some(lines), Some(file)) = (options.tail, files.plain()) {
            // It leaves the file where it read last.
            let beginning = start::of_last(file, lines)?;
            files.seek(beginning.at)?;
            if options.rotated {
                files.go_back_by(beginning.lacking)?;
            }
        } else if options.rotated {
            files.go_back_to(options.since)?;
        }
        Ok(Self {
            files,
            emitter: Emitter::new(options),
            follow: options.follow,
            buffer: Vec::new(),
        })
    }

    /// Reads on, and writes what is sent of it to `out`.
    pub(super) fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, ReadError> {
        let mut taken = 0;
        while !self.emitter.is_done() {
            if out.len() >= CHUNK || taken >= STEP {
                return Ok(Step::More);
            }
            let kept = self.buffer.len();
            self.buffer.resize(kept + READ, 0);
            let read = self.files.read(&mut self.buffer[kept..]);
            self.buffer.truncate(kept + *read.as_ref().unwrap_or(&0));
            match read? {
                0 if self.follow && self.files.was_truncated()? => {
                    self.buffer.clear();
                    self.files.seek(0)?;
                }
                // All of it was written long ago: there are no last words to wait for.
                0 if self.files.is_rotated()
                    && (!self.follow || self.files.is_settled()?)
                    && self.go_on(out)? => {}
                0 => {
                    // Whoever waits for more may wait long.
                    self.buffer.shrink_to_fit();
                    let replaced = self.follow && self.files.is_replaced()?;
                    return Ok(Step::End { replaced });
                }
                read => {
                    taken += read;
                    self.take_lines(out)?;
                }
            }
        }
        Ok(Step::Done)
    }

    fn take_lines(&mut self, out: &mut Vec<u8>) -> Result<(), ReadError> {
        let mut taken = 0;
        while let Some(length) = self.buffer[taken..].iter().position(|&b| b == b'\n') {
            let end = taken + length + 1;
            self.emitter.take(&self.buffer[taken..end], true, out)?;
            taken = end;
        }
        self.buffer.drain(..taken);
        if self.buffer.len() >= LONGEST || self.emitter.is_within_a_line() {
            self.emitter.take(&self.buffer, false, out)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Takes what was read of a line as the whole of it: no more comes in this file.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ReadError> {
        if !self.buffer.is_empty() {
            self.emitter.take(&self.buffer, true, out)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Goes on with the file after the one that is held, where there is one; says whether there is.
    pub(super) fn go_on(&mut self, out: &mut Vec<u8>) -> Result<bool, ReadError> {
        self.finish(out)?;
        Ok(self.files.go_on()?)
    }
}
