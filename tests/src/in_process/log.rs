//! What the agents of a node log, kept, and made to panic where a test wants that.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Collects what the agents of a node log.
#[derive(Clone, Default)]
pub(super) struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    /// The next line with all of these panics the task that logs it.
    trap: Arc<Mutex<Vec<String>>>,
}

impl Log {
    pub(super) fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(super) fn panic_at(&self, parts: &[&str]) {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        *trap = parts.iter().map(|part| (*part).to_owned()).collect();
    }

    fn is_trapped(&self, line: &[u8]) -> bool {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let line = String::from_utf8_lossy(line);
        let met = !trap.is_empty() && trap.iter().all(|part| line.contains(part));
        if met {
            trap.clear();
        }
        met
    }
}

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(line);
        drop(text);
        assert!(!self.is_trapped(line), "a test wants this task to panic");
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
