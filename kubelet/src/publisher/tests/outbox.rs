use std::time::Duration;

use super::*;
use crate::publisher::call::{Done, Errand, Job, Outcome};
use crate::publisher::outbox::Outbox;
use crate::status::{ContainerStatus, State, Terminated};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn patched(job: &Job, change: impl FnOnce(&mut ServerStatus)) -> Done {
    let mut shown = ServerStatus {
        version: 2,
        ..ServerStatus::default()
    };
    if let Errand::Patch(body) = &job.errand {
        let status = serde_json::from_value(strip(body["status"].clone())).unwrap();
        shown.print = crate::status::fingerprint(&status);
        shown.phase = status.phase.as_deref().and_then(Phase::parse);
        shown.reason = status.reason.as_deref().map(Into::into);
        shown.message = status.message.as_deref().map(Into::into);
    }
    change(&mut shown);
    Done {
        uid: job.uid.clone(),
        outcome: Outcome::Patched(Box::new(shown)),
    }
}

/// A patch as the status that comes of it, where there was none.
fn strip(mut patch: Value) -> Value {
    let fields = patch.as_object_mut().unwrap();
    fields.retain(|key, value| !key.starts_with('$') && !value.is_null());
    for value in fields.values_mut() {
        if let Some(list) = value.as_array_mut() {
            list.retain(|item| item.get("$patch").is_none());
        }
    }
    patch
}

fn phase_of(job: &Job) -> &str {
    match &job.errand {
        Errand::Patch(body) => body["status"]["phase"].as_str().unwrap(),
        Errand::Delete => "DELETE",
    }
}

fn away(job: &Job, wished: Duration) -> Done {
    Done {
        uid: job.uid.clone(),
        outcome: Outcome::Away("refused".to_owned(), wished),
    }
}

/// Asks until nothing is left to do at `now`.
fn all(outbox: &mut Outbox, now: Duration) -> Vec<Job> {
    std::iter::from_fn(|| outbox.next(now)).collect()
}

#[test]
fn a_status_goes_out_once_and_at_rest_there_is_nothing_to_wait_for() {
    let pod = pod("a", |_| {});
    let api = api(&[&pod]);
    let mut outbox = Outbox::default();
    let shown = view(&pod, status(Phase::Running), Word::Current);
    outbox.follow(&api, std::slice::from_ref(&shown), ms(0));
    assert!(outbox.next(ms(0)).is_none());
    assert_eq!(outbox.wake_in(ms(0)), Some(ms(100)));
    let job = outbox.next(ms(100)).unwrap();
    let Errand::Patch(body) = &job.errand else {
        panic!("{job:?}");
    };
    assert_eq!(body["metadata"], json!({"uid": "a"}));
    assert_eq!(body["status"]["phase"], "Running");
    assert_eq!(job.name.to_string(), "pod-a_default");
    assert!(outbox.next(ms(100)).is_none(), "one call a pod");
    outbox.done(patched(&job, |_| {}), ms(120), 0);
    assert!(all(&mut outbox, ms(300)).is_empty());
    assert_eq!(outbox.wake_in(ms(300)), None);
    // The echo of the watch, and the board as it was, change nothing.
    outbox.follow(&api, &[shown], ms(400));
    assert!(all(&mut outbox, ms(600)).is_empty());
    assert_eq!(outbox.wake_in(ms(600)), None);
}

#[test]
fn changes_within_a_short_time_go_as_one_and_those_during_a_call_go_after_it() {
    let pod = pod("a", |_| {});
    let api = api(&[&pod]);
    let mut outbox = Outbox::default();
    let show = |outbox: &mut Outbox, phase, at| {
        outbox.follow(&api, &[view(&pod, status(phase), Word::Current)], at);
    };
    show(&mut outbox, Phase::Pending, ms(0));
    show(&mut outbox, Phase::Running, ms(50));
    let job = outbox.next(ms(100)).unwrap();
    assert_eq!(phase_of(&job), "Running");
    show(&mut outbox, Phase::Succeeded, ms(110));
    assert!(outbox.next(ms(500)).is_none());
    outbox.done(patched(&job, |_| {}), ms(510), 0);
    let job = outbox.next(ms(510)).unwrap();
    assert_eq!(phase_of(&job), "Succeeded");
}

