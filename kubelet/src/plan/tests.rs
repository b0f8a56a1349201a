use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::runtime::ImageRef;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// A pod with init containers, sidecars and regular containers of these names.
pub(super) fn pod(policy: &str, inits: &[&str], sidecars: &[&str], regular: &[&str]) -> Pod {
    let container = |name: &&str| Container {
        name: (*name).to_owned(),
        image: Some("image".to_owned()),
        ..Container::default()
    };
    let sidecar = |name: &&str| Container {
        restart_policy: Some("Always".to_owned()),
        ..container(name)
    };
    let mut pod = Pod::default();
    pod.metadata.name = Some("web".to_owned());
    pod.metadata.namespace = Some("default".to_owned());
    pod.metadata.uid = Some("u1".to_owned());
    pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
        containers: regular.iter().map(container).collect(),
        init_containers: Some(
            inits
                .iter()
                .map(container)
                .chain(sidecars.iter().map(sidecar))
                .collect(),
        ),
        restart_policy: Some(policy.to_owned()),
        termination_grace_period_seconds: Some(30),
        ..Default::default()
    });
    pod
}

pub(super) fn sandbox(id: &str, attempt: u32, ready: bool) -> ObservedSandbox {
    ObservedSandbox {
        id: id.into(),
        attempt,
        ready,
        created_at: i64::from(attempt),
        ips: vec!["10.0.0.1".parse().unwrap()],
        host_network: false,
    }
}

pub(super) fn container(
    sandbox: &str,
    name: &str,
    attempt: u32,
    state: ContainerState,
) -> ObservedContainer {
    ObservedContainer {
        id: format!("{name}-{attempt}").into(),
        sandbox: sandbox.into(),
        name: name.into(),
        attempt,
        state,
        created_at: i64::from(attempt),
        started_at: 1,
        finished_at: 2,
        exit_code: 0,
        reason: "".into(),
        message: "".into(),
        image: "image".into(),
        image_ref: ImageRef::from("image"),
        hash: convert::container_hash(name, "image").into(),
        log_path: "".into(),
        grace_seconds: None,
        user: None,
        stop_signal: None,
        recursive_read_only: None,
    }
}

fn exited(sandbox: &str, name: &str, attempt: u32, exit_code: i32) -> ObservedContainer {
    ObservedContainer {
        exit_code,
        ..container(sandbox, name, attempt, ContainerState::Exited)
    }
}

fn running(sandbox: &str, name: &str, attempt: u32) -> ObservedContainer {
    container(sandbox, name, attempt, ContainerState::Running)
}

fn seen(sandboxes: &[ObservedSandbox], containers: &[ObservedContainer]) -> ObservedPod {
    let mut observed = ObservedPod {
        sandboxes: sandboxes.to_vec(),
        containers: containers.to_vec(),
    };
    crate::runtime::observed::newest_first(&mut observed.sandboxes, &mut observed.containers);
    observed
}

fn planned(pod: &Pod, observed: &ObservedPod) -> String {
    plan_with(pod, observed, &Backoffs::new(Backoffs::INITIAL, HOUR)).to_string()
}

pub(super) fn plan_with(pod: &Pod, observed: &ObservedPod, backoff: &Backoffs) -> PodPlan {
    plan_pod(&PlanInput {
        pod,
        observed,
        backoff,
        exits: &BTreeMap::new(),
        attempts_on_disk: &BTreeMap::new(),
        probes: &BTreeMap::new(),
        resized: &BTreeSet::new(),
        now: HOUR,
    })
}

#[test]
fn a_new_pod_gets_a_sandbox_and_its_containers_in_order() {
    let pod = pod("Always", &[], &[], &["a", "b"]);
    assert_eq!(
        planned(&pod, &seen(&[], &[])),
        "create sandbox attempt 0\nstart a attempt 0\nstart b attempt 0\n"
    );
}

