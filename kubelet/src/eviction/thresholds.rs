//! Which thresholds are met, and since when. Pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use static_pods::quantity::Quantity;

use super::Pressure;
use super::signals::{Layout, Observations, Signal};
use crate::config::{EvictionConfig, GoDuration};

/// So much of something, or such a part of all of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Limit {
    /// As it is written.
    Amount(Quantity),
    /// Hundredths; in the precision that upstream keeps it in, so that the bytes are the same.
    Percent(f32),
}

impl Limit {
    /// Of a text such as `100Mi` or `10%`; none where it is neither.
    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().map(Self::Percent),
            None => Quantity::parse_amount(text).ok().map(Self::Amount),
        }
    }

    /// How much it is of `capacity`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a percentage of an amount, cut off as upstream does"
    )]
    fn of(&self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount.value().max(0).unsigned_abs(),
            Self::Percent(percent) => (capacity as f64 * f64::from(percent / 100.0)) as u64,
        }
    }
}

/// Below which amount something is short, and for how long it has to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    below: Limit,
    /// How long it is borne; zero of a hard threshold.
    pub grace: Duration,
    reclaim: Option<Limit>,
}

impl Threshold {
    /// Whether pods are evicted at once, with a second to end.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// The amount, as messages write it. (Upstream writes percentages of everything in powers of 1024.)
    #[must_use]
    pub fn quantity(&self, capacity: u64) -> Quantity {
        match &self.below {
            Limit::Amount(amount) => amount.clone(),
            Limit::Percent(_) => Quantity::of_bytes(self.below.of(capacity)),
        }
    }

    /// Whether too little is left; with `reclaim`, whether what was to be reclaimed is missing.
    fn is_met(&self, observed: &Observations, reclaim: bool) -> bool {
        let Some(amount) = observed.get(self.signal) else {
            return false;
        };
        let more = self.reclaim.as_ref().filter(|_| reclaim);
        let more = more.map_or(0, |limit| limit.of(amount.capacity));
        let wanted = self.below.of(amount.capacity).saturating_add(more);
        amount.available < wanted
    }
}

/// Why the thresholds of a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// A signal that there is not.
    #[error("{field}: unsupported eviction signal {signal}")]
    Signal {
        /// Which setting.
        field: &'static str,
        /// What it says.
        signal: String,
    },
    /// An amount that is none.
    #[error(
        "{field}: {signal}: {text:?} is neither a positive quantity nor a percentage up to 100%"
    )]
    Amount {
        /// Which setting.
        field: &'static str,
        /// Of which signal.
        signal: String,
        /// What it says.
        text: String,
    },
    /// A soft threshold that says not how long it is borne.
    #[error("evictionSoft: grace period must be specified for the soft eviction threshold {0}")]
    NoGrace(String),
    /// A time that is none.
    #[error("evictionSoftGracePeriod: {signal}: {text:?} is no time")]
    Grace {
        /// Of which signal.
        signal: String,
        /// What it says.
        text: String,
    },
}

impl ThresholdError {
    /// The setting that is wrong.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Signal { field, .. } | Self::Amount { field, .. } => field,
            Self::NoGrace(_) => "evictionSoft",
            Self::Grace { .. } => "evictionSoftGracePeriod",
        }
    }
}

/// The thresholds of `config`; with `allocatable`, what all pods together may have is held to that of memory, too.
///
/// # Errors
/// The first that cannot be used.
pub fn thresholds(
    config: &EvictionConfig,
    allocatable: bool,
) -> Result<Vec<Threshold>, ThresholdError> {
    let mut all = Vec::new();
    let mut graces = BTreeMap::new();
    for (name, text) in &config.soft_grace_period {
        let signal = signal("evictionSoftGracePeriod", name)?;
        let grace = GoDuration::parse(text)
            .ok()
            .filter(|_| !text.starts_with('-'));
        let grace = grace.ok_or_else(|| ThresholdError::Grace {
            signal: name.clone(),
            text: text.clone(),
        })?;
        graces.insert(signal, grace.positive());
    }
    let mut reclaims = BTreeMap::new();
    for (name, text) in &config.minimum_reclaim {
        let field = "evictionMinimumReclaim";
        let signal = signal(field, name)?;
        reclaims.insert(signal, limit(field, name, text)?);
    }
    let lists = [
        ("evictionHard", &config.hard),
        ("evictionSoft", &config.soft),
    ];
    for (field, list) in lists {
        for (name, text) in list {
            let signal = signal(field, name)?;
            // Both switch the signal off.
            if text == "0%" || text == "100%" {
                continue;
            }
            let below = limit(field, name, text)?;
            let grace = match field {
                "evictionHard" => Duration::ZERO,
                _ => *graces
                    .get(&signal)
                    .ok_or_else(|| ThresholdError::NoGrace(name.clone()))?,
            };
            all.push(Threshold {
                signal,
                below,
                grace,
                reclaim: reclaims.get(&signal).cloned(),
            });
        }
    }
    let of_memory = |one: &&Threshold| one.signal == Signal::Memory && one.is_hard();
    let copies: Vec<Threshold> = all
        .iter()
        .filter(of_memory)
        .filter(|_| allocatable)
        .map(|one| Threshold {
            signal: Signal::AllocatableMemory,
            ..one.clone()
        })
        .collect();
    all.extend(copies);
    Ok(all)
}

