//! What happened, in order: read when something went wrong.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Lines that a failed run shows; the beginning of a long one is of no use.
const SHOWN: usize = 120;

/// Lines with the time since the start. Clones share them.
#[derive(Clone, Debug)]
pub struct Journal {
    start: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            lines: Arc::default(),
        }
    }
}

impl Journal {
    /// Adds a line.
    pub fn note(&self, line: impl fmt::Display) {
        let line = format!("{:9.3} {line}", self.start.elapsed().as_secs_f64());
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
    }

    /// Every line.
    #[must_use]
    pub fn whole(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.join("\n")
    }

    /// Seconds since the start.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let from = lines.len().saturating_sub(SHOWN);
        if from > 0 {
            writeln!(f, "({from} earlier lines)")?;
        }
        lines[from..]
            .iter()
            .try_for_each(|line| writeln!(f, "{line}"))
    }
}
