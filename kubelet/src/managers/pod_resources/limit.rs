//! How many requests are answered: a bucket of tokens, as upstream has it (`pkg/kubelet/apis/grpc`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::Status;

use crate::clock::Clock;

/// Requests a second, in the long run.
const PER_SECOND: f64 = 100.0;
/// Requests at once.
const BURST: f64 = 10.0;

/// The bucket of one socket.
pub(super) struct Limit {
    clock: Clock,
    /// Tokens, and when there were so many.
    bucket: Mutex<(f64, Duration)>,
}

impl Limit {
    pub(super) fn new(clock: Clock) -> Self {
        let now = clock.monotonic();
        Self {
            clock,
            bucket: Mutex::new((BURST, now)),
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn take(&self) -> Result<(), Status> {
        let now = self.clock.monotonic();
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, at) = *bucket;
        let since = now.saturating_sub(at).as_secs_f64();
        let tokens = (tokens + since * PER_SECOND).min(BURST);
        let enough = tokens >= 1.0;
        *bucket = (if enough { tokens - 1.0 } else { tokens }, now);
        match enough {
            true => Ok(()),
            false => Err(Status::resource_exhausted("rejected by rate limit")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_at_once_and_one_each_ten_milliseconds() {
        let (clock, _) = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let limit = Limit::new(clock);
        let taken = (0..20).filter(|_| limit.take().is_ok()).count();
        assert_eq!(taken, 10);
        tokio::time::advance(Duration::from_millis(31)).await;
        let taken = (0..20).filter(|_| limit.take().is_ok()).count();
        assert_eq!(taken, 3);
        tokio::time::advance(Duration::from_secs(60)).await;
        let taken = (0..20).filter(|_| limit.take().is_ok()).count();
        assert_eq!(taken, 10);
        let refused = limit.take().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert_eq!(refused.message(), "rejected by rate limit");
    }
}