#[test]
fn init_containers_come_one_after_the_other() {
    let pod = pod("Always", &["i", "j"], &[], &["a"]);
    assert_eq!(
        planned(&pod, &seen(&[], &[])),
        "create sandbox attempt 0\nstart i attempt 0\n"
    );
    let s = [sandbox("s", 0, true)];
    assert_eq!(planned(&pod, &seen(&s, &[running("s", "i", 0)])), "");
    assert_eq!(
        planned(&pod, &seen(&s, &[exited("s", "i", 0, 0)])),
        "start j attempt 0\n"
    );
    let both = [exited("s", "i", 0, 0), exited("s", "j", 0, 0)];
    assert_eq!(planned(&pod, &seen(&s, &both)), "start a attempt 0\n");
    // The record of the first is gone; the second shows that it was through.
    assert_eq!(
        planned(&pod, &seen(&s, &[exited("s", "j", 0, 0)])),
        "start a attempt 0\n"
    );
    // Both are gone; the regular container shows it.
    assert_eq!(planned(&pod, &seen(&s, &[running("s", "a", 0)])), "");
}

#[test]
fn a_failed_init_container_is_restarted_or_fails_the_pod() {
    let s = [sandbox("s", 0, true)];
    let failed = seen(&s, &[exited("s", "i", 0, 1)]);
    assert_eq!(
        planned(&pod("Always", &["i"], &[], &["a"]), &failed),
        "start i attempt 1\n"
    );
    assert_eq!(
        planned(&pod("OnFailure", &["i"], &[], &["a"]), &failed),
        "start i attempt 1\n"
    );
    assert_eq!(
        planned(&pod("Never", &["i"], &[], &["a"]), &failed),
        "stop sandbox s\n"
    );
    let over = seen(&[sandbox("s", 0, false)], &[exited("s", "i", 0, 1)]);
    assert_eq!(
        planned(&pod("Never", &["i"], &[], &["a"]), &over),
        "finished\n"
    );
}

#[test]
fn a_sidecar_starts_before_what_follows_and_is_always_restarted() {
    let pod = pod("Never", &["i"], &["side"], &["a"]);
    let s = [sandbox("s", 0, true)];
    let i = exited("s", "i", 0, 0);
    assert_eq!(
        planned(&pod, &seen(&s, std::slice::from_ref(&i))),
        "start side attempt 0\n"
    );
    assert_eq!(
        planned(&pod, &seen(&s, &[i.clone(), running("s", "side", 0)])),
        "start a attempt 0\n"
    );
    let side_died = [i.clone(), exited("s", "side", 0, 1), running("s", "a", 0)];
    assert_eq!(
        planned(&pod, &seen(&s, &side_died)),
        "start side attempt 1\n"
    );
    let a_done = [i, running("s", "side", 0), exited("s", "a", 0, 0)];
    let end = "stop side=side-0 within 30s (Stopping container side)\nstop sandbox s\n";
    assert_eq!(planned(&pod, &seen(&s, &a_done)), end);
}

#[test]
fn restart_policy_decides_what_an_exit_means() {
    let s = [sandbox("s", 0, true)];
    let case = |policy: &str, code: i32| {
        let pod = pod(policy, &[], &[], &["a", "b"]);
        planned(
            &pod,
            &seen(&s, &[exited("s", "a", 0, code), running("s", "b", 0)]),
        )
    };
    assert_eq!(case("Always", 0), "start a attempt 1\n");
    assert_eq!(case("OnFailure", 0), "");
    assert_eq!(case("OnFailure", 1), "start a attempt 1\n");
    assert_eq!(case("Never", 1), "");
}

#[test]
fn the_first_restart_is_immediate_and_the_second_waits() {
    let pod = pod("Always", &[], &[], &["a"]);
    let died = seen(&[sandbox("s", 0, true)], &[exited("s", "a", 1, 1)]);
    let mut backoff = Backoffs::new(Backoffs::INITIAL, Duration::from_secs(300));
    let started = HOUR - Duration::from_secs(5);
    backoff.advance(
        BackoffKey::of(&pod::spec(&pod).containers[0]),
        Exit::at(started),
        started,
    );
    let plan = plan_with(&pod, &died, &backoff);
    assert_eq!(
        plan.to_string(),
        "a waits: CrashLoopBackOff: back-off 10s restarting failed container=a pod=web_default(u1)\nagain in 10s\n"
    );
    let exits = BTreeMap::from([("a-1".into(), Exit::at(HOUR - Duration::from_secs(10)))]);
    let later = plan_pod(&PlanInput {
        pod: &pod,
        observed: &died,
        backoff: &backoff,
        exits: &exits,
        attempts_on_disk: &BTreeMap::new(),
        probes: &BTreeMap::new(),
        resized: &BTreeSet::new(),
        now: HOUR,
    });
    assert_eq!(later.to_string(), "start a attempt 2\n");
}

