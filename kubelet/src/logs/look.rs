//! Looks at logs: how large each is, with its next write to be told where that is wanted.

use std::os::fd::AsFd as _;
use std::path::Path;

use super::schedule::{Due, Found, Watched};
use super::writes::Writes;
use super::{LogsError, PodLogs};
use crate::dir::Dir;
use crate::errors::error_chain;

/// A disk with less that is free has no room for a log to grow, bytes.
const FULL: u64 = 64 << 10;

/// A log that was looked at.
#[derive(Debug)]
pub(super) struct Looked {
    /// The container.
    pub(super) id: String,
    /// The log.
    pub(super) path: String,
    /// What is known now.
    pub(super) found: Found,
}

impl PodLogs {
    /// Looks at logs of containers, and has the next write to those told of which it is wanted. What cannot be looked at
    /// is lacking, and the reason is in the agent's log.
    pub(super) fn look(&self, due: Vec<Due>, writes: &Writes) -> Vec<Looked> {
        let root = Dir::open(&self.config.pod_logs_dir);
        if let Err(error) = &root {
            let error = error_chain(error);
            tracing::warn!(error, "cannot look at the logs of containers");
        }
        // They are on one disk: mounts below it are not entered.
        let free = root.as_ref().ok().and_then(|root| root.free_bytes().ok());
        let starved = free.is_some_and(|free| free < FULL);
        let look = |Due { id, path, watch }: Due| {
            let writes = watch.then_some(writes);
            let found = match &root {
                Ok(root) => self.look_at(root, &id, path.as_ref(), (writes, starved)),
                Err(_) => Ok(Found::Lacking),
            };
            let found = found.unwrap_or_else(|error| {
                let error = error_chain(&error);
                tracing::warn!(id, path, error, "cannot look at a container's log");
                Found::Lacking
            });
            Looked { id, path, found }
        };
        due.into_iter().map(look).collect()
    }

    fn look_at(
        &self,
        root: &Dir,
        id: &str,
        path: &Path,
        (writes, starved): (Option<&Writes>, bool),
    ) -> Result<Found, LogsError> {
        let Some(names) = self.names_of(path) else {
            return Ok(Found::Elsewhere);
        };
        let Some(log) = root.file_below(&names)? else {
            return Ok(Found::Lacking);
        };
        let watched = match writes.map(|writes| writes.watch(id, log.as_fd())) {
            None => Watched::Unasked,
            Some(Ok(())) => Watched::Yes,
            Some(Err(error)) => {
                tracing::debug!(id, %error, "no word of writes to a log; looking at it each interval");
                Watched::Never
            }
        };
        // After the watch: what is written from here on is told, what was before is seen.
        let known = log.metadata().map_err(|source| LogsError::File {
            action: "look at",
            path: path.to_owned(),
            source,
        })?;
        Ok(Found::Size {
            bytes: known.len(),
            watched,
            starved,
        })
    }
}
