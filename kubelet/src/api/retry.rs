//! How long to wait before something is tried again.

use std::time::Duration;

use super::returned::returns_within;

/// Delays that double, each spread at random so that nodes that failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Retry {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Retry {
    /// From `first`, doubling to `most`.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// As client-go's reflectors wait between two attempts.
    #[must_use]
    pub fn of_watches() -> Self {
        Self::new(Duration::from_millis(800), Duration::from_secs(30))
    }

    /// The next delay: half as long as its turn says, to half as long again.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.most);
        spread(delay)
    }

    /// Waits for the next delay, or until an API server that had gone is back. One that has just begun may refuse what
    /// it does not know yet, or end watches at once: then the delays begin anew, so that nobody waits out long ones.
    pub async fn pause(&mut self) {
        if returns_within(self.delay()).await {
            self.reset();
        }
    }

    /// It worked: the next failure is the first one.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A duration at random between half of `delay` and half as much again.
#[must_use]
pub(crate) fn spread(delay: Duration) -> Duration {
    delay.mul_f64(0.5 + random())
}

/// A number of [0, 1). Not for anything secret: the standard library seeds each hasher anew.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "the upper 53 bits, which a double holds exactly"
)]
pub(crate) fn random() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let random = RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_most_and_begin_anew() {
        let (first, most) = (Duration::from_millis(800), Duration::from_secs(30));
        let mut retry = Retry::new(first, most);
        let mut expected = first;
        for _ in 0..10 {
            let delay = retry.delay();
            assert!(
                delay >= expected / 2 && delay <= expected * 3 / 2,
                "{delay:?}"
            );
            expected = (expected * 2).min(most);
        }
        retry.reset();
        assert!(retry.delay() <= first * 3 / 2);
    }

    #[test]
    fn random_numbers_differ() {
        let numbers: Vec<f64> = (0..20).map(|_| random()).collect();
        assert!(numbers.iter().all(|n| (0.0..1.0).contains(n)));
        assert!(numbers.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
