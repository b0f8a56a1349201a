//! Which pods end when: those of lower priority first, each group within a window of its own. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{FeatureGates, ShutdownConfig};
use crate::pod::{self, Pod};

/// `spec.priority` from which on a pod is critical (`SystemCriticalPriority`).
pub const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// What the API server's admission makes of these names of classes.
const SYSTEM_CLASSES: [(&str, i32); 2] = [
    ("system-cluster-critical", CRITICAL_PRIORITY),
    ("system-node-critical", CRITICAL_PRIORITY + 1000),
];

/// The priority of `pod`. A static pod has met no admission that would have looked its class up: the two that every
/// cluster has are known here.
#[must_use]
pub fn priority_of(pod: &Pod) -> i32 {
    let spec = pod::spec(pod);
    let by_class = || {
        let name = spec.priority_class_name.as_deref()?;
        let mut classes = SYSTEM_CLASSES.into_iter();
        classes.find(|(class, _)| *class == name).map(|(_, p)| p)
    };
    spec.priority.or_else(by_class).unwrap_or(0)
}

/// The time that pods of one group of priorities have to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The lowest priority in the group.
    pub priority: i32,
    /// How long it lasts at most.
    pub period: Duration,
}

/// One window or more, by ascending priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows(Arc<[Window]>);

impl Windows {
    /// Those of `config`; none where it asks for no graceful shutdown.
    #[must_use]
    pub fn of_config(config: &ShutdownConfig, gates: &FeatureGates) -> Option<Self> {
        if !gates.enabled("GracefulNodeShutdown") {
            return None;
        }
        let by_priority = config.by_priority.iter();
        let mut windows: Vec<Window> = by_priority
            .map(|&(priority, period)| Window { priority, period })
            .collect();
        if windows.is_empty() || !gates.enabled("GracefulNodeShutdownBasedOnPodPriority") {
            windows = of_two_periods(config)?.to_vec();
        }
        windows.sort_by_key(|window| window.priority);
        Some(Self(windows.into()))
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.0.iter().map(|window| window.period).sum()
    }

    /// In which window pods of `priority` end: the last one whose own is not above it, or the first.
    #[must_use]
    pub fn of_priority(&self, priority: i32) -> usize {
        let not_above = self.0.partition_point(|w| w.priority <= priority);
        not_above.saturating_sub(1)
    }

    /// The one at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Window> {
        self.0.get(index).copied()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// As much shorter, all alike, as is needed for `available` to be enough.
    #[must_use]
    pub fn within(&self, available: Duration) -> Self {
        let total = self.total();
        if total <= available || total.is_zero() {
            return self.clone();
        }
        let share = available.as_secs_f64() / total.as_secs_f64();
        let windows = self.0.iter().map(|window| Window {
            period: window.period.mul_f64(share),
            ..*window
        });
        Self(windows.collect())
    }
}

