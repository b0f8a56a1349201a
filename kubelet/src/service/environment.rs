//! The variables in which systemd tells a service of itself, taken out of the environment: a program that the agent
//! starts must not speak for it.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use super::notify::Manager;
use super::{Service, ServiceError};

/// Where messages go (sd_notify(3)).
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long the manager goes without a ping (sd_watchdog_enabled(3)), microseconds.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Whom it expects the pings from.
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Where the service's credentials are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The shortest watchdog there may be, exclusive (upstream's `minimalNotifyInterval`).
const SHORTEST: Duration = Duration::from_secs(1);

/// What systemd tells the service of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NOTIFY_SOCKET`.
    pub socket: Option<OsString>,
    /// `WATCHDOG_USEC`, where it is meant for this process.
    pub watchdog_usec: Option<String>,
    /// `CREDENTIALS_DIRECTORY`: where the service's credentials are (systemd.exec(5), `LoadCredential=`).
    pub credentials: Option<OsString>,
}

impl Environment {
    /// Takes the variables out of the process's environment. To be called first in `main`: once there is a second thread,
    /// the variables are read, and stay.
    #[must_use]
    pub fn take() -> Self {
        let for_us = match std::env::var(WATCHDOG_PID) {
            Ok(pid) => pid == std::process::id().to_string(),
            Err(_) => true,
        };
        let text = std::env::var_os(WATCHDOG).map(|text| text.to_string_lossy().into_owned());
        let taken = Self {
            socket: std::env::var_os(SOCKET).filter(|path| !path.is_empty()),
            watchdog_usec: text.filter(|text| for_us && !text.is_empty()),
            credentials: std::env::var_os(CREDENTIALS).filter(|path| !path.is_empty()),
        };
        if is_single_threaded() {
            for name in [SOCKET, WATCHDOG, WATCHDOG_PID, CREDENTIALS] {
                remove(name);
            }
        }
        taken
    }

    /// A service that answers to no watchdog: to tell the manager why it does not start.
    #[must_use]
    pub fn service_without_watchdog(&self) -> Service {
        let without = Self {
            watchdog_usec: None,
            ..self.clone()
        };
        Service::of(&without).unwrap_or_default()
    }

    pub(super) fn manager(&self) -> Option<Manager> {
        self.socket.as_deref().map(Manager::at)
    }

    /// How long the manager goes without a ping.
    pub(super) fn watchdog(&self) -> Result<Option<Duration>, ServiceError> {
        let Some(text) = &self.watchdog_usec else {
            return Ok(None);
        };
        let micros = text.parse::<u64>();
        let micros = micros.map_err(|_| ServiceError::WatchdogUnreadable(text.clone()))?;
        match Duration::from_micros(micros) {
            Duration::ZERO => Ok(None),
            span if span > SHORTEST => Ok(Some(span)),
            _ => Err(ServiceError::WatchdogTooShort(text.clone())),
        }
    }
}

fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

fn remove(name: &(impl AsRef<OsStr> + ?Sized)) {
    #[expect(
        unsafe_code,
        reason = "unsafe only while another thread may use the environment; the caller has seen that this one is alone, and a second one can only come from it"
    )]
    unsafe {
        std::env::remove_var(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watchdog(text: &str) -> Result<Option<Duration>, String> {
        let environment = Environment {
            watchdog_usec: Some(text.to_owned()),
            ..Environment::default()
        };
        environment.watchdog().map_err(|error| error.to_string())
    }

    #[test]
    fn a_watchdog_is_longer_than_a_second() {
        assert_eq!(watchdog("60000000"), Ok(Some(Duration::from_secs(60))));
        assert_eq!(
            watchdog("1000001"),
            Ok(Some(Duration::from_micros(1_000_001)))
        );
        assert_eq!(watchdog("0"), Ok(None));
        assert_eq!(Environment::default().watchdog().unwrap(), None);
        assert_eq!(
            watchdog("1000000"),
            Err("configure watchdog timeout too small: WATCHDOG_USEC is \"1000000\"; WatchdogSec of the unit must be more than 1s".to_owned())
        );
        assert_eq!(
            watchdog("soon"),
            Err(
                "configure watchdog: WATCHDOG_USEC is \"soon\", not a number of microseconds"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_process_with_threads_keeps_its_environment() {
        // The test runner has threads.
        assert!(!is_single_threaded());
    }
}
