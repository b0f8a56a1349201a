//! The weight of all burstable pods together: it follows what they ask for in sum (upstream's QoS cgroups).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cgroups::{Cgroups, CgroupsError, resources};
use crate::errors::error_chain;
use crate::pod::{Pod, QosClass};
use crate::sources::Desired;

/// Looked at this often whatever happens (upstream's `periodicQOSCgroupUpdateInterval`): somebody else may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// And this often while it is not known where to write.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Tells the task that writes the weight. Dropped, it ends the task.
pub(super) struct QosShares {
    counted: Arc<Desired>,
    asked: watch::Sender<Option<i64>>,
}

impl QosShares {
    /// Spawns the task; it writes nothing before the first [`QosShares::follow`] of a complete set.
    pub(super) fn new(cgroups: Arc<Cgroups>) -> Self {
        let (asked, asks) = watch::channel(None);
        tokio::spawn(write_latest(cgroups, asks));
        Self {
            counted: Arc::default(),
            asked,
        }
    }

    /// Has the weight follow the desired pods, when they are others than before. An incomplete set, as at the start
    /// of the agent, would take weight from pods that run.
    pub(super) fn follow(&mut self, desired: &Arc<Desired>) {
        if !desired.ready || Arc::ptr_eq(&self.counted, desired) {
            return;
        }
        self.counted = desired.clone();
        let sum = Some(burstable_milli_cpu(desired.pods.values()));
        self.asked.send_if_modified(|asked| {
            let news = *asked != sum;
            *asked = sum;
            news
        });
    }
}

/// Writes the latest sum, one at a time, so that an older one never comes last.
async fn write_latest(cgroups: Arc<Cgroups>, mut asks: watch::Receiver<Option<i64>>) {
    let mut rest = LOOK_AGAIN;
    loop {
        // Cancel-safe: the channel keeps its news.
        tokio::select! {
            changed = asks.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(rest) => {}
        }
        let Some(sum) = *asks.borrow_and_update() else {
            continue;
        };
        rest = match cgroups.set_qos_shares(sum).await {
            Ok(()) => LOOK_AGAIN,
            Err(CgroupsError::DriverUnknown) => ASK_AGAIN,
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot set the weight of burstable pods"
                );
                LOOK_AGAIN
            }
        };
    }
}

/// Thousandths of a cpu that the burstable ones among `pods` ask for. A pod whose requests cannot be read counts
/// nothing; its own start reports why.
fn burstable_milli_cpu<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>) -> i64 {
    let burstable = pods.filter(|pod| resources::qos_class(pod) == QosClass::Burstable);
    let milli = burstable.filter_map(|pod| {
        let requests = resources::pod_requests(pod).ok()?;
        Some(requests.get("cpu")?.milli())
    });
    milli.fold(0, i64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: serde_json::Value) -> Arc<Pod> {
        let pod = serde_json::json!({
            "spec": {"containers": [{"name": "c", "resources": resources}]}
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn burstable_pods_alone_count() {
        let pods = [
            pod(serde_json::json!({"requests": {"cpu": "250m"}})),
            pod(serde_json::json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Mi"}})),
            pod(serde_json::json!({"requests": {"memory": "1Mi"}})),
            pod(serde_json::json!({"limits": {"cpu": "4", "memory": "1Mi"}})),
            pod(serde_json::json!({})),
            pod(serde_json::json!({"requests": {"cpu": "1x", "memory": "1Mi"}})),
        ];
        assert_eq!(burstable_milli_cpu(pods.iter()), 1250);
        assert_eq!(burstable_milli_cpu([].iter()), 0);
    }
}
