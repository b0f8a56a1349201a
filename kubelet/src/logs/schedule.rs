//! When to look at which log next. Pure: no I/O, no clock.
//!
//! A log that grows is looked at each interval (`containerLogMonitorInterval`). One that grew by no more than a tenth
//! of its limit between two looks is left alone for twice as long the next time, up to eight intervals: at that pace
//! it overshoots the limit by a tenth at most. All looks fall on whole intervals, so that calm logs share them.

use std::collections::BTreeMap;
use std::time::Duration;

/// The most intervals that a calm log is left alone for.
const MOST_INTERVALS: u64 = 8;
/// Growth by more than this part of the limit between two looks is fast.
const CALM_PART: u64 = 10;

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
    /// Intervals until the next look after that.
    every: u64,
    /// The number of the interval at whose beginning it is looked at.
    due: u64,
}

impl Schedule {
    /// `interval` between two looks at a log that grows, and the bytes at which one is rotated.
    pub(super) fn new(interval: Duration, max_size: u64) -> Self {
        Self {
            interval: interval.max(Duration::from_millis(1)),
            max_size,
            logs: BTreeMap::new(),
        }
    }

    /// Takes over which containers run now: id and path of the log.
    pub(super) fn set_running(&mut self, running: Vec<(String, String)>, now: Duration) {
        let due = self.interval_at(now) + 1;
        let mut before = std::mem::take(&mut self.logs);
        for (id, path) in running {
            let log = before.remove(&id).unwrap_or(Log {
                path,
                size: 0,
                every: 1,
                due,
            });
            self.logs.insert(id, log);
        }
    }

    /// How long until the next look; none while nothing runs.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        let due = self.logs.values().map(|log| log.due).min()?;
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        Some(self.interval.saturating_mul(due).saturating_sub(now))
    }

    /// Id and path of each log to look at now.
    pub(super) fn due(&self, now: Duration) -> Vec<(String, String)> {
        let current = self.interval_at(now);
        let due = self.logs.iter().filter(|(_, log)| log.due <= current);
        due.map(|(id, log)| (id.clone(), log.path.clone()))
            .collect()
    }

    /// Notes what a look found: the size in bytes before any rotation; none where the log was missing.
    pub(super) fn looked(&mut self, id: &str, size: Option<u64>, now: Duration) {
        let current = self.interval_at(now);
        let Some(log) = self.logs.get_mut(id) else {
            return;
        };
        let calm = size.is_some_and(|size| {
            size < self.max_size && size.abs_diff(log.size) <= self.max_size / CALM_PART
        });
        log.every = match calm {
            true => (log.every * 2).min(MOST_INTERVALS),
            false => 1,
        };
        // A log at the limit begins anew.
        log.size = size.filter(|size| *size < self.max_size).unwrap_or(0);
        log.due = (current / log.every + 1) * log.every;
    }

    fn interval_at(&self, now: Duration) -> u64 {
        u64::try_from(now.as_nanos() / self.interval.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1000;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn running(ids: &[&str]) -> Vec<(String, String)> {
        ids.iter()
            .map(|id| ((*id).to_owned(), format!("/logs/{id}")))
            .collect()
    }

    fn schedule(ids: &[&str]) -> Schedule {
        let mut schedule = Schedule::new(at(10), MAX);
        schedule.set_running(running(ids), at(3));
        schedule
    }

    /// The moments, in seconds, at which the one log there is looked at, while it has the sizes given.
    fn looks(schedule: &mut Schedule, sizes: &[u64]) -> Vec<u64> {
        let mut now = at(3);
        let look = |size: &u64| {
            now += schedule.next(now).unwrap();
            assert_eq!(schedule.due(now), running(&["a"]));
            schedule.looked("a", Some(*size), now);
            assert!(schedule.due(now).is_empty());
            now.as_secs()
        };
        sizes.iter().map(look).collect()
    }

    #[test]
    fn without_running_containers_there_is_nothing_to_wait_for() {
        let mut schedule = schedule(&[]);
        assert_eq!(schedule.next(at(3)), None);
        schedule.set_running(running(&["a"]), at(95));
        assert_eq!(schedule.next(at(95)), Some(at(5)));
        schedule.set_running(running(&[]), at(96));
        assert_eq!(schedule.next(at(96)), None);
    }

    #[test]
    fn a_calm_log_is_looked_at_ever_more_rarely() {
        let times = looks(&mut schedule(&["a"]), &[0, 100, 100, 50, 60, 61]);
        assert_eq!(times, [10, 20, 40, 80, 160, 240]);
    }

    #[test]
    fn a_log_that_grows_is_looked_at_each_interval() {
        let times = looks(&mut schedule(&["a"]), &[101, 202, 303, 1001, 101]);
        assert_eq!(times, [10, 20, 30, 40, 50]);
        let times = looks(&mut schedule(&["a"]), &[0, 0, 0, 500, 900, 900]);
        assert_eq!(times, [10, 20, 40, 80, 90, 100]);
    }

    #[test]
    fn a_missing_log_is_looked_at_again_soon() {
        let mut schedule = schedule(&["a"]);
        looks(&mut schedule, &[0, 0, 0]);
        schedule.looked("a", None, at(80));
        assert_eq!(schedule.next(at(80)), Some(at(10)));
    }

    #[test]
    fn a_new_container_leaves_the_others_their_pace() {
        let mut schedule = schedule(&["a"]);
        looks(&mut schedule, &[0, 0, 0]);
        schedule.set_running(running(&["a", "b"]), at(41));
        assert_eq!(schedule.next(at(41)), Some(at(9)));
        assert_eq!(schedule.due(at(50)), running(&["b"]));
        assert_eq!(schedule.due(at(80)), running(&["a", "b"]));
        schedule.looked("gone", Some(1), at(80));
    }
}
