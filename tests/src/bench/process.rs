//! What a process costs, read from `/proc`; its system calls, counted by strace.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

/// Resident memory, in kilobytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// All that is resident (`VmRSS`).
    pub rss: u64,
    /// Its own (`RssAnon`).
    pub anon: u64,
    /// Pages of files, the binary first of all (`RssFile`).
    pub file: u64,
    /// Shared memory (`RssShmem`).
    pub shmem: u64,
    /// Its share of what it holds together with others (`Pss`).
    pub pss: u64,
}

/// The memory of a process now.
///
/// # Errors
/// When it is gone.
pub fn memory(pid: Pid) -> Result<Memory> {
    let status = read(pid, "status")?;
    let rollup = read(pid, "smaps_rollup")?;
    Ok(Memory {
        rss: kilobytes(&status, "VmRSS")?,
        anon: kilobytes(&status, "RssAnon")?,
        file: kilobytes(&status, "RssFile")?,
        shmem: kilobytes(&status, "RssShmem")?,
        pss: kilobytes(&rollup, "Pss")?,
    })
}

fn read(pid: Pid, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

fn kilobytes(text: &str, key: &str) -> Result<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let value = line.and_then(|line| line.split_whitespace().next());
    Ok(value.with_context(|| format!("no {key}"))?.parse()?)
}

/// Processor time used so far by the process, threads that have ended included. Counted in hundredths of a second.
///
/// # Errors
/// When it is gone.
pub fn cpu_time(pid: Pid) -> Result<Duration> {
    let stat = read(pid, "stat")?;
    // The name, in parentheses, may hold blanks; user and system time are the 12th and 13th field behind it.
    let rest = stat.rsplit_once(')').context("stat has no name")?.1;
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>())
        .sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Processor time of each thread so far, to the nanosecond.
pub struct ThreadTimes(BTreeMap<OsString, u64>);

impl ThreadTimes {
    /// Of the threads that a process has.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: Pid) -> Result<Self> {
        let mut times = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).context("list threads")? {
            let thread = thread?;
            // One that ends meanwhile has no file.
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let ran = text.split_whitespace().next().unwrap_or("0");
            times.insert(thread.file_name(), ran.parse()?);
        }
        Ok(Self(times))
    }

    /// What has been used since `before`; what threads used that have ended in between is not in it.
    #[must_use]
    pub fn since(&self, before: &Self) -> Duration {
        let used = |(thread, now): (&OsString, &u64)| {
            now.saturating_sub(before.0.get(thread).copied().unwrap_or(0))
        };
        Duration::from_nanos(self.0.iter().map(used).sum())
    }
}

/// How many system calls the process makes within `span`.
///
/// # Errors
/// When strace (Debian's package of that name) cannot be run.
pub async fn syscalls(pid: Pid, span: Duration) -> Result<u64> {
    let table = tempfile::NamedTempFile::new().context("a file for strace")?;
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-c",
            "-qq",
            "-U",
            "calls,name",
            "-p",
            &pid.to_string(),
        ])
        .arg("-o")
        .arg(table.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start strace")?;
    tokio::time::sleep(span).await;
    kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT).context("end strace")?;
    strace.wait().context("wait for strace")?;
    let text = fs::read_to_string(table.path()).context("read what strace counted")?;
    Ok(total(&text))
}

/// The last line of strace's table; a process that made no call has no table.
fn total(table: &str) -> u64 {
    let line = table
        .lines()
        .find(|line| line.trim_end().ends_with("total"));
    let count = line.and_then(|line| line.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time() {
        let memory = memory(Pid::this()).unwrap();
        assert!(memory.rss >= memory.anon && memory.anon > 0 && memory.pss > 0);
        let none = ThreadTimes(BTreeMap::new());
        let all = ThreadTimes::of(Pid::this()).unwrap();
        assert!(all.since(&none) > Duration::ZERO);
        // A thread that has ended takes nothing off the others.
        let before = ThreadTimes([("gone".into(), u64::MAX)].into());
        assert_eq!(all.since(&before), all.since(&none));
        assert!(cpu_time(Pid::this()).unwrap() < Duration::from_secs(3600));
    }

    #[test]
    fn the_total_of_straces_table_is_read() {
        let table = "    calls syscall\n--------- ----------------\n       7 read\n       5 futex\n\
                     --------- ----------------\n       12 total\n";
        assert_eq!(total(table), 12);
        assert_eq!(total(""), 0);
    }
}
