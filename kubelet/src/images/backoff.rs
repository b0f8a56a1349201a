//! How long a failed pull is not tried again.
//!
//! Ten seconds, doubling to five minutes, for each pod and image; forgotten after ten minutes without a failure.
//! Source of the numbers: the Kubernetes documentation, "Images", `ImagePullBackOff`.

use std::collections::HashMap;
use std::time::Duration;

use crate::pod::PodUid;

/// The first wait.
pub(super) const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait.
pub(super) const MAX: Duration = Duration::from_secs(300);
/// Without a failure for this long, the next one counts as the first.
const FORGET_AFTER: Duration = Duration::from_secs(2 * MAX.as_secs());

#[derive(Debug)]
struct Entry {
    wait: Duration,
    failed_at: Duration,
    message: Option<String>,
}

/// The failed pulls, by pod and image. Times are monotonic, from any fixed point.
#[derive(Debug, Default)]
pub(super) struct PullBackoff {
    entries: HashMap<(PodUid, String), Entry>,
}

impl PullBackoff {
    /// The rest of the wait, with what the last pull failed with, or `None` when it may be tried.
    #[must_use]
    pub(super) fn waiting(
        &self,
        pod: &PodUid,
        image: &str,
        now: Duration,
    ) -> Option<(Duration, Option<&str>)> {
        let entry = self.entries.get(&(pod.clone(), image.to_owned()))?;
        let since = now.saturating_sub(entry.failed_at);
        (since < entry.wait).then(|| (entry.wait - since, entry.message.as_deref()))
    }

    /// A pull begins: what the last one failed with is of no more interest.
    pub(super) fn begin(&mut self, pod: &PodUid, image: &str) {
        if let Some(entry) = self.entries.get_mut(&(pod.clone(), image.to_owned())) {
            entry.message = None;
        }
    }

    /// A pull failed with `message`. Returns how long to wait.
    pub(super) fn failed(
        &mut self,
        pod: &PodUid,
        image: &str,
        message: String,
        now: Duration,
    ) -> Duration {
        let key = (pod.clone(), image.to_owned());
        let wait = match self.entries.get(&key) {
            Some(entry) if now.saturating_sub(entry.failed_at) <= FORGET_AFTER => {
                (entry.wait * 2).min(MAX)
            }
            _ => INITIAL,
        };
        let entry = Entry {
            wait,
            failed_at: now,
            message: Some(message),
        };
        self.entries.insert(key, entry);
        wait
    }

    /// Drops what is too old to matter.
    pub(super) fn sweep(&mut self, now: Duration) {
        self.entries
            .retain(|_, entry| now.saturating_sub(entry.failed_at) <= FORGET_AFTER);
    }

    /// Drops all of a pod that is gone.
    pub(super) fn forget(&mut self, pod: &PodUid) {
        self.entries.retain(|(uid, _), _| uid != pod);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_wait_doubles_from_ten_seconds_to_five_minutes_and_is_forgotten() {
        let uid = PodUid::parse("u").unwrap();
        let mut backoff = PullBackoff::default();
        let mut now = secs(1000);
        for wait in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(backoff.waiting(&uid, "i", now), None);
            assert_eq!(backoff.failed(&uid, "i", "no".into(), now), secs(wait));
            assert_eq!(
                backoff.waiting(&uid, "i", now + secs(wait - 1)),
                Some((secs(1), Some("no")))
            );
            now += secs(wait);
        }
        now += secs(301);
        assert_eq!(backoff.failed(&uid, "i", "no".into(), now), INITIAL);
    }

    #[test]
    fn pods_and_images_wait_by_themselves() {
        let (a, b) = (PodUid::parse("a").unwrap(), PodUid::parse("b").unwrap());
        let mut backoff = PullBackoff::default();
        backoff.failed(&a, "i", "no".into(), secs(0));
        assert_eq!(backoff.waiting(&a, "other", secs(1)), None);
        assert_eq!(backoff.waiting(&b, "i", secs(1)), None);
        backoff.begin(&a, "i");
        assert_eq!(backoff.waiting(&a, "i", secs(1)), Some((secs(9), None)));
        backoff.forget(&a);
        assert_eq!(backoff.waiting(&a, "i", secs(1)), None);
        backoff.failed(&b, "i", "no".into(), secs(0));
        backoff.sweep(secs(601));
        assert!(backoff.entries.is_empty());
    }
}
