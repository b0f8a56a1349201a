//! The end of one container: its preStop hook, its turn, SIGTERM, and SIGKILL when its time is over.
//!
//! All of it counts inside one grace period, which may be shortened while it runs and is never made longer.

use std::future::Future;
use std::time::Duration;

use cri_proto::CriError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::plan::MINIMUM_GRACE;

/// The least that a container gets which was being stopped when its grace period became shorter.
const LEAST: Duration = Duration::from_secs(1);
/// How long a hook that outlived its container has to say that it failed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How far the end of a container has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KillStep {
    /// Its preStop hook runs.
    PreStop,
    /// It waits for containers that have to end before it.
    Turn,
    /// The runtime was told to stop it.
    Stop,
}

impl KillStep {
    /// What a user reads of it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::PreStop => "preStop hook",
            Self::Turn => "waiting for other containers to end",
            Self::Stop => "StopContainer",
        }
    }
}

/// When the grace period ends, and where its beginning and its end are told.
pub(super) struct Deadline {
    /// When it ends; moved forward only.
    pub(super) at: watch::Receiver<Instant>,
    /// What is being done.
    pub(super) step: watch::Sender<KillStep>,
}

impl Deadline {
    fn is_over(&self) -> bool {
        *self.at.borrow() <= Instant::now()
    }

    /// Waits until it is over. Cancel-safe: nothing but a look at the watch is kept.
    pub(super) async fn over(&mut self) {
        loop {
            let at = *self.at.borrow_and_update();
            tokio::select! {
                () = sleep_until(at) => return,
                changed = self.at.changed() => if changed.is_err() {
                    // Nobody is left who could move it.
                    return sleep_until(at).await;
                },
            }
        }
    }

