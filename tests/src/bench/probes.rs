//! Fifty pods, each asked by a command every second: what that costs the agent, and whether it keeps up.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::events::TaskEvents;
use super::process::Memory;
use super::subject::Subject;

/// How many pods, with a probe a second each.
pub const PODS: usize = 50;
/// From the last pod's readiness to the measurement: past the decay of any allocator.
const SETTLE: Duration = Duration::from_secs(15);
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_secs(30);

/// What a kubelet that asks them costs.
#[derive(Clone, Debug, Serialize)]
pub struct Probed {
    /// Which.
    pub name: String,
    /// How long it was watched, seconds.
    pub span: f64,
    /// Commands that ended in a container, each second.
    pub per_second: f64,
    /// Processor time of the agent, thousandths of a core.
    pub cpu: f64,
    /// At the beginning, and every half minute.
    pub memory: Vec<Memory>,
}

/// Measures `subject` for `span`.
///
/// # Errors
/// When its pods do not become ready, or it goes.
pub async fn measure(
    subject: &mut Subject<'_>,
    events: &TaskEvents,
    span: Duration,
) -> Result<Probed> {
    subject.start().await?;
    subject.burst_of(events, PODS, manifest).await?;
    subject.all_ready(PODS).await?;
    sleep(SETTLE).await;
    let (commands, used) = (events.commands(), subject.cpu_time()?);
    let start = Instant::now();
    let mut memory = vec![subject.memory()?];
    while start.elapsed() < span {
        sleep(LOOK.min(span.saturating_sub(start.elapsed()))).await;
        memory.push(subject.memory()?);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let used = subject.cpu_time()?.saturating_sub(used);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let asked = (events.commands() - commands) as f64;
    let found = Probed {
        name: subject.name.clone(),
        span: elapsed,
        per_second: asked / elapsed,
        cpu: used.as_secs_f64() / elapsed * 1000.0,
        memory,
    };
    subject.all_ready(PODS).await?;
    subject.end().await?;
    Ok(found)
}

fn manifest(name: &str) -> String {
    super::manifest(name)
        + "    readinessProbe: { exec: { command: [\"true\"] }, periodSeconds: 1 }\n"
}

/// As a table of Markdown.
#[must_use]
pub fn table(found: &[Probed]) -> String {
    let mut text = format!(
        "{PODS} pods, a command each second in each:\n\n\
         | kubelet | probes a second | processor, thousandths of a core | resident at first, MB (anonymous) | at the end |\n\
         |---|---|---|---|---|\n"
    );
    for probed in found {
        let shown = |memory: Option<&Memory>| {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let mb = |kb: u64| kb as f64 / 1024.0;
            let memory = memory.copied().unwrap_or_default();
            format!("{:.1} ({:.1})", mb(memory.rss), mb(memory.anon))
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "| {}, {:.0} s | {:.1} | {:.1} | {} | {} |",
            probed.name,
            probed.span,
            probed.per_second,
            probed.cpu,
            shown(probed.memory.first()),
            shown(probed.memory.last()),
        );
    }
    text
}
