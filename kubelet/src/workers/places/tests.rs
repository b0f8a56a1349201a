use super::*;
use crate::admission::{Amounts, Node};
use crate::managers::Managers;
use crate::runtime::{ObservedSandbox, SandboxId};

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

fn pod(name: &str, priority: i32) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "annotations": {
            "kubernetes.io/config.source": "file", "kubernetes.io/config.seen": "2026-01-02T03:04:05.5Z",
        }},
        "spec": {"priority": priority, "containers": [{"name": "c"}]},
    }))
    .unwrap()
}

/// A node with room for one pod.
fn places() -> Places {
    Places::new(
        Arc::new(Node {
            allocatable: Amounts::from([("pods".to_owned(), 1)]),
            ..Node::default()
        }),
        Arc::new(Managers::none()),
    )
}

fn seat(wanted: Wanted, stage: Stage, place: &Place) -> Seat<'_> {
    Seat {
        wanted,
        stage,
        place,
    }
}

const FRESH: Seat<'static> = Seat {
    wanted: Wanted::Wait,
    stage: Stage::Live,
    place: &Place::Granted,
};

fn found(name: &str) -> FoundPod {
    FoundPod {
        uid: uid(name),
        namespace: "default".into(),
        name: name.into(),
    }
}

#[test]
fn what_ran_before_is_not_asked_but_once() {
    let mut places = places();
    let unseen = ObservedPod::default();
    assert!(
        !places.runs_already(&uid("a"), &unseen),
        "nobody has looked"
    );
    places.runtime_seen(&[found("a"), found("b")]);
    places.runtime_seen(&[found("late")]);
    assert!(places.runs_already(&uid("a"), &unseen));
    assert!(!places.runs_already(&uid("late"), &unseen));
    for name in ["a", "b"] {
        let asked = places.ask(&uid(name), &pod(name, 0), FRESH, true);
        assert!(matches!(asked, Some(Asked::Granted)), "{name}");
    }
    assert!(!places.runs_already(&uid("a"), &unseen), "asked before");
    let asked = places.ask(&uid("late"), &pod("late", 0), FRESH, false);
    assert!(matches!(asked, Some(Asked::Refused(_))));
}

#[test]
fn what_had_ended_before_is_asked() {
    let mut places = places();
    places.runtime_seen(&[found("a")]);
    let mut sandbox = ObservedSandbox {
        id: SandboxId::from("s".to_owned()),
        attempt: 0,
        ready: false,
        created_at: 0,
        ips: Vec::new(),
        host_network: false,
    };
    let of = |sandbox: &ObservedSandbox| ObservedPod {
        sandboxes: vec![sandbox.clone()],
        ..ObservedPod::default()
    };
    assert!(!places.runs_already(&uid("a"), &of(&sandbox)));
    sandbox.ready = true;
    assert!(places.runs_already(&uid("a"), &of(&sandbox)));
}

#[test]
fn a_place_is_left_by_stage_and_order() {
    let granted = Place::Granted;
    let cases = [
        (seat(Wanted::Run, Stage::Live, &granted), false),
        (seat(Wanted::Stop, Stage::Live, &granted), false),
        (seat(Wanted::Stop, Stage::Terminating, &granted), false),
        (seat(Wanted::Stop, Stage::Terminated, &granted), true),
        // Told to come back.
        (seat(Wanted::Run, Stage::Terminated, &granted), false),
        (seat(Wanted::Run, Stage::GivenWay, &granted), false),
        (seat(Wanted::Run, Stage::GivenWay, &Place::Preempted), true),
        (seat(Wanted::Run, Stage::Live, &Place::Preempted), false),
        (seat(Wanted::Run, Stage::Over, &granted), true),
    ];
    for (seat, left) in cases {
        let mut places = places();
        places.ask(&uid("a"), &pod("a", 0), FRESH, false);
        let freed = places.follow(&uid("a"), &pod("a", 0), seat);
        let state = (seat.wanted, seat.stage, seat.place.clone());
        assert_eq!(freed, left, "{state:?}");
        let asked = places.ask(&uid("b"), &pod("b", 0), FRESH, false);
        assert_eq!(matches!(asked, Some(Asked::Granted)), left, "{state:?}");
    }
}

