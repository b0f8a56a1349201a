//! The task of one probe: sleeps until the next attempt, asks, counts, and tells.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::watch;

use super::ask::{Answer, Ask, Question, Unasked};
use super::counts::Counts;
use super::facts::Facts;
use super::machine::{First, Instance, Machine, Outcome, nanos};
use super::spec::{ProbeKey, ProbeKind, Timing};
use crate::clock::Clock;
use crate::events::About;
use crate::metrics::ProbeResult;
use crate::pod::{self, Pod};
use crate::runtime::{ContainerId, ContainerState, ObservedPod};

/// How often a container that cannot be asked is asked all the same, in one attempt (`maxProbeRetries` of upstream).
const TRIES: u32 = 3;
/// Before a task that panicked goes on; it doubles.
const AFTER_PANIC: Duration = Duration::from_secs(1);
const AFTER_PANIC_MOST: Duration = Duration::from_secs(60);

/// One probe of one container, over all of its instances.
pub(super) struct ProbeTask {
    pub(super) pod: Arc<Pod>,
    pub(super) key: ProbeKey,
    pub(super) clock: Clock,
    pub(super) ask: Arc<dyn Ask>,
    pub(super) observed: watch::Receiver<Arc<ObservedPod>>,
    pub(super) facts: watch::Sender<Facts>,
    /// What is counted of it; forgotten with the task, as upstream does.
    pub(super) counts: Counts,
}

/// Where the probe stands in the pod's spec.
#[derive(Clone, Copy)]
struct Spec<'a> {
    container: &'a Container,
    probe: &'a Probe,
}

