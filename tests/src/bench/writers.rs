//! Fifty pods, each of which writes a line a second: what it costs the agent to see to the size of their logs.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::events::TaskEvents;
use super::subject::Subject;
use super::{COMMAND, manifest};

/// How many pods.
pub const PODS: usize = 50;
/// A line a second.
const SCRIPT: &str =
    "trap 'exit 0' TERM; while :; do echo this is what happened a moment ago; sleep 1 & wait; done";
/// From the last pod's readiness to the measurement: past what the agent does after a burst.
const SETTLE: Duration = Duration::from_secs(15);

/// Starts `subject` with pods that write, and ends it. Thousandths of a core that it uses meanwhile, over `span`.
///
/// # Errors
/// When its pods do not become ready, or it goes.
pub async fn measure(
    subject: &mut Subject<'_>,
    events: &TaskEvents,
    span: Duration,
) -> Result<f64> {
    subject.start().await?;
    subject.burst_of(events, PODS, writing).await?;
    subject.all_ready(PODS).await?;
    sleep(SETTLE).await;
    let used = subject.idle_cpu(span).await?;
    subject.end().await?;
    Ok(used)
}

/// The manifest of a pod that writes.
fn writing(name: &str) -> String {
    let [_, _, silent] = COMMAND;
    manifest(name).replace(silent, SCRIPT)
}
