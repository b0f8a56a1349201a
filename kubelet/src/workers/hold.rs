//! What a worker puts off after a failure, and until when.

use std::time::Duration;

use crate::status::Waiting;

/// The first pause after a failure; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause. Upstream tries again each 10 to 15 seconds.
const MOST: Duration = Duration::from_secs(10);

/// For want of an object of the API server: whoever waits for one hears when it changes, and this is for what is lost.
pub(super) const FOR_OBJECT: Duration = Duration::from_secs(300);

/// Something that failed, and is not tried again before `until`.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    /// On the agent's monotonic clock.
    pub(super) until: Duration,
    /// What the status says meanwhile.
    pub(super) waiting: Option<Waiting>,
    pause: Duration,
}

impl Hold {
    /// After a failure at `now`; `before` is the hold of the failure before it.
    pub(super) fn after(before: Option<&Self>, now: Duration, waiting: Option<Waiting>) -> Self {
        let pause = before.map_or(FIRST, |b| (b.pause * 2).min(MOST));
        Self {
            until: now + pause,
            waiting,
            pause,
        }
    }

    /// Until a time that somebody else knows.
    pub(super) fn until(until: Duration, waiting: Option<Waiting>) -> Self {
        Self {
            until,
            waiting,
            pause: FIRST,
        }
    }

    /// How long from `now` until what it puts off is tried again, for who looked at it at `since`: at once, when it has
    /// passed meanwhile; none when it had passed then, because what it put off has been tried since, or is not wanted.
    pub(super) fn due(&self, since: Duration, now: Duration) -> Option<Duration> {
        (self.until > since).then(|| self.until.saturating_sub(now))
    }

    /// How much longer; none when it has passed.
    pub(super) fn left(&self, now: Duration) -> Option<Duration> {
        self.until.checked_sub(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_seconds() {
        let mut hold = Hold::after(None, Duration::ZERO, None);
        let mut pauses = vec![hold.until];
        for _ in 0..5 {
            hold = Hold::after(Some(&hold), Duration::ZERO, None);
            pauses.push(hold.until);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10].map(Duration::from_secs));
    }

    #[test]
    fn a_hold_passes() {
        let hold = Hold::after(None, Duration::from_secs(100), None);
        assert_eq!(
            hold.left(Duration::from_secs(100)),
            Some(Duration::from_secs(1))
        );
        assert_eq!(hold.left(Duration::from_secs(101)), None);
    }

    #[test]
    fn what_passes_while_somebody_is_busy_is_due_once() {
        let at = Duration::from_secs;
        let hold = Hold::after(None, at(100), None);
        assert_eq!(hold.due(at(100), at(100)), Some(at(1)));
        // The look that followed the failure took seven seconds.
        assert_eq!(hold.due(at(100), at(107)), Some(at(0)));
        assert_eq!(hold.due(at(107), at(107)), None);
    }
}
