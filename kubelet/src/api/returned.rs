//! The word that an API server that had gone is back.
//!
//! Whoever talks to it waits longer after each failure. When it returns, all of them should know at once rather than each
//! at the end of its delay: while it is away, one task asks, about every half second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::{Method, Request, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::clients::Clients;
use super::retry::spread;
use super::service::READY;

/// How many times an API server has returned, for all agents of the process: no more than a hint to try again.
static RETURNS: std::sync::LazyLock<watch::Sender<u64>> =
    std::sync::LazyLock::new(|| watch::channel(0).0);

/// How often it is asked whether it is back.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// The same when it has been away for [`LONG`].
const ASK_LATER: Duration = Duration::from_secs(5);
/// When it has been away for this long, nobody waits for the second of its return.
const LONG: Duration = Duration::from_secs(180);
/// One that goes again within this time after its return is asked half as often the next time.
const STEADY: Duration = Duration::from_secs(60);
/// How long an answer may take: a lost packet is sent again after a second.
const PATIENCE: Duration = Duration::from_secs(2);
/// Whoever still waits for a connection from before finds in this time that it is gone.
const NOTICE: Duration = Duration::from_millis(100);

/// Waits for `delay`, or until an API server that had gone is back, whichever is first.
pub async fn pause(delay: Duration) {
    returns_within(delay).await;
}

/// Waits likewise, and says whether it was the server's return.
pub(super) async fn returns_within(delay: Duration) -> bool {
    let mut returns = RETURNS.subscribe();
    // Cancel-safe: both only wait.
    tokio::select! {
        () = tokio::time::sleep(delay) => false,
        _ = returns.changed() => true,
    }
}

/// Tells all who [`pause`] that an API server is back.
pub(super) fn tell_return() {
    RETURNS.send_modify(|count| *count += 1);
}

/// What the requests of one agent say of its API server.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Failed requests, ever.
    failures: AtomicU64,
    /// Whether it is taken to be away.
    away: watch::Sender<bool>,
    /// When a request last got no answer at all, if that happened since it went.
    silent: Mutex<Option<Instant>>,
}

impl Health {
    /// A request got no answer, or one that says that the server is not able to give any.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.away
            .send_if_modified(|away| !std::mem::replace(away, true));
    }

    /// A request got no answer in time.
    pub(super) fn was_silent(&self) {
        *self.silent() = Some(Instant::now());
        self.failed();
    }

    fn silent(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing panics under this lock.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request got an answer.
    pub(super) fn answered(&self) {
        self.away
            .send_if_modified(|away| std::mem::replace(away, false));
    }
}

/// Whether an answer is one of a server that is up.
pub(super) fn is_up(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

/// While the API server is away, asks whether it is back. Never ends.
pub async fn run_return(clients: Clients) {
    let health: Arc<Health> = clients.health();
    let mut away = health.away.subscribe();
    let mut least = ASK_EVERY;
    loop {
        // The sender lives as long as `health`.
        if away.wait_for(|away| *away).await.is_err() {
            return std::future::pending().await;
        }
        let began = Instant::now();
        loop {
            let every = match began.elapsed() > LONG {
                true => least.max(ASK_LATER),
                false => least,
            };
            // Cancel-safe: both only wait. Another request may find out first.
            tokio::select! {
                () = tokio::time::sleep(spread(every)) => {}
                _ = away.wait_for(|away| !*away) => {}
            }
            if !*away.borrow_and_update() {
                break;
            }
            ask(&clients).await;
        }
        let silent = health.silent().take();
        clients.returned(silent);
        tokio::time::sleep(NOTICE).await;
        tell_return();
        // One that comes and goes must not have everybody try all the time.
        let failures = health.failures.load(Ordering::Relaxed);
        let again = tokio::time::timeout(STEADY, away.wait_for(|away| *away)).await;
        let failed = again.is_ok() && health.failures.load(Ordering::Relaxed) > failures;
        least = match failed {
            true => (least * 2).min(STEADY),
            false => ASK_EVERY,
        };
    }
}

/// Any answer tells; the service that makes the request takes note of it.
async fn ask(clients: &Clients) {
    let request = Request::builder().method(Method::GET).uri(READY);
    let Ok(request) = request.body(kube::client::Body::empty()) else {
        return;
    };
    // Cancel-safe: a request that takes too long is dropped, and the next one has a connection of its own.
    let asked = tokio::time::timeout(PATIENCE, clients.heartbeat.send(request)).await;
    if asked.is_err() {
        clients.cut_heartbeats();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_away_from_the_first_failure_to_the_first_answer() {
        let health = Health::default();
        let mut away = health.away.subscribe();
        health.answered();
        assert!(!away.has_changed().unwrap());
        health.failed();
        health.was_silent();
        assert!(*away.borrow_and_update());
        assert!(health.silent().is_some());
        health.failed();
        assert!(!away.has_changed().unwrap());
        health.answered();
        assert!(!*away.borrow_and_update());
    }

    #[test]
    fn errors_of_the_server_are_no_answers() {
        assert!(!is_up(StatusCode::INTERNAL_SERVER_ERROR));
        assert!(!is_up(StatusCode::TOO_MANY_REQUESTS));
        assert!(is_up(StatusCode::FORBIDDEN) && is_up(StatusCode::OK));
    }
}
