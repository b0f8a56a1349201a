//! What the agent tells of changes, a line each.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::CliError;
use super::socket::{self, Body};

/// Bytes of a line: an object of the API, with room to spare.
const MOST_LINE: u64 = 16 << 20;

/// One line.
#[derive(Deserialize)]
pub(super) struct Change {
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    pub(super) object: Value,
}

/// What it says of its object.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Kind {
    Added,
    Modified,
    Deleted,
    /// What was there at the beginning has been told.
    Bookmark,
    /// Something was left out: the object says what.
    Error,
}

/// The changes that the agent tells at a path.
pub(super) struct Changes(BufReader<Body>);

impl Changes {
    /// Asks for them.
    ///
    /// # Errors
    /// When nobody answers, or not with 200.
    pub(super) fn of(socket: &Path, path: &str) -> Result<Self, CliError> {
        Ok(Self(BufReader::new(socket::follow(socket, path)?)))
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// When the agent goes, or tells what cannot be understood.
    pub(super) fn next(&mut self) -> Result<Change, CliError> {
        let mut line = String::new();
        let read = self.0.by_ref().take(MOST_LINE).read_line(&mut line);
        read.map_err(|error| self.0.get_ref().error(error))?;
        if line.is_empty() {
            return Err(CliError::Cut);
        }
        serde_json::from_str(&line).map_err(|error| CliError::Garbled(error.to_string()))
    }
}
