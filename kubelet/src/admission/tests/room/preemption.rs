//! Who has to leave for whom.

use super::*;

#[test]
fn nobody_has_to_leave_for_a_pod_that_something_else_stands_against() {
    let mut node = room();
    node.features.app_armor = false;
    let low = from_api("low", requests(json!({"cpu": "2"})));
    let confined = json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}});
    let critical = from_file("new", with(requests(json!({"cpu": "1"})), confined));
    assert_eq!(
        beside(&node, &[("low", &low)], &critical)
            .unwrap_err()
            .reason,
        "AppArmor"
    );
}

fn cpu(milli: u32) -> Value {
    requests(json!({"cpu": format!("{milli}m")}))
}

fn priority(spec: Value, priority: i32) -> Value {
    with(spec, json!({"priority": priority}))
}

fn guaranteed(milli: u32) -> Value {
    let list = json!({"cpu": format!("{milli}m"), "memory": "1Mi"});
    json!({"containers": [{"name": "c", "resources": {"requests": list.clone(), "limits": list}}]})
}

#[test]
fn a_critical_pod_preempts_as_few_others_as_it_can() {
    let mut node = room();
    node.allocatable.insert("cpu".into(), 1000);
    let (small, middle, large) = (
        from_api("small", cpu(100)),
        from_api("middle", cpu(300)),
        from_api("large", cpu(500)),
    );
    let others = [("small", &small), ("middle", &middle), ("large", &large)];
    let go = |milli| beside(&node, &others, &from_file("new", cpu(milli))).unwrap();
    assert_eq!(go(100), []);
    // 100 are free: 100 more come from the one that serves and asks for least, 300 from the one that serves, more from
    // two.
    assert_eq!(go(200), [uid("small")]);
    assert_eq!(go(400), [uid("middle")]);
    assert_eq!(go(500), [uid("large")]);
    assert_eq!(go(900), [uid("large"), uid("middle")]);
    assert_eq!(go(1000).len(), 3);
}

#[test]
fn guaranteed_pods_are_spared_before_burstable_ones() {
    let mut node = room();
    node.allocatable.insert("cpu".into(), 1000);
    let burstable = from_api("burstable", cpu(600));
    let dear = from_api("dear", guaranteed(400));
    let others = [("burstable", &burstable), ("dear", &dear)];
    let go = |milli| beside(&node, &others, &from_file("new", cpu(milli))).unwrap();
    assert_eq!(go(400), [uid("burstable")]);
    assert_eq!(go(600), [uid("burstable")]);
    assert_eq!(go(700), [uid("burstable"), uid("dear")]);
    // A place for a pod is as good from one as from the other: the least of them goes.
    node.allocatable.insert("pods".into(), 2);
    let idle = from_api("idle", json!({}));
    let others = [("dear", &dear), ("idle", &idle)];
    let new = from_file("new", json!({}));
    assert_eq!(beside(&node, &others, &new), Ok(vec![uid("idle")]));
}

#[test]
fn among_critical_pods_priority_decides_and_without_one_nobody_goes() {
    let mut node = room();
    node.allocatable.insert("cpu".into(), 1000);
    let low = from_file("low", priority(cpu(800), 100));
    let go = |pod: &Pod| beside(&node, &[("low", &low)], pod);
    let higher = from_file("high", priority(cpu(800), 1000));
    assert_eq!(go(&higher), Ok(vec![uid("low")]));
    for not_higher in [priority(cpu(800), 100), cpu(800)] {
        let rejection = go(&from_file("new", not_higher)).unwrap_err();
        assert_eq!(rejection.reason, "UnexpectedAdmissionError");
        assert!(
            rejection.message.contains("[(res: cpu, q: 600), ]"),
            "{rejection}"
        );
    }
    // A pod that is not critical preempts nobody, whatever its priority.
    let rejection = go(&from_api("new", priority(cpu(800), 1_999_999_999))).unwrap_err();
    assert_eq!(rejection.reason, "OutOfcpu");
    assert_eq!(
        go(&from_api("new", priority(cpu(800), 2_000_000_000))),
        Ok(vec![uid("low")])
    );
}

#[test]
fn a_preempting_pod_begins_once_its_victims_are_gone() {
    let mut node = room();
    node.allocatable.insert("cpu".into(), 1000);
    let mut ledger = Ledger::new(Arc::new(node));
    let low = from_file("low", priority(cpu(800), 100));
    let high = from_file("high", priority(cpu(800), 1000));
    let other = from_file("other", priority(cpu(800), 500));
    assert_eq!(ledger.decide(&uid("low"), &low), Decision::Admitted);
    assert_eq!(
        ledger.decide(&uid("high"), &high),
        Decision::Preempts(vec![uid("low")])
    );
    assert!(ledger.has(&uid("high")) && !ledger.may_begin(&uid("high")));
    assert!(ledger.ends(&uid("low")));
    // The place is taken from the moment it was given: nobody slips in between.
    assert!(matches!(
        ledger.decide(&uid("other"), &other),
        Decision::Refused(_)
    ));
    assert!(ledger.release(&uid("low")));
    assert!(ledger.may_begin(&uid("high")));
    assert!(matches!(
        ledger.decide(&uid("low"), &low),
        Decision::Refused(_)
    ));
    assert!(ledger.release(&uid("high")));
    assert!(!ledger.release(&uid("high")));
    assert_eq!(ledger.decide(&uid("low"), &low), Decision::Admitted);
}

#[test]
fn a_pod_keeps_its_place_until_it_is_gone_and_nobody_else_goes_for_it_meanwhile() {
    let mut node = room();
    node.allocatable.insert("cpu".into(), 1000);
    let mut ledger = Ledger::new(Arc::new(node));
    let spec = |milli| with(cpu(milli), port(json!({"hostPort": 80 + milli})));
    let stays = from_file("stays", priority(cpu(400), 1));
    let leaves = from_file("leaves", with(priority(cpu(600), 1), json!({})));
    ledger.adopt(&uid("stays"), &stays);
    ledger.adopt(&uid("leaves"), &leaves);
    ledger.end(&uid("leaves"));
    let new = from_file("new", priority(cpu(600), 9));
    let Decision::Refused(rejection) = ledger.decide(&uid("new"), &new) else {
        panic!("the place is not free yet");
    };
    assert!(rejection.message.ends_with(
        "Node didn't have enough resource: cpu, requested: 600, used: 1000, capacity: 1000"
    ));
    assert!(!ledger.ends(&uid("stays")));
    // More than the one that leaves gives back: another goes, and both have to be gone.
    let more = from_file("more", priority(cpu(700), 9));
    assert_eq!(
        ledger.decide(&uid("more"), &more),
        Decision::Preempts(vec![uid("stays")])
    );
    ledger.release(&uid("stays"));
    assert!(!ledger.may_begin(&uid("more")));
    ledger.release(&uid("leaves"));
    assert!(ledger.may_begin(&uid("more")));

    let holder = from_file("holder", spec(0));
    let mut ledger = Ledger::new(Arc::new(room()));
    ledger.adopt(&uid("holder"), &holder);
    ledger.end(&uid("holder"));
    let Decision::Refused(rejection) = ledger.decide(&uid("new"), &from_file("new", spec(0)))
    else {
        panic!("the port is not free yet");
    };
    assert!(
        rejection
            .message
            .ends_with("host port 80/TCP is held by default/holder, which is being stopped"),
        "{rejection}"
    );
}
