//! Looks at what pods with limits take of the node's disk: as often as that costs next to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::limits::{self, Limited, Passed};
use super::signals::Layout;
use super::usage::Usage;
use crate::admission::is_critical;
use crate::events::About;
use crate::pod::{Pod, PodUid};
use crate::stats::Stats;

/// A look at a pod's files may take such a part of the time: one in so many.
const PART: u32 = 1000;
/// The longest time between two looks. (Upstream looks at volumes each `volumeStatsAggPeriod`, a minute.)
const MOST: Duration = Duration::from_secs(60);
/// Reason of the event of a pod that has passed a limit and is not evicted.
const STAYS: &str = "LocalStorageLimitExceeded";

/// When each pod with a limit is looked at next.
#[derive(Debug, Default)]
pub(super) struct LocalStorage(BTreeMap<PodUid, Next>);

#[derive(Debug)]
struct Next {
    at: Duration,
    /// It has been said that the pod, which is never evicted, has passed a limit.
    said: bool,
}

impl LocalStorage {
    /// The pods that have passed a limit and may be evicted for it.
    pub(super) async fn look(
        &mut self,
        stats: &Arc<Stats>,
        pods: &BTreeMap<PodUid, Arc<Pod>>,
        layout: Layout,
        now: Duration,
    ) -> Vec<(Arc<Pod>, Passed)> {
        self.0.retain(|uid, _| pods.contains_key(uid));
        let mut all = Vec::new();
        for (uid, pod) in pods {
            let limited = Limited::of(pod);
            if !limited.any() {
                continue;
            }
            let stays = is_critical(pod);
            let next = self.0.entry(uid.clone()).or_insert(Next {
                at: now,
                said: false,
            });
            if now < next.at {
                continue;
            }
            let disks = stats.pod_disks(pod, uid, limited.containers).await;
            let Ok(Some(disks)) = disks else {
                continue;
            };
            // Nothing follows for one that stays: it need not be looked at so often.
            let pause = match stays {
                true => MOST,
                false => (disks.took * PART).min(MOST),
            };
            next.at = now + pause;
            let passed = limits::passed(pod, &Usage::of_disks(&disks), layout);
            match passed {
                Some(passed) if stays => next.tell(pod, &passed),
                Some(passed) => all.push((pod.clone(), passed)),
                None => next.said = false,
            }
        }
        all
    }
}

impl Next {
    fn tell(&mut self, pod: &Pod, passed: &Passed) {
        if !std::mem::replace(&mut self.said, true) {
            let why = "The pod stays: static and critical pods are not evicted.";
            let message = format!("{}{why}", passed.message);
            About::pod(pod).warning(STAYS, &message);
        }
    }
}
