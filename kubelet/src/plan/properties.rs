//! Plans applied to a model of a runtime: they come to rest, never order a start before its stop, and begin containers in
//! order.

use proptest::prelude::*;

use super::tests::{HOUR, container, pod, sandbox};
use super::*;
use crate::probes::FailedProbe;

/// Takes the steps of a plan on the model, as a runtime in which everything works.
fn apply(plan: &PodPlan, observed: &mut ObservedPod, clock: &mut i64) {
    for step in &plan.steps {
        *clock += 1;
        match step {
            Step::Stop(stops) => {
                for stop in stops {
                    end(observed, |c| c.id == stop.id);
                }
            }
            Step::StopSandbox(id) => {
                end(observed, |c| c.sandbox == *id);
                observed
                    .sandboxes
                    .iter_mut()
                    .filter(|s| s.id == *id)
                    .for_each(|s| s.ready = false);
            }
            Step::CreateSandbox { attempt } => {
                let made = ObservedSandbox {
                    created_at: *clock,
                    ..sandbox(&format!("made-{clock}"), *attempt, true)
                };
                observed.sandboxes.insert(0, made);
            }
            Step::Start(start) => {
                let home = observed.sandboxes[0].id.clone();
                assert!(
                    observed.sandboxes[0].ready,
                    "a start without a sandbox: {plan}"
                );
                let runs = |c: &&ObservedContainer| {
                    c.name == start.name && c.state == ContainerState::Running
                };
                assert_eq!(
                    observed.containers.iter().find(runs),
                    None,
                    "a second instance: {plan}"
                );
                match &start.adopt {
                    Some(id) => {
                        let adopted = observed
                            .containers
                            .iter_mut()
                            .find(|c| c.id == *id)
                            .unwrap();
                        adopted.state = ContainerState::Running;
                    }
                    None => {
                        let mut made = container(
                            home.as_str(),
                            &start.name,
                            start.attempt,
                            ContainerState::Running,
                        );
                        made.id = format!("{}-{clock}", start.name).into();
                        made.created_at = *clock;
                        observed.containers.insert(0, made);
                    }
                }
            }
            Step::RemoveContainer(id) | Step::ResetContainer(id) => {
                observed.containers.retain(|c| c.id != *id);
            }
            Step::RemoveSandbox(id) => {
                assert!(
                    !observed.containers.iter().any(|c| c.sandbox == *id),
                    "a full sandbox is removed: {plan}"
                );
                observed.sandboxes.retain(|s| s.id != *id);
            }
        }
    }
}

fn end(observed: &mut ObservedPod, which: impl Fn(&ObservedContainer) -> bool) {
    let live = |c: &ObservedContainer| c.state != ContainerState::Exited;
    for container in observed
        .containers
        .iter_mut()
        .filter(|c| live(c) && which(c))
    {
        container.state = ContainerState::Exited;
        container.exit_code = 137;
    }
}

fn states() -> impl Strategy<Value = ContainerState> {
    prop_oneof![
        Just(ContainerState::Created),
        Just(ContainerState::Running),
        Just(ContainerState::Exited),
        Just(ContainerState::Unknown),
    ]
}

prop_compose! {
    fn observations()(
        ready in prop::collection::vec(any::<bool>(), 0..4),
        containers in prop::collection::vec((0..4_usize, 0..6_usize, 0..4_u32, states(), 0..2_i32), 0..10),
    ) -> ObservedPod {
        let names = ["i", "side", "a", "b", "foreign", "late"];
        let count = ready.len();
        let sandboxes = ready.iter().enumerate();
        let mut observed = ObservedPod {
            sandboxes: sandboxes.map(|(n, ready)| sandbox(&format!("s{n}"), n as u32, *ready)).collect(),
            containers: Vec::new(),
        };
        for (home, name, attempt, state, exit_code) in containers {
            if count > 0 {
                let mut made = container(&format!("s{}", home % count), names[name], attempt, state);
                made.id = format!("{}-{}-{}", names[name], attempt, observed.containers.len()).into();
                made.exit_code = exit_code;
                observed.containers.push(made);
            }
        }
        crate::runtime::observed::newest_first(&mut observed.sandboxes, &mut observed.containers);
        observed
    }
}

fn policies() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")]
}

/// A policy of a container's own, with a rule or without.
fn own_policies() -> impl Strategy<Value = Option<(&'static str, Option<(&'static str, i32)>)>> {
    let actions = prop_oneof![Just("Restart"), Just("RestartAllContainers")];
    // Not 0: an init container that has all start anew when it succeeds never lets them come to rest, nor should it.
    let codes = prop_oneof![Just(1), Just(137)];
    prop::option::of((policies(), prop::option::of((actions, codes))))
}

prop_compose! {
    /// `i`, then the sidecar `side`, then `a` and `b`, and sometimes the ephemeral container `late`.
    fn pods()(
        policy in policies(),
        own in prop::collection::vec(own_policies(), 3),
        ephemeral in any::<bool>(),
    ) -> Pod {
        let mut pod = pod(policy, &["i"], &["side"], &["a", "b"]);
        let spec = pod.spec.as_mut().unwrap();
        let inits = spec.init_containers.as_mut().unwrap();
        let mut own = own.into_iter();
        for container in inits.iter_mut().take(1).chain(&mut spec.containers) {
            let Some(Some((policy, rule))) = own.next() else {
                continue;
            };
            // An init container with a policy of `Always` is a sidecar.
            let policy = if container.name == "i" && policy == "Always" { "OnFailure" } else { policy };
            container.restart_policy = Some(policy.to_owned());
            container.restart_policy_rules = rule.map(|(action, code)| {
                let rule = serde_json::json!({
                    "action": action,
                    "exitCodes": {"operator": "In", "values": [code]},
                });
                vec![serde_json::from_value(rule).unwrap()]
            });
        }
        if ephemeral {
            let late = serde_json::json!([{"name": "late", "image": "image"}]);
            spec.ephemeral_containers = serde_json::from_value(late).unwrap();
        }
        pod
    }
}

