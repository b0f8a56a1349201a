//! Ends what still runs in a pod's cgroup, and removes it.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use super::CgroupsError;
use crate::dir::{Dir, DirError};
use crate::pod::PodUid;
use crate::sigkill;

/// Rounds of SIGKILL, and of trying to remove a cgroup that the kernel still holds busy.
const ROUNDS: u32 = 40;
/// The pause after each round: 2 s in all.
const PAUSE: Duration = Duration::from_millis(50);
/// Most of a `cgroup.procs` that is read in one round: more than the pids a node can have.
const PROCS_LIMIT: u64 = 32 << 20;
/// Most of `/proc/<pid>/cgroup`.
const PROC_CGROUP_LIMIT: usize = 64 << 10;
/// Processes named in an error.
const NAMED: usize = 10;
/// Levels below a pod's cgroup that are followed; the kernel's own limit is far above what runtimes make.
const MAX_DEPTH: u32 = 32;

/// Kills the processes of the cgroup `name`, whose path in the hierarchy is `path`, below each of `parents`.
pub(super) fn kill_all(
    parents: &[Dir],
    name: &str,
    path: &str,
    uid: &PodUid,
) -> Result<(), CgroupsError> {
    let mut pids = BTreeSet::new();
    for round in 0..=ROUNDS {
        pids.clear();
        for parent in parents {
            if let Some(cgroup) = parent.child(name)? {
                collect(&cgroup, &mut pids, 0)?;
            }
        }
        if pids.is_empty() {
            return Ok(());
        }
        for &pid in &pids {
            kill(pid, path);
        }
        if round < ROUNDS {
            thread::sleep(PAUSE);
        }
    }
    Err(CgroupsError::Alive {
        uid: uid.clone(),
        pids: pids.into_iter().take(NAMED).collect(),
    })
}

/// The processes of `cgroup` and below. Thaws on the way: frozen processes of version 1 do not even die.
fn collect(cgroup: &Dir, pids: &mut BTreeSet<i32>, depth: u32) -> Result<(), DirError> {
    // A cgroup the runtime removes meanwhile has no processes.
    let procs = match cgroup.read_file("cgroup.procs", PROCS_LIMIT) {
        Ok(procs) => procs.unwrap_or_default(),
        Err(error) if is_gone_or_threaded(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let lines = procs.split(|&byte| byte == b'\n');
    let numbers = lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok());
    // 0 stands for processes outside the agent's pid namespace.
    pids.extend(numbers.filter(|&pid: &i32| pid > 1));
    match cgroup.set("freezer.state", "THAWED") {
        Err(error) if !is_gone_or_threaded(&error) => return Err(error),
        _ => {}
    }
    if depth >= MAX_DEPTH {
        return Ok(());
    }
    for name in subdirectories(cgroup)? {
        if let Some(child) = cgroup.child(&name)? {
            collect(&child, pids, depth + 1)?;
        }
    }
    Ok(())
}

/// Sends SIGKILL to `pid` if it is still in the cgroup `path`.
fn kill(pid: i32, path: &str) {
    if let Err(errno) = sigkill::kill(pid, |pid| is_in(pid, path)) {
        tracing::warn!(pid, cgroup = path, %errno, "cannot kill");
    }
}

/// Whether `/proc/<pid>/cgroup` (`<id>:<controllers>:<path>` lines) has a path at or below `path`.
fn is_in(pid: Pid, path: &str) -> bool {
    let file = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
    let content = std::fs::read(file).unwrap_or_default();
    let content = String::from_utf8_lossy(&content[..content.len().min(PROC_CGROUP_LIMIT)]);
    content.lines().any(|line| is_at_or_below(line, path))
}

fn is_at_or_below(line: &str, path: &str) -> bool {
    let Some(present) = line.splitn(3, ':').nth(2) else {
        return false;
    };
    let Some(below) = present.strip_prefix(path) else {
        return false;
    };
    below.is_empty() || below.starts_with('/')
}

/// Removes the cgroup `name` and those below it, the lowest first.
pub(super) fn remove(parent: &Dir, name: &str) -> Result<(), DirError> {
    for _ in 0..ROUNDS {
        match remove_levels(parent, name, 0) {
            // The kernel lets go of a dead process's cgroup only a moment later.
            Err(error) if error.source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
    remove_levels(parent, name, 0)
}

fn remove_levels(parent: &Dir, name: &str, depth: u32) -> Result<(), DirError> {
    let Some(level) = parent.child(name)? else {
        return Ok(());
    };
    if depth < MAX_DEPTH {
        for below in subdirectories(&level)? {
            remove_levels(&level, &below, depth + 1)?;
        }
    }
    parent.remove_empty(name)
}

fn subdirectories(cgroup: &Dir) -> Result<Vec<String>, DirError> {
    match cgroup.subdirectories() {
        Err(error) if is_gone_or_threaded(&error) => Ok(Vec::new()),
        names => names,
    }
}

fn is_gone_or_threaded(error: &DirError) -> bool {
    // A threaded cgroup of version 2 answers "not supported"; its processes show in the one above.
    [Errno::NODEV, Errno::NOENT, Errno::OPNOTSUPP]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.source.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_own_cgroup_counts() {
        let path = "/kubepods/burstable/poda";
        for (line, is) in [
            ("4:memory:/kubepods/burstable/poda", true),
            ("0::/kubepods/burstable/poda/c1", true),
            ("1:name=systemd:/kubepods/burstable/poda/x:y", true),
            ("4:memory:/kubepods/burstable/podab", false),
            ("4:memory:/kubepods/burstable", false),
            ("4:memory:/x/kubepods/burstable/poda", false),
            ("4:memory:/", false),
            ("", false),
        ] {
            assert_eq!(is_at_or_below(line, path), is, "{line}");
        }
    }
}