impl ProbeTask {
    /// Asks until the task is dropped, or nobody looks at the pod any more. A panic is shown, and the task begun again.
    pub(super) async fn run(mut self) {
        let pod = self.pod.clone();
        let Some(spec) = self.spec(&pod) else {
            return;
        };
        let mut pause = AFTER_PANIC;
        while let Err(panic) = caught(Box::pin(self.asks(spec))).await {
            let kind = self.key.kind;
            tracing::error!(pod = %pod::PodName::of(&pod), container = %self.key.container, %kind, panic, "a probe's task panicked; it is begun again in {pause:?}");
            let text = format!("the agent failed while it probed: {panic}");
            self.tell(&Err(Unasked {
                state: "unknown",
                text,
            }));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AFTER_PANIC_MOST);
        }
    }

    fn spec<'a>(&self, pod: &'a Pod) -> Option<Spec<'a>> {
        let mut containers = pod::containers(pod).map(|(_, container)| container);
        let container = containers.find(|c| *c.name == *self.key.container)?;
        let probe = self.key.kind.of(container)?;
        Some(Spec { container, probe })
    }

    async fn asks(&mut self, spec: Spec<'_>) {
        let kind = self.key.kind;
        let after_startup = kind != ProbeKind::Startup && spec.container.startup_probe.is_some();
        let mut machine = Machine::new(kind, Timing::of(spec.probe), after_startup);
        let mut known = self.facts.subscribe();
        let mut observed = self.observed.clone();
        loop {
            let seen = self.look(
                &observed.borrow_and_update(),
                &known.borrow_and_update(),
                spec,
            );
            let first = self.first(&known.borrow(), &seen);
            let now = nanos(self.clock.monotonic());
            machine.see(now, seen, first);
            let due = machine.due();
            // Cancel-safe: news stay in their channels, and the time is computed anew.
            tokio::select! {
                changed = observed.changed() => if changed.is_err() { return },
                changed = known.changed() => if changed.is_err() { return },
                () = sleep_until(due, now) => self.attempt(&mut machine, spec).await,
            }
        }
    }

    /// The instance that runs, and whether it has started.
    fn look(
        &self,
        observed: &ObservedPod,
        facts: &Facts,
        spec: Spec<'_>,
    ) -> Option<(Instance, bool)> {
        let newest = observed.newest(&self.key.container)?;
        if newest.state != ContainerState::Running || facts.hook_runs(&newest.id) {
            return None;
        }
        let now = self.clock.now();
        // The runtime's clock is read once in an instance's life, when it is seen for the first time.
        let age = now.wall_nanos().saturating_sub(newest.started_at).max(0);
        let began = nanos(now.monotonic).saturating_sub(age);
        let instance = Instance {
            id: newest.id.clone(),
            began,
            adopted: began < 0,
        };
        let started = facts.started(&newest.name, spec.container, &newest.id);
        Some((instance, started))
    }

    fn first(&self, facts: &Facts, seen: &Option<(Instance, bool)>) -> First {
        let Some((instance, _)) = seen else {
            return First::default();
        };
        First {
            settled: self.key.kind == ProbeKind::Startup
                && facts.verdict_of(&self.key, &instance.id) == Some(true),
            jitter: if instance.adopted { random() } else { 0.0 },
        }
    }

    async fn attempt(&self, machine: &mut Machine, spec: Spec<'_>) {
        let Some(id) = machine.instance().cloned() else {
            return;
        };
        let begun = nanos(self.clock.monotonic());
        let mut observed = self.observed.clone();
        let ended = observed.wait_for(|seen| {
            let newest = seen.newest(&self.key.container);
            newest.is_none_or(|c| c.id != id || c.state != ContainerState::Running)
        });
        // Cancel-safe: an answer of an instance that has ended is of no use.
        let answer = tokio::select! {
            biased;
            _ = ended => return,
            answer = self.ask(spec, &id) => answer,
        };
        self.tell(&answer);
        let (outcome, result) = match answer {
            Ok(Answer::Success | Answer::Warning(_)) => (Outcome::Success, ProbeResult::Successful),
            Ok(Answer::Failure(_)) => (Outcome::Failure, ProbeResult::Failed),
            Err(_) => (Outcome::Unknown, ProbeResult::Unknown),
        };
        let now = nanos(self.clock.monotonic());
        self.counts.count(result, now.saturating_sub(begun));
        if let Some(passes) = machine.done(&id, outcome, begun, now) {
            self.facts
                .send_if_modified(|facts| facts.take(&self.key, &id, passes));
        }
    }

    async fn ask(&self, spec: Spec<'_>, id: &ContainerId) -> Result<Answer, Unasked> {
        let ip = self.pod_ip();
        let mut tries = 1;
        loop {
            let question = Question {
                pod: &self.pod,
                container: spec.container,
                probe: spec.probe,
                id,
                ip: &ip,
            };
            let answer = self.ask.ask(question).await;
            if answer.is_ok() || tries >= TRIES {
                return answer;
            }
            tries += 1;
        }
    }

    /// Empty on the node's network.
    fn pod_ip(&self) -> String {
        let observed = self.observed.borrow();
        let sandbox = observed.sandboxes.first().filter(|s| !s.host_network);
        let ip = sandbox.and_then(|sandbox| sandbox.ips.first());
        ip.map(ToString::to_string).unwrap_or_default()
    }

    fn tell(&self, answer: &Result<Answer, Unasked>) {
        let kind = self.key.kind;
        let about = About::container(&self.pod, &self.key.container);
        match answer {
            Ok(Answer::Success) => {}
            Ok(Answer::Warning(output)) => {
                about.warning("ProbeWarning", &format!("{kind} probe warning: {output}"));
            }
            Ok(Answer::Failure(output)) => {
                about.warning("Unhealthy", &format!("{kind} probe failed: {output}"));
            }
            Err(Unasked { state, text }) => about.warning(
                "Unhealthy",
                &format!("{kind} probe errored and resulted in {state} state: {text}"),
            ),
        }
    }
}

/// Sleeps until `due`, for ever when there is none.
async fn sleep_until(due: Option<i64>, now: i64) {
    match due {
        None => std::future::pending().await,
        Some(due) => {
            let left = due.saturating_sub(now).max(0).unsigned_abs();
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
    }
}

/// Awaits `work`; a panic of it is an error with its words.
async fn caught(work: impl Future<Output = ()>) -> Result<(), String> {
    let mut work = pin!(work);
    // After a panic `work` is not polled again; what it shares with others is behind locks that panics leave whole.
    std::future::poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                Poll::Ready(Err(text.unwrap_or_else(|| "a panic".to_owned())))
            }
        },
    )
    .await
}

/// A number from 0 to 1, another one each time.
#[expect(clippy::cast_precision_loss, reason = "any number from 0 to 1 will do")]
fn random() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let random = RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1_u64 << 53) as f64
}
