//! Whether the agent is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::text;
use crate::clock::Clock;

/// The shortest time without a beat that is too long (upstream's `SyncLoopHealthCheck`).
const LEAST_SILENCE: Duration = Duration::from_secs(5 * 60);

/// The pulse of the agent's main loop. Cheap to clone; the loop beats, the checks listen.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    clock: Clock,
    /// Milliseconds of the monotonic clock, plus one; 0 before the first beat.
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// A pulse that has not beaten yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            last: Arc::default(),
        }
    }

    /// The loop came round.
    pub fn beat(&self) {
        let millis = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX - 1);
        self.last.store(millis + 1, Ordering::Relaxed);
    }

    /// Time since the last beat; none before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.clock
                .monotonic()
                .saturating_sub(Duration::from_millis(last)),
        )
    }
}

/// What has not been heard of for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The check that fails.
    pub check: &'static str,
    /// What hangs, in the plural.
    pub what: &'static str,
    /// Since when.
    pub lasts: Duration,
}

/// The checks behind `/healthz`.
#[derive(Clone, Debug)]
pub struct HealthChecks {
    sync_loop: Heartbeat,
    longest_silence: Duration,
}

impl HealthChecks {
    /// The names of the checks, in the order they are told.
    pub const NAMES: [&'static str; 3] = ["ping", "log", "syncloop"];

    /// Checks of an agent whose loop beats `sync_loop` at least each `sync_every` (`syncFrequency`).
    #[must_use]
    pub fn new(sync_loop: Heartbeat, sync_every: Duration) -> Self {
        Self {
            sync_loop,
            longest_silence: (sync_every * 2).max(LEAST_SILENCE),
        }
    }

    /// Runs one check.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check(&self, name: &str) -> Result<(), String> {
        match (name, self.sync_loop.age()) {
            ("syncloop", Some(age)) if age > self.longest_silence => {
                Err("sync Loop took longer than expected".to_owned())
            }
            // "ping" is being here to answer, and "log" cannot fail: a line of log is never waited for.
            _ => Ok(()),
        }
    }

    /// Runs all checks.
    ///
    /// # Errors
    /// With the first that failed and what is wrong.
    pub fn all(&self) -> Result<(), String> {
        Self::NAMES
            .iter()
            .try_for_each(|name| self.check(name).map_err(|why| format!("{name}: {why}")))
    }

    /// What hangs, when a check fails: what the systemd watchdog asks before each ping.
    #[must_use]
    pub fn silence(&self) -> Option<Silence> {
        let failed = Self::NAMES
            .into_iter()
            .find(|name| self.check(name).is_err())?;
        Some(Silence {
            check: failed,
            what: "the rounds of the registry of pods",
            lasts: self.sync_loop.age().unwrap_or_default(),
        })
    }
}

/// `/healthz`, with `?verbose` and `?exclude=NAME`.
pub(super) async fn root(
    State(checks): State<Arc<HealthChecks>>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let parameters = || {
        query
            .split('&')
            .map(|part| part.split_once('=').unwrap_or((part, "")))
    };
    let verbose = parameters().any(|(name, _)| name == "verbose");
    let excluded: Vec<&str> = parameters()
        .filter(|(name, _)| *name == "exclude")
        .map(|(_, value)| value)
        .collect();
    let mut report = String::new();
    let mut failed = false;
    for name in HealthChecks::NAMES {
        let line = if excluded.contains(&name) {
            format!("[+]{name} excluded: ok\n")
        } else if let Err(why) = checks.check(name) {
            failed = true;
            tracing::warn!(check = name, why, "Health check failed");
            // As upstream: who may see more asks for the check by its name.
            format!("[-]{name} failed: reason withheld\n")
        } else {
            format!("[+]{name} ok\n")
        };
        report.push_str(&line);
    }
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !HealthChecks::NAMES.contains(name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        report.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            unknown.join(",")
        ));
    }
    if failed {
        report.push_str("healthz check failed\n");
        return text(StatusCode::INTERNAL_SERVER_ERROR, report);
    }
    if verbose {
        report.push_str("healthz check passed\n");
        return text(StatusCode::OK, report);
    }
    text(StatusCode::OK, "ok")
}

/// `/healthz/NAME`.
pub(super) async fn single(
    name: &'static str,
    State(checks): State<Arc<HealthChecks>>,
) -> Response {
    match checks.check(name) {
        Ok(()) => text(StatusCode::OK, "ok"),
        Err(why) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("internal server error: {why}\n"),
        ),
    }
}
