//! The levels of the QoS classes follow what their pods ask for in sum (upstream's QoS cgroups): the weight of all
//! burstable pods together, and where it is configured what is kept of memory for whom.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cgroups::{Cgroups, CgroupsError, ClassRequests, resources};
use crate::errors::error_chain;
use crate::pod::{Pod, QosClass};
use crate::sources::Desired;

/// Looked at this often whatever happens (upstream's `periodicQOSCgroupUpdateInterval`): somebody else may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// And this often while it is not known where to write.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Tells the task that writes to the levels. Dropped, it ends the task.
pub(super) struct QosShares {
    counted: Arc<Desired>,
    asked: watch::Sender<Option<ClassRequests>>,
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

    /// Has the levels follow the desired pods, when they are others than before. An incomplete set, as at the start
    /// of the agent, would take weight from pods that run.
    pub(super) fn follow(&mut self, desired: &Arc<Desired>) {
        if !desired.ready || Arc::ptr_eq(&self.counted, desired) {
            return;
        }
        self.counted = desired.clone();
        let sum = Some(class_requests(desired.pods.values()));
        self.asked.send_if_modified(|asked| {
            let news = *asked != sum;
            *asked = sum;
            news
        });
    }
}

/// Writes the latest sum, one at a time, so that an older one never comes last.
async fn write_latest(cgroups: Arc<Cgroups>, mut asks: watch::Receiver<Option<ClassRequests>>) {
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
        rest = match cgroups.set_classes(&sum).await {
            Ok(()) => LOOK_AGAIN,
            Err(CgroupsError::DriverUnknown) => ASK_AGAIN,
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot set the cgroups of the QoS classes"
                );
                LOOK_AGAIN
            }
        };
    }
}

/// What pods ask for by class. A pod whose requests cannot be read counts nothing; its own start reports why.
fn class_requests<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>) -> ClassRequests {
    let mut sums = ClassRequests::default();
    for pod in pods {
        let class = resources::qos_class(pod);
        if class == QosClass::BestEffort {
            continue;
        }
        let Ok(requests) = resources::pod_requests(pod) else {
            continue;
        };
        let memory = requests.get("memory").map_or(0, |amount| amount.value());
        let add = |sum: &mut i64, amount| *sum = sum.saturating_add(amount);
        if class == QosClass::Guaranteed {
            add(&mut sums.guaranteed_memory, memory);
        } else {
            add(&mut sums.burstable_memory, memory);
            let cpu = requests.get("cpu").map_or(0, |amount| amount.milli());
            add(&mut sums.burstable_cpu_milli, cpu);
        }
    }
    sums
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
    fn pods_count_by_class() {
        let pods = [
            pod(serde_json::json!({"requests": {"cpu": "250m"}})),
            pod(serde_json::json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Mi"}})),
            pod(serde_json::json!({"requests": {"memory": "1Mi"}})),
            pod(serde_json::json!({"limits": {"cpu": "4", "memory": "4Mi"}})),
            pod(serde_json::json!({})),
            pod(serde_json::json!({"requests": {"cpu": "1x", "memory": "1Mi"}})),
        ];
        let expected = ClassRequests {
            burstable_cpu_milli: 1250,
            burstable_memory: 2 << 20,
            guaranteed_memory: 4 << 20,
        };
        assert_eq!(class_requests(pods.iter()), expected);
        assert_eq!(class_requests([].iter()), ClassRequests::default());
    }
}
