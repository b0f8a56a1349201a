//! Standard error, never waited for.

use std::io::Stderr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// How long the first line that finds no room waits for some, milliseconds. Lines behind it do not wait at all.
const PATIENCE_MS: i64 = 100;
/// What a pipe that is ready to write takes without blocking (`PIPE_BUF`, pipe(7)).
const PIPE_ATOMIC: usize = 4096;

/// Writes lines to a file descriptor that may be a file, a terminal, a pipe or a socket, and that other processes may
/// share: its flags are left alone.
#[derive(Debug)]
pub(super) struct Sink<F = Stderr> {
    fd: F,
    state: Mutex<State>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The reader has stopped reading: do not wait for it.
    stalled: bool,
    /// Lines dropped since it stopped.
    missing: u64,
}

/// What became of some bytes.
enum Outcome {
    Written,
    /// No room; so many bytes were written before.
    NoRoom(usize),
    /// Nobody will ever read it.
    Gone,
}

impl Sink {
    pub(super) fn stderr() -> Self {
        Self::new(std::io::stderr())
    }
}

impl<F: AsFd> Sink<F> {
    fn new(fd: F) -> Self {
        Self {
            fd,
            state: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    fn is_stalled(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stalled
    }

    /// Writes `line`, or drops it when it finds no room.
    pub(super) fn write(&self, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = self.fd.as_fd();
        if state.missing > 0 {
            let notice = format!(
                "... {} lines of log were dropped here: nobody read them\n",
                state.missing
            );
            match write_all(fd, notice.as_bytes(), 0) {
                Outcome::Written | Outcome::Gone => state.missing = 0,
                Outcome::NoRoom(_) => return self.drop_line(&mut state),
            }
        }
        let patience = if state.stalled { 0 } else { PATIENCE_MS };
        match write_all(fd, line, patience) {
            Outcome::Written => state.stalled = false,
            Outcome::Gone => self.drop_line(&mut state),
            Outcome::NoRoom(written) => {
                state.stalled = true;
                if written > 0 {
                    // The next line must not be glued to the half of this one.
                    let _ = write_all(fd, b"\n", 0);
                }
                self.drop_line(&mut state);
            }
        }
    }

    fn drop_line(&self, state: &mut State) {
        state.missing += 1;
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(fd: BorrowedFd<'_>, bytes: &[u8], patience_ms: i64) -> Outcome {
    let mut rest = bytes;
    let mut patience_ms = patience_ms;
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(PIPE_ATOMIC)];
        match send(fd, piece, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if !ready(fd, patience_ms) {
                    return Outcome::NoRoom(bytes.len() - rest.len());
                }
                patience_ms = 0;
            }
            Err(Errno::NOTSOCK) => {
                // Ready to write means that this much fits, so that the write does not block.
                if !ready(fd, patience_ms) {
                    return Outcome::NoRoom(bytes.len() - rest.len());
                }
                match rustix::io::write(fd, piece) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Outcome::NoRoom(bytes.len() - rest.len()),
                    Err(_) => return Outcome::Gone,
                }
            }
            Err(_) => return Outcome::Gone,
        }
    }
    Outcome::Written
}

/// Whether there is room to write within `patience_ms`. An end that is closed counts: writing tells.
fn ready(fd: BorrowedFd<'_>, patience_ms: i64) -> bool {
    let wait = Timespec {
        tv_sec: patience_ms / 1000,
        tv_nsec: (patience_ms % 1000) * 1_000_000,
    };
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    matches!(poll(&mut fds, Some(&wait)), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_pipe_nobody_reads_costs_lines_not_time() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let sink = Sink::new(OwnedFd::from(writer));
        let line = [&[b'x'; 999][..], b"\n"].concat();
        // A pipe holds 64 KiB; all beyond is dropped, and only the first such line waits.
        for _ in 0..200 {
            sink.write(&line);
        }
        assert!(sink.is_stalled());
        assert!(sink.dropped() > 100, "{}", sink.dropped());

        let mut first = vec![0; 32 * 1024];
        reader.read_exact(&mut first).unwrap();
        let dropped = sink.dropped();
        sink.write(b"after\n");
        assert!(!sink.is_stalled());
        assert_eq!(sink.dropped(), dropped);
        drop(sink);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let tail =
            format!("... {dropped} lines of log were dropped here: nobody read them\nafter\n");
        assert!(
            rest.ends_with(&tail),
            "{}",
            &rest[rest.len().saturating_sub(200)..]
        );
    }

    #[test]
    fn a_socket_nobody_reads_costs_lines_not_time() {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let sink = Sink::new(OwnedFd::from(writer));
        for _ in 0..2000 {
            sink.write(&[b'y'; 1000]);
        }
        assert!(sink.is_stalled());
        assert!(sink.dropped() > 0);
        drop(reader);
        sink.write(b"gone\n");
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let sink = Sink::new(OwnedFd::from(writer));
        sink.write(b"line\n");
        assert_eq!(sink.dropped(), 1);
        assert!(!sink.is_stalled());
    }

    #[test]
    fn a_file_takes_long_lines_whole() {
        let mut file = tempfile::tempfile().unwrap();
        let sink = Sink::new(file.try_clone().unwrap());
        let line = vec![b'z'; 3 * PIPE_ATOMIC + 5];
        sink.write(&line);
        let mut read = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, line);
    }
}