#[test]
fn an_agent_that_begins_sends_nothing_that_is_there_already_and_nothing_unseen() {
    let shown = json!({
        "phase": "Running", "qosClass": "BestEffort", "startTime": "1970-01-01T00:00:00Z", "conditions": [],
    });
    let known = pod("a", |p| p["status"] = shown);
    let plain = view(&known, status(Phase::Running), Word::Current);
    let ours = crate::status::serialise(&known, &plain.status, "containerd");
    let known = pod("a", |p| p["status"] = serde_json::to_value(&ours).unwrap());
    let unseen = pod("b", |_| {});
    let mut outbox = Outbox::default();
    let board = [
        view(&known, status(Phase::Running), Word::Current),
        view(&unseen, status(Phase::Pending), Word::Unseen),
    ];
    outbox.follow(&api(&[&known, &unseen]), &board, ms(0));
    assert!(all(&mut outbox, ms(1000)).is_empty());
    assert_eq!(outbox.wake_in(ms(1000)), None);
}

#[test]
fn what_somebody_else_changes_is_put_right_and_not_more_than_once_in_ten_seconds() {
    let pod = pod("a", |_| {});
    let mut known = api(&[&pod]);
    let mut outbox = Outbox::default();
    let board = [view(&pod, status(Phase::Running), Word::Current)];
    outbox.follow(&known, &board, ms(0));
    let job = outbox.next(ms(100)).unwrap();
    outbox.done(patched(&job, |_| {}), ms(100), 0);
    let mut meddle = |outbox: &mut Outbox, version, print, at| {
        let shown = ServerStatus {
            version,
            print,
            phase: Some(Phase::Running),
            ..ServerStatus::default()
        };
        known.statuses.insert(uid("a"), Arc::new(shown));
        outbox.follow(&known, &board, at);
    };
    meddle(&mut outbox, 1, 99, ms(1000));
    assert!(
        all(&mut outbox, ms(2000)).is_empty(),
        "older than the answer"
    );
    meddle(&mut outbox, 3, 99, ms(3000));
    let job = outbox.next(ms(3100)).unwrap();
    // The API server makes something else of it, which is no reason to go on for ever.
    outbox.done(
        patched(&job, |s| (s.version, s.print) = (4, 77)),
        ms(3100),
        0,
    );
    assert!(all(&mut outbox, ms(4000)).is_empty());
    assert_eq!(outbox.wake_in(ms(4000)), None);
    meddle(&mut outbox, 5, 99, ms(5000));
    assert!(outbox.next(ms(5100)).is_none());
    assert_eq!(outbox.wake_in(ms(5100)), Some(ms(8000)));
    assert!(outbox.next(ms(13_100)).is_some());
}

#[test]
fn a_deleted_pod_is_removed_once_its_last_status_is_shown() {
    let pod = deleted("a");
    let known = api(&[&pod]);
    let mut outbox = Outbox::default();
    let ended = view(&pod, status(Phase::Failed), Word::Current);
    outbox.follow(&known, std::slice::from_ref(&ended), ms(0));
    let job = outbox.next(ms(100)).unwrap();
    outbox.done(patched(&job, |_| {}), ms(100), 0);
    assert!(
        all(&mut outbox, ms(1000)).is_empty(),
        "its volumes are there"
    );
    let last = PodView {
        word: Word::Last,
        ..ended
    };
    outbox.follow(&known, std::slice::from_ref(&last), ms(2000));
    let job = outbox.next(ms(2000)).unwrap();
    assert_eq!(phase_of(&job), "DELETE");
    let deleted = Done {
        uid: job.uid.clone(),
        outcome: Outcome::Deleted,
    };
    outbox.done(deleted, ms(2000), 0);
    // Finalizers keep the object: it is not asked for again, whatever changes there.
    let mut known = known;
    let shown = ServerStatus {
        version: 9,
        phase: Some(Phase::Failed),
        ..ServerStatus::default()
    };
    known.statuses.insert(uid("a"), Arc::new(shown));
    outbox.follow(&known, &[last], ms(3000));
    assert!(all(&mut outbox, ms(60_000)).is_empty());
    assert_eq!(outbox.wake_in(ms(60_000)), None);
}

