//! From sums to rates: how much of the processor was used since somebody last asked.

use std::collections::HashMap;
use std::time::Duration;

/// Two readings closer together than this give no rate of their own: the one before is still true.
const SHORTEST: Duration = Duration::from_secs(1);

/// What was read of one cgroup.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Duration,
    usage_nanos: u64,
    /// Nanoseconds of the processor a second, up to this reading.
    rate: Option<u64>,
    round: u64,
}

/// The last reading of each cgroup that somebody has asked for. Nothing is read for it.
#[derive(Debug, Default)]
pub(super) struct Rates {
    readings: HashMap<String, Reading>,
    round: u64,
}

impl Rates {
    /// Begins a round of readings; what the one before did not read is forgotten.
    pub(super) fn begin(&mut self) {
        let last = self.round;
        self.readings.retain(|_, reading| reading.round == last);
        self.round = last.wrapping_add(1);
    }

    /// The use of the processor by the cgroup `id` since the reading before, nanoseconds a second (upstream's
    /// `usageNanoCores`); none with the first. `at` is monotonic.
    pub(super) fn rate(&mut self, id: &str, at: Duration, usage_nanos: u64) -> Option<u64> {
        let round = self.round;
        let Some(before) = self.readings.get_mut(id) else {
            let reading = Reading {
                at,
                usage_nanos,
                rate: None,
                round,
            };
            self.readings.insert(id.to_owned(), reading);
            return None;
        };
        before.round = round;
        let elapsed = at.saturating_sub(before.at);
        if elapsed < SHORTEST && before.rate.is_some() || elapsed.is_zero() {
            return before.rate;
        }
        // A cgroup that was made anew under the same name begins at zero.
        let used = u128::from(usage_nanos.saturating_sub(before.usage_nanos));
        let rate = used.saturating_mul(1_000_000_000) / elapsed.as_nanos();
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        if elapsed >= SHORTEST {
            *before = Reading {
                at,
                usage_nanos,
                rate: Some(rate),
                round,
            };
        }
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_rate_is_of_the_time_since_the_last_reading() {
        let mut rates = Rates::default();
        rates.begin();
        assert_eq!(rates.rate("/a", at(10.0), SECOND), None);
        rates.begin();
        assert_eq!(rates.rate("/a", at(20.0), 6 * SECOND), Some(SECOND / 2));
        // Somebody else asks at once.
        rates.begin();
        assert_eq!(rates.rate("/a", at(20.5), 7 * SECOND), Some(SECOND / 2));
        rates.begin();
        assert_eq!(rates.rate("/a", at(22.0), 8 * SECOND), Some(SECOND));
    }

    #[test]
    fn a_second_reading_soon_after_the_first_has_a_rate_and_leaves_the_beginning() {
        let mut rates = Rates::default();
        rates.begin();
        assert_eq!(rates.rate("/a", at(10.0), 0), None);
        assert_eq!(rates.rate("/a", at(10.5), SECOND), Some(2 * SECOND));
        assert_eq!(rates.rate("/a", at(14.0), SECOND), Some(SECOND / 4));
    }

    #[test]
    fn what_has_gone_is_forgotten_and_a_new_one_of_its_name_is_no_negative_rate() {
        let mut rates = Rates::default();
        rates.begin();
        rates.rate("/a", at(1.0), 5 * SECOND);
        rates.rate("/b", at(1.0), 5 * SECOND);
        rates.begin();
        assert_eq!(rates.rate("/b", at(3.0), SECOND), Some(0));
        rates.begin();
        assert_eq!(rates.readings.len(), 1);
        assert_eq!(rates.rate("/a", at(4.0), 9 * SECOND), None);
    }
}
