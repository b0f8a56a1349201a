//! When one probe is asked next, and what its answers amount to. Pure: it takes `now`, and random numbers.
//!
//! Times are nanoseconds of the agent's monotonic clock, below zero before the agent began.

use std::time::Duration;

use super::spec::{ProbeKind, Timing};
use crate::runtime::ContainerId;

/// Upstream's clock of a probe starts with the pod, this much before the container where the image is there already:
/// the first whole period ends so much earlier. A server that is healthy for exactly one period is seen healthy.
const LEAD: i64 = 250_000_000;
/// Upstream reads the container's start to the whole second, so that a tick this much too early for the initial delay
/// counts more often than not. Here it is put off until the delay is over.
const ALMOST: i64 = SECOND;
/// Upstream asks for readiness as soon as it sees the container run, which is at its next look a second later at most. A
/// server that is asked at once is not listening yet, and is not asked again for a period.
const FIRST_READINESS: i64 = SECOND;
const SECOND: i64 = 1_000_000_000;

/// A running instance of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) id: ContainerId,
    /// When it started.
    pub(super) began: i64,
    /// It has run since before the agent began.
    pub(super) adopted: bool,
}

/// What is known when an instance is seen for the first time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct First {
    /// An earlier life of the agent has the startup probe's success on record.
    pub(super) settled: bool,
    /// A number from 0 to 1 for the first probes after the agent began, so that they do not all come at once.
    pub(super) jitter: f64,
}

/// An answer of the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Failure,
    /// The probe could not be asked. It counts for nothing.
    Unknown,
}

/// One probe of one container, over all of its instances.
#[derive(Debug)]
pub(super) struct Machine {
    kind: ProbeKind,
    timing: Timing,
    /// The container has a startup probe, and this is another one.
    waits_for_startup: bool,
    watched: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    instance: Instance,
    /// A tick of this probe; the others are whole periods away.
    base: i64,
    /// Another kind of probe may be asked: the container has started. For the startup probe, always.
    open: bool,
    /// Nothing is asked of this instance any more.
    held: bool,
    /// Readiness is not asked for before.
    earliest: i64,
    due: i64,
    last: Outcome,
    run: u32,
}

impl Machine {
    pub(super) fn new(kind: ProbeKind, timing: Timing, waits_for_startup: bool) -> Self {
        Self {
            kind,
            timing,
            waits_for_startup,
            watched: None,
        }
    }

    /// Takes note of which instance runs, and whether the container has started.
    pub(super) fn see(&mut self, now: i64, seen: Option<(Instance, bool)>, first: First) {
        let Some((instance, started)) = seen else {
            self.watched = None;
            return;
        };
        let known = self.watched.as_ref();
        let is_new = known.is_none_or(|watched| watched.instance.id != instance.id);
        if is_new {
            self.watched = Some(self.watch(now, instance, first));
        }
        let (kind, timing) = (self.kind, self.timing);
        let Some(watched) = &mut self.watched else {
            return;
        };
        if watched.open || !started {
            return;
        }
        watched.open = true;
        let long_open = is_new && watched.instance.adopted;
        if kind == ProbeKind::Readiness && !long_open {
            // At once, and from then on each period.
            watched.due = now.max(watched.earliest);
            watched.base = watched.due;
        } else if watched.due < now {
            watched.due = watched.tick_from(now, &timing);
        }
    }

    fn watch(&self, now: i64, instance: Instance, first: First) -> Watched {
        let period = nanos(self.timing.period);
        let delayed = instance
            .began
            .saturating_add(nanos(self.timing.initial_delay));
        let jittered = instance.adopted && now < period;
        let earliest = match self.waits_for_startup {
            true => delayed,
            false => delayed.max(instance.began.saturating_add(FIRST_READINESS)),
        };
        let base = match self.kind {
            _ if jittered => now.saturating_add(part(period, first.jitter)),
            ProbeKind::Readiness => earliest,
            ProbeKind::Startup | ProbeKind::Liveness => {
                instance.began.saturating_add(period).saturating_sub(LEAD)
            }
        };
        let mut watched = Watched {
            base,
            open: self.kind == ProbeKind::Startup,
            held: self.kind == ProbeKind::Startup && first.settled,
            earliest,
            due: 0,
            last: Outcome::Success,
            run: 0,
            instance,
        };
        watched.due = match self.kind {
            _ if jittered => watched.tick_from(delayed.max(base), &self.timing),
            ProbeKind::Readiness => earliest,
            ProbeKind::Startup | ProbeKind::Liveness => {
                let almost = delayed.saturating_sub(ALMOST).saturating_add(1);
                watched
                    .tick_from(almost.max(base).max(now), &self.timing)
                    .max(delayed)
            }
        };
        watched
    }

    /// When the probe is to be asked; none while there is nothing to ask.
    pub(super) fn due(&self) -> Option<i64> {
        let watched = self.watched.as_ref()?;
        (watched.open && !watched.held).then_some(watched.due)
    }

    /// The instance to ask.
    pub(super) fn instance(&self) -> Option<&ContainerId> {
        Some(&self.watched.as_ref()?.instance.id)
    }

    /// Takes the answer of an attempt of `id` that was begun at `begun`. Gives the verdict where the answers now amount
    /// to one: whether the probe passes.
    pub(super) fn done(
        &mut self,
        id: &ContainerId,
        outcome: Outcome,
        begun: i64,
        now: i64,
    ) -> Option<bool> {
        let (kind, timing) = (self.kind, self.timing);
        let watched = self.watched.as_mut().filter(|w| w.instance.id == *id)?;
        // A tick that passed meanwhile is made up for at once; more than one are not.
        let next = watched.tick_from(begun.saturating_add(1), &timing);
        watched.due = next.max(now);
        if outcome == Outcome::Unknown {
            return None;
        }
        if watched.last != outcome {
            watched.last = outcome;
            watched.run = 0;
        }
        watched.run = watched.run.saturating_add(1);
        let passes = outcome == Outcome::Success;
        let enough = if passes {
            timing.successes
        } else {
            timing.failures
        };
        if watched.run < enough {
            return None;
        }
        // The container is about to be ended; or it has started, which happens once.
        let over = kind == ProbeKind::Startup || kind == ProbeKind::Liveness && !passes;
        watched.held = over;
        Some(passes)
    }
}

impl Watched {
    /// The first tick at or after `from`, which is not before `base` less a period.
    fn tick_from(&self, from: i64, timing: &Timing) -> i64 {
        let period = i128::from(nanos(timing.period).max(SECOND));
        let past = i128::from(from) - i128::from(self.base);
        let periods = past.div_euclid(period) + i128::from(past.rem_euclid(period) != 0);
        let tick = i128::from(self.base) + periods * period;
        i64::try_from(tick).unwrap_or(i64::MAX)
    }
}

/// Nanoseconds; the greatest number where they do not fit, which is 292 years.
pub(super) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a random part of a period need not be exact"
)]
fn part(period: i64, of: f64) -> i64 {
    ((period as f64) * of.clamp(0.0, 1.0)) as i64
}

#[cfg(test)]
mod tests;
