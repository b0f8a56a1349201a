//! The kernel's word that memory is getting short (`kernelMemcgNotification`), so that a fast leak is met before the next
//! look.
//!
//! On cgroup v1 an eventfd on `memory.usage_in_bytes` of the root cgroup (kernel document `admin-guide/cgroup-v1/memory`,
//! "Thresholds"), moved along with each look. Version 2 has no thresholds: there a trigger of pressure stall information
//! (`accounting/psi`) says that tasks wait for memory. Where neither can be had, the looks each ten seconds remain.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::signals::{Observations, Signal};
use super::thresholds::Threshold;
use crate::cgroups::{Cgroups, MOUNT_ROOT, Version};
use crate::errors::error_chain;
use crate::stats::Stats;

/// Tasks have waited for memory for a tenth of a second within two: windows of whole multiples of two seconds are anybody's
/// to ask for.
const TRIGGER: &[u8] = b"some 100000 2000000\0";
const STALLS: &str = "/proc/pressure/memory";
/// What is said more often than this is looked into no sooner.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Where the kernel's word comes from.
#[derive(Debug, Default)]
pub(super) struct MemoryNotice {
    source: Option<Source>,
}

#[derive(Debug)]
enum Source {
    /// Version 1: the usage below which nothing is said, and what says it.
    Usage {
        file: File,
        at: u64,
        event: Option<AsyncFd<OwnedFd>>,
    },
    /// Version 2.
    Stalls(AsyncFd<File>),
}

impl MemoryNotice {
    /// Asks the kernel for it where it is `wanted`.
    pub(super) fn new(wanted: bool) -> Self {
        if !wanted {
            return Self::default();
        }
        let version = Cgroups::detect(Path::new(MOUNT_ROOT));
        let source = match version {
            Ok(Version::V1) => memory_file("memory.usage_in_bytes").map(|file| Source::Usage {
                file,
                at: 0,
                event: None,
            }),
            _ => stalls().map(Source::Stalls),
        };
        if let Err(error) = &source {
            let error = error_chain(error);
            tracing::warn!(
                error,
                "kernelMemcgNotification: the kernel does not tell when memory is getting short; it is looked at each ten seconds"
            );
        }
        Self {
            source: source.ok(),
        }
    }

    /// Moves the threshold along: what is used at the moment at which memory is short changes with the pages of files that
    /// nobody uses.
    pub(super) fn follow(
        &mut self,
        thresholds: &[Threshold],
        stats: &Stats,
        observed: &Observations,
    ) {
        let Some(Source::Usage { file, at, event }) = &mut self.source else {
            return;
        };
        let Some(amount) = observed.get(Signal::Memory) else {
            return;
        };
        let of_memory = thresholds.iter().filter(|one| one.signal == Signal::Memory);
        let below = of_memory.map(|one| one.quantity(amount.capacity).value());
        let Some(below) = below.max() else {
            return;
        };
        let below = below.max(0).unsigned_abs();
        let usage = amount.capacity.saturating_sub(below);
        let usage = usage.saturating_add(stats.node_memory().inactive_file);
        // A page more or less is not worth another event.
        if event.is_some() && at.abs_diff(usage) < amount.capacity / 1000 {
            return;
        }
        match threshold_event(file, usage) {
            Ok(found) => (*at, *event) = (usage, Some(found)),
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "kernelMemcgNotification: the kernel refuses a threshold of memory; it is looked at each ten seconds"
                );
                self.source = None;
            }
        }
    }

    /// Waits for it; for ever where there is none. Cancel-safe.
    pub(super) async fn next(&mut self) {
        let told = match &self.source {
            Some(Source::Usage {
                event: Some(event), ..
            }) => heard(event).await,
            Some(Source::Stalls(file)) => stalled(file).await,
            _ => std::future::pending().await,
        };
        if let Err(error) = told {
            tracing::warn!(%error, "kernelMemcgNotification: the kernel tells no more when memory is getting short");
            self.source = None;
            return std::future::pending().await;
        }
        tokio::time::sleep(AT_MOST_EVERY).await;
    }
}

fn memory_file(name: &str) -> std::io::Result<File> {
    File::open(Path::new(MOUNT_ROOT).join("memory").join(name))
}

/// An event whenever the usage of memory passes `usage`, either way.
fn threshold_event(file: &File, usage: u64) -> std::io::Result<AsyncFd<OwnedFd>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = Path::new(MOUNT_ROOT).join("memory/cgroup.event_control");
    let line = format!("{} {} {usage}", event.as_raw_fd(), file.as_raw_fd());
    OpenOptions::new()
        .write(true)
        .open(control)?
        .write_all(line.as_bytes())?;
    wait_on(event, Interest::READABLE)
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; an owned descriptor stays what it is"
)]
fn wait_on<T: std::os::fd::AsRawFd>(file: T, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(file, interest)
}

async fn heard(event: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
    loop {
        let mut ready = event.readable().await?;
        let mut count = [0u8; 8];
        let read = ready.try_io(|event| Ok(rustix::io::read(event, &mut count)?));
        match read {
            Ok(read) => return read.map(|_| ()),
            // It was for an earlier one.
            Err(_) => continue,
        }
    }
}

fn stalls() -> std::io::Result<AsyncFd<File>> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(STALLS, flags, rustix::fs::Mode::empty())?;
    let mut file = File::from(file);
    file.write_all(TRIGGER)?;
    wait_on(file, Interest::PRIORITY)
}

async fn stalled(file: &AsyncFd<File>) -> std::io::Result<()> {
    let mut ready = file.ready(Interest::PRIORITY).await?;
    // The kernel raises it anew with the next one.
    ready.clear_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the machine has cgroup v1, and it may be asked.
    #[tokio::test]
    async fn the_kernel_tells_when_more_memory_is_used() {
        let Ok(mut file) = memory_file("memory.usage_in_bytes") else {
            eprintln!("not shown: the machine has no cgroup v1 of memory");
            return;
        };
        let mut text = String::new();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        let used: u64 = text.trim().parse().unwrap();
        let event = threshold_event(&file, used + (32 << 20)).unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(1), heard(&event)).await;
        let taken = std::hint::black_box(vec![1u8; 128 << 20]);
        let told = tokio::time::timeout(Duration::from_secs(30), heard(&event)).await;
        assert!(quiet.is_ok() || told.is_ok_and(|told| told.is_ok()));
        drop(taken);
    }
}
