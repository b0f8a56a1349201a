//! When a certificate is renewed, and how failures are waited out: the same for both of the node's certificates.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::certificate::Validity;
use crate::api;
use crate::clock::Clock;

/// The longest sleep: the wall clock may step, and certificates go by it.
const NAP: Duration = Duration::from_secs(3600);
/// After a failure: 2 s, doubling four times (upstream's `wait.Backoff` of the certificate manager), then …
const FIRST: Duration = Duration::from_secs(2);
/// … this.
const MOST: Duration = Duration::from_secs(32);
/// The shortest time between two certificates (upstream's `wait.Until`).
const LEAST: Duration = Duration::from_secs(1);

/// The delays between two attempts.
pub(super) fn delays() -> api::Retry {
    api::Retry::new(FIRST, MOST)
}

/// When a certificate is to be renewed: after seven tenths of its life, and up to two more, at random.
pub(super) fn deadline(validity: Validity) -> Timestamp {
    deadline_at(validity, api::random())
}

fn deadline_at(validity: Validity, random: f64) -> Timestamp {
    let all = validity.not_after.duration_since(validity.not_before);
    let part = all.as_secs_f64() * (0.7 + 0.2 * random);
    let part = SignedDuration::try_from_secs_f64(part).unwrap_or_default();
    validity
        .not_before
        .checked_add(part)
        .unwrap_or(validity.not_after)
}

/// How long nothing is asked after a certificate has come: one that is dated back may be due at once. A tenth of what is
/// left of it, half a minute at most.
pub(super) fn pause(validity: Validity, now: Timestamp) -> Duration {
    let left = Duration::try_from(validity.not_after.duration_since(now)).unwrap_or_default();
    (left / 10).clamp(LEAST, MOST)
}

/// Sleeps until the wall clock says `at`. Cancel-safe.
pub(super) async fn until(clock: &Clock, at: Timestamp) {
    loop {
        let left = Duration::try_from(at.duration_since(clock.wall())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(NAP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn it_is_renewed_between_seven_and_nine_tenths() {
        let validity = Validity {
            not_before: at("2026-01-01T00:00:00Z"),
            not_after: at("2026-01-11T00:00:00Z"),
        };
        assert_eq!(deadline_at(validity, 0.0), at("2026-01-08T00:00:00Z"));
        let last = deadline_at(validity, 1.0).duration_since(at("2026-01-10T00:00:00Z"));
        assert!(last.abs() < SignedDuration::from_secs(1));
        let all: Vec<_> = (0..20).map(|_| deadline(validity)).collect();
        assert!(all.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn what_is_dated_back_is_not_asked_for_in_a_loop_and_what_is_short_lived_in_time() {
        let until = |text| Validity {
            not_before: at("2025-01-01T00:00:00Z"),
            not_after: at(text),
        };
        let now = at("2026-01-01T00:00:00Z");
        for (end, seconds) in [
            ("2027-01-01T00:00:00Z", 32),
            ("2026-01-01T00:02:00Z", 12),
            ("2026-01-01T00:00:05Z", 1),
            ("2025-12-01T00:00:00Z", 1),
        ] {
            assert_eq!(pause(until(end), now), Duration::from_secs(seconds));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_steps_is_noticed_within_the_hour() {
        let (clock, step) = Clock::manual(at("2026-01-01T00:00:00Z"));
        let began = clock.monotonic();
        let stepped = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            step.step(10 * 24 * 3600 * 1_000_000_000);
        };
        tokio::join!(until(&clock, at("2026-01-08T00:00:00Z")), stepped);
        let took = clock.monotonic() - began;
        assert!(took <= NAP, "{took:?}");
    }
}