fn signal(field: &'static str, name: &str) -> Result<Signal, ThresholdError> {
    Signal::parse(name).ok_or_else(|| ThresholdError::Signal {
        field,
        signal: name.to_owned(),
    })
}

fn limit(field: &'static str, signal: &str, text: &str) -> Result<Limit, ThresholdError> {
    let fits = |limit: &Limit| match limit {
        Limit::Amount(amount) => !amount.is_zero(),
        Limit::Percent(percent) => (0.0..=100.0).contains(percent),
    };
    Limit::parse(text)
        .filter(fits)
        .ok_or_else(|| ThresholdError::Amount {
            field,
            signal: signal.to_owned(),
            text: text.to_owned(),
        })
}

/// What of the thresholds is met, and since when.
#[derive(Debug)]
pub struct Judge {
    thresholds: Vec<Threshold>,
    transition: Duration,
    /// Since when each is met without a break; monotonic.
    since: BTreeMap<usize, Duration>,
    /// Those that are met for longer than their grace periods.
    due: BTreeSet<usize>,
    /// When memory, disk and process ids were last short.
    short: [Option<Duration>; 3],
}

/// What came of one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// The conditions of the node: each stays for the transition period after it was last so.
    pub pressure: Pressure,
    /// What has to be reclaimed, the most urgent first.
    pub due: Vec<Threshold>,
}

impl Judge {
    /// Of `thresholds`; a condition stays for `transition` after it was last so.
    #[must_use]
    pub fn new(thresholds: Vec<Threshold>, transition: Duration) -> Self {
        Self {
            thresholds,
            transition,
            since: BTreeMap::new(),
            due: BTreeSet::new(),
            short: [None; 3],
        }
    }

    /// Whether anything can be short.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.thresholds.is_empty()
    }

    /// The thresholds, with those of the writable layers' file system once it is known where that is.
    #[must_use]
    pub fn thresholds(&self) -> &[Threshold] {
        &self.thresholds
    }

    /// Holds the file system of writable layers to the thresholds of the one that it shares; those that the
    /// configuration has for it count for nothing, as upstream.
    pub fn set_layout(&mut self, layout: Layout) {
        let own = |signal| matches!(signal, Signal::ContainerfsBytes | Signal::ContainerfsInodes);
        self.thresholds.retain(|one| !own(one.signal));
        let shared = |signal: Signal| match (signal, layout) {
            (Signal::NodefsBytes, Layout::One | Layout::Split)
            | (Signal::ImagefsBytes, Layout::Images) => Some(Signal::ContainerfsBytes),
            (Signal::NodefsInodes, Layout::One | Layout::Split)
            | (Signal::ImagefsInodes, Layout::Images) => Some(Signal::ContainerfsInodes),
            _ => None,
        };
        let copies: Vec<Threshold> = self
            .thresholds
            .iter()
            .filter_map(|one| {
                let signal = shared(one.signal)?;
                Some(Threshold {
                    signal,
                    ..one.clone()
                })
            })
            .collect();
        self.thresholds.extend(copies);
        // The numbers may stand for other thresholds now; what is short is found anew with this look.
        self.since.clear();
        self.due.clear();
    }

    /// What is short at `now`. A threshold that was due stays met until what was to be reclaimed besides is there.
    pub fn judge(&mut self, observed: &Observations, now: Duration) -> Judgement {
        let met: BTreeSet<usize> = (self.thresholds.iter().enumerate())
            .filter(|(at, one)| one.is_met(observed, self.due.contains(at)))
            .map(|(at, _)| at)
            .collect();
        self.since.retain(|at, _| met.contains(at));
        for at in &met {
            self.since.entry(*at).or_insert(now);
            if let Some(one) = self.thresholds.get(*at) {
                self.short[condition(one.signal)] = Some(now);
            }
        }
        let since = |at: &usize| self.since.get(at).copied().unwrap_or(now);
        let is_due = |(at, one): &(usize, &Threshold)| {
            met.contains(at) && now.saturating_sub(since(at)) >= one.grace
        };
        let due: Vec<(usize, &Threshold)> =
            self.thresholds.iter().enumerate().filter(is_due).collect();
        let mut all: Vec<Threshold> = due.iter().map(|(_, one)| (*one).clone()).collect();
        self.due = due.iter().map(|(at, _)| *at).collect();
        all.sort_by_key(|one| one.signal);
        Judgement {
            pressure: self.pressure(now),
            due: all,
        }
    }

    /// Whether nothing is short any more, what was to be reclaimed besides included.
    #[must_use]
    pub fn is_resolved(&self, observed: &Observations) -> bool {
        !self.thresholds.iter().any(|one| one.is_met(observed, true))
    }

    fn pressure(&self, now: Duration) -> Pressure {
        let [memory, disk, pid] = self.short.map(|last| match last {
            Some(last) => last == now || now.saturating_sub(last) < self.transition,
            None => false,
        });
        Pressure { memory, disk, pid }
    }
}

/// Which condition a signal belongs to: memory, disk, process ids.
fn condition(signal: Signal) -> usize {
    match signal {
        Signal::Memory | Signal::AllocatableMemory => 0,
        Signal::Pids => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests;
