use std::sync::Mutex;

use super::*;

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

impl Write for Kept {
    fn write(&self, fields: &Fields, metadata: &Metadata<'_>, wall: Timestamp) {
        let line = fields.line(metadata, wall);
        self.0.lock().unwrap().push(line);
    }
}

/// The lines that `log` writes.
fn lines(format: Format, verbosity: u32, log: impl FnOnce()) -> Vec<String> {
    let output = Kept::default();
    let layer = Lines {
        format,
        filter: Arc::new(Filter::new(verbosity, Vec::new())),
        output: output.clone(),
    };
    tracing::subscriber::with_default(Registry::default().with(layer), log);
    std::mem::take(&mut output.0.lock().unwrap())
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start")]
struct Outer(#[source] std::fmt::Error);

#[test]
fn text_has_the_header_of_klog() {
    let lines = lines(Format::Text, 0, || {
        tracing::info!(
            pod = "web_default",
            attempt = 3,
            ok = true,
            "Pod \"started\"\nanew"
        );
    });
    let (header, rest) = lines[0].split_once("] ").unwrap();
    assert_eq!(
        rest,
        "\"Pod \\\"started\\\"\\nanew\" pod=\"web_default\" attempt=3 ok=true\n"
    );
    // I1121 05:17:51.123456   12345 tests.rs:29
    let shape: String = header
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    let pid = format!("{:>7}", std::process::id());
    let pid_shape: String = pid
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(
        shape,
        format!("I0000 00:00:00.000000 {pid_shape} tests.rs:00")
    );
    assert!(header.contains(&pid));
}

#[test]
fn severities_and_verbosities() {
    let write = || {
        tracing::error!("e");
        tracing::warn!("w");
        tracing::info!("i");
        tracing::debug!("d");
        tracing::trace!("t");
    };
    let first = |lines: &[String]| {
        lines
            .iter()
            .map(|l| l.chars().next().unwrap())
            .collect::<String>()
    };
    assert_eq!(first(&lines(Format::Text, 0, write)), "EWI");
    assert_eq!(first(&lines(Format::Text, 4, write)), "EWII");
    assert_eq!(first(&lines(Format::Text, 6, write)), "EWIII");
}

#[test]
fn json_is_that_of_klog() {
    let lines = lines(Format::Json, 6, || {
        tracing::debug!(count = -1, name = "a\"b", ratio = f64::NAN, "m");
        tracing::error!(
            err = &Outer(std::fmt::Error) as &dyn std::error::Error,
            "failed"
        );
    });
    let parsed: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(parsed[0]["msg"], "m");
    assert_eq!(parsed[0]["v"], 4);
    assert_eq!(parsed[0]["count"], -1);
    assert_eq!(parsed[0]["name"], "a\"b");
    assert_eq!(parsed[0]["ratio"], "NaN");
    assert!(
        parsed[0]["caller"]
            .as_str()
            .unwrap()
            .starts_with("tests.rs:")
    );
    assert!(parsed[0]["ts"].as_f64().unwrap() > 1.5e12);
    assert_eq!(parsed[1].get("v"), None);
    assert_eq!(
        parsed[1]["err"],
        "cannot start: an error occurred when formatting an argument"
    );
}

#[test]
fn fields_of_spans_follow() {
    let lines = lines(Format::Text, 0, || {
        let span = tracing::info_span!("pod", pod = "a", uid = tracing::field::Empty);
        span.record("uid", "1");
        span.in_scope(|| tracing::info!(n = 1, "x"));
    });
    assert!(
        lines[0].ends_with("\"x\" n=1 pod=\"a\" uid=\"1\"\n"),
        "{}",
        lines[0]
    );
}
