//! Which pods get a worker, and what the workers are told. Pure.
//!
//! Pods of one namespace and name follow each other strictly: a successor is not begun before its predecessor has
//! stopped. Nothing else makes one pod wait for another.

use std::collections::{BTreeMap, BTreeSet};

use crate::pod::{PodName, PodUid};

/// What the registry has told a worker to do with its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Show it as pending: its name is not free yet, or the runtime has not been seen.
    Wait,
    /// Keep it running.
    Run,
    /// End it.
    Stop,
}

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The pod lives, or may.
    Live,
    /// The pod has ended by itself and nothing of it runs; it is still shown.
    Over,
    /// The pod had to make room for another, or end with the node, and nothing of it runs; it is still shown.
    GivenWay,
    /// The pod is being stopped and its resources are being given back.
    Terminating,
    /// Nothing of the pod runs and its name is free; what is left in the runtime goes a little later.
    Terminated,
}

/// A worker as the registry sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its pod's namespace and name.
    pub name: PodName,
    /// What it was told last.
    pub wanted: Wanted,
    /// What it reported last.
    pub stage: Stage,
}

impl WorkerView {
    /// The last that is to be seen of a worker that has ended its pod.
    #[must_use]
    pub fn ended(name: PodName) -> Self {
        Self {
            name,
            wanted: Wanted::Stop,
            stage: Stage::Terminated,
        }
    }

    /// Whether a pod of the same name would run beside this one.
    pub(super) fn holds_its_name(&self) -> bool {
        match self.wanted {
            Wanted::Wait => false,
            Wanted::Run => true,
            Wanted::Stop => self.stage != Stage::Terminated,
        }
    }
}

/// One thing for the registry to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin a worker for a desired pod; it waits until it is told to run.
    Begin(PodUid),
    /// Begin a worker that ends a pod nobody wants, or that is being deleted.
    BeginEnding(PodUid),
    /// Tell a worker to run its pod (again).
    Run(PodUid),
    /// Tell a worker to end its pod.
    Stop(PodUid),
}

/// What the registry goes by.
#[derive(Clone, Copy, Debug)]
pub struct QueueInput<'a> {
    /// The pods that the sources have.
    pub desired: &'a BTreeMap<PodUid, PodName>,
    /// Those among them that are being deleted: they end, whether or not something of them runs.
    pub deleted: &'a BTreeSet<PodUid>,
    /// The workers there are; and for deleted pods, the last that was seen of workers that are done.
    pub workers: &'a BTreeMap<PodUid, WorkerView>,
    /// Pods found on the node: in the runtime, or by what they left on the disk.
    pub found: &'a BTreeMap<PodUid, PodName>,
    /// Whether every source has reported: until then nothing is ended.
    pub sources_ready: bool,
    /// Whether the runtime has been seen: until then nobody knows which names are taken.
    pub runtime_seen: bool,
}

