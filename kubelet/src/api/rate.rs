//! How often requests are made: a bucket of tokens, as client-go's flow control has it.

use std::time::Duration;

use crate::config::Rate;

/// Tokens, of which each request takes one. Pure: it takes the time.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Tokens a second; none for no limit.
    per_second: Option<f64>,
    burst: f64,
    /// Below zero, while requests wait for tokens they have already taken.
    tokens: f64,
    filled: Duration,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate) -> Self {
        let burst = f64::from(rate.burst.max(1));
        Self {
            per_second: rate.per_second.filter(|n| *n > 0).map(f64::from),
            burst,
            tokens: burst,
            filled: Duration::ZERO,
        }
    }

    /// Takes a token at `now`, and says how long to wait for it.
    pub(super) fn take(&mut self, now: Duration) -> Duration {
        let Some(per_second) = self.per_second else {
            return Duration::ZERO;
        };
        let since = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + since * per_second).min(self.burst) - 1.0;
        match self.tokens < 0.0 {
            true => Duration::from_secs_f64(-self.tokens / per_second),
            false => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_second: Option<u32>, burst: u32) -> Bucket {
        Bucket::new(Rate { per_second, burst })
    }

    #[test]
    fn a_burst_passes_and_the_rest_waits_its_turn() {
        let mut bucket = bucket(Some(10), 2);
        let at = Duration::from_secs(5);
        assert_eq!(bucket.take(at), Duration::ZERO);
        assert_eq!(bucket.take(at), Duration::ZERO);
        let waits: Vec<u128> = (0..3).map(|_| bucket.take(at).as_millis()).collect();
        assert_eq!(waits, [100, 200, 300]);
        // A second later three tokens of ten are spoken for, and no more than the burst is kept.
        let at = Duration::from_secs(60);
        assert_eq!(bucket.take(at), Duration::ZERO);
        assert_eq!(bucket.take(at), Duration::ZERO);
        assert_eq!(bucket.take(at), Duration::from_millis(100));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut bucket = bucket(None, 1);
        assert!((0..1000).all(|_| bucket.take(Duration::ZERO).is_zero()));
    }
}
