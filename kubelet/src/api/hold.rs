//! A server that has too much to do says for how long it wants to be left alone (`Retry-After` of a 429): so long nothing
//! is asked of it over this connection. Nobody has to look after that: whoever asks waits.

use std::time::Duration;

use hyper::header::RETRY_AFTER;
use hyper::{Response, StatusCode};
use kube::core::Status;
use kube::core::response::StatusDetails;
use tokio::sync::watch;
use tokio::time::Instant;

use super::retry::random;

/// The longest that a server's wish is followed: a lease that is renewed so much later still holds. (kube-apiserver's own
/// longest is 32 s, from its API Priority and Fairness.)
pub(crate) const MOST_WISHED: Duration = Duration::from_secs(30);
/// Requests that wait go a little later than they might, by up to this part of the wish, so that nodes that were refused
/// together do not come back together.
const SPREAD: f64 = 0.2;

/// Until when nothing is asked; none while there is no wish.
#[derive(Debug, Default)]
pub(super) struct Hold(watch::Sender<Option<Instant>>);

impl Hold {
    /// Nothing is asked before `wish` has passed.
    pub(super) fn follow(&self, wish: Duration) {
        let until = Instant::now() + wish.mul_f64(1.0 + SPREAD * random());
        self.0.send_if_modified(|before| {
            let later = before.is_none_or(|before| before < until);
            if later {
                *before = Some(until);
            }
            later
        });
    }

    /// Whoever waits goes on: the server that wished so is no more.
    pub(super) fn lift(&self) {
        self.0.send_if_modified(|until| until.take().is_some());
    }

    /// Waits for as long as there is a wish. Cancel-safe.
    pub(super) async fn wait(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            let Some(until) = until.filter(|until| *until > Instant::now()) else {
                return;
            };
            // Cancel-safe: both only wait. The sender lives as long as `self`.
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                _ = changes.changed() => {}
            }
        }
    }
}

/// How long a server wants to be left alone that answers so; none where it does not say. Dates are not understood, as in
/// client-go.
pub(super) fn wish<B>(answer: &Response<B>) -> Option<Duration> {
    if answer.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let wish = Duration::from_secs(seconds.trim().parse().ok()?);
    Some(wish.min(MOST_WISHED))
}

/// What such an answer says, in the form of any refusal. (The body of a real one is a line of text.)
pub(super) fn refusal(wish: Duration) -> kube::Error {
    let message = "the server has received too many requests and has asked us to try again later";
    let status = Status::failure(message, "TooManyRequests").with_code(429);
    let seconds = u32::try_from(wish.as_secs()).unwrap_or(u32::MAX);
    kube::Error::Api(Box::new(status.with_details(StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: seconds,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, wish: Option<&str>) -> Response<()> {
        let answer = Response::builder().status(code);
        let answer = match wish {
            Some(wish) => answer.header(RETRY_AFTER, wish),
            None => answer,
        };
        answer.body(()).unwrap()
    }

    #[test]
    fn a_wish_is_a_number_of_seconds_with_a_429() {
        let of = |code, text| wish(&answer(code, Some(text))).map(|wish| wish.as_secs());
        assert_eq!(of(429, "3"), Some(3));
        assert_eq!(of(429, "86400"), Some(30));
        assert_eq!(of(429, "Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(of(503, "3"), None);
        assert_eq!(wish(&answer(429, None)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_waits_for_the_longest_wish_or_for_another_server() {
        let hold = Hold::default();
        let waited = async || {
            let began = Instant::now();
            hold.wait().await;
            began.elapsed().as_secs_f64()
        };
        assert!(waited().await < 0.01);
        hold.follow(Duration::from_secs(10));
        hold.follow(Duration::from_secs(1));
        let long = waited().await;
        assert!((10.0..=12.1).contains(&long), "{long}");
        assert!(waited().await < 0.01, "it has passed");
        hold.follow(Duration::from_secs(5));
        // A later wish counts for those who wait already.
        let later = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            hold.follow(Duration::from_secs(20));
        };
        let (long, ()) = tokio::join!(waited(), later);
        assert!((24.0..=28.1).contains(&long), "{long}");
        hold.follow(Duration::from_secs(30));
        let lifted = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            hold.lift();
        };
        let (long, ()) = tokio::join!(waited(), lifted);
        assert!((2.0..2.1).contains(&long), "{long}");
    }
}