/// What there is to do, in order.
#[must_use]
pub fn reconcile(input: &QueueInput<'_>) -> Vec<Action> {
    let QueueInput {
        desired,
        deleted,
        workers,
        found,
        sources_ready,
        runtime_seen,
    } = *input;
    let mut actions = Vec::new();
    let held = workers.iter().filter(|(_, worker)| worker.holds_its_name());
    let mut taken: Vec<(&PodName, &PodUid)> =
        held.map(|(uid, worker)| (&worker.name, uid)).collect();
    if runtime_seen {
        for (uid, name) in found
            .iter()
            .filter(|(uid, _)| !desired.contains_key(*uid) && !workers.contains_key(*uid))
        {
            // Even one that may not be ended yet keeps its name: two pods of one name must never run.
            taken.push((name, uid));
            if sources_ready {
                actions.push(Action::BeginEnding(uid.clone()));
            }
        }
    }
    for (uid, worker) in workers {
        // Who is deleted by its source is ended whatever the other sources have to say.
        let unwanted = deleted.contains(uid) || (!desired.contains_key(uid) && sources_ready);
        if unwanted && worker.wanted != Wanted::Stop {
            actions.push(Action::Stop(uid.clone()));
        }
    }
    for uid in deleted.iter().filter(|uid| !workers.contains_key(*uid)) {
        let Some(name) = desired.get(uid).filter(|_| runtime_seen) else {
            continue;
        };
        taken.push((name, uid));
        actions.push(Action::BeginEnding(uid.clone()));
    }
    for (uid, name) in desired.iter().filter(|(uid, _)| !deleted.contains(*uid)) {
        let wanted = workers.get(uid).map(|worker| worker.wanted);
        if wanted.is_none() {
            actions.push(Action::Begin(uid.clone()));
        }
        let free = !taken
            .iter()
            .any(|(other, holder)| *other == name && *holder != uid);
        if wanted != Some(Wanted::Run) && free && runtime_seen {
            taken.push((name, uid));
            actions.push(Action::Run(uid.clone()));
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> PodUid {
        PodUid::parse(text).unwrap()
    }

    fn name(text: &str) -> PodName {
        PodName {
            namespace: "default".into(),
            name: text.into(),
        }
    }

    fn named(pods: &[(&str, &str)]) -> BTreeMap<PodUid, PodName> {
        pods.iter().map(|(u, n)| (uid(u), name(n))).collect()
    }

    fn worker(u: &str, n: &str, wanted: Wanted, stage: Stage) -> (PodUid, WorkerView) {
        (
            uid(u),
            WorkerView {
                name: name(n),
                wanted,
                stage,
            },
        )
    }

    fn act(
        desired: &[(&str, &str)],
        workers: impl IntoIterator<Item = (PodUid, WorkerView)>,
        found: &[(&str, &str)],
        sources_ready: bool,
    ) -> Vec<Action> {
        reconcile(&QueueInput {
            desired: &named(desired),
            deleted: &BTreeSet::new(),
            workers: &workers.into_iter().collect(),
            found: &named(found),
            sources_ready,
            runtime_seen: true,
        })
    }

    #[test]
    fn a_desired_pod_gets_a_worker_and_runs() {
        assert_eq!(
            act(&[("a", "web")], [], &[], true),
            [Action::Begin(uid("a")), Action::Run(uid("a"))]
        );
    }

    #[test]
    fn before_the_runtime_has_been_seen_pods_only_wait() {
        let desired = named(&[("a", "web")]);
        let actions = reconcile(&QueueInput {
            desired: &desired,
            deleted: &BTreeSet::new(),
            workers: &BTreeMap::new(),
            found: &BTreeMap::new(),
            sources_ready: true,
            runtime_seen: false,
        });
        assert_eq!(actions, [Action::Begin(uid("a"))]);
    }

    #[test]
    fn a_successor_waits_until_its_predecessor_has_stopped() {
        let desired = [("b", "web")];
        let waiting = worker("b", "web", Wanted::Wait, Stage::Live);
        let old = |wanted, stage| worker("a", "web", wanted, stage);
        let first = act(&desired, [old(Wanted::Run, Stage::Live)], &[], true);
        assert_eq!(first, [Action::Stop(uid("a")), Action::Begin(uid("b"))]);
        assert_eq!(
            act(
                &desired,
                [old(Wanted::Stop, Stage::Live), waiting.clone()],
                &[],
                true
            ),
            []
        );
        assert_eq!(
            act(
                &desired,
                [old(Wanted::Stop, Stage::Terminating), waiting.clone()],
                &[],
                true
            ),
            []
        );
        let stopped = act(
            &desired,
            [old(Wanted::Stop, Stage::Terminated), waiting],
            &[],
            true,
        );
        assert_eq!(stopped, [Action::Run(uid("b"))]);
    }

    #[test]
    fn a_stuck_predecessor_blocks_only_its_own_successor() {
        let stuck = worker("a", "web", Wanted::Stop, Stage::Terminating);
        let actions = act(&[("b", "web"), ("c", "db")], [stuck], &[], true);
        assert_eq!(
            actions,
            [
                Action::Begin(uid("b")),
                Action::Begin(uid("c")),
                Action::Run(uid("c"))
            ]
        );
    }

    #[test]
    fn nothing_is_ended_before_every_source_has_reported() {
        let running = || [worker("a", "web", Wanted::Run, Stage::Live)];
        assert_eq!(act(&[], running(), &[("o", "old")], false), []);
        let expected = [Action::BeginEnding(uid("o")), Action::Stop(uid("a"))];
        assert_eq!(act(&[], running(), &[("o", "old")], true), expected);
    }

    #[test]
    fn a_pod_found_in_the_runtime_keeps_its_name_until_it_is_gone() {
        let actions = act(&[("b", "web")], [], &[("a", "web")], true);
        assert_eq!(
            actions,
            [Action::BeginEnding(uid("a")), Action::Begin(uid("b"))]
        );
        assert_eq!(
            act(&[("b", "web")], [], &[("a", "web")], false),
            [Action::Begin(uid("b"))]
        );
    }

    #[test]
    fn an_adopted_pod_is_neither_found_nor_foreign() {
        let actions = act(&[("a", "web")], [], &[("a", "web")], true);
        assert_eq!(actions, [Action::Begin(uid("a")), Action::Run(uid("a"))]);
    }

    #[test]
    fn a_manifest_put_back_revives_the_pod() {
        for stage in [Stage::Live, Stage::Terminating, Stage::Terminated] {
            let stopping = worker("a", "web", Wanted::Stop, stage);
            assert_eq!(
                act(&[("a", "web")], [stopping], &[], true),
                [Action::Run(uid("a"))]
            );
        }
    }

    #[test]
    fn a_pod_told_to_run_again_holds_its_name_before_it_has_heard() {
        let revived = worker("a", "web", Wanted::Run, Stage::Terminated);
        let actions = act(&[("b", "web")], [revived], &[], true);
        assert_eq!(actions, [Action::Stop(uid("a")), Action::Begin(uid("b"))]);
    }

    #[test]
    fn back_and_forth_between_two_versions_never_runs_both() {
        // Version a, then b, then a again, while b lives already.
        let both = [
            worker("a", "web", Wanted::Stop, Stage::Terminated),
            worker("b", "web", Wanted::Run, Stage::Live),
        ];
        assert_eq!(
            act(&[("a", "web")], both, &[], true),
            [Action::Stop(uid("b"))]
        );
    }

    fn act_deleted(
        desired: &[(&str, &str)],
        deleted: &[&str],
        workers: impl IntoIterator<Item = (PodUid, WorkerView)>,
        runtime_seen: bool,
    ) -> Vec<Action> {
        reconcile(&QueueInput {
            desired: &named(desired),
            deleted: &deleted.iter().map(|u| uid(u)).collect(),
            workers: &workers.into_iter().collect(),
            found: &BTreeMap::new(),
            sources_ready: false,
            runtime_seen,
        })
    }

    #[test]
    fn a_deleted_pod_is_stopped_at_once_and_its_successor_waits_for_it() {
        let desired = [("a", "web"), ("b", "web")];
        let old = |wanted, stage| worker("a", "web", wanted, stage);
        let runs = [old(Wanted::Run, Stage::Live)];
        assert_eq!(
            act_deleted(&desired, &["a"], runs, true),
            [Action::Stop(uid("a")), Action::Begin(uid("b"))]
        );
        let waiting = worker("b", "web", Wanted::Wait, Stage::Live);
        for stage in [Stage::Live, Stage::Over, Stage::Terminating] {
            let ends = [old(Wanted::Stop, stage), waiting.clone()];
            assert_eq!(act_deleted(&desired, &["a"], ends, true), [], "{stage:?}");
        }
        let ended = [old(Wanted::Stop, Stage::Terminated), waiting];
        assert_eq!(
            act_deleted(&desired, &["a"], ended, true),
            [Action::Run(uid("b"))]
        );
    }

    #[test]
    fn a_deleted_pod_without_a_worker_is_ended_on_sight_and_only_once() {
        let desired = [("a", "web"), ("b", "web")];
        assert_eq!(
            act_deleted(&desired, &["a"], [], false),
            [Action::Begin(uid("b"))],
            "before the runtime has been seen nobody knows what is left of it"
        );
        assert_eq!(
            act_deleted(&desired, &["a"], [], true),
            [Action::BeginEnding(uid("a")), Action::Begin(uid("b"))]
        );
        let done = worker("a", "web", Wanted::Stop, Stage::Terminated);
        assert_eq!(act_deleted(&[("a", "web")], &["a"], [done], true), []);
    }
}
