//! Messages to the service manager (sd_notify(3)): `NAME=value` lines in one datagram.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::datagram::Datagram;

/// How long a message waits for a manager that does not receive: an agent is not held up by the one that watches it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The service manager's end.
#[derive(Debug)]
pub(super) struct Manager {
    socket: OsString,
    /// The log has been told that messages do not get through.
    told: AtomicBool,
}

impl Manager {
    pub(super) fn at(socket: &OsStr) -> Self {
        Self {
            socket: socket.to_owned(),
            told: AtomicBool::new(false),
        }
    }

    /// Sends a message; whether the manager has it.
    pub(super) fn tell(&self, message: &str) -> bool {
        // Connected anew each time, as systemd's own library does: there is a message or two a minute.
        let sent = Datagram::connect(&self.socket)
            .and_then(|socket| socket.send(message.as_bytes(), PATIENCE));
        match sent {
            Ok(()) => {
                self.told.store(false, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.say(&error);
                false
            }
        }
    }

    fn say(&self, error: &io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let socket = self.socket.display();
            tracing::warn!(%socket, %error, "the service manager cannot be told anything");
        }
    }
}
