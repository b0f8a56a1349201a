//! Counters and histograms that cost an atomic addition, or one look-up below a lock that nobody holds for long.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::text::{Exposition, Family, float};

/// Only goes up.
#[derive(Debug)]
pub struct Counter {
    family: Family,
    count: AtomicU64,
}

impl Counter {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            family: Family::counter(name, help),
            count: AtomicU64::new(0),
        }
    }

    /// One more.
    pub fn inc(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, more: usize) {
        self.count.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Writes it.
    pub fn write(&self, out: &mut Exposition) {
        out.single(self.family, float(self.get()));
    }
}

/// Goes up and down.
#[derive(Debug)]
pub struct Gauge {
    family: Family,
    number: AtomicU64,
}

impl Gauge {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            family: Family::gauge(name, help),
            number: AtomicU64::new(0),
        }
    }

    /// It is this now.
    pub fn set(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// What it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Writes it.
    pub fn write(&self, out: &mut Exposition) {
        out.single(self.family, float(self.get()));
    }
}

/// The values of a family's labels, in the order of the labels' names.
type Values = Box<[Box<str>]>;

fn values(values: &[&str]) -> Values {
    values.iter().map(|value| Box::from(*value)).collect()
}

fn pairs<'a>(names: &[&'static str], values: &'a Values) -> Vec<(&'static str, &'a str)> {
    let values = values.iter().map(|value| &**value);
    names.iter().copied().zip(values).collect()
}

/// Counters of one family by the values of its labels. What has been counted stays until it is forgotten: only labels
/// with few values, or whose owner forgets them, are of use here.
#[derive(Debug)]
pub struct CounterVec {
    family: Family,
    labels: &'static [&'static str],
    counts: Mutex<BTreeMap<Values, u64>>,
}

