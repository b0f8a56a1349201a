//! A probe as the manifest has it, in the form that asking and counting need.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

/// Which of a container's three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Whether the container has started. The other two wait for it.
    Startup,
    /// Whether the container is to be sent work.
    Readiness,
    /// Whether the container is to be ended.
    Liveness,
}

impl ProbeKind {
    /// In the order in which upstream begins them.
    pub(super) const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// The container's probe of this kind.
    pub(super) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// As upstream's events have it.
impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        })
    }
}

/// When a probe is asked, and how many answers make a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    pub(super) initial_delay: Duration,
    /// At least a second.
    pub(super) period: Duration,
    /// At least 1.
    pub(super) successes: u32,
    /// At least 1.
    pub(super) failures: u32,
}

impl Timing {
    /// With the defaults of the Kubernetes API (v1 `Probe`) where a field is not set.
    pub(super) fn of(probe: &Probe) -> Self {
        let count = |set: Option<i32>, default: u32| {
            set.and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .unwrap_or(default)
        };
        let delay = probe.initial_delay_seconds.unwrap_or(0).max(0);
        Self {
            initial_delay: Duration::from_secs(u64::from(delay.unsigned_abs())),
            period: Duration::from_secs(count(probe.period_seconds, 10).into()),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// How long one attempt may take: `timeoutSeconds`, 1 where it is not set.
pub(super) fn timeout(probe: &Probe) -> Duration {
    let seconds = probe.timeout_seconds.filter(|s| *s > 0).unwrap_or(1);
    Duration::from_secs(u64::from(seconds.unsigned_abs()))
}

/// One probe of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProbeKey {
    pub(super) container: Arc<str>,
    pub(super) kind: ProbeKind,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_has_the_defaults_of_the_api() {
        let seconds = Duration::from_secs;
        let timing = Timing::of(&Probe::default());
        assert_eq!(timing.initial_delay, Duration::ZERO);
        assert_eq!(timing.period, seconds(10));
        assert_eq!((timing.successes, timing.failures), (1, 3));
        assert_eq!(timeout(&Probe::default()), seconds(1));
        let set = Probe {
            initial_delay_seconds: Some(i32::MAX),
            period_seconds: Some(7),
            success_threshold: Some(2),
            failure_threshold: Some(5),
            timeout_seconds: Some(4),
            ..Probe::default()
        };
        let timing = Timing::of(&set);
        assert_eq!(timing.initial_delay, seconds(2_147_483_647));
        assert_eq!(timing.period, seconds(7));
        assert_eq!((timing.successes, timing.failures), (2, 5));
        assert_eq!(timeout(&set), seconds(4));
    }
}
