//! The wall clock and monotonic time: the only place that reads either.
//!
//! Owns: [`Clock`], a handle that every task clones, and [`Now`], the plain pair that pure rooms take. Spawns nothing.
//! Durations come from [`Now::monotonic`] alone, which follows tokio's clock and so stands still in a paused test; the
//! wall clock is for what people and the API read.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;

/// One moment, read once and handed to pure code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock. It may step in either direction; never subtract one from another to time something.
    pub wall: Timestamp,
    /// Time since the agent began, in steps that only go forward.
    pub monotonic: Duration,
}

impl Now {
    /// The wall clock as nanoseconds since the epoch, as CRI counts; the bounds of `i64` where it does not fit.
    #[must_use]
    pub fn wall_nanos(&self) -> i64 {
        nanos(self.wall)
    }
}

fn nanos(wall: Timestamp) -> i64 {
    let nanos = wall.as_nanosecond();
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// Where the wall clock comes from.
#[derive(Clone, Debug)]
enum Wall {
    System,
    /// A fixed beginning that moves with the monotonic clock, plus what a test has stepped it by (nanoseconds).
    Manual {
        begin: Timestamp,
        step: Arc<AtomicI64>,
    },
}

/// Reads both clocks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    began: Instant,
    wall: Wall,
}

impl Clock {
    /// The system's clocks; the monotonic one begins at zero now.
    #[must_use]
    pub fn system() -> Self {
        Self {
            began: Instant::now(),
            wall: Wall::System,
        }
    }

    /// A wall clock that begins at `begin` and moves with tokio's clock, for tests; the handle steps it.
    #[must_use]
    pub fn manual(begin: Timestamp) -> (Self, WallStep) {
        let step = Arc::new(AtomicI64::new(0));
        let wall = Wall::Manual {
            begin,
            step: Arc::clone(&step),
        };
        (
            Self {
                began: Instant::now(),
                wall,
            },
            WallStep(step),
        )
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            wall: self.wall(),
            monotonic: self.monotonic(),
        }
    }

    /// The wall clock.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        match &self.wall {
            Wall::System => system_wall(),
            Wall::Manual { begin, step } => {
                let moved = i128::try_from(self.monotonic().as_nanos()).unwrap_or(i128::MAX);
                let nanos = begin
                    .as_nanosecond()
                    .saturating_add(moved)
                    .saturating_add(i128::from(step.load(Ordering::SeqCst)));
                Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// The wall clock as the standard library has it.
    #[must_use]
    pub fn system_time(&self) -> SystemTime {
        self.wall().into()
    }

    /// The wall clock as nanoseconds since the epoch.
    #[must_use]
    pub fn wall_nanos(&self) -> i64 {
        nanos(self.wall())
    }

    /// Time since the agent began.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
}

/// The system's wall clock, for what is written before there is a [`Clock`] and for log lines.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the wall clock"
)]
pub fn system_wall() -> Timestamp {
    // A clock set outside what jiff can hold (the years -9999 to 9999) reads as the epoch.
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Steps the wall clock of a [`Clock::manual`], as an administrator or NTP would.
#[derive(Clone, Debug)]
pub struct WallStep(Arc<AtomicI64>);

impl WallStep {
    /// Steps by `nanos` nanoseconds, backwards when negative; steps add up.
    pub fn step(&self, nanos: i64) {
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn paused_time_moves_both_clocks_and_a_step_only_one() {
        let begin: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let (clock, step) = Clock::manual(begin);
        assert_eq!(
            clock.now(),
            Now {
                wall: begin,
                monotonic: Duration::ZERO
            }
        );

        tokio::time::advance(Duration::from_secs(90)).await;
        let later = clock.now();
        assert_eq!(later.monotonic, Duration::from_secs(90));
        assert_eq!(later.wall.to_string(), "2026-01-02T03:05:35Z");

        step.step(-3_600_000_000_000);
        assert_eq!(clock.monotonic(), Duration::from_secs(90));
        assert_eq!(clock.wall().to_string(), "2026-01-02T02:05:35Z");
        assert_eq!(clock.now().wall_nanos(), 1_767_319_535_000_000_000);
    }

    #[test]
    fn the_system_clock_is_this_century() {
        assert!(system_wall() > "2020-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    }
}