/// What the probes say of the instances that are there at first; of later ones they say nothing.
fn verdicts() -> impl Strategy<Value = BTreeMap<&'static str, (bool, Option<FailedProbe>)>> {
    let names = prop_oneof![Just("side"), Just("a"), Just("b")];
    let failed = prop_oneof![
        Just(None),
        Just(Some(FailedProbe::Liveness)),
        Just(Some(FailedProbe::Startup)),
    ];
    prop::collection::btree_map(names, (any::<bool>(), failed), 0..4)
}

fn plan_probed(
    pod: &Pod,
    observed: &ObservedPod,
    probes: &BTreeMap<Arc<str>, ProbeView>,
) -> PodPlan {
    plan_pod(&PlanInput {
        pod,
        observed,
        backoff: &Backoffs::new(Backoffs::INITIAL, HOUR),
        exits: &observed
            .containers
            .iter()
            .map(|c| (c.id.clone(), Exit::at(Duration::ZERO)))
            .collect(),
        attempts_on_disk: &BTreeMap::new(),
        probes,
        resized: &BTreeSet::new(),
        now: HOUR,
    })
}

proptest! {
    #[test]
    fn plans_come_to_rest(mut observed in observations(), pod in pods(), verdicts in verdicts()) {
        let first: Vec<ContainerId> = observed.containers.iter().map(|c| c.id.clone()).collect();
        let probes = |observed: &ObservedPod| -> BTreeMap<Arc<str>, ProbeView> {
            let still = verdicts.iter().filter_map(|(name, (started, failed))| {
                let instance = observed.newest(name).filter(|c| first.contains(&c.id))?;
                let view = ProbeView { started: *started, ready: *started, failed: *failed };
                Some((instance.name.clone(), view))
            });
            still.collect()
        };
        let mut clock = 1_000;
        for _ in 0..20 {
            let plan = plan_probed(&pod, &observed, &probes(&observed));
            if plan.steps.is_empty() {
                let runs = observed.containers.iter().any(|c| c.state == ContainerState::Running);
                prop_assert!(plan.finished || runs);
                // What has come to rest stays so, and a pod that is over holds nothing that runs.
                prop_assert_eq!(&plan_probed(&pod, &observed, &probes(&observed)), &plan);
                prop_assert!(!(plan.finished && runs), "{}", plan);
                return Ok(());
            }
let removes = |s: &Step| matches!(s, Step::RemoveContainer(_) | Step::RemoveSandbox(_));
            let settled = !plan.finished || plan.steps.iter().all(removes);
            prop_assert!(settled, "over, with something to do: {}", plan);
            apply(&plan, &mut observed, &mut clock);
            // An init container that runs ends well before the next look.
            for c in observed.containers.iter_mut().filter(|c| &*c.name == "i" && c.state == ContainerState::Running) {
                c.state = ContainerState::Exited;
                c.exit_code = 0;
            }
        }
        prop_assert!(false, "no rest after 20 plans: {}", plan_probed(&pod, &observed, &probes(&observed)));
    }

    /// From nothing: whatever fails on the way, each container begins only once those before it are through.
    #[test]
    fn containers_begin_in_order(
        pod in pods(),
        exits in prop::collection::vec(0..3_i32, 12),
        started_after in 0..4_u32,
    ) {
        let mut observed = ObservedPod::default();
        let (mut clock, mut looks) = (1_000, 0);
        let mut begun: Vec<Arc<str>> = Vec::new();
        let mut initialised = false;
        for exit_code in exits {
            let side = observed.newest("side").filter(|c| c.state == ContainerState::Running);
            looks = if side.is_some() { looks + 1 } else { 0 };
            let started = looks > started_after;
            let view = ProbeView { started, ready: false, failed: None };
            let plan = plan_probed(&pod, &observed, &BTreeMap::from([("side".into(), view)]));
            if plan.resets() {
                begun.clear();
                initialised = false;
            }
            for step in &plan.steps {
                let Step::Start(start) = step else { continue };
                if start.kind == ContainerKind::Regular && !initialised {
                    prop_assert!(started, "{} beside a sidecar that has not started", start.name);
                    initialised = true;
                }
                if start.kind != ContainerKind::Ephemeral && !begun.contains(&start.name) {
                    begun.push(start.name.clone());
                }
            }
            let spec = ["i", "side", "a", "b"].map(Arc::from);
            prop_assert_eq!(&begun[..], &spec[..begun.len()]);
            apply(&plan, &mut observed, &mut clock);
            // The init container ends at once, well or not; a sidecar that has not started may end too.
            let mut running = observed.containers.iter_mut().filter(|c| c.state == ContainerState::Running);
            let ending = running.find(|c| &*c.name == "i" || &*c.name == "side" && !started && exit_code == 2);
            if let Some(c) = ending {
                c.state = ContainerState::Exited;
                c.exit_code = exit_code.min(1);
            }
        }
    }

    #[test]
    fn termination_ends_everything(mut observed in observations(), pod in pods()) {
        let mut clock = 1_000;
        apply(&plan_termination(&pod, &observed, HOUR), &mut observed, &mut clock);
        prop_assert!(plan_termination(&pod, &observed, HOUR).finished);
        prop_assert!(observed.containers.iter().all(|c| c.state == ContainerState::Exited));
    }
}