#[test]
fn a_pod_that_is_kept_running_has_a_place_however_it_came_by_it() {
    let mut places = places();
    let runs = seat(Wanted::Run, Stage::Live, &Place::Granted);
    assert!(!places.follow(&uid("a"), &pod("a", 0), runs));
    let asked = places.ask(&uid("b"), &pod("b", 0), FRESH, false);
    assert!(matches!(asked, Some(Asked::Refused(_))));
    assert!(places.gone(&uid("a")));
    assert!(!places.gone(&uid("a")));
}

#[test]
fn a_preempting_pod_waits_and_its_victim_comes_back_only_when_it_has_left() {
    let mut places = places();
    let (low, high) = (pod("low", 1), pod("high", 2));
    let ask =
        |places: &mut Places, name: &str, pod: &Pod, seat| places.ask(&uid(name), pod, seat, false);
    assert!(matches!(
        ask(&mut places, "low", &low, FRESH),
        Some(Asked::Granted)
    ));
    let Some(Asked::Preempts(victims)) = ask(&mut places, "high", &high, FRESH) else {
        panic!("it does not preempt");
    };
    assert_eq!(victims, [uid("low")]);
    assert!(ask(&mut places, "high", &high, FRESH).is_none());

    // Its manifest went and came back meanwhile, or its worker panicked: it leaves all the same.
    let stopping = seat(Wanted::Stop, Stage::Terminating, &Place::Preempted);
    assert!(ask(&mut places, "low", &low, stopping).is_none());
    assert!(matches!(
        ask(&mut places, "low", &low, FRESH),
        Some(Asked::Leaves)
    ));

    let preempted = Place::Preempted;
    let ending = seat(Wanted::Run, Stage::Live, &preempted);
    assert!(!places.waits(&uid("low"), &low, ending), "it has not left");
    let left = seat(Wanted::Run, Stage::GivenWay, &preempted);
    assert!(places.follow(&uid("low"), &low, left));
    assert!(places.waits(&uid("low"), &low, left));
    assert!(matches!(
        ask(&mut places, "high", &high, FRESH),
        Some(Asked::Granted)
    ));
    assert!(matches!(
        ask(&mut places, "low", &low, left),
        Some(Asked::Refused(_))
    ));
    assert!(places.gone(&uid("high")));
    assert!(matches!(
        ask(&mut places, "low", &low, left),
        Some(Asked::Granted)
    ));
}

#[test]
fn a_pod_of_the_api_server_is_refused_once_and_for_all() {
    let places = places();
    let refused = Place::Refused(Arc::new(admission::Rejection {
        reason: "OutOfpods".into(),
        message: String::new(),
    }));
    let seat = seat(Wanted::Run, Stage::Live, &refused);
    let mut of_api = pod("a", 0);
    assert!(
        places.waits(&uid("a"), &of_api, seat),
        "a static one asks again"
    );
    let annotations = of_api.metadata.annotations.as_mut().unwrap();
    annotations.insert("kubernetes.io/config.source".to_owned(), "api".to_owned());
    assert!(!places.waits(&uid("a"), &of_api, seat));
}

#[test]
fn pods_of_the_api_server_come_in_the_order_in_which_they_were_made() {
    let mut of_api = pod("a", 0);
    let made = "2025-12-31T00:00:00Z";
    of_api.metadata.creation_timestamp = serde_json::from_value(made.into()).unwrap();
    assert_ne!(
        first_seen(&of_api).to_string(),
        made,
        "a static pod's file says nothing"
    );
    let annotations = of_api.metadata.annotations.as_mut().unwrap();
    annotations.insert("kubernetes.io/config.source".to_owned(), "api".to_owned());
    assert_eq!(first_seen(&of_api).to_string(), made);
}

#[test]
fn a_pod_that_is_over_needs_no_place() {
    let mut places = places();
    let over = seat(Wanted::Wait, Stage::Over, &Place::Granted);
    for name in ["a", "b"] {
        let asked = places.ask(&uid(name), &pod(name, 0), over, false);
        assert!(matches!(asked, Some(Asked::Granted)), "{name}");
    }
    assert!(matches!(
        places.ask(&uid("c"), &pod("c", 0), FRESH, false),
        Some(Asked::Granted)
    ));
}

#[test]
fn the_source_says_when_it_first_saw_a_pod() {
    let seen = first_seen(&pod("a", 0));
    assert_eq!(seen.to_string(), "2026-01-02T03:04:05.5Z");
    assert_eq!(first_seen(&Pod::default()), Timestamp::MAX);
}
