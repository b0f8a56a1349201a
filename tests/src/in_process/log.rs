//! What the agents of a node log, kept, and made to panic or to hang where a test wants that.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Collects what the agents of a node log.
#[derive(Clone, Default)]
pub(super) struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    /// The next line with all of these panics the task that logs it.
    trap: Arc<Mutex<Trap>>,
    /// What hangs may go on.
    released: Arc<AtomicBool>,
}

#[derive(Default)]
struct Trap {
    parts: Vec<String>,
    hangs: bool,
}

/// The longest that anything hangs: a test that fails must end.
const LONGEST_HANG: Duration = Duration::from_secs(60);

impl Log {
    pub(super) fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(super) fn panic_at(&self, parts: &[&str]) {
        self.set_trap(parts, false);
    }

    pub(super) fn hang_at(&self, parts: &[&str]) {
        self.released.store(false, Ordering::SeqCst);
        self.set_trap(parts, true);
    }

    pub(super) fn let_go(&self) {
        self.released.store(true, Ordering::SeqCst);
    }

    fn set_trap(&self, parts: &[&str], hangs: bool) {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        *trap = Trap { parts, hangs };
    }

    /// Whether `line` is the one, and what is to happen at it: a hang, or a panic.
    fn is_trapped(&self, line: &[u8]) -> Option<bool> {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let line = String::from_utf8_lossy(line);
        let met = !trap.parts.is_empty() && trap.parts.iter().all(|part| line.contains(part));
        met.then(|| std::mem::take(&mut *trap).hangs)
    }

    fn hang(&self) {
        let begin = tokio::time::Instant::now();
        while !self.released.load(Ordering::SeqCst) && begin.elapsed() < LONGEST_HANG {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(line);
        drop(text);
        match self.is_trapped(line) {
            Some(true) => self.hang(),
            Some(false) => panic!("a test wants this task to panic"),
            None => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
