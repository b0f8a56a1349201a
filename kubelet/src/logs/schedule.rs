//! When to look at which log next, by how fast it is written. Pure: no I/O, no clock.
//!
//! A log that nobody writes to is not looked at: its first write is heard of ([`super::writes`]), and the look comes
//! before a writer of [`FAST`] could have added a second's worth beyond what the log had room for. One that would be
//! full before that, at the pace it has, is looked at when it is. `containerLogMonitorInterval` bounds the wait from
//! above, and is the pace where the kernel tells of no writes and where a rotation failed.

use std::collections::BTreeMap;
use std::time::Duration;

/// The fastest writer that the bound is kept for, bytes a second.
const FAST: u64 = 50_000_000;
/// From the first write to the look, at least; half a second less than the bound allows for, since the word of it, the
/// rotation and the runtime take their time too.
const HEARD: Duration = Duration::from_millis(250);
/// Between two looks at a log that is filled faster than this.
const SHORTEST: Duration = Duration::from_millis(100);
/// Looks that are due within this time are one.
const TOGETHER: Duration = Duration::from_millis(50);

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
        watched: bool,
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
    /// From its next write to the look.
    wait: Duration,
    /// When it is looked at; none until it is written to.
    due: Option<Duration>,
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
                wait: HEARD,
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

    /// Id and path of each log to look at now: none before the first is due, and then those that soon are.
    pub(super) fn due(&self, now: Duration) -> Vec<(String, String)> {
        if self.next(now) != Some(Duration::ZERO) {
            return Vec::new();
        }
        let is_due = |log: &Log| log.due.is_some_and(|due| due <= now + TOGETHER);
        let due = self.logs.iter().filter(|(_, log)| is_due(log));
        due.map(|(id, log)| (id.clone(), log.path.clone()))
            .collect()
    }

    /// Notes that a log is written to, for the first time since the last look.
    pub(super) fn written(&mut self, id: &str, now: Duration) {
        if let Some(log) = self.logs.get_mut(id)
            && log.due.is_none()
        {
            log.since = Some(now);
            log.due = Some(now + log.wait);
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
        let room = max_size - log.size;
        log.wait = (HEARD + time(room, FAST)).min(interval);
        let full_in = match log.pace {
            0 => Duration::MAX,
            pace => time(room, pace).max(SHORTEST),
        };
        log.due = match (full_in <= log.wait, is_full, watched) {
            (true, _, _) => Some(now + full_in),
            (false, true, _) => Some(now + log.wait),
            (false, false, true) => None,
            (false, false, false) => Some(now + interval),
        };
        if starved && !is_full && grown > 0 {
            let soon = now + log.wait;
            log.due = Some(log.due.map_or(soon, |due| due.min(soon)));
        }
        starved && !is_full && grown == 0 && had_grown
    }

    /// Notes that the runtime has just made a new log, which nothing tells of yet.
    pub(super) fn begun_anew(&mut self, id: &str, now: Duration) {
        if let Some(log) = self.logs.get_mut(id) {
            (log.size, log.since) = (0, Some(now));
            let soon = now + log.wait;
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
mod tests {
    use super::*;

    const MAX: u64 = 10_000_000;
    const INTERVAL: Duration = Duration::from_secs(10);
    /// What a log with all its room is left alone for after its first write.
    const WAIT: Duration = Duration::from_millis(450);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn running(ids: &[&str]) -> Vec<(String, String)> {
        ids.iter()
            .map(|id| ((*id).to_owned(), format!("/logs/{id}")))
            .collect()
    }

    fn schedule(ids: &[&str]) -> Schedule {
        let mut schedule = Schedule::new(INTERVAL, MAX);
        schedule.set_running(running(ids), Duration::ZERO);
        schedule
    }

    fn size(bytes: u64) -> Found {
        Found::Size {
            bytes,
            watched: true,
            starved: false,
        }
    }

    fn starved(bytes: u64) -> Found {
        Found::Size {
            bytes,
            watched: true,
            starved: true,
        }
    }

    #[test]
    fn nothing_is_waited_for_while_nothing_runs_or_writes() {
        let mut schedule = schedule(&[]);
        assert_eq!(schedule.next(ms(3)), None);
        schedule.set_running(running(&["a"]), ms(5));
        assert_eq!(schedule.next(ms(5)), Some(HEARD), "it may be at it already");
        schedule.looked("a", size(0), ms(255));
        assert_eq!(schedule.next(ms(255)), None);
        schedule.written("a", ms(90_000));
        assert_eq!(schedule.next(ms(90_000)), Some(WAIT));
        schedule.written("a", ms(90_100));
        assert_eq!(schedule.next(ms(90_100)), Some(WAIT - ms(100)), "the first");
        schedule.set_running(running(&[]), ms(90_200));
        assert_eq!(schedule.next(ms(90_200)), None);
    }

    #[test]
    fn a_line_now_and_then_has_one_look_a_write() {
        let mut schedule = schedule(&["a"]);
        schedule.looked("a", size(0), ms(250));
        for n in 1..20 {
            let at = ms(n * 1000);
            schedule.written("a", at);
            assert_eq!(schedule.due(at + WAIT), running(&["a"]));
            schedule.looked("a", size(n * 100), at + WAIT);
            assert_eq!(schedule.next(at + WAIT), None);
        }
    }

    #[test]
    fn a_log_that_fills_is_looked_at_when_it_is_full() {
        let mut schedule = schedule(&["a"]);
        schedule.looked("a", size(0), ms(0));
        schedule.written("a", ms(1000));
        // 40 MB a second: five of ten megabytes are left, and full in an eighth of a second.
        schedule.looked("a", size(5_000_000), ms(1125));
        assert_eq!(schedule.next(ms(1125)), Some(ms(125)));
        assert_eq!(schedule.pace("a"), 40_000_000);
        schedule.looked("a", size(10_000_000), ms(1250));
        assert_eq!(schedule.next(ms(1250)), Some(ms(250)), "begun anew");
        // Faster than it can be looked at.
        schedule.looked("a", size(900_000_000), ms(1500));
        assert_eq!(schedule.next(ms(1500)), Some(SHORTEST));
    }

    #[test]
    fn whatever_the_pace_was_a_burst_adds_less_than_a_second_of_it() {
        for size_before in [0, 1, MAX / 2, MAX - 1] {
            let mut schedule = schedule(&["a"]);
            schedule.looked("a", size(size_before), ms(0));
            schedule.written("a", ms(5000));
            let waited = schedule.next(ms(5000)).unwrap();
            let written = FAST * u64::try_from(waited.as_millis()).unwrap() / 1000;
            assert!(size_before + written <= MAX + FAST / 2, "{size_before}");
        }
    }

    #[test]
    fn a_log_that_was_rotated_is_looked_at_once_without_word() {
        let mut schedule = schedule(&["a"]);
        schedule.looked("a", size(MAX), ms(250));
        assert_eq!(schedule.next(ms(250)), Some(WAIT));
        // It had gone, and the runtime has made it again.
        schedule.looked("a", Found::Lacking, ms(700));
        schedule.begun_anew("a", ms(710));
        assert_eq!(schedule.next(ms(710)), Some(WAIT));
    }

    #[test]
    fn without_word_of_writes_or_a_log_the_interval_is_the_pace() {
        let mut schedule = schedule(&["a", "b", "c"]);
        let unwatched = Found::Size {
            bytes: 5,
            watched: false,
            starved: false,
        };
        schedule.looked("a", unwatched, ms(250));
        schedule.looked("b", Found::Lacking, ms(250));
        schedule.looked("c", Found::Elsewhere, ms(250));
        assert_eq!(schedule.next(ms(250)), Some(INTERVAL));
        assert_eq!(schedule.due(ms(10_250)), running(&["a", "b"]));
        assert!(schedule.due(ms(10_249)).is_empty());
    }

    #[test]
    fn room_is_made_for_a_log_that_was_written_to_and_cannot_grow() {
        let mut schedule = schedule(&["a"]);
        assert!(!schedule.looked("a", size(1000), ms(250)));
        schedule.written("a", ms(1000));
        // It still grew: another look without word, since a write that fails is none.
        assert!(!schedule.looked("a", starved(2000), ms(1450)));
        let next = schedule.next(ms(1450)).unwrap();
        assert!(schedule.looked("a", starved(2000), ms(1450) + next));
        assert_eq!(schedule.next(ms(3000)), None);
        // Nobody has written since: whoever took the room is not given more.
        assert!(!schedule.looked("a", starved(2000), ms(3000)));
        schedule.written("a", ms(4000));
        assert!(!schedule.looked("a", starved(2100), ms(4450)));
        let next = schedule.next(ms(4450)).unwrap();
        assert!(!schedule.looked("a", size(2100), ms(4450) + next), "room");
    }

    #[test]
    fn an_agent_that_begins_on_a_full_disk_makes_room_once() {
        let mut schedule = schedule(&["a", "empty"]);
        assert!(!schedule.looked("a", starved(2000), ms(250)));
        assert!(!schedule.looked("empty", starved(0), ms(250)));
        let then = ms(250) + schedule.next(ms(250)).unwrap();
        assert!(schedule.looked("a", starved(2000), then));
        assert!(!schedule.looked("empty", starved(0), then));
        assert_eq!(schedule.next(then), None);
    }

    #[test]
    fn the_interval_bounds_the_wait_for_a_large_log() {
        let mut schedule = Schedule::new(Duration::from_secs(3), 1 << 30);
        schedule.set_running(running(&["a"]), ms(0));
        schedule.looked("a", size(0), ms(250));
        schedule.written("a", ms(1000));
        assert_eq!(schedule.next(ms(1000)), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_new_container_leaves_the_others_their_state() {
        let mut schedule = schedule(&["a"]);
        schedule.looked("a", size(7), ms(250));
        schedule.set_running(running(&["a", "b"]), ms(41_000));
        assert_eq!(schedule.due(ms(41_250)), running(&["b"]));
        schedule.looked("gone", size(1), ms(41_250));
        assert!(!schedule.has("gone") && schedule.has("a"));
    }
}
