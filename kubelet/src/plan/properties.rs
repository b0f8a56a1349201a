//! Plans applied to a model of a runtime: they come to rest, and never order a start before its stop.

use proptest::prelude::*;

use super::tests::{HOUR, container, plan_with, pod, sandbox};
use super::*;

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
        containers in prop::collection::vec((0..4_usize, 0..5_usize, 0..4_u32, states(), 0..2_i32), 0..10),
    ) -> ObservedPod {
        let names = ["i", "side", "a", "b", "foreign"];
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

proptest! {
    #[test]
    fn plans_come_to_rest(
        mut observed in observations(),
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
    ) {
        let pod = pod(policy, &["i"], &["side"], &["a", "b"]);
        let backoff = Backoffs::new(Backoffs::INITIAL, HOUR);
        let mut clock = 1_000;
        for _ in 0..20 {
            let plan = plan_with(&pod, &observed, &backoff);
            if plan.steps.is_empty() {
                prop_assert!(plan.finished || observed.containers.iter().any(|c| c.state == ContainerState::Running));
                return Ok(());
            }
            apply(&plan, &mut observed, &mut clock);
            // An init container that runs ends well before the next look.
            for c in observed.containers.iter_mut().filter(|c| &*c.name == "i" && c.state == ContainerState::Running) {
                c.state = ContainerState::Exited;
                c.exit_code = 0;
            }
        }
        prop_assert!(false, "no rest after 20 plans: {}", plan_with(&pod, &observed, &backoff));
    }

    #[test]
    fn termination_ends_everything(mut observed in observations()) {
        let pod = pod("Always", &["i"], &["side"], &["a", "b"]);
        let mut clock = 1_000;
        apply(&plan_termination(&pod, &observed, HOUR), &mut observed, &mut clock);
        prop_assert!(plan_termination(&pod, &observed, HOUR).finished);
        prop_assert!(observed.containers.iter().all(|c| c.state == ContainerState::Exited));
    }
}
