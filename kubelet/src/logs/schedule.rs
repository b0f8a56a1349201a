//! When to look at which log next, by how fast it is written. Pure: no I/O, no clock.
//!
//! A log that nobody writes to is not looked at: its first write is heard of ([`super::writes`]), and the look comes
//! before a writer of [`FAST`] could have added a second's worth beyond what the log had room for. One that is written to
//! again and again is looked at in turn, all such logs together, and nothing is heard of it until it has been quiet for a
//! while: a word a line would cost more than all looks. One that would be
//! full before that, at the pace it has, is looked at when it is. `containerLogMonitorInterval` bounds the wait from
//! above, and is the pace where the kernel tells of no writes and where a rotation failed.

use std::collections::BTreeMap;
use std::time::Duration;

/// The fastest writer that the bound is kept for, bytes a second.
const FAST: u64 = 50_000_000;
/// From the first write to the look, at least; half a second less than the bound allows for, since the word of it, the
/// rotation and the runtime take their time too.
const HEARD: Duration = Duration::from_millis(250);
/// Between two looks at a log that is looked at in turn, for the same bound and by the same reckoning.
const IN_TURN: Duration = Duration::from_millis(500);
/// A log that is written to again within this time is looked at in turn, until it has not grown for as long.
const QUIET: Duration = Duration::from_secs(5);
/// Between two looks at a log that is filled faster than this.
const SHORTEST: Duration = Duration::from_millis(100);
/// Looks that are due within this time are one. Those in turn are within half of the time between them.
const TOGETHER: Duration = Duration::from_millis(50);

/// A log to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The container.
    pub(super) id: String,
    /// The log.
    pub(super) path: String,
    /// Whether its next write is to be told.
    pub(super) watch: bool,
}

/// Whether the next write to a log will be heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// It will.
    Yes,
    /// Nobody has asked for it.
    Unasked,
    /// The kernel does not tell.
    Never,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is not below the directory of logs.
    Elsewhere,
    /// It is not there, or cannot be looked at or rotated.
    Lacking,
    /// It has so many bytes.
    Size {
        /// Before any rotation.
        bytes: u64,
        /// Whether its next write will be heard of.
        watched: Watched,
        /// Whether its disk has no room for it to grow.
        starved: bool,
    },
}

/// What is known of each running container's log.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    max_size: u64,
    logs: BTreeMap<String, Log>,
}

#[derive(Debug)]
struct Log {
    path: String,
    /// Bytes at the last look.
    size: u64,
    /// Since when what it has grown by was written: the last look, or the first write after it.
    since: Option<Duration>,
    /// Bytes a second by the last look.
    pace: u64,
    /// Whether it had grown at the last look. One that has something at the first may be written to.
    grew: bool,
    /// What the fastest writer needs to fill it.
    room: Duration,
    /// When its first write after a look was last heard of.
    heard: Option<Duration>,
    /// Until when it is looked at in turn, unless it grows.
    in_turn_until: Option<Duration>,
    /// When it is looked at; none until it is written to.
    due: Option<Duration>,
}

impl Log {
    fn is_in_turn(&self, now: Duration) -> bool {
        self.in_turn_until.is_some_and(|until| now < until)
    }

    /// How much before its time a look at it may be made with others.
    fn earlier(&self, now: Duration) -> Duration {
        match self.is_in_turn(now) {
            true => (IN_TURN + self.room) / 2,
            false => TOGETHER,
        }
    }
}

impl Schedule {
    /// `interval` between two looks at most, and the bytes at which a log is rotated.
    pub(super) fn new(interval: Duration, max_size: u64) -> Self {
        Self {
            interval: interval.max(SHORTEST),
            max_size,
            logs: BTreeMap::new(),
        }
    }

    /// Takes over which containers run now: id and path of the log. One that is new is looked at soon.
    pub(super) fn set_running(&mut self, running: Vec<(String, String)>, now: Duration) {
        let mut before = std::mem::take(&mut self.logs);
        for (id, path) in running {
            let log = before.remove(&id).unwrap_or(Log {
                path,
                size: 0,
                since: None,
                pace: 0,
                grew: false,
                room: Duration::ZERO,
                heard: None,
                in_turn_until: None,
                due: Some(now + HEARD.min(self.interval)),
            });
            self.logs.insert(id, log);
        }
    }

