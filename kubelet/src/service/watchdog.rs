//! Pings to the service manager, as long as the agent's loops come round.
//!
//! One thread, which wakes at each half of `WatchdogSec` (as upstream), asks the health checks and has the threads of the
//! tasks run a task that does nothing. What hangs is named in the log and the status before the manager acts on the
//! silence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;

use super::Service;
use crate::clock::Clock;
use crate::config::GoDuration;
use crate::server::{HealthChecks, Silence};

/// Bytes of stack.
const STACK_BYTES: usize = 128 * 1024;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to ping the manager of `service`; nothing where it has no watchdog. To be called in the runtime whose
    /// threads are watched.
    #[must_use]
    pub fn begin(service: &Service, checks: HealthChecks, clock: Clock) -> Option<Self> {
        let pause = service.inner.watchdog.filter(|_| service.has_manager())? / 2;
        let (stop, stopped) = channel();
        let mut rounds = Rounds::new(service.clone(), checks, clock);
        let tasks = Handle::current();
        let log = tracing::dispatcher::get_default(Clone::clone);
        let body = move || {
            let _log = tracing::dispatcher::set_default(&log);
            loop {
                let pinging = rounds.pinging.clone();
                let number = rounds.begin();
                tasks.spawn(async move { pinging.store(number, Ordering::Release) });
                match stopped.recv_timeout(pause) {
                    Err(RecvTimeoutError::Timeout) => rounds.end(),
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(body);
        match thread {
            Ok(thread) => Some(Self {
                stop: Some(stop),
                thread: Some(thread),
            }),
            Err(error) => {
                // The manager will end an agent that cannot have another thread, and rightly.
                tracing::error!(%error, "no thread for the watchdog");
                None
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It sleeps on the other end of what was just dropped.
            let _ = thread.join();
        }
    }
}

/// One round each half of the manager's patience.
struct Rounds {
    service: Service,
    checks: HealthChecks,
    clock: Clock,
    /// The round that began last.
    number: u64,
    /// The last round whose task was run.
    pinging: Arc<AtomicU64>,
    /// When the first round began whose task was not.
    since: Option<Duration>,
    /// What the log was last told of.
    said: Option<&'static str>,
}

impl Rounds {
    fn new(service: Service, checks: HealthChecks, clock: Clock) -> Self {
        Self {
            service,
            checks,
            clock,
            number: 0,
            pinging: Arc::default(),
            since: None,
            said: None,
        }
    }

    fn begin(&mut self) -> u64 {
        self.number += 1;
        if self.since.is_none() {
            self.since = Some(self.clock.monotonic());
        }
        self.number
    }

    /// Pings, or names what hangs.
    fn end(&mut self) {
        match self.silence() {
            None => {
                if let Some(check) = self.said.take() {
                    tracing::info!(check, "the watchdog is fed again");
                }
                self.service.set_hang(None);
                self.service.tell("WATCHDOG=1");
            }
            Some(silence) => self.name(&silence),
        }
    }

    fn silence(&mut self) -> Option<Silence> {
        if self.pinging.load(Ordering::Acquire) < self.number {
            let since = self.since.unwrap_or_default();
            return Some(Silence {
                check: "ping",
                what: "the threads that run the agent's tasks",
                lasts: self.clock.monotonic().saturating_sub(since),
            });
        }
        self.since = None;
        self.checks.silence()
    }

    fn name(&mut self, silence: &Silence) {
        let Silence { check, what, lasts } = silence;
        let seconds = GoDuration::from(Duration::from_secs(lasts.as_secs()));
        let since = self.clock.wall() - *lasts;
        let text = format!(
            "{check}: {what} have not come round for {seconds}, since {since:.0}; the service manager ends the agent, pods go on running"
        );
        self.service.status(&text);
        self.service.set_hang(Some(text.clone()));
        if self.said != Some(check) {
            self.said = Some(check);
            tracing::error!(
                reason = "WatchdogHang",
                check,
                "the watchdog is not fed: {text}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::super::Environment;
    use super::*;
    use crate::server::Heartbeat;

    struct Fake {
        manager: UnixDatagram,
        service: Service,
        _directory: tempfile::TempDir,
    }

    impl Fake {
        fn new(watchdog: Duration) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("notify");
            let manager = UnixDatagram::bind(&path).unwrap();
            let environment = Environment {
                socket: Some(path.into_os_string()),
                watchdog_usec: Some(watchdog.as_micros().to_string()),
                ..Environment::default()
            };
            Self {
                manager,
                service: Service::of(&environment).unwrap(),
                _directory: directory,
            }
        }

        /// All messages so far.
        fn told(&self) -> Vec<String> {
            self.manager.set_nonblocking(true).unwrap();
            let mut buffer = [0; 4096];
            let mut told = Vec::new();
            while let Ok(length) = self.manager.recv(&mut buffer) {
                told.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
            told
        }

        fn next(&self, within: Duration) -> Option<String> {
            self.manager.set_nonblocking(false).unwrap();
            self.manager.set_read_timeout(Some(within)).unwrap();
            let mut buffer = [0; 4096];
            let length = self.manager.recv(&mut buffer).ok()?;
            Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_named_and_the_pings_end() {
        let fake = Fake::new(Duration::from_secs(60));
        let (clock, _) = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap());
        let heart = Heartbeat::new(clock.clone());
        let checks = HealthChecks::new(heart.clone(), Duration::from_secs(60));
        let mut rounds = Rounds::new(fake.service.clone(), checks, clock);
        let mut round = async |span: u64| {
            let number = rounds.begin();
            rounds.pinging.store(number, Ordering::Release);
            tokio::time::advance(Duration::from_secs(span)).await;
            rounds.end();
        };
        heart.beat();
        round(30).await;
        assert_eq!(fake.told(), ["WATCHDOG=1"]);
        for _ in 0..9 {
            round(30).await;
        }
        assert_eq!(fake.told(), ["WATCHDOG=1"; 9], "five minutes are borne");
        round(30).await;
        let named = "syncloop: the rounds of the registry of pods have not come round for 5m30s, since 2026-01-02T03:04:05Z; the service manager ends the agent, pods go on running";
        assert_eq!(fake.told(), [format!("STATUS={named}")]);
        assert_eq!(fake.service.hang().as_deref(), Some(named));
        heart.beat();
        round(30).await;
        assert_eq!(fake.told(), ["WATCHDOG=1"]);
        assert_eq!(fake.service.hang(), None);
    }

    #[test]
    fn tasks_that_are_not_run_are_named_and_the_pings_end() {
        let fake = Fake::new(Duration::from_millis(1200));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let clock = Clock::system();
        let checks = HealthChecks::new(Heartbeat::new(clock.clone()), Duration::from_secs(60));
        let watchdog = runtime.block_on(async { Watchdog::begin(&fake.service, checks, clock) });
        let within = Duration::from_secs(20);
        assert_eq!(fake.next(within).as_deref(), Some("WATCHDOG=1"));
        let (go_on, held) = channel::<()>();
        runtime.spawn(async move {
            // Hangs: the one thread there is.
            let _ = held.recv();
        });
        let mut named = fake.next(within).unwrap();
        while named == "WATCHDOG=1" {
            named = fake.next(within).unwrap();
        }
        assert!(
            named.starts_with("STATUS=ping: the threads that run the agent's tasks have not"),
            "{named}"
        );
        drop(go_on);
        let mut next = fake.next(within).unwrap();
        while next.starts_with("STATUS=") {
            next = fake.next(within).unwrap();
        }
        assert_eq!(next, "WATCHDOG=1");
        drop(watchdog);
        fake.told();
        assert_eq!(
            fake.next(Duration::from_secs(2)),
            None,
            "the thread has ended"
        );
    }

    #[tokio::test]
    async fn without_a_watchdog_there_is_no_thread() {
        let clock = Clock::system();
        let checks = HealthChecks::new(Heartbeat::new(clock.clone()), Duration::from_secs(60));
        assert!(Watchdog::begin(&Service::default(), checks, clock).is_none());
    }
}
