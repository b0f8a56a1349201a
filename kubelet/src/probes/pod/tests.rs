//! A pod's probes on paused time, with answers from a script.

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::{Instant, sleep, timeout};

use super::super::FailedProbe;
use super::super::ask::{Answer, Asking, Question, Unasked};
use super::*;
use crate::events::recorder;
use crate::runtime::{ContainerState, ObservedContainer};

const SECOND: Duration = Duration::from_secs(1);

/// What was asked: container, kind told by its period, the instance, and when.
type Asked = (String, String, f64);

/// Answers by what is set for the period of the probe, which tells the probes apart.
#[derive(Default)]
struct Script {
    began: Option<Instant>,
    asked: Mutex<Vec<Asked>>,
    answers: Mutex<BTreeMap<i32, Result<Answer, Unasked>>>,
    panics: Mutex<bool>,
    takes: Mutex<Duration>,
}

impl Script {
    fn answer(&self, period: i32, answer: Result<Answer, Unasked>) {
        self.answers.lock().unwrap().insert(period, answer);
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Ask for Script {
    fn ask<'a>(&'a self, question: Question<'a>) -> Asking<'a> {
        Box::pin(async move {
            let at = self.began.unwrap().elapsed().as_secs_f64();
            let period = question.probe.period_seconds.unwrap();
            self.asked.lock().unwrap().push((
                format!("{} {period}", question.container.name),
                question.id.to_string(),
                (at * 1000.0).round() / 1000.0,
            ));
            let panics = std::mem::take(&mut *self.panics.lock().unwrap());
            assert!(!panics, "as the script has it");
            let takes = *self.takes.lock().unwrap();
            sleep(takes).await;
            let answers = self.answers.lock().unwrap();
            answers.get(&period).cloned().unwrap_or(Ok(Answer::Success))
        })
    }
}

fn failure() -> Result<Answer, Unasked> {
    Ok(Answer::Failure("no".into()))
}

fn probe(period: i32, failures: i32) -> Option<Probe> {
    Some(Probe {
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        ..Probe::default()
    })
}

struct Scene {
    pod: Arc<Pod>,
    script: Arc<Script>,
    clock: Clock,
    observed: watch::Sender<Arc<ObservedPod>>,
    probes: PodProbes,
}

impl Scene {
    fn new(container: Container, records: &BTreeMap<String, ContainerRecord>) -> Self {
        Self::of("", container, records)
    }

    /// With a name by which its events are known.
    fn of(name: &str, container: Container, records: &BTreeMap<String, ContainerRecord>) -> Self {
        let clock = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap()).0;
        let script = Arc::new(Script {
            began: Some(Instant::now()),
            ..Script::default()
        });
        let (sender, observed) = watch::channel(Arc::<ObservedPod>::default());
        let pod = Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                containers: vec![container],
                ..PodSpec::default()
            }),
            ..Pod::default()
        });
        let mut probes = PodProbes::asking(script.clone(), clock.clone(), observed, records);
        probes.sync(&pod);
        Self {
            pod,
            script,
            clock,
            observed: sender,
            probes,
        }
    }

    /// An instance that started `age` ago.
    fn runs(&self, id: &str, age: Duration) {
        let nanos = i64::try_from(age.as_nanos()).unwrap();
        self.show(id, ContainerState::Running, self.clock.wall_nanos() - nanos);
    }

    fn show(&self, id: &str, state: ContainerState, started_at: i64) {
        let container = ObservedContainer {
            id: id.into(),
            sandbox: "s".into(),
            name: "c".into(),
            attempt: 0,
            state,
            created_at: 1,
            started_at,
            finished_at: 0,
            exit_code: 0,
            reason: "".into(),
            message: "".into(),
            image: "".into(),
            image_ref: "i".into(),
            hash: "".into(),
            log_path: "".into(),
            grace_seconds: None,
            user: None,
            stop_signal: None,
            recursive_read_only: None,
        };
        self.observed.send_replace(Arc::new(ObservedPod {
            containers: vec![container],
            ..ObservedPod::default()
        }));
    }

    fn view(&self) -> Option<ProbeView> {
        let observed = self.observed.borrow().clone();
        self.probes.views(&self.pod, &observed).get("c").copied()
    }

    /// When the next news come, in seconds from now.
    async fn news_in(&mut self, limit: u64) -> Option<f64> {
        let start = Instant::now();
        let changed = timeout(
            SECOND * u32::try_from(limit).unwrap(),
            self.probes.changed(),
        );
        let changed = changed.await.ok();
        changed.map(|()| (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0)
    }
}

