//! The terminal, while what is typed into it is somebody else's.

use std::io::{self, IsTerminal as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::StreamError;

/// The signals that end a session, by which the terminal would stay as it is.
const ENDING: [SignalKind; 4] = [
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::terminate(),
];

/// Whether standard input is one.
pub(super) fn is_one() -> bool {
    io::stdin().is_terminal()
}

/// A terminal that passes on every key. It is as it was before when this is dropped, a panic included.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Of standard input.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // One that has gone needs none.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// What ends a session from outside.
pub(super) struct Endings([Signal; ENDING.len()]);

impl Endings {
    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    /// When they cannot be had.
    pub(super) fn watch() -> io::Result<Self> {
        let [a, b, c, d] = ENDING;
        Ok(Self([signal(a)?, signal(b)?, signal(c)?, signal(d)?]))
    }

    /// Waits for one of them. Cancel-safe.
    pub(super) async fn next(&mut self) -> StreamError {
        let [a, b, c, d] = &mut self.0;
        let kind = tokio::select! {
            _ = a.recv() => ENDING[0],
            _ = b.recv() => ENDING[1],
            _ = c.recv() => ENDING[2],
            _ = d.recv() => ENDING[3],
        };
        StreamError::Signal(u8::try_from(kind.as_raw_value()).unwrap_or(0))
    }
}

/// The sizes of the terminal.
pub(super) struct Sizes {
    changed: Signal,
    redraw: bool,
}

impl Sizes {
    /// With `redraw`, another size comes first, so that whoever is attached to draws anew.
    ///
    /// # Errors
    /// When SIGWINCH cannot be had.
    pub(super) fn watch(redraw: bool) -> io::Result<Self> {
        Ok(Self {
            changed: signal(SignalKind::window_change())?,
            redraw,
        })
    }

    /// What is said at first.
    pub(super) fn first(&self) -> Vec<String> {
        let Some((columns, rows)) = size() else {
            return Vec::new();
        };
        let other = (columns.saturating_add(1), rows.saturating_add(1));
        let other = self.redraw.then_some(other);
        let all = other.into_iter().chain([(columns, rows)]);
        all.map(|(columns, rows)| said(columns, rows)).collect()
    }

    /// Waits for the next. Cancel-safe.
    pub(super) async fn next(&mut self) -> String {
        loop {
            if self.changed.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            if let Some((columns, rows)) = size() {
                return said(columns, rows);
            }
        }
    }
}

/// Columns and rows of standard output, or of standard input where that is no terminal.
fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    size.ok().map(|size| (size.ws_col, size.ws_row))
}

/// `TerminalSize` of Kubernetes' remote commands.
fn said(columns: u16, rows: u16) -> String {
    format!("{{\"Width\":{columns},\"Height\":{rows}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_said_as_kubectl_says_it() {
        assert_eq!(said(80, 24), "{\"Width\":80,\"Height\":24}\n");
    }
}
