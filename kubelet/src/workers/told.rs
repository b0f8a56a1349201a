//! What a worker tells of what goes wrong with its pod: the events, in upstream's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri_proto::CriError;

use super::Worker;
use super::start::StartError;
use crate::claims::ClaimsError;
use crate::errors::error_chain;
use crate::events::About;
use crate::metrics::kubelet;
use crate::plan::PodPlan;
use crate::pod::{self, ContainerKind, Pod, PodName};
use crate::runtime::{ContainerId, ObservedPod};
use crate::status::{ContainerStatus, PodStatus, Terminated};
use crate::volumes::VolumeError;

/// The instance of each container, by name, whose back-off has been told.
pub(super) type ToldBackoffs = BTreeMap<Arc<str>, ContainerId>;

/// What the plan says of a container that ended and is not started again yet.
const CRASH_LOOP: &str = "CrashLoopBackOff";

impl StartError {
    /// The reason of the event that says of the pod as a whole that it does not start.
    pub(super) fn pod_reason(&self) -> &'static str {
        match self {
            Self::Volumes(_) => VolumeError::REASON,
            Self::Claims(_) => ClaimsError::REASON,
            Self::Cgroup(_) => "FailedCreatePodContainer",
            Self::Network(_) => "NetworkNotReady",
            Self::Directory(_) => "Failed",
            _ => "FailedCreatePodSandBox",
        }
    }

    /// Records what did not work: on `container` where it was its start that failed, else on the pod.
    pub(super) fn tell(&self, pod: &Pod, container: Option<&str>) {
        let of_pod = About::pod(pod);
        match (self, container) {
            // Told when it happened.
            (Self::Image(_) | Self::PostStart(_) | Self::PostStartLost, _) => {}
            (Self::Volumes(errors), _) => {
                for error in errors {
                    of_pod.warning(error.reason(), &error.to_string());
                }
            }
            (Self::Claims(error), _) => {
                for text in error.texts() {
                    of_pod.warning(self.pod_reason(), &text);
                }
            }
            (Self::Cgroup(_), _) => of_pod.warning(
                self.pod_reason(),
                &format!(
                    "unable to ensure pod container exists: {}",
                    error_chain(self)
                ),
            ),
            (Self::Network(why), _) => {
                of_pod.warning(self.pod_reason(), &format!("network is not ready: {why}"));
            }
            (Self::Run { id, error }, Some(name)) => About::container(pod, name)
                .without_id(id.as_str())
                .warning("Failed", &format!("Error: {}", error.message())),
            (error, Some(name)) => About::container(pod, name)
                .warning("Failed", &format!("Error: {}", error_chain(error))),
            (Self::Directory(_), None) => of_pod.warning(
                self.pod_reason(),
                &format!("error making pod data directories: {}", error_chain(self)),
            ),
            (Self::Sandbox(error), None) => of_pod.warning(
                self.pod_reason(),
                &format!("Failed to create pod sandbox: {}", error.rpc_text()),
            ),
            (error, None) => of_pod.warning(
                self.pod_reason(),
                &format!("Failed to create pod sandbox: {}", error_chain(error)),
            ),
        }
    }
}

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

/// Says in the log which containers of a pod have ended between two statuses. (Upstream says so at `--v=2`; its events tell
/// of starts and back-offs alone.)
pub(super) fn tell_ends(pod: &Pod, before: &PodStatus, status: &PodStatus) {
    let (name, uid) = (PodName::of(pod), pod.metadata.uid.as_deref());
    for (container, exit_code) in ended(before, status) {
        tracing::info!(pod = %name, uid, container, reason = "ContainerDied", exit_code, "container has ended");
    }
    for (container, end) in newly_ended(before, status) {
        let labels = [
            container_type(container.kind),
            &end.exit_code.to_string(),
            &*end.reason,
        ];
        kubelet().terminated_containers.inc(&labels);
    }
}

/// What upstream calls containers of that kind where it counts them.
pub(super) fn container_type(kind: ContainerKind) -> &'static str {
    match kind {
        ContainerKind::Init | ContainerKind::Sidecar => "init_container",
        ContainerKind::Ephemeral => "ephemeral_container",
        ContainerKind::Regular => "container",
    }
}

