//! What every call has in common: a deadline on both sides, the error, a line in the log.

use std::future::Future;
use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::CriError;

/// Hears of each call that has ended: CRI's name of it, how long it took, and whether it failed.
pub type CallObserver = fn(method: &'static str, elapsed: Duration, failed: bool);

/// No deadline is longer, so that sums with a user's grace period stay what timers and the wire can hold.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Sends `message` through `rpc`, and waits for `deadline` at most; the runtime is told the deadline too.
///
/// Cancel-safe in so far as dropping the future resets the stream: the runtime sees its context cancelled.
pub(crate) async fn unary<M, T, F>(
    observer: Option<CallObserver>,
    method: &'static str,
    deadline: Option<Duration>,
    message: M,
    rpc: impl FnOnce(Request<M>) -> F,
) -> Result<T, CriError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let began = tokio::time::Instant::now();
    let mut request = Request::new(message);
    let deadline = deadline.map(|d| d.min(LONGEST));
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    // On the heap, and only while in flight: the future of a large message is several times its size.
    let sent = Box::pin(rpc(request));
    let answer = match deadline {
        Some(deadline) => tokio::time::timeout(deadline, sent)
            .await
            .map_err(|_| deadline),
        None => Ok(sent.await),
    };
    let elapsed = began.elapsed();
    if let Some(observer) = observer {
        observer(method, elapsed, !matches!(answer, Ok(Ok(_))));
    }
    match answer.map_err(|deadline| CriError::deadline(method, deadline))? {
        Ok(response) => {
            tracing::trace!(method, ?elapsed, "CRI call");
            Ok(response.into_inner())
        }
        Err(status) => {
            let error = CriError::from_status(method, &status);
            tracing::debug!(method, ?elapsed, %error, "CRI call failed");
            Err(error)
        }
    }
}

/// `rpc!(self, "Method", method, deadline, message)`: one unary call on a clone of `self.client`.
macro_rules! rpc {
    ($self:ident, $name:literal, $method:ident, $deadline:expr, $message:expr) => {{
        let mut client = $self.client.clone();
        crate::call::unary(
            $self.observer,
            $name,
            $deadline,
            $message,
            |request| async move { client.$method(request).await },
        )
        .await
    }};
}
pub(crate) use rpc;

/// To stop or remove what is gone is to have done it: CRI asks for that, and containerd 1.6 says NotFound all the same.
pub(crate) fn gone_is_fine<T>(result: Result<T, CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Whole seconds, rounded up: what CRI's integer time-outs take, and none becomes zero unless it was.
pub(crate) fn whole_seconds(duration: Duration) -> i64 {
    let up = u64::from(duration.subsec_nanos() > 0);
    i64::try_from(duration.as_secs().saturating_add(up)).unwrap_or(i64::MAX)
}

/// The address of a stream that `method` answered with.
///
/// # Errors
/// When there is none.
pub(crate) fn some_url(method: &'static str, url: String) -> Result<String, CriError> {
    if url.is_empty() {
        return Err(CriError::malformed(method, "address of a stream"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_up() {
        for (millis, seconds) in [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
        assert_eq!(whole_seconds(Duration::MAX), i64::MAX);
    }
}
