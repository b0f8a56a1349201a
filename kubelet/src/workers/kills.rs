//! Which containers of one pod are being ended, and since when.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::CriError;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::kill::{Deadline, KillStep};
use crate::plan::{ContainerStop, StopReason};
use crate::pod::{self, ContainerKind, Pod};
use crate::runtime::ContainerId;

/// A pod has to have ended after one and a half times its grace period, and is given this much at least (upstream's
/// `killPodNow`).
const END_AT_LEAST: Duration = Duration::from_secs(10);

/// A container to end.
pub(super) struct Kill {
    pub(super) id: ContainerId,
    pub(super) name: Arc<str>,
    /// For hook, turn and signal together.
    pub(super) grace: Duration,
    /// Of the event.
    pub(super) message: String,
    /// Its process is there, as far as is known: a hook makes sense.
    pub(super) runs: bool,
    /// What has to have ended before it.
    pub(super) after: Vec<ContainerId>,
}

impl Kill {
    /// One that has just been started, and waits for no other container.
    pub(super) fn alone(id: ContainerId, name: Arc<str>, grace: Duration, message: &str) -> Self {
        Self {
            id,
            name,
            grace,
            message: message.to_owned(),
            runs: true,
            after: Vec::new(),
        }
    }
}

/// The containers of one pod that are being ended. They go on when nobody waits for them any more, and end with the worker.
#[derive(Default)]
pub(super) struct Kills {
    tasks: JoinSet<Result<(), CriError>>,
    by_task: HashMap<Id, ContainerId>,
    under_way: BTreeMap<ContainerId, UnderWay>,
    /// When the end of the pod takes too long; none once that was said.
    overdue: Option<Instant>,
}

struct UnderWay {
    name: Arc<str>,
    since: Instant,
    until: watch::Sender<Instant>,
    step: watch::Receiver<KillStep>,
}

/// The end of a container, or why there was none.
pub(super) struct Killed {
    pub(super) id: ContainerId,
    pub(super) name: Arc<str>,
    /// Its grace period is over.
    pub(super) late: bool,
    pub(super) result: Result<(), String>,
}

impl UnderWay {
    fn bring_forward(&self, at: Instant) {
        self.until.send_if_modified(|until| {
            let news = at < *until;
            *until = at.min(*until);
            news
        });
    }
}

