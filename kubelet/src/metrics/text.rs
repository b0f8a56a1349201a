//! The Prometheus text format, version 0.0.4.

use std::fmt::Write;

use jiff::Timestamp;

use super::number;

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations up to bounds, with their sum.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Name, help and type of a family, as upstream has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// What its samples are called.
    pub name: &'static str,
    /// What it is for people, with the stability that upstream writes in front.
    pub help: &'static str,
    /// What its samples are.
    pub kind: Kind,
}

impl Family {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        let kind = Kind::Counter;
        Self { name, help, kind }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        let kind = Kind::Gauge;
        Self { name, help, kind }
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        let kind = Kind::Histogram;
        Self { name, help, kind }
    }
}

/// Families as text. A family without samples is not in it, as with upstream's registry.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    /// The family that has begun, and whether its head has been written.
    family: Option<(Family, bool)>,
}

impl Exposition {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a family: the samples that follow are its.
    pub fn family(&mut self, family: Family) -> &mut Self {
        self.family = Some((family, false));
        self
    }

    /// A sample of the family. Labels are to be in order of their names.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.write("", labels, None, value, None);
        self
    }

    /// A sample taken `at`.
    pub fn sample_at(&mut self, labels: &[(&str, &str)], value: f64, at: Timestamp) -> &mut Self {
        self.write("", labels, None, value, Some(at));
        self
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, family: Family, value: f64) -> &mut Self {
        self.family(family).sample(&[], value)
    }

    /// A histogram: counts of observations up to each of `bounds` and of those above the last one, one after another, and
    /// the sum of all.
    pub(super) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut total = 0u64;
        let all = bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in all.zip(counts) {
            total = total.saturating_add(*count);
            self.write("_bucket", labels, Some(bound), float(total), None);
        }
        self.write("_sum", labels, None, sum, None);
        self.write("_count", labels, None, float(total), None);
    }

    fn write(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        bound: Option<f64>,
        value: f64,
        at: Option<Timestamp>,
    ) {
        let Some((family, begun)) = &mut self.family else {
            return;
        };
        let Family { name, help, kind } = *family;
        let text = &mut self.text;
        // Writing to a String does not fail.
        if !std::mem::replace(begun, true) {
            let _ = write!(text, "# HELP {name} ");
            escaped(text, help, false);
            let _ = write!(text, "\n# TYPE {name} {}\n", kind.as_str());
        }
        text.push_str(name);
        text.push_str(suffix);
        let mut before = '{';
        for (label, value) in labels {
            text.push(before);
            before = ',';
            text.push_str(label);
            text.push_str("=\"");
            escaped(text, value, true);
            text.push('"');
        }
        if let Some(bound) = bound {
            text.push(before);
            before = ',';
            text.push_str("le=\"");
            number::write(text, bound);
            text.push('"');
        }
        if before == ',' {
            text.push('}');
        }
        text.push(' ');
        number::write(text, value);
        if let Some(at) = at {
            let _ = write!(text, " {}", at.as_millisecond());
        }
        text.push('\n');
    }

    /// How much text there is, bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// A count as a sample's value; beyond 2^53 to the nearest number there is.
#[expect(
    clippy::cast_precision_loss,
    reason = "the format has no integers: every value is a 64-bit float"
)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

fn escaped(text: &mut String, raw: &str, quotes: bool) {
    for character in raw.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            plain => text.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: Family = Family::gauge("a_b", "Of \"a\" \\ and\nb.");

    #[test]
    fn families_have_a_head_and_escaped_labels_and_none_without_samples() {
        let mut out = Exposition::new();
        out.family(Family::counter("unused_total", "Nothing."));
        out.family(FAMILY);
        out.sample(&[("x", "a\"b\\c\nd"), ("y", "")], 1_500_000.0);
        let at = Timestamp::from_millisecond(1_795_302_147_436).unwrap();
        out.sample_at(&[], -1.0, at);
        assert_eq!(
            out.into_text(),
            "# HELP a_b Of \"a\" \\\\ and\\nb.\n# TYPE a_b gauge\n\
             a_b{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 1.5e+06\na_b -1 1795302147436\n"
        );
    }

    #[test]
    fn a_histogram_adds_up() {
        let mut out = Exposition::new();
        out.family(Family::histogram("h", "H."));
        out.histogram(&[("l", "v")], &[0.5, 10.0], &[1, 2, 3], 60.25);
        assert_eq!(
            out.into_text(),
            "# HELP h H.\n# TYPE h histogram\n\
             h_bucket{l=\"v\",le=\"0.5\"} 1\nh_bucket{l=\"v\",le=\"10\"} 3\nh_bucket{l=\"v\",le=\"+Inf\"} 6\n\
             h_sum{l=\"v\"} 60.25\nh_count{l=\"v\"} 6\n"
        );
    }
}