fn three() -> Container {
    Container {
        name: "c".into(),
        startup_probe: probe(10, 30),
        readiness_probe: probe(5, 1),
        liveness_probe: probe(7, 2),
        ..Container::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_other_probes_wait_for_the_start_and_readiness_follows_at_once() {
    let mut scene = Scene::new(three(), &BTreeMap::new());
    scene.script.answer(10, failure());
    sleep(100 * SECOND).await;
    assert_eq!(scene.script.asked(), [], "nothing runs");
    scene.runs("one", Duration::ZERO);
    assert_eq!(scene.news_in(22).await, None);
    scene.script.answer(10, Ok(Answer::Success));
    // Asked 9.75 s after the start, and each ten from there on. Then it has started, and the very next is readiness.
    assert_eq!(scene.news_in(20).await, Some(7.75));
    assert!(scene.view().unwrap().started);
    sleep(Duration::from_millis(1)).await;
    assert!(scene.view().unwrap().ready);
    sleep(12 * SECOND).await;
    let asked = scene.script.asked();
    let at = |probe: &str| {
        let of = asked.iter().filter(|(p, _, _)| p == probe);
        of.map(|(_, _, at)| *at).collect::<Vec<_>>()
    };
    assert_eq!(at("c 10"), [109.75, 119.75, 129.75]);
    assert_eq!(at("c 5"), [129.75, 134.75, 139.75]);
    assert_eq!(at("c 7"), [134.75, 141.75]);
}

#[tokio::test(start_paused = true)]
async fn a_liveness_failure_holds_until_there_is_another_instance() {
    let container = Container {
        name: "c".into(),
        liveness_probe: probe(10, 3),
        ..Container::default()
    };
    let mut scene = Scene::new(container, &BTreeMap::new());
    scene.script.answer(10, failure());
    scene.runs("one", Duration::ZERO);
    assert_eq!(scene.news_in(60).await, Some(29.75));
    let view = scene.view().unwrap();
    assert_eq!(view.failed, Some(FailedProbe::Liveness));
    assert!(view.started && view.ready);
    assert_eq!(scene.script.asked().len(), 3);
    assert_eq!(scene.news_in(600).await, None);
    assert_eq!(scene.script.asked(), []);
    scene.runs("two", Duration::ZERO);
    assert_eq!(scene.view().unwrap().failed, None);
    assert_eq!(scene.news_in(60).await, Some(29.75));
    assert!(scene.script.asked().iter().all(|(_, id, _)| id == "two"));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_asked_is_asked_three_times_and_it_counts_for_nothing() {
    let container = Container {
        name: "c".into(),
        readiness_probe: probe(10, 1),
        ..Container::default()
    };
    let mut scene = Scene::new(container, &BTreeMap::new());
    scene.runs("one", Duration::ZERO);
    assert_eq!(scene.news_in(5).await, Some(1.0));
    assert!(scene.view().unwrap().ready);
    scene.script.asked();
    scene.script.answer(
        10,
        Err(Unasked {
            state: "unknown",
            text: "away".into(),
        }),
    );
    assert_eq!(scene.news_in(25).await, None);
    assert!(scene.view().unwrap().ready);
    let times: Vec<f64> = scene.script.asked().iter().map(|(_, _, at)| *at).collect();
    assert_eq!(times, [11.0, 11.0, 11.0, 21.0, 21.0, 21.0]);
}

#[tokio::test(start_paused = true)]
async fn answers_are_told_in_upstreams_words() {
    let name = "probes-that-tell";
    let scene = Scene::of(name, three(), &BTreeMap::new());
    let away = |state| {
        Err(Unasked {
            state,
            text: "away".into(),
        })
    };
    scene.script.answer(5, failure());
    scene.script.answer(7, away("unknown"));
    scene.runs("one", Duration::ZERO);
    sleep(25 * SECOND).await;
    scene.script.answer(5, away("failure"));
    scene
        .script
        .answer(7, Ok(Answer::Warning("elsewhere".into())));
    sleep(15 * SECOND).await;
    let events = recorder().list(|event| &*event.object.name == name);
    let told: Vec<String> = events
        .iter()
        .map(|event| {
            assert!(event.warning);
            assert_eq!(
                event.object.field_path.as_deref(),
                Some("spec.containers{c}")
            );
            format!("{} {}", event.reason, event.message)
        })
        .collect();
    for line in [
        "Unhealthy Readiness probe failed: no",
        "Unhealthy Liveness probe errored and resulted in unknown state: away",
        "Unhealthy Readiness probe errored and resulted in failure state: away",
        "ProbeWarning Liveness probe warning: elsewhere",
    ] {
        assert!(told.iter().any(|told| told == line), "{line}: {told:?}");
    }
    assert_eq!(told.len(), 4, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_instance_that_has_ended_is_not_waited_for() {
    let container = Container {
        name: "c".into(),
        liveness_probe: probe(1, 1),
        ..Container::default()
    };
    let mut scene = Scene::new(container, &BTreeMap::new());
    *scene.script.takes.lock().unwrap() = 1000 * SECOND;
    scene.script.answer(1, failure());
    scene.runs("one", Duration::ZERO);
    sleep(2 * SECOND).await;
    assert_eq!(scene.script.asked().len(), 1);
    scene.show("one", ContainerState::Exited, 0);
    assert_eq!(scene.news_in(2000).await, None);
    *scene.script.takes.lock().unwrap() = Duration::ZERO;
    scene.runs("two", Duration::ZERO);
    assert_eq!(scene.news_in(5).await, Some(0.75));
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_a_pause() {
    let container = Container {
        name: "c".into(),
        readiness_probe: probe(10, 1),
        ..Container::default()
    };
    let mut scene = Scene::new(container, &BTreeMap::new());
    *scene.script.panics.lock().unwrap() = true;
    scene.runs("one", Duration::ZERO);
    let ready = scene.news_in(60).await;
    assert_eq!(ready, Some(2.0), "asked again a second later");
    assert!(scene.view().unwrap().ready);
    assert_eq!(scene.script.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_runs_holds_every_probe_up() {
    let mut scene = Scene::new(three(), &BTreeMap::new());
    scene.probes.hook_began(&"one".into());
    scene.runs("one", Duration::ZERO);
    scene.news_in(0).await;
    sleep(60 * SECOND).await;
    assert_eq!(scene.script.asked(), []);
    assert!(!scene.view().unwrap().started);
    scene.probes.hook_done(&"one".into());
    sleep(10 * SECOND).await;
    let asked = scene.script.asked();
    assert_eq!(asked[0], ("c 10".to_owned(), "one".to_owned(), 69.75));
    assert!(scene.view().unwrap().started);
}

#[tokio::test(start_paused = true)]
async fn when_the_pod_ends_only_readiness_goes_on() {
    let mut scene = Scene::new(three(), &BTreeMap::new());
    scene.runs("one", Duration::ZERO);
    sleep(30 * SECOND).await;
    assert!(scene.view().unwrap().ready);
    scene.probes.pod_ends();
    scene.script.asked();
    scene.script.answer(5, failure());
    scene.script.answer(7, failure());
    sleep(30 * SECOND).await;
    let asked = scene.script.asked();
    assert!(
        asked.len() > 4 && asked.iter().all(|(probe, _, _)| probe == "c 5"),
        "{asked:?}"
    );
    let view = scene.view().unwrap();
    assert!(!view.ready && view.failed.is_none());
    scene.probes.clear();
    sleep(30 * SECOND).await;
    assert_eq!(scene.script.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_agent_established_holds_until_a_probe_says_otherwise() {
    let records = BTreeMap::from([(
        "c".to_owned(),
        ContainerRecord {
            id: "one".into(),
            started: true,
            ready: true,
        },
    )]);
    let mut scene = Scene::new(three(), &records);
    scene.runs("one", 1000 * SECOND);
    let view = scene.view().unwrap();
    assert!(view.started && view.ready && view.failed.is_none());
    assert_eq!(scene.news_in(30).await, None, "it is as it was");
    let asked = scene.script.asked();
    assert!(
        asked.iter().all(|(probe, _, _)| probe != "c 10"),
        "it has started: {asked:?}"
    );
    let first = |probe: &str| asked.iter().find(|(p, _, _)| p == probe).unwrap().2;
    assert!(
        first("c 5") <= 5.0 && first("c 7") <= 7.0,
        "within the first period: {asked:?}"
    );
    scene.script.answer(5, failure());
    assert!(scene.news_in(10).await.is_some());
    assert!(!scene.view().unwrap().ready);
}
