//! How long pods of the API server take from their creation until they are seen to run: the pod start-up latency of
//! Kubernetes' service level (SIG Scalability, `slos/pod_startup_latency.md`), as far as the node goes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::kubelet;

/// Pods that have not been seen to run, by UID, with the time that their images took to be pulled.
#[derive(Debug)]
pub struct Startups(Mutex<BTreeMap<Box<str>, Duration>>);

/// The pods on their way in this process.
#[must_use]
pub fn startups() -> &'static Startups {
    static STARTUPS: Startups = Startups(Mutex::new(BTreeMap::new()));
    &STARTUPS
}

/// A pod that is seen to run at the API server.
#[derive(Clone, Copy, Debug)]
pub struct SeenRunning {
    /// Since it was created.
    pub took: Duration,
    /// For how long its init containers ran.
    pub init: Duration,
    /// Whether it has volumes that somebody has to bring first: the service level is not about such pods.
    pub stateful: bool,
    /// Whether it has a network of its own.
    pub own_network: bool,
}

impl Startups {
    /// A pod has come that nobody has begun with.
    pub fn begin(&self, uid: &str) {
        self.lock().entry(uid.into()).or_default();
    }

    /// An image of the pod took so long to be pulled.
    pub fn pulled(&self, uid: &str, took: Duration) {
        if let Some(pulls) = self.lock().get_mut(uid) {
            *pulls = pulls.saturating_add(took);
        }
    }

    /// Whether the pod is on its way.
    #[must_use]
    pub fn is_on_its_way(&self, uid: &str) -> bool {
        self.lock().contains_key(uid)
    }

    /// The pod is seen to run; counts once.
    pub fn running(&self, uid: &str, seen: SeenRunning) {
        let Some(pulls) = self.lock().remove(uid) else {
            return;
        };
        kubelet().pod_start_total.observe(&[], seen.took);
        if seen.stateful {
            return;
        }
        let own = seen.took.saturating_sub(pulls).saturating_sub(seen.init);
        kubelet().pod_start_sli.observe(&[], own);
        if seen.own_network {
            kubelet().network_pod_started(own);
        }
    }

    /// The pod has ended, or gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Only these are still there.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| is_there(uid));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Duration>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Other tests of the process count too: only what is sure to rise is looked at.
    #[test]
    fn a_pod_counts_once_and_without_its_pulls() {
        let startups = startups();
        let second = Duration::from_secs(1);
        let seen = SeenRunning {
            took: second * 9,
            init: second,
            stateful: false,
            own_network: true,
        };
        let totals = || kubelet().pod_start_total.count(&[]);
        let before = totals();
        startups.running("started-before-the-agent", seen);
        startups.begin("new");
        startups.begin("new");
        startups.pulled("new", second * 2);
        startups.pulled("unknown", second * 2);
        assert!(startups.is_on_its_way("new") && !startups.is_on_its_way("unknown"));
        startups.running("new", seen);
        assert!(totals() > before);
        assert!(!startups.is_on_its_way("new"));
        startups.begin("gone");
        startups.forget("gone");
        startups.begin("lost");
        startups.retain(|uid| uid != "lost");
        assert!(!startups.is_on_its_way("gone") && !startups.is_on_its_way("lost"));
    }
}