    /// Whether the container still runs.
    pub(super) fn has(&self, id: &str) -> bool {
        self.logs.contains_key(id)
    }

    /// How long until the next look; none while nothing is written.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        let due = self.logs.values().filter_map(|log| log.due).min()?;
        Some(due.saturating_sub(now))
    }

    /// The logs to look at now: none before the first is due, and then those that soon are.
    pub(super) fn due(&self, now: Duration) -> Vec<Due> {
        if self.next(now) != Some(Duration::ZERO) {
            return Vec::new();
        }
        let is_due = |log: &Log| log.due.is_some_and(|due| due <= now + log.earlier(now));
        let due = self.logs.iter().filter(|(_, log)| is_due(log));
        let due = due.map(|(id, log)| Due {
            id: id.clone(),
            path: log.path.clone(),
            watch: !log.is_in_turn(now),
        });
        due.collect()
    }

    /// Notes that a log is written to, for the first time since the last look.
    pub(super) fn written(&mut self, id: &str, now: Duration) {
        if let Some(log) = self.logs.get_mut(id)
            && log.due.is_none()
        {
            log.since = Some(now);
            log.due = Some(now + (HEARD + log.room).min(self.interval));
            let before = log.heard.replace(now);
            if before.is_some_and(|before| now.saturating_sub(before) < QUIET) {
                log.in_turn_until = Some(now + QUIET);
            }
        }
    }

    /// Notes what a look found. Says whether room has to be made for the log: it was written to, and its disk is full. A
    /// write that fails is not heard of.
    pub(super) fn looked(&mut self, id: &str, found: Found, now: Duration) -> bool {
        let (interval, max_size) = (self.interval, self.max_size);
        let Some(log) = self.logs.get_mut(id) else {
            return false;
        };
        let (bytes, watched, starved) = match found {
            Found::Elsewhere => {
                log.due = None;
                return false;
            }
            Found::Lacking => {
                (log.size, log.since, log.pace) = (0, None, 0);
                log.due = Some(now + interval);
                return false;
            }
            Found::Size {
                bytes,
                watched,
                starved,
            } => (bytes, watched, starved),
        };
        let grown = bytes.saturating_sub(log.size);
        let had_grown = std::mem::replace(&mut log.grew, grown > 0);
        let took = log.since.map(|since| now.saturating_sub(since));
        log.pace = took.map_or(0, |took| pace(grown, took));
        // A log at the limit begins anew, and what begins anew is not watched yet.
        let is_full = bytes >= max_size;
        log.size = if is_full { 0 } else { bytes };
        log.since = Some(now);
        if grown > 0 && log.in_turn_until.is_some() {
            log.in_turn_until = Some(now + QUIET);
        } else if !log.is_in_turn(now) {
            log.in_turn_until = None;
        }
        let room = max_size - log.size;
        log.room = time(room, FAST);
        let wait = match watched {
            Watched::Unasked => IN_TURN,
            Watched::Yes | Watched::Never => HEARD,
        };
        let wait = (wait + log.room).min(interval);
        let full_in = match log.pace {
            0 => Duration::MAX,
            pace => time(room, pace).max(SHORTEST),
        };
        log.due = match (full_in <= wait, is_full, watched) {
            (true, _, _) => Some(now + full_in),
            (false, true, _) | (false, false, Watched::Unasked) => Some(now + wait),
            (false, false, Watched::Yes) => None,
            (false, false, Watched::Never) => Some(now + interval),
        };
        if starved && !is_full && grown > 0 {
            let soon = now + wait;
            log.due = Some(log.due.map_or(soon, |due| due.min(soon)));
        }
        starved && !is_full && grown == 0 && had_grown
    }

    /// Notes that the runtime has just made a new log, which nothing tells of yet.
    pub(super) fn begun_anew(&mut self, id: &str, now: Duration) {
        if let Some(log) = self.logs.get_mut(id) {
            (log.size, log.since) = (0, Some(now));
            let soon = now + (HEARD + log.room).min(self.interval);
            log.due = Some(log.due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// How fast a log was written before the last look, bytes a second.
    pub(super) fn pace(&self, id: &str) -> u64 {
        self.logs.get(id).map_or(0, |log| log.pace)
    }
}

/// Bytes a second.
fn pace(bytes: u64, took: Duration) -> u64 {
    let nanos = took.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// What `bytes` take at a pace that is not 0.
fn time(bytes: u64, pace: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(pace.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
