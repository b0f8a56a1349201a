//! What it costs to be asked for statistics: fifty pods, and each endpoint of the node's API a hundred times.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::events::TaskEvents;
use super::manifest;
use super::process::Memory;
use super::subject::Subject;
use crate::containerd::Node;
use crate::node_api::ask;

/// How many pods, of a container each.
pub const PODS: usize = 50;
/// How often each endpoint is asked.
pub const TIMES: u32 = 100;
/// What is asked for.
const ENDPOINTS: [&str; 4] = [
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/resource",
    "/stats/summary",
];
/// From the last pod's readiness to the first question, and from the last one to the last look at the memory: past what
/// the agent gives back when it rests.
const SETTLE: Duration = Duration::from_secs(15);

/// What a kubelet that is asked costs.
#[derive(Clone, Debug, Serialize)]
pub struct Scraped {
    /// Which.
    pub name: String,
    /// Each endpoint.
    pub endpoints: Vec<Endpoint>,
    /// Before the first question.
    pub before: Memory,
    /// The most that was seen right after one.
    pub most: Memory,
    /// At rest after the last one.
    pub after: Memory,
}

/// One endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Its path.
    pub path: &'static str,
    /// Bytes of the last answer.
    pub bytes: usize,
    /// Processor time of the kubelet for one answer, seconds: the mean, TLS included.
    pub cpu: f64,
    /// How long an answer took, its connection included, seconds: the median.
    pub median: f64,
    /// The longest.
    pub longest: f64,
}

/// Measures `subject` on `node`.
///
/// # Errors
/// When its pods do not become ready, or it does not answer.
pub async fn measure(
    node: &Node,
    subject: &mut Subject<'_>,
    events: &TaskEvents,
) -> Result<Scraped> {
    subject.start().await?;
    subject.burst_of(events, PODS, manifest).await?;
    subject.all_ready(PODS).await?;
    sleep(SETTLE).await;
    let before = subject.memory()?;
    let mut most = before;
    let mut endpoints = Vec::new();
    for path in ENDPOINTS {
        let used = subject.cpu_time()?;
        let mut took = Vec::new();
        let mut bytes = 0;
        for _ in 0..TIMES {
            let began = Instant::now();
            let answer = ask(node, "GET", path)?;
            took.push(began.elapsed().as_secs_f64());
            ensure!(answer.status == 200, "{path}: {}", answer.status);
            bytes = answer.body.len();
            let memory = subject.memory()?;
            if memory.rss > most.rss {
                most = memory;
            }
        }
        took.sort_by(f64::total_cmp);
        let used = subject.cpu_time()?.saturating_sub(used);
        endpoints.push(Endpoint {
            path,
            bytes,
            cpu: used.as_secs_f64() / f64::from(TIMES),
            median: took.get(took.len() / 2).copied().unwrap_or_default(),
            longest: took.last().copied().unwrap_or_default(),
        });
    }
    sleep(SETTLE).await;
    let after = subject.memory()?;
    let found = Scraped {
        name: subject.name.clone(),
        endpoints,
        before,
        most,
        after,
    };
    subject.end().await?;
    Ok(found)
}

/// As tables of Markdown.
#[must_use]
pub fn table(found: &[Scraped]) -> String {
    let mut text = format!(
        "{PODS} pods, each endpoint asked {TIMES} times over TLS, a connection each:\n\n\
         | kubelet | endpoint | kB | processor time of an answer | an answer took (longest) |\n\
         |---|---|---|---|---|\n"
    );
    // Writing to a String does not fail.
    for scraped in found {
        for endpoint in &scraped.endpoints {
            let _ = writeln!(
                text,
                "| {} | `{}` | {} | {:.1} ms | {:.1} ms ({:.1} ms) |",
                scraped.name,
                endpoint.path,
                endpoint.bytes / 1000,
                endpoint.cpu * 1e3,
                endpoint.median * 1e3,
                endpoint.longest * 1e3,
            );
        }
    }
    text.push_str(
        "\n| kubelet | MB resident before (anonymous) | the most, after an answer | at rest afterwards |\n\
         |---|---|---|---|\n",
    );
    for scraped in found {
        let shown = |memory: &Memory| {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let mb = |kb: u64| kb as f64 / 1024.0;
            format!("{:.1} ({:.1})", mb(memory.rss), mb(memory.anon))
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            scraped.name,
            shown(&scraped.before),
            shown(&scraped.most),
            shown(&scraped.after),
        );
    }
    text
}
