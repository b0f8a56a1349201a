//! A strict reader of the Prometheus text format 0.0.4, stricter than Prometheus' own: what upstream's registry never
//! writes is an error too. Nothing but the standard library, so that the agent's own tests use it as well.

use std::collections::{BTreeMap, BTreeSet};

/// Families by name.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By name.
    pub families: BTreeMap<String, Family>,
}

/// A family.
#[derive(Debug, Default)]
pub struct Family {
    /// What it is for.
    pub help: String,
    /// `counter`, `gauge`, `histogram`.
    pub kind: String,
    /// Its samples, in their order.
    pub samples: Vec<Sample>,
}

/// A sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name, with the suffix of a histogram's part.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
    /// When it was taken, milliseconds since the epoch.
    pub at: Option<i64>,
}

impl Sample {
    /// The value of a label, empty where it has none.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Metrics {
    /// All samples called `name`, whichever part of a family they are.
    pub fn samples<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Sample> {
        let all = self.families.values().flat_map(|family| &family.samples);
        all.filter(move |sample| sample.name == name)
    }

    /// The first sample called `name` that has these labels, among others perhaps.
    #[must_use]
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Sample> {
        self.samples(name).find(|sample| {
            let has = |(label, value): &(&str, &str)| sample.label(label) == *value;
            labels.iter().all(has)
        })
    }

    /// The value of that sample.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.find(name, labels).map(|sample| sample.value)
    }
}

/// Reads `text`.
///
/// # Errors
/// The first line that is wrong, and why.
pub fn parse(text: &str) -> Result<Metrics, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut metrics = Metrics::default();
    let mut current: Option<(String, Family)> = None;
    let mut seen = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let fail = |why: &str| Err(format!("line {}: {why}: {line:?}", number + 1));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else {
                return fail("a help without a text");
            };
            if let Some(done) = current.take() {
                close(&mut metrics, done)?;
            }
            if !is_name(name, true) {
                return fail("no name of a metric");
            }
            if metrics.families.contains_key(name) {
                return fail("a family in two parts");
            }
            let family = Family {
                help: unescape(help, false)?,
                ..Family::default()
            };
            current = Some((name.to_owned(), family));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (Some((name, kind)), Some((open, family))) = (rest.split_once(' '), &mut current)
            else {
                return fail("a type without a help before it");
            };
            if name != open || !family.kind.is_empty() || !family.samples.is_empty() {
                return fail("a type in the wrong place");
            }
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return fail("no type of ours");
            }
            kind.clone_into(&mut family.kind);
        } else {
            let Some((open, family)) = &mut current else {
                return fail("a sample without a family");
            };
            let sample =
                sample(line).map_err(|why| format!("line {}: {why}: {line:?}", number + 1))?;
            let suffix = sample.name.strip_prefix(open.as_str());
            let fits = match (family.kind.as_str(), suffix) {
                ("histogram", Some(suffix)) => ["_bucket", "_sum", "_count"].contains(&suffix),
                ("counter" | "gauge", Some(suffix)) => suffix.is_empty(),
                _ => false,
            };
            if !fits {
                return fail("a sample of another family");
            }
            if family.kind != "gauge" && (sample.value.is_nan() || sample.value < 0.0) {
                return fail("a count below nothing");
            }
            if !seen.insert((sample.name.clone(), sample.labels.clone())) {
                return fail("a sample a second time");
            }
            family.samples.push(sample);
        }
    }
    if let Some(done) = current.take() {
        close(&mut metrics, done)?;
    }
    Ok(metrics)
}

fn close(metrics: &mut Metrics, (name, family): (String, Family)) -> Result<(), String> {
    if family.kind.is_empty() {
        return Err(format!("{name} has no type"));
    }
    if family.samples.is_empty() {
        return Err(format!("{name} has no sample"));
    }
    if family.help.trim().is_empty() {
        return Err(format!("{name} has no help"));
    }
    if family.kind == "counter" && !name.ends_with("_total") && !COUNTERS.contains(&name.as_str()) {
        return Err(format!("the counter {name} does not end in _total"));
    }
    if family.kind == "histogram" {
        histograms(&name, &family)?;
    }
    metrics.families.insert(name, family);
    Ok(())
}

/// Counters of upstream's that are not called as Prometheus would have it.
const COUNTERS: [&str; 9] = [
    "container_memory_failcnt",
    "kubelet_certificate_manager_client_expiration_renew_errors",
    "kubelet_container_aligned_compute_resources_count",
    "kubelet_container_aligned_compute_resources_failure_count",
    "kubelet_pod_resources_endpoint_errors_get",
    "kubelet_pod_resources_endpoint_requests_get",
    "kubelet_pod_resources_endpoint_requests_get_allocatable",
    "kubelet_pod_resources_endpoint_requests_list",
    "kubelet_server_expiration_renew_errors",
];