/// The ends of instances that the status before did not show, be it that it did not show them run either.
fn newly_ended<'s>(
    before: &'s PodStatus,
    status: &'s PodStatus,
) -> impl Iterator<Item = (&'s ContainerStatus, &'s Terminated)> {
    fn ends(status: &ContainerStatus) -> impl Iterator<Item = &Terminated> {
        let now = status.state.terminated();
        let last = status.last.as_deref();
        let last = last.filter(|last| now.is_none_or(|now| now.id != last.id));
        now.into_iter().chain(last)
    }
    status.all_containers().flat_map(move |container| {
        let known = before.container(&container.name);
        ends(container)
            .filter(move |end| {
                let mut known = known.into_iter().flat_map(ends);
                end.id.is_some() && !known.any(|known| known.id == end.id)
            })
            .map(move |end| (container, end))
    })
}

/// The containers that ran by one status and have ended by the next, with their exit codes.
fn ended<'s>(before: &'s PodStatus, status: &'s PodStatus) -> impl Iterator<Item = (&'s str, i32)> {
    let ran = |c: &&ContainerStatus| c.state.is_running();
    before.all_containers().filter(ran).filter_map(|ran| {
        let now = status.container(&ran.name)?;
        let mut ends = now
            .state
            .terminated()
            .into_iter()
            .chain(now.last.as_deref());
        let end = ends.find(|end| end.id.is_some() && end.id == ran.id)?;
        Some((&*ran.name, end.exit_code))
    })
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
    use crate::status::{State, Waiting};

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

    fn status(state: State, last: Option<Terminated>, id: &str) -> PodStatus {
        let container = ContainerStatus {
            name: "main".into(),
            kind: crate::pod::ContainerKind::Regular,
            state,
            last: last.map(Box::new),
            started: true,
            ready: true,
            restart_count: 0,
            image: "i".into(),
            image_id: None,
            id: Some(id.into()),
            user: None,
            stop_signal: None,
            recursive_read_only: None,
            devices: Vec::new(),
        };
        PodStatus {
            phase: crate::status::Phase::Running,
            reason: None,
            message: None,
            start_time: None,
            conditions: Vec::new(),
            init_containers: Vec::new(),
            containers: vec![container],
            ephemeral_containers: Vec::new(),
            pod_ips: Vec::new(),
            host_ips: Vec::new(),
            qos: crate::pod::QosClass::BestEffort,
        }
    }

    #[test]
    fn an_end_is_seen_as_such_and_behind_a_successor_and_once() {
        let end = |id: &str| Terminated {
            exit_code: 7,
            reason: "Error".into(),
            message: "".into(),
            started_at: None,
            finished_at: None,
            id: Some(id.into()),
        };
        let running = || State::Running {
            started_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let ran = status(running(), None, "a");
        let over = status(State::Terminated(Box::new(end("a"))), None, "a");
        let anew = status(running(), Some(end("a")), "b");
        let seen = |before: &PodStatus, now: &PodStatus| {
            let ends = ended(before, now);
            ends.map(|(name, code)| format!("{name} {code}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(seen(&ran, &ran), [""; 0]);
        assert_eq!(seen(&ran, &over), ["main 7"]);
        assert_eq!(seen(&ran, &anew), ["main 7"]);
        assert_eq!(seen(&over, &anew), [""; 0]);
        assert_eq!(seen(&anew, &anew), [""; 0]);

        let counted = |before: &PodStatus, now: &PodStatus| newly_ended(before, now).count();
        assert_eq!(counted(&ran, &ran), 0);
        assert_eq!(counted(&ran, &over), 1);
        assert_eq!(counted(&ran, &anew), 1);
        assert_eq!(counted(&over, &anew), 0);
        let unseen = status(State::Terminated(Box::new(end("b"))), Some(end("a")), "b");
        assert_eq!(
            counted(&ran, &unseen),
            2,
            "the second one was never seen to run"
        );
        assert_eq!(counted(&over, &unseen), 1);
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
