//! Keeps the wall-clock times of a record true when the wall clock is stepped.
//!
//! The times that a wait is counted from are written by the wall clock. Beside them stands one moment by both the wall
//! clock and the time since the machine's boot, which nobody steps: where the two have come apart, the clock was stepped
//! in between, and the times are moved along. After a reboot there is nothing to compare with.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::types::Record;
use crate::clock::SinceBoot;

/// What the two clocks may come apart by before it counts: slewing is no step, and costs no write.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// One moment by two clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamp {
    /// The boot, by the kernel's id of it.
    pub boot: String,
    /// Milliseconds since that boot.
    pub since_boot_ms: u64,
    /// By the wall clock.
    pub wall: Timestamp,
}

impl Stamp {
    fn new(wall: Timestamp, boot: &SinceBoot) -> Self {
        Self {
            boot: boot.boot.to_string(),
            since_boot_ms: u64::try_from(boot.elapsed.as_millis()).unwrap_or(u64::MAX),
            wall,
        }
    }

    /// By how much the wall clock was stepped from this moment to `now`; none when nobody can know.
    fn step_until(&self, now: &Self) -> Option<SignedDuration> {
        let passed = now.since_boot_ms.checked_sub(self.since_boot_ms)?;
        let passed = SignedDuration::from_millis(i64::try_from(passed).ok()?);
        let shown = now.wall.duration_since(self.wall);
        (self.boot == now.boot).then(|| shown.saturating_sub(passed))
    }
}

impl Record {
    /// Moves the times that waits are counted from, if the wall clock was stepped since they were written. To be called
    /// before any of them is read or written; `wall` and `boot` are the present.
    pub fn follow_clock(&mut self, wall: Timestamp, boot: &SinceBoot) {
        let now = Stamp::new(wall, boot);
        if let Some(before) = &self.clock
            && let Some(step) = before.step_until(&now)
        {
            if step.abs() <= TOLERANCE {
                return;
            }
            self.move_times(step);
        }
        self.clock = Some(now);
    }

    fn move_times(&mut self, step: SignedDuration) {
        let exits = self.backoffs.values_mut().filter_map(|b| {
            let exit = b.last_exit.as_mut();
            exit.map(|exit| &mut exit.finished_at)
        });
        exits.for_each(|time| *time = moved(*time, step));
        let starts = self.backoffs.values_mut().map(|b| &mut b.since);
        let ends = self.termination.iter_mut().map(|t| &mut t.deadline_wall);
        starts
            .chain(ends)
            .chain(self.active_since.iter_mut())
            .for_each(|time| *time = moved(*time, step));
    }
}

/// What the calendar cannot hold stays where it was.
fn moved(time: Timestamp, step: SignedDuration) -> Timestamp {
    time.checked_add(step).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::{BackoffRecord, ExitRecord, Termination};

    const TEN_YEARS: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

    fn boot(id: &str, seconds: u64) -> SinceBoot {
        SinceBoot {
            boot: id.into(),
            elapsed: Duration::from_secs(seconds),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// Times of the 90th, 95th and 130th second, written in the hundredth.
    fn record() -> Record {
        let backoff = BackoffRecord {
            fingerprint: String::new(),
            delay_ms: 20_000,
            since: at(90),
            last_exit: Some(ExitRecord {
                id: "c".into(),
                finished_at: at(95),
            }),
        };
        let mut record = Record {
            start_time: Some(at(0)),
            active_since: Some(at(0)),
            termination: Some(Termination {
                grace_seconds: 30,
                deadline_wall: at(130),
            }),
            ..Record::default()
        };
        record.backoffs.insert("main".into(), backoff);
        record.follow_clock(at(100), &boot("b", 100));
        record
    }

    fn times(record: &Record) -> [Timestamp; 3] {
        let backoff = &record.backoffs["main"];
        let exit = backoff.last_exit.as_ref().unwrap().finished_at;
        let end = record.termination.as_ref().unwrap().deadline_wall;
        [backoff.since, exit, end]
    }

    #[test]
    fn a_step_in_either_direction_moves_the_times_along_once() {
        for step in [TEN_YEARS, -TEN_YEARS, SignedDuration::from_secs(-3)] {
            let mut record = record();
            for second in [110_u32, 120] {
                let wall = at(i64::from(second)) + step;
                record.follow_clock(wall, &boot("b", u64::from(second)));
                assert_eq!(times(&record), [90, 95, 130].map(|t| at(t) + step));
            }
            assert_eq!(record.start_time, Some(at(0)), "what people read stays");
            assert_eq!(record.active_since, Some(at(0) + step));
        }
    }

    #[test]
    fn time_that_passes_and_slewing_change_nothing() {
        let before = record();
        let mut record = before.clone();
        for drift in [0, 1, -1] {
            record.follow_clock(at(5000 + drift), &boot("b", 5000));
            assert_eq!(record, before);
        }
    }

    #[test]
    fn after_a_reboot_the_wall_clock_is_all_there_is() {
        let mut record = record();
        record.follow_clock(at(200) + TEN_YEARS, &boot("c", 3));
        assert_eq!(times(&record), [90, 95, 130].map(at));
        assert_eq!(record.clock.unwrap().boot, "c");
    }
}
