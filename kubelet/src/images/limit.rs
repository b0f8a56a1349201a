//! How many pulls may begin in a while: a bucket that refills (`registryPullQPS`, `registryBurst`).

use std::time::Duration;

/// A bucket of tokens, one for each pull.
#[derive(Debug)]
pub(super) struct PullLimit {
    /// Tokens a second; 0 is no limit.
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl PullLimit {
    /// A full bucket. `per_second` of 0 limits nothing.
    #[must_use]
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second: per_second.into(),
            burst: burst.into(),
            tokens: burst.into(),
            at: Duration::ZERO,
        }
    }

    /// Takes a token, if there is one at `now` (monotonic, from any fixed point not after the first call's).
    pub(super) fn try_take(&mut self, now: Duration) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let since = now.saturating_sub(self.at);
        self.at = now.max(self.at);
        self.tokens = (self.tokens + since.as_secs_f64() * self.per_second).min(self.burst);
        let some = self.tokens >= 1.0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_five_a_second() {
        let mut limit = PullLimit::new(5, 10);
        let taken = |limit: &mut PullLimit, millis| {
            (0..20)
                .filter(|_| limit.try_take(Duration::from_millis(millis)))
                .count()
        };
        assert_eq!(taken(&mut limit, 0), 10);
        assert_eq!(taken(&mut limit, 0), 0);
        assert_eq!(taken(&mut limit, 1000), 5);
        assert_eq!(taken(&mut limit, 100_000), 10);
        assert_eq!(taken(&mut limit, 99_000), 0);
        assert!((0..1000).all(|_| PullLimit::new(0, 0).try_take(Duration::ZERO)));
    }
}