#[test]
fn an_object_that_only_waits_for_its_finalizers_is_left_to_the_api_server() {
    let pod = pod("a", |p| {
        p["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
        p["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        p["metadata"]["finalizers"] = json!(["example.com/hold"]);
    });
    let mut outbox = Outbox::default();
    let last = view(&pod, status(Phase::Failed), Word::Last);
    outbox.follow(&api(&[&pod]), &[last], ms(0));
    let job = outbox.next(ms(0)).unwrap();
    assert_eq!(phase_of(&job), "Failed");
    outbox.done(patched(&job, |_| {}), ms(0), 0);
    assert!(all(&mut outbox, ms(60_000)).is_empty());
}

#[test]
fn a_static_pods_status_goes_to_the_mirror_that_was_made_of_it() {
    let pod = static_pod("s", "h1");
    let view = [view(&pod, status(Phase::Running), Word::Current)];
    let mut known = ApiPods::default();
    let mut outbox = Outbox::default();
    outbox.follow(&known, &view, ms(0));
    assert!(all(&mut outbox, ms(1000)).is_empty(), "it has none yet");
    known.mirrors.insert(name(&pod), mirror("m", "h0"));
    outbox.follow(&known, &view, ms(1000));
    assert!(all(&mut outbox, ms(2000)).is_empty(), "another's");
    known.mirrors.insert(name(&pod), mirror("m2", "h1"));
    outbox.follow(&known, &view, ms(2000));
    let job = outbox.next(ms(2100)).unwrap();
    assert_eq!((job.uid.as_str(), phase_of(&job)), ("m2", "Running"));
    outbox.done(patched(&job, |_| {}), ms(2100), 0);
    // Its successor begins with nothing.
    known.mirrors.insert(name(&pod), mirror("m3", "h1"));
    outbox.follow(&known, &view, ms(3000));
    assert_eq!(outbox.next(ms(3100)).unwrap().uid, uid("m3"));
}

#[test]
fn what_has_ended_for_good_at_the_api_server_is_not_taken_back() {
    let pod = pod("a", |p| p["status"] = json!({"phase": "Failed"}));
    let mut outbox = Outbox::default();
    let running = view(&pod, status(Phase::Running), Word::Current);
    outbox.follow(&api(&[&pod]), &[running], ms(0));
    assert!(all(&mut outbox, ms(1000)).is_empty());
    let failed = view(&pod, status(Phase::Failed), Word::Current);
    outbox.follow(&api(&[&pod]), &[failed], ms(2000));
    assert_eq!(phase_of(&outbox.next(ms(2100)).unwrap()), "Failed");
}

fn container(state: State) -> ContainerStatus {
    ContainerStatus {
        name: "main".into(),
        kind: crate::pod::ContainerKind::Regular,
        state,
        last: None,
        started: false,
        ready: false,
        restart_count: 0,
        image: "i".into(),
        image_id: None,
        id: None,
        user: None,
        stop_signal: None,
        recursive_read_only: None,
        devices: Vec::new(),
    }
}

#[test]
fn a_container_that_has_ended_for_good_is_not_shown_as_running_again() {
    let end = || {
        State::Terminated(Box::new(Terminated {
            exit_code: 0,
            reason: "Completed".into(),
            message: "".into(),
            started_at: None,
            finished_at: None,
            id: None,
        }))
    };
    let with = |state| PodStatus {
        containers: vec![container(state)],
        ..status(Phase::Running)
    };
    let started_at = jiff::Timestamp::UNIX_EPOCH;
    let revived = with(State::Running { started_at });
    let (never, always) = (
        pod("a", |_| {}),
        pod("a", |p| p["spec"]["restartPolicy"] = json!("Always")),
    );
    for (pod, patches) in [(never, 0), (always, 1)] {
        let known = api(&[&pod]);
        let mut outbox = Outbox::default();
        outbox.follow(&known, &[view(&pod, with(end()), Word::Current)], ms(0));
        let job = outbox.next(ms(100)).unwrap();
        outbox.done(patched(&job, |_| {}), ms(100), 0);
        outbox.follow(
            &known,
            &[view(&pod, revived.clone(), Word::Current)],
            ms(200),
        );
        assert_eq!(all(&mut outbox, ms(400)).len(), patches);
    }
    // The API server's word counts for an agent that has just begun.
    let shown = pod("a", |p| {
        p["status"] = json!({"phase": "Running", "containerStatuses": [{
            "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}},
        }]});
    });
    let mut outbox = Outbox::default();
    outbox.follow(
        &api(&[&shown]),
        &[view(&shown, revived, Word::Current)],
        ms(0),
    );
    assert!(all(&mut outbox, ms(400)).is_empty());
}

#[test]
fn some_calls_go_at_once_and_pods_that_end_go_first() {
    let pods: Vec<_> = (0..20).map(|i| pod(&format!("p{i:02}"), |_| {})).collect();
    let gone = deleted("z");
    let mut all_pods: Vec<&Arc<Pod>> = pods.iter().collect();
    all_pods.push(&gone);
    let known = api(&all_pods);
    let mut board: Vec<PodView> = pods
        .iter()
        .map(|p| view(p, status(Phase::Running), Word::Current))
        .collect();
    let mut outbox = Outbox::default();
    outbox.follow(&known, &board, ms(0));
    board.push(view(&gone, status(Phase::Failed), Word::Last));
    outbox.follow(&known, &board, ms(90));
    let jobs = all(&mut outbox, ms(100));
    assert_eq!(jobs.len(), 8);
    assert_eq!(jobs[0].uid, uid("z"));
    assert_eq!(outbox.wake_in(ms(100)), None, "an answer brings the next");
    outbox.done(patched(&jobs[1], |_| {}), ms(110), 0);
    assert_eq!(all(&mut outbox, ms(110)).len(), 1);
}

#[test]
fn an_outage_is_felt_out_by_one_call_at_a_time_and_its_end_lets_all_go() {
    let pods: Vec<_> = (0..5).map(|i| pod(&format!("p{i}"), |_| {})).collect();
    let known = api(&pods.iter().collect::<Vec<_>>());
    let board: Vec<PodView> = pods
        .iter()
        .map(|p| view(p, status(Phase::Running), Word::Current))
        .collect();
    let mut outbox = Outbox::default();
    outbox.follow(&known, &board, ms(0));
    let jobs = all(&mut outbox, ms(100));
    assert_eq!(jobs.len(), 5);
    assert!(!jobs[0].probes);
    for job in &jobs {
        outbox.done(away(job, ms(0)), ms(150), 0);
    }
    let mut now = ms(150);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let wait = outbox.wake_in(now).unwrap();
        waits.push(wait.as_millis());
        now += wait;
        let job = outbox.next(now).unwrap();
        assert!(job.probes);
        assert!(outbox.next(now).is_none(), "one at a time");
        outbox.done(away(&job, ms(0)), now, 0);
    }
    assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    // Somebody else has heard from it.
    now += ms(10);
    assert!(outbox.next(now).is_none());
    outbox.try_now(now);
    assert_eq!(outbox.wake_in(now), Some(ms(0)));
    let job = outbox.next(now).unwrap();
    outbox.done(patched(&job, |_| {}), now, 0);
    assert_eq!(all(&mut outbox, now + ms(100)).len(), 4);
}

#[test]
fn the_api_servers_wish_to_be_left_alone_counts() {
    let pod = pod("a", |_| {});
    let mut outbox = Outbox::default();
    let board = [view(&pod, status(Phase::Running), Word::Current)];
    outbox.follow(&api(&[&pod]), &board, ms(0));
    let job = outbox.next(ms(100)).unwrap();
    outbox.done(away(&job, ms(3000)), ms(100), 0);
    assert_eq!(outbox.wake_in(ms(100)), Some(ms(3000)));
    outbox.try_now(ms(200));
    assert_eq!(outbox.wake_in(ms(200)), Some(ms(2900)));
}

#[test]
fn a_refusal_holds_up_one_pod_alone_and_less_and_less_often() {
    let (bad, good) = (pod("a", |_| {}), pod("b", |_| {}));
    let known = api(&[&bad, &good]);
    let board = [&bad, &good].map(|p| view(p, status(Phase::Running), Word::Current));
    let mut outbox = Outbox::default();
    outbox.follow(&known, &board, ms(0));
    let jobs = all(&mut outbox, ms(100));
    outbox.done(patched(&jobs[1], |_| {}), ms(100), 0);
    let mut now = ms(100);
    let mut job = jobs.into_iter().next().unwrap();
    let mut waits = Vec::new();
    for _ in 0..10 {
        let refused = Outcome::Refused("no".to_owned());
        let done = Done {
            uid: job.uid.clone(),
            outcome: refused,
        };
        outbox.done(done, now, 0);
        let wait = outbox.wake_in(now).unwrap();
        waits.push(wait.as_millis());
        now += wait;
        job = outbox.next(now).unwrap();
        assert_eq!(job.uid, uid("a"));
    }
    assert_eq!(waits[..4], [200, 400, 800, 1600]);
    assert_eq!(waits[9], 30_000);
}

#[test]
fn nothing_is_kept_of_an_object_that_is_gone() {
    let pod = pod("a", |_| {});
    let board = [view(&pod, status(Phase::Running), Word::Current)];
    let mut outbox = Outbox::default();
    outbox.follow(&api(&[&pod]), &board, ms(0));
    let job = outbox.next(ms(100)).unwrap();
    // It was deleted and made anew under another UID: what was on its way counts for nobody.
    outbox.follow(&ApiPods::default(), &board, ms(150));
    let gone = Done {
        uid: job.uid,
        outcome: Outcome::Gone,
    };
    outbox.done(gone, ms(200), 0);
    assert!(all(&mut outbox, ms(60_000)).is_empty());
    assert_eq!(outbox.wake_in(ms(60_000)), None);
}