impl Kills {
    /// Waits for the next container that has ended or could not be. Never resolves while there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Killed {
        loop {
            let Some(joined) = self.tasks.join_next_with_id().await else {
                return std::future::pending().await;
            };
            let (task, result) = match joined {
                Ok((task, result)) => (task, result.map_err(|error| error.rpc_text())),
                Err(error) => (error.id(), Err(error.to_string())),
            };
            let ended = self.by_task.remove(&task);
            if let Some((id, kill)) = ended.and_then(|id| self.under_way.remove_entry(&id)) {
                return Killed {
                    id,
                    name: kill.name,
                    late: *kill.until.borrow() <= Instant::now(),
                    result,
                };
            }
        }
    }

    /// Moves the ends of all grace periods forward to `at`.
    pub(super) fn shorten(&self, at: Instant) {
        for kill in self.under_way.values() {
            kill.bring_forward(at);
        }
    }

    /// Steps of a plan are about to be taken: what an earlier one took no longer counts, once it is done.
    pub(super) fn begin_pass(&mut self) {
        if self.under_way.is_empty() {
            self.overdue = None;
        }
    }

    /// The end of the pod, of `grace`, begins now, unless it had begun.
    pub(super) fn pod_ends(&mut self, grace: Duration) {
        if self.under_way.is_empty() && self.overdue.is_none() {
            self.overdue = Some(Instant::now() + (grace + grace / 2).max(END_AT_LEAST));
        }
    }

    /// Waits until the pod should have ended. Cancel-safe.
    pub(super) async fn overdue(overdue: Option<Instant>) {
        match overdue {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// When the end of the pod takes too long; none once that was said.
    pub(super) fn due(&self) -> Option<Instant> {
        self.overdue
    }

    /// It takes too long, and that is being said.
    pub(super) fn overdue_said(&mut self) {
        self.overdue = None;
    }

    /// Whether the container is being ended already; then it gets until `end` at most.
    pub(super) fn hurry(&self, id: &ContainerId, end: Instant) -> bool {
        let under_way = self.under_way.get(id);
        if let Some(kill) = under_way {
            kill.bring_forward(end);
        }
        under_way.is_some()
    }

    /// Begins to end a container, which has to have ended by `end`; `work` is given what tells it so.
    pub(super) fn begin<F>(&mut self, kill: &Kill, end: Instant, work: impl FnOnce(Deadline) -> F)
    where
        F: Future<Output = Result<(), CriError>> + Send + 'static,
    {
        let (until, at) = watch::channel(end);
        let (step_told, step) = watch::channel(KillStep::Stop);
        let deadline = Deadline {
            at,
            step: step_told,
        };
        let task = self.tasks.spawn(work(deadline)).id();
        self.by_task.insert(task, kill.id.clone());
        let under_way = UnderWay {
            name: kill.name.clone(),
            since: Instant::now(),
            until,
            step,
        };
        self.under_way.insert(kill.id.clone(), under_way);
    }

    /// What is being done at present.
    pub(super) fn describe(&self) -> String {
        let steps = self.under_way.values().map(|kill| {
            let step = *kill.step.borrow();
            let since = kill.since.elapsed().as_secs();
            format!("container {}: {} after {since}s", kill.name, step.as_str())
        });
        steps.collect::<Vec<_>>().join(", ")
    }
}

/// What has to have ended before `stop`: for a sidecar of a pod that ends, all regular containers and the sidecar that
/// started after it (upstream's `terminationOrdering`).
pub(super) fn predecessors(
    pod: &Pod,
    stops: &[ContainerStop],
    stop: &ContainerStop,
) -> Vec<ContainerId> {
    if stop.reason != StopReason::PodEnds {
        return Vec::new();
    }
    let mut before: Vec<&str> = Vec::new();
    let mut is_sidecar = false;
    for (kind, container) in pod::containers(pod) {
        match kind {
            ContainerKind::Sidecar if *container.name == *stop.name => is_sidecar = true,
            ContainerKind::Sidecar if is_sidecar && before.is_empty() => {
                before.push(&container.name);
            }
            ContainerKind::Regular if is_sidecar => before.push(&container.name),
            _ => {}
        }
    }
    let ids = stops.iter().filter(|other| before.contains(&&*other.name));
    ids.map(|other| other.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;

    fn pod() -> Pod {
        let container = |name: &str, sidecar: bool| Container {
            name: name.to_owned(),
            restart_policy: sidecar.then(|| "Always".to_owned()),
            ..Container::default()
        };
        Pod {
            spec: Some(PodSpec {
                init_containers: Some(vec![
                    container("x", true),
                    container("plain", false),
                    container("y", true),
                    container("z", true),
                ]),
                containers: vec![container("a", false), container("b", false)],
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    fn stops(names: &[&str]) -> Vec<ContainerStop> {
        let stop = |name: &&str| ContainerStop {
            init: false,
            id: (*name).into(),
            name: (*name).into(),
            grace: Duration::ZERO,
            reason: StopReason::PodEnds,
        };
        names.iter().map(stop).collect()
    }

    fn before(of: &str, running: &[&str]) -> String {
        let stops = stops(running);
        let stop = stops.iter().find(|stop| *stop.name == *of).unwrap();
        let ids = predecessors(&pod(), &stops, stop);
        let ids: Vec<&str> = ids.iter().map(ContainerId::as_str).collect();
        ids.join(" ")
    }

    #[test]
    fn a_sidecar_waits_for_regular_containers_and_the_next_sidecar() {
        let all = ["a", "b", "x", "y", "z"];
        assert_eq!(before("z", &all), "a b");
        assert_eq!(before("y", &all), "a b z");
        assert_eq!(before("x", &all), "a b y");
        assert_eq!(before("a", &all), "");
        assert_eq!(before("plain", &["plain", "x"]), "");
        // What does not run is waited for by nobody.
        assert_eq!(before("x", &["b", "x"]), "b");
    }

    #[test]
    fn a_container_that_ends_alone_waits_for_nobody() {
        let mut stops = stops(&["a", "x"]);
        stops[1].reason = StopReason::DefinitionChanged;
        assert!(predecessors(&pod(), &stops, &stops[1]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_is_ended_once_and_its_time_only_gets_shorter() {
        let mut kills = Kills::default();
        let kill = Kill::alone("c".into(), "main".into(), Duration::ZERO, "");
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        assert!(!kills.hurry(&kill.id, begun));
        kills.begin(&kill, begun + 9 * second, |mut deadline| async move {
            deadline.over().await;
            Ok(())
        });
        assert!(kills.hurry(&kill.id, begun + 20 * second));
        assert!(kills.hurry(&kill.id, begun + 4 * second));
        kills.shorten(begun + 5 * second);
        assert_eq!(kills.describe(), "container main: StopContainer after 0s");
        let killed = kills.next().await;
        assert!(killed.result.is_ok() && killed.late);
        assert_eq!(begun.elapsed(), 4 * second);
        assert!(!kills.hurry(&kill.id, begun));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pods_end_is_overdue_after_one_and_a_half_times_its_grace_and_ten_seconds_at_least() {
        for (grace, due) in [(0, 10), (4, 10), (10, 15), (60, 90)] {
            let mut kills = Kills::default();
            let begun = Instant::now();
            kills.pod_ends(Duration::from_secs(grace));
            kills.pod_ends(Duration::from_secs(1));
            Kills::overdue(kills.due()).await;
            assert_eq!(begun.elapsed(), Duration::from_secs(due));
            kills.overdue_said();
            assert!(kills.due().is_none());
        }
    }
}
