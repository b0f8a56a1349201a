//! A shutdown against a registry whose pods take a given time to end.

use std::fs;
use std::io::{PipeReader, Read as _, pipe};
use std::sync::{Arc, Mutex};

use super::*;
use crate::config::{FeatureGates, ShutdownConfig};
use crate::pod::PodName;
use crate::shutdown::CRITICAL_PRIORITY;

const FOREVER: u64 = 1_000_000;

/// A pod and how many seconds it takes to end once it is told to.
#[derive(Clone, Copy)]
struct Ends {
    name: &'static str,
    priority: i32,
    after: u64,
}

fn pod(name: &'static str, priority: i32, after: u64) -> Ends {
    Ends {
        name,
        priority,
        after,
    }
}

struct Scene {
    begun: Instant,
    /// What happened, with the second.
    log: Arc<Mutex<Vec<String>>>,
    root: tempfile::TempDir,
    lock: PipeReader,
    drain: Drain,
    told: watch::Sender<Remaining>,
}

impl Scene {
    fn new(windows: &[(i32, u64)]) -> Self {
        let by_priority = windows.iter().map(|(p, s)| (*p, Duration::from_secs(*s)));
        let config = ShutdownConfig {
            grace_period: Duration::ZERO,
            critical_pods: Duration::ZERO,
            by_priority: by_priority.collect(),
        };
        let windows = Windows::of_config(&config, &FeatureGates::default()).unwrap();
        let leaving = Leaving {
            windows: windows.clone(),
            begun: 0,
        };
        let (told, remaining) = watch::channel(Remaining::default());
        let (lock, held) = pipe().unwrap();
        let root = tempfile::tempdir().unwrap();
        let wall = "2026-01-01T00:00:00Z".parse().unwrap();
        let drain = Drain {
            windows,
            state: watch::Sender::new(NodeState::ShuttingDown(leaving)),
            remaining,
            clock: Clock::manual(wall).0,
            root: root.path().to_owned(),
            lock: Some(held.into()),
        };
        Self {
            begun: Instant::now(),
            log: Arc::default(),
            root,
            lock,
            drain,
            told,
        }
    }

    /// The registry of these pods. It ends with the shutdown.
    fn follow(&self, pods: &[Ends]) {
        let (log, begun) = (self.log.clone(), self.begun);
        let (mut state, told) = (self.drain.state.subscribe(), self.told.clone());
        let mut pods: Vec<(Ends, Option<Instant>)> = pods.iter().map(|p| (*p, None)).collect();
        let say = move |what: &str, name: &str| {
            let line = format!("{} {what} {name}", begun.elapsed().as_secs());
            log.lock().unwrap().push(line);
        };
        tokio::spawn(async move {
            loop {
                let heard = state.borrow_and_update().clone();
                if let NodeState::ShuttingDown(leaving) = &heard {
                    for (pod, end) in &mut pods {
                        let window = leaving.windows.of_priority(pod.priority);
                        if window < leaving.begun && end.is_none() {
                            say("told", pod.name);
                            *end = Some(Instant::now() + Duration::from_secs(pod.after));
                        }
                    }
                }
                pods.retain(|(pod, end)| {
                    let there = end.is_none_or(|end| end > Instant::now());
                    if !there {
                        say("gone", pod.name);
                    }
                    there
                });
                let name = |pod: &Ends| PodName {
                    namespace: "default".into(),
                    name: pod.name.into(),
                };
                let left = pods.iter().map(|(pod, _)| (pod.priority, name(pod)));
                told.send_replace(Remaining {
                    heard,
                    pods: left.collect(),
                });
                let next = pods.iter().filter_map(|(_, end)| *end).min();
                let next = next.unwrap_or(Instant::now() + Duration::from_secs(FOREVER));
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep_until(next) => {}
                }
            }
        });
    }

    /// What happened until the lock was closed.
    async fn run(self) -> Vec<String> {
        let Self {
            begun,
            log,
            root: _root,
            mut lock,
            drain,
            told: _told,
        } = self;
        drain.run().await;
        // Would wait for ever if anybody still held the other end.
        assert_eq!(lock.read(&mut [0]).unwrap(), 0);
        let mut log = log.lock().unwrap().clone();
        log.push(format!("{} released", begun.elapsed().as_secs()));
        log
    }
}

