//! What a worker tells of what goes wrong with its pod: the events, in upstream's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri_proto::CriError;

use super::Worker;
use super::start::StartError;
use crate::errors::error_chain;
use crate::events::About;
use crate::plan::PodPlan;
use crate::pod::{self, Pod};
use crate::runtime::{ContainerId, ObservedPod};
use crate::volumes::VolumeError;

/// The instance of each container, by name, whose back-off has been told.
pub(super) type ToldBackoffs = BTreeMap<Arc<str>, ContainerId>;

/// What the plan says of a container that ended and is not started again yet.
const CRASH_LOOP: &str = "CrashLoopBackOff";

impl StartError {
    /// Records what did not work: on `container` where it was its start that failed, else on the pod.
    pub(super) fn tell(&self, pod: &Pod, container: Option<&str>) {
        let of_pod = About::pod(pod);
        match (self, container) {
            // Told when it happened.
            (Self::Image(_) | Self::PostStart(_) | Self::PostStartLost, _) => {}
            (Self::Volumes(errors), _) => {
                for error in errors {
                    of_pod.warning(VolumeError::REASON, &error.to_string());
                }
            }
            (Self::Cgroup(_), _) => of_pod.warning(
                "FailedCreatePodContainer",
                &format!(
                    "unable to ensure pod container exists: {}",
                    error_chain(self)
                ),
            ),
            (Self::Network(why), _) => {
                of_pod.warning("NetworkNotReady", &format!("network is not ready: {why}"));
            }
            (Self::Run { id, error }, Some(name)) => About::container(pod, name)
                .without_id(id.as_str())
                .warning("Failed", &format!("Error: {}", error.message())),
            (error, Some(name)) => About::container(pod, name)
                .warning("Failed", &format!("Error: {}", error_chain(error))),
            (Self::Directory(_), None) => of_pod.warning(
                "Failed",
                &format!("error making pod data directories: {}", error_chain(self)),
            ),
            (Self::Sandbox(error), None) => of_pod.warning(
                FAILED_SANDBOX,
                &format!("Failed to create pod sandbox: {}", error.rpc_text()),
            ),
            (error, None) => of_pod.warning(
                FAILED_SANDBOX,
                &format!("Failed to create pod sandbox: {}", error_chain(error)),
            ),
        }
    }
}

const FAILED_SANDBOX: &str = "FailedCreatePodSandBox";

impl Worker {
    /// Tells of each container that waits before it is started again, once for each end. (Upstream says it again at each
    /// look at the pod meanwhile.)
    pub(super) fn tell_backoffs(&mut self, pod: &Pod, observed: &ObservedPod, plan: &PodPlan) {
        let newest = |name: &str| observed.newest(name).map(|ended| ended.id.clone());
        for name in untold(&mut self.memory.told_backoffs, plan, newest) {
            About::container(pod, &name).warning(
                "BackOff",
                &format!(
                    "Back-off restarting failed container {name} in pod {}",
                    pod::long_name(pod)
                ),
            );
        }
    }

    /// The runtime does not say what there is of the pod.
    pub(super) fn tell_blind(&self, error: &CriError) {
        let pod = self.orders.borrow().pod.clone();
        let message = format!("error determining status: {}", error.rpc_text());
        About::pod(&pod).warning("FailedSync", &message);
    }
}

/// The containers in a back-off that `told` does not know of their `newest` instances, which it does afterwards.
fn untold(
    told: &mut ToldBackoffs,
    plan: &PodPlan,
    newest: impl Fn(&str) -> Option<ContainerId>,
) -> Vec<Arc<str>> {
    let mut news = Vec::new();
    let waiting = plan.waiting.iter();
    for (name, _) in waiting.filter(|(_, waiting)| *waiting.reason == *CRASH_LOOP) {
        let Some(ended) = newest(name) else {
            continue;
        };
        let before = told.insert(name.clone(), ended.clone());
        if before != Some(ended) {
            news.push(name.clone());
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Waiting;

    fn waiting(reason: &str) -> PodPlan {
        let waiting = Waiting {
            reason: reason.into(),
            message: "".into(),
        };
        PodPlan {
            waiting: BTreeMap::from([("main".into(), waiting)]),
            ..PodPlan::default()
        }
    }

    #[test]
    fn each_end_is_told_once() {
        let mut told = ToldBackoffs::new();
        let mut news =
            |id: &str, reason: &str| untold(&mut told, &waiting(reason), |_| Some(id.into())).len();
        assert_eq!(news("a", CRASH_LOOP), 1);
        assert_eq!(news("a", CRASH_LOOP), 0);
        assert_eq!(news("b", "ContainerCreating"), 0);
        assert_eq!(news("b", CRASH_LOOP), 1);
        assert_eq!(news("b", CRASH_LOOP), 0);
        assert!(untold(&mut told, &waiting(CRASH_LOOP), |_| None).is_empty());
    }
}
