//! The wall clock and monotonic time: the only place that reads either.
//!
//! Owns: [`Clock`], a handle that every task clones, and [`Now`], the plain pair that pure rooms take. Spawns nothing.
//! Durations come from [`Now::monotonic`] alone, which follows tokio's clock and so stands still in a paused test; the
//! wall clock is for what people and the API read.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
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

/// Time since the machine was booted, suspension included. Nobody steps it, and it goes on while the agent does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinceBoot {
    /// Tells one boot from another.
    pub boot: Arc<str>,
    /// How long ago it was.
    pub elapsed: Duration,
}

/// Where the kernel names the present boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where the wall clock comes from.
#[derive(Clone, Debug)]
enum Wall {
    /// The system's, plus what a test has stepped it by.
    System { boot: Arc<str>, step: WallStep },
    /// A fixed beginning that moves with the monotonic clock, plus what a test has stepped it by (nanoseconds).
    Manual { begin: Timestamp, step: WallStep },
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
        Self::system_with(WallStep::default())
    }

    /// The system's clocks, with the wall clock stepped by `step`: a test of the whole agent, and of one agent after
    /// another, cannot step the machine's.
    #[must_use]
    pub fn system_with(step: WallStep) -> Self {
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self {
            began: Instant::now(),
            wall: Wall::System {
                boot: boot.trim().into(),
                step,
            },
        }
    }

    /// The same in the boot called `boot`: a test of the whole agent, and of one agent after another, cannot boot the machine.
    #[must_use]
    pub fn in_boot(mut self, name: &str) -> Self {
        if let Wall::System { boot, .. } = &mut self.wall {
            *boot = name.into();
        }
        self
    }

    /// A wall clock that begins at `begin` and moves with tokio's clock, for tests; the handle steps it.
    #[must_use]
    pub fn manual(begin: Timestamp) -> (Self, WallStep) {
        let step = WallStep::default();
        let wall = Wall::Manual {
            begin,
            step: step.clone(),
        };
        (
            Self {
                began: Instant::now(),
                wall,
            },
            step,
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
            Wall::System { step, .. } => system_wall()
                .checked_add(SignedDuration::from_nanos(step.total()))
                .unwrap_or(Timestamp::MAX),
            Wall::Manual { begin, step } => {
                let moved = i128::try_from(self.monotonic().as_nanos()).unwrap_or(i128::MAX);
                let nanos = begin
                    .as_nanosecond()
                    .saturating_add(moved)
                    .saturating_add(i128::from(step.total()));
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

    /// Time since the machine was booted; none where the kernel does not name its boots.
    #[must_use]
    pub fn since_boot(&self) -> Option<SinceBoot> {
        match &self.wall {
            Wall::System { boot, .. } if boot.is_empty() => None,
            Wall::System { boot, .. } => Some(SinceBoot {
                boot: boot.clone(),
                elapsed: boot_time(),
            }),
            Wall::Manual { .. } => Some(SinceBoot {
                boot: "manual".into(),
                elapsed: self.monotonic(),
            }),
        }
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

/// `CLOCK_MONOTONIC` in microseconds, as the service manager reads it.
#[must_use]
pub fn monotonic_micros() -> u128 {
    read(rustix::time::ClockId::Monotonic).as_micros()
}

/// `CLOCK_BOOTTIME`.
fn boot_time() -> Duration {
    read(rustix::time::ClockId::Boottime)
}

fn read(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    // Neither is ever negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

/// Steps the wall clock of a [`Clock::manual`] or [`Clock::system_with`], as an administrator or NTP would. Clones step
/// together.
#[derive(Clone, Debug, Default)]
pub struct WallStep(Arc<AtomicI64>);

impl WallStep {
    /// Steps by `nanos` nanoseconds, backwards when negative; steps add up.
    pub fn step(&self, nanos: i64) {
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }

    /// All steps together, nanoseconds.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
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
    fn a_step_of_the_systems_clock_leaves_the_time_since_boot() {
        let step = WallStep::default();
        let clock = Clock::system_with(step.clone());
        let before = clock.since_boot().unwrap();
        let ten_years = SignedDuration::from_hours(10 * 365 * 24);
        step.step(i64::try_from(ten_years.as_nanos()).unwrap());
        let stepped = clock.wall().duration_since(system_wall());
        assert!((stepped - ten_years).abs() < SignedDuration::from_secs(60));
        let after = clock.since_boot().unwrap();
        assert_eq!(after.boot, before.boot);
        assert!(after.elapsed - before.elapsed < Duration::from_secs(60));
    }

    #[test]
    fn the_system_clock_is_this_century() {
        assert!(system_wall() > "2020-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    }
}