#[test]
fn a_dead_sandbox_is_replaced_and_what_still_runs_in_it_is_stopped_first() {
    let pod = pod("Always", &["i"], &[], &["a"]);
    let dead = seen(
        &[sandbox("s", 0, false)],
        &[exited("s", "i", 0, 0), running("s", "a", 0)],
    );
    let plan = "stop a=a-0 within 30s (Stopping container a)\ncreate sandbox attempt 1\nstart i attempt 1\n";
    assert_eq!(planned(&pod, &dead), plan);
}

#[test]
fn a_pod_that_never_restarts_gets_no_second_sandbox() {
    let s = [sandbox("s", 0, false)];
    let ran = [exited("s", "a", 0, 137)];
    assert_eq!(
        planned(&pod("Never", &[], &[], &["a"]), &seen(&s, &ran)),
        "finished\n"
    );
    assert_eq!(
        planned(
            &pod("OnFailure", &[], &[], &["a"]),
            &seen(&s, &[exited("s", "a", 0, 0)])
        ),
        "finished\n"
    );
    let again = "create sandbox attempt 1\nstart a attempt 1\n";
    assert_eq!(
        planned(&pod("OnFailure", &[], &[], &["a"]), &seen(&s, &ran)),
        again
    );
    // A sandbox in which nothing began proves nothing.
    let fresh = "create sandbox attempt 1\nstart a attempt 0\n";
    assert_eq!(
        planned(&pod("Never", &[], &[], &["a"]), &seen(&s, &[])),
        fresh
    );
}

#[test]
fn two_ready_sandboxes_are_one_too_many() {
    let pod = pod("Always", &[], &[], &["a"]);
    let two = seen(
        &[sandbox("s", 0, true), sandbox("t", 1, true)],
        &[running("t", "a", 0)],
    );
    assert_eq!(
        planned(&pod, &two),
        "stop a=a-0 within 30s (Stopping container a)\nstop sandbox t\nstop sandbox s\ncreate sandbox attempt 2\nstart a attempt 1\n"
    );
}

#[test]
fn a_sandbox_without_an_address_or_on_the_wrong_network_is_replaced() {
    let pod = pod("Always", &[], &[], &["a"]);
    let mut no_ip = sandbox("s", 0, true);
    no_ip.ips.clear();
    assert!(
        planned(&pod, &seen(&[no_ip], &[]))
            .starts_with("stop sandbox s\ncreate sandbox attempt 1\n")
    );
    let mut on_host = sandbox("s", 0, true);
    on_host.host_network = true;
    assert!(
        planned(&pod, &seen(&[on_host], &[]))
            .starts_with("stop sandbox s\ncreate sandbox attempt 1\n")
    );
}

#[test]
fn a_container_made_but_not_started_is_adopted() {
    let pod = pod("Always", &[], &[], &["a"]);
    let made = seen(
        &[sandbox("s", 0, true)],
        &[container("s", "a", 3, ContainerState::Created)],
    );
    assert_eq!(planned(&pod, &made), "start a attempt 3 as a-3\n");
}

#[test]
fn a_changed_definition_is_stopped_then_started_even_where_nothing_restarts() {
    let pod = pod("Never", &[], &[], &["a"]);
    let mut old = running("s", "a", 0);
    old.hash = "other".into();
    let plan = "stop a=a-0 within 30s (Container a definition changed, will be restarted)\nstart a attempt 1\n";
    assert_eq!(planned(&pod, &seen(&[sandbox("s", 0, true)], &[old])), plan);
}

#[test]
fn never_two_instances_of_one_container() {
    let pod = pod("Always", &[], &[], &["a"]);
    let two = seen(
        &[sandbox("s", 0, true)],
        &[running("s", "a", 0), running("s", "a", 1)],
    );
    assert_eq!(
        planned(&pod, &two),
        "stop a=a-0 within 30s (Stopping container a)\n"
    );
}

#[test]
fn one_ended_instance_is_kept_and_the_rest_goes() {
    let pod = pod("Always", &[], &[], &["a"]);
    let many = seen(
        &[sandbox("s", 1, true), sandbox("old", 0, false)],
        &[
            running("s", "a", 3),
            exited("s", "a", 2, 1),
            exited("old", "a", 1, 1),
        ],
    );
    assert_eq!(
        planned(&pod, &many),
        "remove container a-1\nremove sandbox old\n"
    );
}