    /// Waits until it is earlier than `end`.
    async fn earlier_than(&mut self, end: Instant) {
        if self.at.wait_for(|at| *at < end).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn left(&self) -> Duration {
        self.at.borrow().saturating_duration_since(Instant::now())
    }
}

/// Ends a container: runs `hook` until it is done or the time is over, waits for `turn` as long, and calls `stop` with what is
/// left, two seconds at least. A hook that is still running then goes on until its container is gone. With no time at
/// all there is neither hook nor turn.
///
/// # Errors
/// What `stop` says.
pub(super) async fn end_container<S>(
    mut deadline: Deadline,
    hook: Option<impl Future<Output = ()> + Send + 'static>,
    turn: impl Future<Output = ()>,
    stop: impl Fn(Duration) -> S,
) -> Result<(), CriError>
where
    S: Future<Output = Result<(), CriError>>,
{
    let mut hooks = JoinSet::new();
    if let Some(hook) = hook.filter(|_| !deadline.is_over()) {
        deadline.step.send_replace(KillStep::PreStop);
        hooks.spawn(hook);
        // Cancel-safe: a hook that is not done stays in its set.
        tokio::select! {
            biased;
            _ = hooks.join_next() => {}
            () = deadline.over() => {}
        }
    }
    if !deadline.is_over() {
        deadline.step.send_replace(KillStep::Turn);
        // Cancel-safe: either way the container is stopped next.
        tokio::select! {
            biased;
            () = turn => {}
            () = deadline.over() => {}
        }
    }
    deadline.step.send_replace(KillStep::Stop);
    let mut left = deadline.left().max(MINIMUM_GRACE);
    let stopped = loop {
        let end = Instant::now() + left;
        // Less than a second's difference is none: the runtime counts whole ones.
        let shorter = end.checked_sub(LEAST).unwrap_or(end);
        let may_shorten = left > MINIMUM_GRACE;
        // Cancel-safe: a call that is dropped is made again.
        tokio::select! {
            biased;
            done = stop(left) => break done,
            () = deadline.earlier_than(shorter), if may_shorten => left = deadline.left().max(LEAST),
        }
    };
    if !hooks.is_empty() {
        // It ends by itself; nobody waits for it.
        tokio::spawn(async move { timeout(LAST_WORDS, hooks.join_next()).await.map(drop) });
    }
    stopped
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A container that ends `polite` after it was asked, and what was done to it and when.
    struct Scene {
        begun: Instant,
        polite: Duration,
        grace: watch::Sender<Instant>,
        log: Arc<Mutex<Vec<String>>>,
    }

    impl Scene {
        fn new(grace: Duration, polite: Duration) -> Self {
            Self {
                begun: Instant::now(),
                polite,
                grace: watch::Sender::new(Instant::now() + grace),
                log: Arc::default(),
            }
        }

        fn say(&self) -> impl Fn(&str) + Send + Sync + Clone + use<> {
            let (log, begun) = (self.log.clone(), self.begun);
            move |what| {
                let line = format!("{:.1} {what}", begun.elapsed().as_secs_f64());
                log.lock().unwrap().push(line);
            }
        }

        fn hook(&self, takes: Duration) -> impl Future<Output = ()> + Send + use<> {
            let say = self.say();
            async move {
                say("hook");
                tokio::time::sleep(takes).await;
                say("hook done");
            }
        }

        async fn run(
            &self,
            hook: Option<impl Future<Output = ()> + Send + 'static>,
            turn: impl Future<Output = ()>,
        ) -> Vec<String> {
            let say = self.say();
            let polite = self.polite;
            let stop = |grace: Duration| {
                let say = say.clone();
                async move {
                    say(&format!("stop within {:.1}", grace.as_secs_f64()));
                    tokio::time::sleep(polite.min(grace)).await;
                    Ok(())
                }
            };
            let deadline = Deadline {
                at: self.grace.subscribe(),
                step: watch::Sender::new(KillStep::PreStop),
            };
            end_container(deadline, hook, turn, stop).await.unwrap();
            say("gone");
            self.log.lock().unwrap().clone()
        }
    }

    const NONE: Option<std::future::Ready<()>> = None;
    const DEAF: Duration = Duration::from_secs(1000);

    fn now() -> std::future::Ready<()> {
        std::future::ready(())
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_hook_the_whole_grace_period_is_for_the_signal() {
        let scene = Scene::new(10 * SECOND, DEAF);
        assert_eq!(
            scene.run(NONE, now()).await,
            ["0.0 stop within 10.0", "10.0 gone"]
        );
        let polite = Scene::new(10 * SECOND, SECOND);
        assert_eq!(
            polite.run(NONE, now()).await,
            ["0.0 stop within 10.0", "1.0 gone"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_counts_inside_the_grace_period() {
        let scene = Scene::new(10 * SECOND, DEAF);
        let hook = scene.hook(4 * SECOND);
        assert_eq!(
            scene.run(Some(hook), now()).await,
            [
                "0.0 hook",
                "4.0 hook done",
                "4.0 stop within 6.0",
                "10.0 gone"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn two_seconds_are_left_for_the_signal_whatever_the_hook_takes() {
        for takes in [9 * SECOND, 10 * SECOND] {
            let scene = Scene::new(10 * SECOND, DEAF);
            let log = scene.run(Some(scene.hook(takes)), now()).await;
            let end = takes + MINIMUM_GRACE;
            let stop = format!("{:.1} stop within 2.0", takes.as_secs_f64());
            assert!(log.contains(&stop), "{log:?}");
            assert_eq!(
                *log.last().unwrap(),
                format!("{:.1} gone", end.as_secs_f64())
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_that_outlives_the_grace_period_is_left_behind() {
        let scene = Scene::new(3 * SECOND, SECOND);
        let log = scene.run(Some(scene.hook(DEAF)), now()).await;
        assert_eq!(log, ["0.0 hook", "3.0 stop within 2.0", "4.0 gone"]);
        // It goes on until its container is gone, and a little longer: one that fails then gets to say so.
        for (takes, said) in [(5 * SECOND, true), (7 * SECOND, false)] {
            let scene = Scene::new(3 * SECOND, SECOND);
            scene.run(Some(scene.hook(takes)), now()).await;
            tokio::time::sleep(10 * SECOND).await;
            let log = scene.log.lock().unwrap().clone();
            assert_eq!(log.last().unwrap().ends_with("hook done"), said, "{log:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_means_no_hook_and_no_turn() {
        let scene = Scene::new(Duration::ZERO, DEAF);
        let turn = tokio::time::sleep(DEAF);
        let log = scene.run(Some(scene.hook(SECOND)), turn).await;
        assert_eq!(log, ["0.0 stop within 2.0", "2.0 gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_its_turn_counts_too_and_comes_after_the_hook() {
        let scene = Scene::new(10 * SECOND, DEAF);
        let log = scene
            .run(Some(scene.hook(SECOND)), tokio::time::sleep(3 * SECOND))
            .await;
        assert_eq!(
            log,
            [
                "0.0 hook",
                "1.0 hook done",
                "3.0 stop within 7.0",
                "10.0 gone"
            ]
        );
        let scene = Scene::new(10 * SECOND, DEAF);
        let log = scene.run(NONE, tokio::time::sleep(DEAF)).await;
        assert_eq!(log, ["10.0 stop within 2.0", "12.0 gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_grace_period_takes_effect_at_any_step() {
        let begun = Instant::now();
        // At second 2 the end moves from second 30 to second `end`.
        let shortened = async |end: u64, hook: u64, turn: u64| {
            let scene = Scene::new(30 * SECOND, DEAF);
            let grace = scene.grace.clone();
            let to = Instant::now() + Duration::from_secs(end);
            tokio::spawn(async move {
                tokio::time::sleep(2 * SECOND).await;
                grace.send_replace(to);
            });
            let hook = (hook > 0).then(|| scene.hook(Duration::from_secs(hook)));
            scene
                .run(hook, tokio::time::sleep(Duration::from_secs(turn)))
                .await
        };
        let stopping = shortened(5, 0, 0).await;
        assert_eq!(
            stopping,
            ["0.0 stop within 30.0", "2.0 stop within 3.0", "5.0 gone"]
        );
        // Already over: one second all the same.
        let at_once = shortened(1, 0, 0).await;
        assert_eq!(at_once[1..], ["2.0 stop within 1.0", "3.0 gone"]);
        let in_hook = shortened(5, 20, 0).await;
        assert_eq!(in_hook[1..], ["5.0 stop within 2.0", "7.0 gone"]);
        let in_turn = shortened(5, 0, 20).await;
        assert_eq!(in_turn, ["5.0 stop within 2.0", "7.0 gone"]);
        assert!(begun.elapsed() < 40 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_the_runtime_is_the_result() {
        let (_grace, at) = watch::channel(Instant::now() + SECOND);
        let step = watch::Sender::new(KillStep::PreStop);
        let seen = step.subscribe();
        let stop = |_: Duration| async {
            Err(CriError::new(
                "StopContainer",
                cri_proto::CriErrorKind::Other,
                "no",
            ))
        };
        let done = end_container(Deadline { at, step }, NONE, now(), stop).await;
        assert!(done.is_err());
        assert_eq!(*seen.borrow(), KillStep::Stop);
    }
}