impl CounterVec {
    /// `labels` in order of their names.
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self {
            family: Family::counter(name, help),
            labels,
            counts: Mutex::new(BTreeMap::new()),
        }
    }

    /// One more with these values, in the order of the labels.
    pub fn inc(&self, of: &[&str]) {
        let mut counts = self.lock();
        let count = counts.entry(values(of)).or_insert(0);
        *count = count.saturating_add(1);
    }

    /// Tells of these values from now on, be it that there were none.
    pub fn ensure(&self, of: &[&str]) {
        self.lock().entry(values(of)).or_insert(0);
    }

    /// How many there were with these values.
    #[must_use]
    pub fn get(&self, of: &[&str]) -> u64 {
        self.lock().get(&values(of)).copied().unwrap_or(0)
    }

    /// Forgets these values.
    pub fn forget(&self, of: &[&str]) {
        self.lock().remove(&values(of));
    }

    /// Writes them.
    pub fn write(&self, out: &mut Exposition) {
        out.family(self.family);
        for (values, count) in &*self.lock() {
            out.sample(&pairs(self.labels, values), float(*count));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Values, u64>> {
        // Nothing panics while it is held.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers of one family that go up and down, by the values of its labels.
#[derive(Debug)]
pub struct GaugeVec {
    family: Family,
    labels: &'static [&'static str],
    numbers: Mutex<BTreeMap<Values, u64>>,
}

impl GaugeVec {
    /// `labels` in order of their names.
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self {
            family: Family::gauge(name, help),
            labels,
            numbers: Mutex::new(BTreeMap::new()),
        }
    }

    /// One more with these values, in the order of the labels.
    pub fn inc(&self, of: &[&str]) {
        let mut numbers = self.lock();
        let number = numbers.entry(values(of)).or_insert(0);
        *number = number.saturating_add(1);
    }

    /// It is this now.
    pub fn set(&self, of: &[&str], number: u64) {
        self.lock().insert(values(of), number);
    }

    /// One less.
    pub fn dec(&self, of: &[&str]) {
        if let Some(number) = self.lock().get_mut(&values(of)) {
            *number = number.saturating_sub(1);
        }
    }

    /// The number with these values.
    #[must_use]
    pub fn get(&self, of: &[&str]) -> u64 {
        self.lock().get(&values(of)).copied().unwrap_or(0)
    }

    /// Writes them.
    pub fn write(&self, out: &mut Exposition) {
        out.family(self.family);
        for (values, number) in &*self.lock() {
            out.sample(&pairs(self.labels, values), float(*number));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Values, u64>> {
        // Nothing panics while it is held.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Durations counted up to bounds.
#[derive(Clone, Debug)]
struct Counts {
    /// For each bound those above the one before, and at last those above all bounds.
    buckets: Box<[u64]>,
    sum: f64,
}

impl Counts {
    fn new(bounds: &[f64]) -> Self {
        Self {
            buckets: vec![0; bounds.len() + 1].into(),
            sum: 0.0,
        }
    }

    fn observe(&mut self, bounds: &[f64], value: f64) {
        let above = bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get_mut(above) {
            *bucket = bucket.saturating_add(1);
        }
        self.sum += value;
    }
}

/// A histogram without labels: it is told from the beginning, with nothing in it.
#[derive(Debug)]
pub struct Histogram {
    family: Family,
    bounds: &'static [f64],
    counts: Mutex<Option<Counts>>,
}

impl Histogram {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
    ) -> Self {
        Self {
            family: Family::histogram(name, help),
            bounds,
            counts: Mutex::new(None),
        }
    }

    /// One more that took `elapsed`.
    pub fn observe(&self, elapsed: Duration) {
        self.observe_value(elapsed.as_secs_f64());
    }

    /// One more that took `elapsed`, counted in milliseconds.
    pub fn observe_millis(&self, elapsed: Duration) {
        self.observe_value(elapsed.as_secs_f64() * 1000.0);
    }

    /// One more of that many.
    pub fn observe_number(&self, number: usize) {
        self.observe_value(float(u64::try_from(number).unwrap_or(u64::MAX)));
    }

    fn observe_value(&self, value: f64) {
        let mut counts = self.lock();
        let counts = counts.get_or_insert_with(|| Counts::new(self.bounds));
        counts.observe(self.bounds, value);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.lock();
        counts.as_ref().map_or(0, |c| c.buckets.iter().sum())
    }

    /// Writes it.
    pub fn write(&self, out: &mut Exposition) {
        let counts = self.lock().clone();
        let counts = counts.unwrap_or_else(|| Counts::new(self.bounds));
        out.family(self.family);
        out.histogram(&[], self.bounds, &counts.buckets, counts.sum);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Histograms of one family by the values of its labels; as [`CounterVec`].
#[derive(Debug)]
pub struct HistogramVec {
    family: Family,
    labels: &'static [&'static str],
    bounds: &'static [f64],
    counts: Mutex<BTreeMap<Values, Counts>>,
}

impl HistogramVec {
    /// `labels` in order of their names.
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Self {
        Self {
            family: Family::histogram(name, help),
            labels,
            bounds,
            counts: Mutex::new(BTreeMap::new()),
        }
    }

    /// One more that took `elapsed`, with these values, in the order of the labels.
    pub fn observe(&self, of: &[&str], elapsed: Duration) {
        let mut counts = self.lock();
        let counts = counts
            .entry(values(of))
            .or_insert_with(|| Counts::new(self.bounds));
        counts.observe(self.bounds, elapsed.as_secs_f64());
    }

    /// How many there were with these values.
    #[must_use]
    pub fn count(&self, of: &[&str]) -> u64 {
        let counts = self.lock();
        counts
            .get(&values(of))
            .map_or(0, |c| c.buckets.iter().sum())
    }

    /// Forgets these values.
    pub fn forget(&self, of: &[&str]) {
        self.lock().remove(&values(of));
    }

    /// Writes them.
    pub fn write(&self, out: &mut Exposition) {
        out.family(self.family);
        for (values, counts) in &*self.lock() {
            let labels = pairs(self.labels, values);
            out.histogram(&labels, self.bounds, &counts.buckets, counts.sum);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Values, Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        static SOME: Histogram = Histogram::new("h", "H.", &[0.5, 1.0]);
        for millis in [500, 750, 1000, 3000] {
            SOME.observe(Duration::from_millis(millis));
        }
        let mut out = Exposition::new();
        SOME.write(&mut out);
        let text = out.into_text();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "h_bucket{le=\"0.5\"} 1",
                "h_bucket{le=\"1\"} 3",
                "h_bucket{le=\"+Inf\"} 4",
                "h_sum 5.25",
                "h_count 4"
            ]
        );
    }

    #[test]
    fn labels_count_apart_until_they_are_forgotten() {
        static SOME: CounterVec = CounterVec::new("c", "C.", &["a", "b"]);
        SOME.inc(&["1", "x"]);
        SOME.inc(&["1", "x"]);
        SOME.inc(&["2", "x"]);
        assert_eq!(SOME.get(&["1", "x"]), 2);
        SOME.forget(&["1", "x"]);
        let mut out = Exposition::new();
        SOME.write(&mut out);
        assert_eq!(
            out.into_text(),
            "# HELP c C.\n# TYPE c counter\nc{a=\"2\",b=\"x\"} 1\n"
        );
    }
}