/// Buckets rise, the last one is that of all, and sum and count are there.
fn histograms(name: &str, family: &Family) -> Result<(), String> {
    #[derive(Default)]
    struct Parts {
        buckets: Vec<(f64, f64)>,
        sum: Option<f64>,
        count: Option<f64>,
    }
    let mut all: BTreeMap<BTreeMap<String, String>, Parts> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        let parts = all.entry(labels).or_default();
        match (&sample.name[name.len()..], bound) {
            ("_bucket", Some(bound)) => parts.buckets.push((number(&bound)?, sample.value)),
            ("_sum", None) => parts.sum = Some(sample.value),
            ("_count", None) => parts.count = Some(sample.value),
            _ => return Err(format!("{name}: le in the wrong place")),
        }
    }
    for (labels, parts) in all {
        let rises = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        let last = parts.buckets.last();
        if !parts.buckets.windows(2).all(rises)
            || last.map(|(bound, _)| *bound) != Some(f64::INFINITY)
            || last.map(|(_, count)| *count) != parts.count
            || parts.sum.is_none()
        {
            return Err(format!("{name}{labels:?} is no histogram"));
        }
    }
    Ok(())
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("no name of a metric".to_owned());
    }
    let mut labels = BTreeMap::new();
    let mut before = String::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"").ok_or("no label")?;
            if !is_name(label, false) {
                return Err(format!("no name of a label: {label:?}"));
            }
            if label != "le" && label <= before.as_str() {
                return Err(format!("label {label} out of order"));
            }
            label.clone_into(&mut before);
            let end = end_of(value).ok_or("a label's value without an end")?;
            labels.insert(label.to_owned(), unescape(&value[..end], true)?);
            rest = &value[end + 1..];
            match rest.split_at_checked(1) {
                Some((",", more)) => rest = more,
                Some(("}", more)) => {
                    rest = more;
                    break;
                }
                _ => return Err("neither another label nor their end".to_owned()),
            }
        }
    }
    let rest = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let (value, at) = match rest.split_once(' ') {
        Some((value, at)) => (value, Some(at.parse().map_err(|_| "no time")?)),
        None => (rest, None),
    };
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: number(value)?,
        at,
    })
}

/// Where the quoted value ends.
fn end_of(value: &str) -> Option<usize> {
    let mut escaped = false;
    value.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('\\') => plain.push('\\'),
                Some('n') => plain.push('\n'),
                Some('"') if quotes => plain.push('"'),
                other => return Err(format!("\\{other:?} means nothing")),
            },
            other => plain.push(other),
        }
    }
    Ok(plain)
}

fn is_name(name: &str, colons: bool) -> bool {
    let mut bytes = name.bytes();
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || colons && byte == b':';
    bytes.next().is_some_and(first) && bytes.all(|byte| first(byte) || byte.is_ascii_digit())
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => return Ok(f64::INFINITY),
        "-Inf" => return Ok(f64::NEG_INFINITY),
        "NaN" => return Ok(f64::NAN),
        _ => {}
    }
    // What Rust reads besides: `inf`, `infinity`, `nan`, a plus sign.
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte));
    match (plain && !text.starts_with('+'), text.parse()) {
        (true, Ok(value)) => Ok(value),
        _ => Err(format!("no number: {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total A \\\\ of\\nit.\n# TYPE a_total counter\n\
        a_total{x=\"1\\\"\\\\\\n\",y=\"\"} 1.5e+06 1795302147436\na_total 2\n\
        # HELP h H.\n# TYPE h histogram\n\
        h_bucket{a=\"b\",le=\"0.5\"} 1\nh_bucket{a=\"b\",le=\"+Inf\"} 2\nh_sum{a=\"b\"} 3\nh_count{a=\"b\"} 2\n";

    #[test]
    fn what_is_right_is_read() {
        let metrics = parse(GOOD).unwrap();
        assert_eq!(metrics.families["a_total"].help, "A \\ of\nit.");
        let sample = metrics
            .find("a_total", &[("y", ""), ("x", "1\"\\\n")])
            .unwrap();
        assert_eq!(
            (sample.value, sample.at),
            (1_500_000.0, Some(1_795_302_147_436))
        );
        assert_eq!(metrics.value("h_count", &[("a", "b")]), Some(2.0));
        assert_eq!(metrics.samples("h_bucket").count(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head = "# HELP a_total A.\n# TYPE a_total counter\n";
        for (text, why) in [
            ("a 1\n".to_owned(), "without a family"),
            (format!("{head}a_total 1"), "has no end"),
            (head.to_owned(), "no sample"),
            (format!("{head}a_total 1\na_total 2\n"), "a second time"),
            (format!("{head}a_total{{b=\"1\",a=\"2\"}} 1\n"), "out of order"),
            (format!("{head}a_total{{a=\"1\",}} 1\n"), "no label"),
            (format!("{head}a_total{{a=\"1\"}}1\n"), "no space"),
            (format!("{head}a_total{{a=\"\\t\"}} 1\n"), "means nothing"),
            (format!("{head}a_total -1\n"), "below nothing"),
            (format!("{head}a_total inf\n"), "no number"),
            (format!("{head}a_total 1 now\n"), "no time"),
            (format!("{head}b_total 1\n"), "another family"),
            (format!("{head}\n"), "no value"),
            (format!("{head}a_total 1\n{head}a_total{{a=\"b\"}} 1\n"), "two parts"),
            ("# HELP a A.\n# TYPE a counter\na 1\n".to_owned(), "_total"),
            ("# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n".to_owned(), "no histogram"),
            ("# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n".to_owned(), "no histogram"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }
}