/// `shutdownGracePeriod`, of which `shutdownGracePeriodCriticalPods` are for critical pods; whole seconds, as upstream
/// counts them.
fn of_two_periods(config: &ShutdownConfig) -> Option<[Window; 2]> {
    let total = config.grace_period;
    let regular = total.checked_sub(config.critical_pods)?;
    let whole = |period: Duration| Duration::from_secs(period.as_secs());
    (!total.is_zero()).then(|| {
        [
            Window {
                priority: 0,
                period: whole(regular),
            },
            Window {
                priority: CRITICAL_PRIORITY,
                period: whole(config.critical_pods),
            },
        ]
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn config(total: u64, critical: u64, by_priority: &[(i32, u64)]) -> ShutdownConfig {
        let by_priority = by_priority.iter();
        ShutdownConfig {
            grace_period: Duration::from_millis(total),
            critical_pods: Duration::from_millis(critical),
            by_priority: by_priority
                .map(|(p, s)| (*p, Duration::from_secs(*s)))
                .collect(),
        }
    }

    fn windows(config: &ShutdownConfig, gates: &[(&str, bool)]) -> Option<Vec<(i32, u64)>> {
        let gates = gates.iter().map(|(name, on)| ((*name).to_owned(), *on));
        let gates = FeatureGates::resolve(&gates.collect()).unwrap();
        let windows = Windows::of_config(config, &gates)?;
        let list = windows.0.iter();
        Some(list.map(|w| (w.priority, w.period.as_secs())).collect())
    }

    #[test]
    fn one_period_is_two_windows() {
        let both = windows(&config(30_000, 10_000, &[]), &[]);
        assert_eq!(both, Some(vec![(0, 20), (CRITICAL_PRIORITY, 10)]));
        let fractions = windows(&config(30_900, 1_500, &[]), &[]);
        assert_eq!(fractions, Some(vec![(0, 29), (CRITICAL_PRIORITY, 1)]));
        let all_critical = windows(&config(10_000, 10_000, &[]), &[]);
        assert_eq!(all_critical, Some(vec![(0, 0), (CRITICAL_PRIORITY, 10)]));
        assert_eq!(windows(&config(0, 0, &[]), &[]), None);
    }

    #[test]
    fn a_list_of_priorities_is_put_in_order() {
        let list = config(0, 0, &[(100, 10), (0, 60), (100_000, 5)]);
        let in_order = vec![(0, 60), (100, 10), (100_000, 5)];
        assert_eq!(windows(&list, &[]), Some(in_order));
    }

    #[test]
    fn gates_switch_it_off() {
        let two = config(30_000, 10_000, &[]);
        let list = config(0, 0, &[(0, 60)]);
        let by_priority = ("GracefulNodeShutdownBasedOnPodPriority", false);
        let others = [
            ("GracefulNodeShutdown", false),
            ("WindowsGracefulNodeShutdown", false),
        ];
        let all = [by_priority, others[0], others[1]];
        assert_eq!(windows(&two, &all), None);
        assert_eq!(windows(&list, &[by_priority]), None);
        assert!(windows(&two, &[by_priority]).is_some());
    }

    #[test]
    fn a_priority_between_two_windows_is_in_the_lower_one() {
        let list = config(0, 0, &[(10, 1), (100, 1), (1000, 1)]);
        let windows = Windows::of_config(&list, &FeatureGates::default()).unwrap();
        let of = |priority| windows.of_priority(priority);
        assert_eq!([of(-5), of(9), of(10), of(99)], [0, 0, 0, 0]);
        assert_eq!([of(100), of(999), of(1000), of(i32::MAX)], [1, 1, 2, 2]);
    }

    #[test]
    fn windows_shrink_to_the_time_there_is() {
        let two = config(30_000, 10_000, &[]);
        let windows = Windows::of_config(&two, &FeatureGates::default()).unwrap();
        let periods = |available| {
            let shrunk = windows.within(Duration::from_secs(available));
            [0, 1].map(|index| shrunk.get(index).unwrap().period.as_millis())
        };
        assert_eq!(periods(30), [20_000, 10_000]);
        assert_eq!(periods(300), [20_000, 10_000]);
        assert_eq!(periods(6), [4_000, 2_000]);
        assert_eq!(periods(0), [0, 0]);
    }

    #[test]
    fn a_static_pod_has_the_priority_of_a_system_class() {
        let priority = |priority, class: Option<&str>| {
            priority_of(&Pod {
                spec: Some(PodSpec {
                    priority,
                    priority_class_name: class.map(str::to_owned),
                    ..PodSpec::default()
                }),
                ..Pod::default()
            })
        };
        assert_eq!(priority(None, None), 0);
        assert_eq!(priority(None, Some("high")), 0);
        assert_eq!(priority(None, Some("system-node-critical")), 2_000_001_000);
        assert_eq!(
            priority(None, Some("system-cluster-critical")),
            2_000_000_000
        );
        assert_eq!(priority(Some(7), Some("system-node-critical")), 7);
    }
}