async fn shut_down(windows: &[(i32, u64)], pods: &[Ends]) -> Vec<String> {
    let scene = Scene::new(windows);
    scene.follow(pods);
    scene.run().await
}

const TWO: [(i32, u64); 2] = [(0, 20), (CRITICAL_PRIORITY, 10)];

#[tokio::test(start_paused = true)]
async fn the_node_goes_as_soon_as_everything_has_ended() {
    let pods = [
        pod("web", 0, 3),
        pod("db", 5, 1),
        pod("etcd", CRITICAL_PRIORITY, 2),
    ];
    assert_eq!(
        shut_down(&TWO, &pods).await,
        [
            "0 told web",
            "0 told db",
            "1 gone db",
            "3 gone web",
            "3 told etcd",
            "5 gone etcd",
            "5 released"
        ]
    );
    assert_eq!(shut_down(&TWO, &[]).await, ["0 released"]);
}

#[tokio::test(start_paused = true)]
async fn a_window_is_no_longer_than_it_is_and_the_late_are_waited_for_while_there_is_time() {
    let pods = [pod("slow", 0, 25), pod("etcd", CRITICAL_PRIORITY, 1)];
    assert_eq!(
        shut_down(&TWO, &pods).await,
        [
            "0 told slow",
            "20 told etcd",
            "21 gone etcd",
            "25 gone slow",
            "25 released"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_hangs_holds_the_node_for_all_windows_and_no_longer() {
    let pods = [
        pod("stuck", 0, FOREVER),
        pod("etcd", CRITICAL_PRIORITY, FOREVER),
    ];
    assert_eq!(
        shut_down(&TWO, &pods).await,
        ["0 told stuck", "20 told etcd", "30 released"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_window_without_pods_takes_no_time() {
    let windows = [(0, 60), (100, 60), (1000, 60), (10_000, 60)];
    let pods = [pod("low", 7, 2), pod("high", 5000, 2)];
    assert_eq!(
        shut_down(&windows, &pods).await,
        [
            "0 told low",
            "2 gone low",
            "2 told high",
            "4 gone high",
            "4 released"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hears_nothing_holds_nobody_for_longer_than_all_windows() {
    assert_eq!(Scene::new(&TWO).run().await, ["30 released"]);
}

#[tokio::test(start_paused = true)]
async fn when_it_began_and_ended_is_written_down() {
    let scene = Scene::new(&TWO);
    scene.follow(&[pod("web", 0, 3)]);
    let root = scene.root.path().to_owned();
    let file = root.join(state_file::NAME);
    let text = move || fs::read_to_string(&file).unwrap();
    let running = tokio::spawn(async move {
        let Scene { drain, root, .. } = scene;
        drain.run().await;
        root
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        text(),
        r#"{"startTime":"2026-01-01T00:00:00Z","endTime":"0001-01-01T00:00:00Z"}"#
    );
    let _root = running.await.unwrap();
    assert_eq!(
        text(),
        r#"{"startTime":"2026-01-01T00:00:00Z","endTime":"2026-01-01T00:00:03Z"}"#
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_is_called_off_lets_go_of_its_lock() {
    let scene = Scene::new(&TWO);
    scene.follow(&[pod("stuck", 0, FOREVER)]);
    let Scene {
        drain, mut lock, ..
    } = scene;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(drain.run());
    tokio::time::sleep(Duration::from_secs(1)).await;
    tasks.shutdown().await;
    assert_eq!(lock.read(&mut [0]).unwrap(), 0);
}

#[test]
fn pauses_double_up_to_half_a_minute() {
    let mut pause = Pause::new();
    let pauses: Vec<u64> = (0..7).map(|_| pause.next().as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}