#[test]
fn restart_counts_survive_a_runtime_that_forgot() {
    let pod = pod("Always", &[], &[], &["a"]);
    let attempts: BTreeMap<Arc<str>, u32> = BTreeMap::from([("a".into(), 7)]);
    let plan = plan_pod(&PlanInput {
        pod: &pod,
        observed: &seen(&[], &[]),
        backoff: &Backoffs::new(Backoffs::INITIAL, HOUR),
        exits: &BTreeMap::new(),
        attempts_on_disk: &attempts,
        probes: &BTreeMap::new(),
        resized: &BTreeSet::new(),
        now: HOUR,
    });
    assert_eq!(
        plan.to_string(),
        "create sandbox attempt 0\nstart a attempt 7\n"
    );
}

#[test]
fn termination_names_sidecars_last_and_in_reverse() {
    let pod = pod("Always", &[], &["x", "y"], &["a", "b"]);
    let all = ["x", "y", "a", "b"].map(|name| running("s", name, 0));
    let plan = plan_termination(
        &pod,
        &seen(&[sandbox("s", 0, true)], &all),
        Duration::from_secs(9),
    );
    // One step: whoever takes it runs the hooks of all side by side.
    let [Step::Stop(stops), Step::StopSandbox(_)] = &plan.steps[..] else {
        panic!("{plan}");
    };
    let names: Vec<&str> = stops.iter().map(|stop| &*stop.name).collect();
    assert!(
        names[..2].contains(&"a") && names[2..] == ["y", "x"],
        "{names:?}"
    );
    assert!(
        stops
            .iter()
            .all(|stop| stop.grace == Duration::from_secs(9))
    );
}

#[test]
fn termination_gives_what_is_left_and_ends_finished() {
    let pod = pod("Always", &[], &[], &["a"]);
    let alive = seen(&[sandbox("s", 0, true)], &[running("s", "a", 0)]);
    // Nothing left means no hook; whoever stops the container gives it two seconds all the same.
    let plan = plan_termination(&pod, &alive, Duration::ZERO);
    assert!(plan.to_string().contains("within 0ns"), "{plan}");
    let over = seen(&[sandbox("s", 0, false)], &[exited("s", "a", 0, 0)]);
    assert_eq!(
        plan_termination(&pod, &over, Duration::ZERO).to_string(),
        "finished\n"
    );
}

#[test]
fn a_container_that_was_never_started_ends_with_its_pod() {
    let pod = pod("Always", &[], &[], &["app"]);
    let made = container("s0", "app", 0, ContainerState::Created);
    let observed = seen(&[sandbox("s0", 0, true)], std::slice::from_ref(&made));
    let plan = plan_termination(&pod, &observed, HOUR);
    assert_eq!(plan.steps.last(), Some(&Step::RemoveContainer(made.id)));
    let gone = seen(&[sandbox("s0", 0, false)], &[]);
    assert!(plan_termination(&pod, &gone, HOUR).finished);
}

#[test]
fn a_container_is_not_adopted_from_a_sandbox_that_has_stopped() {
    let pod = pod("Always", &[], &[], &["app"]);
    let made = container("s0", "app", 0, ContainerState::Created);
    for sandboxes in [
        vec![sandbox("s0", 0, false)],
        vec![sandbox("s1", 1, true), sandbox("s0", 0, false)],
    ] {
        let text = planned(&pod, &seen(&sandboxes, std::slice::from_ref(&made)));
        assert!(text.contains("start"), "{text}");
        assert!(!text.contains(" as "), "{text}");
    }
}

#[test]
fn a_container_whose_policy_says_so_is_made_anew_for_its_resources() {
    let pod = pod("Never", &[], &[], &["a", "b"]);
    let running = |name| container("s", name, 0, ContainerState::Running);
    let observed = seen(&[sandbox("s", 0, true)], &[running("a"), running("b")]);
    let plan = plan_pod(&PlanInput {
        pod: &pod,
        observed: &observed,
        backoff: &Backoffs::new(Backoffs::INITIAL, HOUR),
        exits: &BTreeMap::new(),
        attempts_on_disk: &BTreeMap::new(),
        probes: &BTreeMap::new(),
        resized: &BTreeSet::from(["b".into()]),
        now: HOUR,
    });
    assert_eq!(
        plan.to_string(),
        "stop b=b-0 within 30s (Container b resize requires restart)\nstart b attempt 1\n"
    );
}
