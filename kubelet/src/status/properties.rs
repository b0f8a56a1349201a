//! What holds for every status, whatever the runtime shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::pod::{Pod, QosClass};
use crate::probes::ProbeView;
use crate::runtime::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox};

const NAMES: [&str; 4] = ["init", "side", "a", "b"];

fn pod(policy: &str, source: &str) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {
            "name": "p", "namespace": "default", "uid": "u",
            "annotations": {"kubernetes.io/config.source": source},
        },
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}],
            "containers": [{"name": "b"}, {"name": "a"}],
        },
    }))
    .unwrap()
}

/// One thing that may happen to a pod between two statuses.
#[derive(Clone, Debug)]
struct Moment {
    observed: ObservedPod,
    waiting: BTreeMap<Arc<str>, Waiting>,
    probes: BTreeMap<Arc<str>, ProbeView>,
    terminating: bool,
    finished: bool,
    failure: bool,
}

fn instance() -> impl Strategy<Value = ObservedContainer> {
    let states = prop_oneof![
        Just(ContainerState::Created),
        Just(ContainerState::Running),
        Just(ContainerState::Exited),
        Just(ContainerState::Unknown),
    ];
    (0..NAMES.len(), 0..4_u32, 0..2_u32, states, 0..3_i32).prop_map(
        |(name, attempt, sandbox, state, exit_code)| ObservedContainer {
            id: format!("{}-{attempt}-{sandbox}", NAMES[name]).into(),
            sandbox: format!("s{sandbox}").into(),
            name: NAMES[name].into(),
            attempt,
            state,
            created_at: i64::from(attempt),
            started_at: i64::from(attempt),
            finished_at: i64::from(attempt) + 1,
            exit_code,
            reason: "Error".into(),
            message: "".into(),
            image: "i".into(),
            image_ref: "i".into(),
            hash: "".into(),
            log_path: "".into(),
            grace_seconds: None,
            user: None,
            stop_signal: None,
            recursive_read_only: None,
        },
    )
}

fn observed() -> impl Strategy<Value = ObservedPod> {
    let sandboxes = proptest::collection::vec(any::<(bool, bool)>(), 0..3);
    (sandboxes, proptest::collection::vec(instance(), 0..8)).prop_map(
        |(sandboxes, mut containers)| {
            containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.id.clone())));
            containers.dedup_by(|a, b| a.id == b.id);
            let count = sandboxes.len();
            let sandboxes =
                sandboxes
                    .into_iter()
                    .enumerate()
                    .map(|(at, (ready, ip))| ObservedSandbox {
                        id: format!("s{}", count - 1 - at).into(),
                        attempt: 0,
                        ready,
                        created_at: 0,
                        ips: if ip {
                            vec!["10.0.0.1".parse().unwrap()]
                        } else {
                            Vec::new()
                        },
                        host_network: false,
                    });
            ObservedPod {
                sandboxes: sandboxes.collect(),
                containers,
            }
        },
    )
}

fn moment() -> impl Strategy<Value = Moment> {
    let waiting = proptest::collection::btree_map(0..NAMES.len(), Just(()), 0..4);
    let probes = proptest::collection::btree_map(0..NAMES.len(), any::<(bool, bool)>(), 0..4);
    (observed(), waiting, probes, any::<(bool, bool, bool)>()).prop_map(
        |(observed, waiting, probes, (terminating, finished, failure))| Moment {
            observed,
            waiting: waiting
                .into_keys()
                .map(|at| {
                    let reason = Waiting {
                        reason: "CrashLoopBackOff".into(),
                        message: "back-off".into(),
                    };
                    (NAMES[at].into(), reason)
                })
                .collect(),
            probes: probes
                .into_iter()
                .map(|(at, (started, ready))| {
                    (
                        NAMES[at].into(),
                        ProbeView {
                            started,
                            ready,
                            failed: None,
                        },
                    )
                })
                .collect(),
            terminating,
            finished,
            failure,
        },
    )
}

fn derive(pod: &Pod, moment: &Moment, previous: Option<&PodStatus>, second: i64) -> PodStatus {
    let failure = PodFailure {
        reason: "Evicted".into(),
        message: "low on memory".into(),
        disruption: None,
    };
    derive_status(&StatusInput {
        pod,
        qos: QosClass::BestEffort,
        observed: &moment.observed,
        waiting: &moment.waiting,
        probes: &moment.probes,
        previous,
        start_time: Timestamp::UNIX_EPOCH,
        terminating: moment.terminating,
        finished: moment.finished,
        rejected: None,
        failure: moment.failure.then_some(&failure),
        host_ips: &[],
        stop_signals: false,
        resize: &crate::resize::Progress::default(),
        now: Timestamp::from_second(second).unwrap(),
    })
}

fn check(moment: &Moment, before: Option<&PodStatus>, status: &PodStatus, second: i64) {
    if let Some(before) = before {
        if before.phase.is_terminal() {
            assert_eq!(status.phase, before.phase, "a terminal phase is never left");
            assert_eq!(status.reason, before.reason, "nor is its reason");
        }
        for condition in &status.conditions {
            let old = before.condition(condition.kind).expect("conditions stay");
            let same = old.status == condition.status;
            assert_eq!(
                same,
                condition.last_transition == old.last_transition,
                "{condition:?}"
            );
        }
    }
    let runs = |c: &ObservedContainer| c.state == ContainerState::Running;
    let wound_up = moment.finished && !moment.observed.containers.iter().any(runs);
    let was_terminal = before.is_some_and(|b| b.phase.is_terminal());
    assert!(
        !status.phase.is_terminal() || wound_up || was_terminal,
        "{:?} before the pod is wound up",
        status.phase
    );
    for kind in [ConditionKind::Ready, ConditionKind::ContainersReady] {
        let ready = status.condition(kind).unwrap();
        assert!(
            !(ready.status && status.phase.is_terminal()),
            "{kind:?} in {:?}",
            status.phase
        );
    }
    for container in status.init_containers.iter().chain(&status.containers) {
        if container.started {
            assert!(container.state.is_running(), "{container:?}");
        }
        let end = container.state.terminated();
        if let (Some(end), Some(last)) = (end, &container.last) {
            assert!(end.id.is_none() || end.id != last.id, "{container:?}");
        }
    }
    for condition in &status.conditions {
        assert!(condition.last_transition.as_second() <= second);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn whatever_happens_to_a_pod(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        source in prop_oneof![Just("file"), Just("api")],
        moments in proptest::collection::vec(moment(), 1..6),
    ) {
        let pod = pod(policy, source);
        let mut before: Option<PodStatus> = None;
        for (at, moment) in moments.iter().enumerate() {
            let second = i64::try_from(at).unwrap() * 10 + 10;
            let status = derive(&pod, moment, before.as_ref(), second);
            check(moment, before.as_ref(), &status, second);
            let again = derive(&pod, moment, Some(&status), second + 5);
            prop_assert_eq!(&again, &status, "the same again changes nothing");
            before = Some(status);
        }
    }
}
