//! The agent's memory while it carries.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::unistd::Pid;
use tests::agent::Agent;
use tokio::time::Instant;

/// What the agent may grow by while something is carried, KiB: far less than is carried.
pub(super) const GROWTH: u64 = 8 << 10;

/// The agent's memory while it carries.
pub(super) struct Watched {
    pid: Pid,
    before: u64,
    peak: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    sampler: JoinHandle<()>,
}

impl Watched {
    pub(super) fn begin(agent: &Agent<'_>) -> Result<Self> {
        let pid = agent.pid()?;
        let before = own_memory(pid)?;
        let peak = Arc::new(AtomicU64::new(before));
        let done = Arc::new(AtomicBool::new(false));
        let sampler = std::thread::spawn({
            let (peak, done) = (Arc::clone(&peak), Arc::clone(&done));
            move || {
                while !done.load(Ordering::Relaxed) {
                    if let Ok(now) = own_memory(pid) {
                        peak.fetch_max(now, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Ok(Self {
            pid,
            before,
            peak,
            done,
            sampler,
        })
    }

    pub(super) fn end(self, what: &str, carried: usize, began: Instant) -> Result<()> {
        self.done.store(true, Ordering::Relaxed);
        self.sampler.join().map_err(|_| anyhow!("the sampler"))?;
        let peak = self.peak.load(Ordering::Relaxed);
        println!(
            "{what}: {} MiB in {:.1} s; RssAnon of the agent {} KiB before, {peak} KiB at most, {} KiB after",
            carried >> 20,
            began.elapsed().as_secs_f64(),
            self.before,
            own_memory(self.pid)?
        );
        ensure!(peak < self.before + GROWTH, "{what}: it grew");
        Ok(())
    }
}

/// `RssAnon` of a process, KiB.
pub(super) fn own_memory(pid: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    Ok(words.context("no RssAnon")?.parse()?)
}
