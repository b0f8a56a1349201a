//! Finds the processes of a command that was run in a container, and ends them.
//!
//! A runtime begins each command as the leader of a session of its own, below a process outside the container. Children
//! stay in the session unless they leave it, and then still are children. Processes are told by pid and start, signals go
//! through handles, so that a pid that is used again is not mistaken. One that leaves its session and its parent (a daemon)
//! cannot be told from the container's own, and stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use crate::clock::Clock;
use crate::sigkill;

/// Rounds of SIGKILL, and the pause after the first, which doubles: half a second in all.
const ROUNDS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(8);
/// Where cgroups are mounted, on every node there is.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Levels below a container's cgroup that are looked at.
const MAX_DEPTH: u32 = 8;
/// Most of a file of `/proc` that is read; a command line longer than that does not match.
const MAX_FILE: u64 = 256 << 10;

/// A time as the kernel counts the starts of processes: ticks since the machine was booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticks(u64);

impl Ticks {
    /// Now. Where the time since boot is not known, the beginning: every process is younger.
    pub(super) fn of(clock: &Clock) -> Self {
        let elapsed = clock.since_boot().map(|boot| boot.elapsed);
        let per_second = u128::from(rustix::param::clock_ticks_per_second());
        let ticks = elapsed.unwrap_or_default().as_millis() * per_second / 1000;
        Self(u64::try_from(ticks).unwrap_or(u64::MAX))
    }
}

/// A container, and where its processes are listed once that was found out.
#[derive(Debug)]
pub(super) struct Place {
    container: String,
    cgroup: OnceLock<PathBuf>,
}

impl Place {
    pub(super) fn new(container: &str) -> Self {
        Self {
            container: container.to_owned(),
            cgroup: OnceLock::new(),
        }
    }

    /// The processes in the container's cgroup, by pid. Those that are dead and not yet waited for are left out.
    fn processes(&self) -> BTreeMap<i32, Process> {
        let mut pids = Vec::new();
        match self.cgroup.get() {
            Some(cgroup) => list(cgroup, &mut pids, 0),
            None => self.search(&mut pids),
        }
        let found = pids.into_iter().filter_map(|pid| Some((pid, stat(pid)?)));
        found.collect()
    }

    /// Every runtime has the container's id in the name of its cgroup. All processes of the machine are looked at, once
    /// for each container.
    fn search(&self, pids: &mut Vec<i32>) {
        let Ok(entries) = fs::read_dir("/proc") else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(pid) = pid else { continue };
            let cgroups = read(pid, "cgroup");
            let cgroups = String::from_utf8_lossy(&cgroups);
            let mut own = cgroups
                .lines()
                .filter(|line| line.contains(&self.container));
            let Some(first) = own.next() else { continue };
            pids.push(pid);
            if self.cgroup.get().is_some() {
                continue;
            }
            let known = std::iter::once(first)
                .chain(own)
                .filter_map(|line| directory(line, &self.container))
                .find(|directory| {
                    let mut listed = Vec::new();
                    list(directory, &mut listed, 0);
                    listed.contains(&pid)
                });
            if let Some(known) = known {
                // Whoever was first has found the same.
                let _ = self.cgroup.set(known);
            }
        }
    }
}

/// The directory of a container's cgroup, from a line of `/proc/<pid>/cgroup` (`<id>:<controllers>:<path>`, cgroups(7)).
fn directory(line: &str, container: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let at = path.find(container)?;
    // What is below is part of the container.
    let end = path[at..].find('/').map_or(path.len(), |slash| at + slash);
    let path = path[..end].strip_prefix('/')?;
    if path.split('/').any(|name| name == "..") {
        return None;
    }
    let mount = controllers.strip_prefix("name=").unwrap_or(controllers);
    Some(PathBuf::from(CGROUPS).join(mount).join(path))
}

/// The processes of a cgroup and of those below.
fn list(cgroup: &Path, pids: &mut Vec<i32>, depth: u32) {
    // One that is gone has none.
    let procs = read_file(&cgroup.join("cgroup.procs"));
    let procs = String::from_utf8_lossy(&procs);
    pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
    let below = fs::read_dir(cgroup).ok().filter(|_| depth < MAX_DEPTH);
    for entry in below.into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), pids, depth + 1);
        }
    }
}

/// The processes that a command began, by their leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    leader: i32,
    start: u64,
}

/// A command that runs in a container.
pub(super) struct Command {
    pub(super) session: Session,
}

impl Command {
    /// Whether its words are these; or those of a script's interpreter before them.
    pub(super) fn runs(&self, words: &[String]) -> bool {
        let Some((program, arguments)) = words.split_first() else {
            return false;
        };
        let line = read(self.session.leader, "cmdline");
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        let line: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let Some(before) = line.len().checked_sub(arguments.len()) else {
            return false;
        };
        let same = |(have, want): (&&[u8], &String)| *have == want.as_bytes();
        let (head, tail) = line.split_at(before);
        let file = |path: &[u8]| path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
        let program = file(program.as_bytes());
        tail.iter().zip(arguments).all(same) && head.last().is_some_and(|p| file(p) == program)
    }
}

#[derive(Clone, Copy, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
    start: u64,
}

/// The commands that were begun in the container since then and run, oldest first.
pub(super) fn commands(place: &Place, since: Ticks) -> Vec<Command> {
    let processes = place.processes();
    let mut found: Vec<Process> = processes
        .values()
        .filter(|p| p.session == p.pid && p.start >= since.0)
        .filter(|p| !processes.contains_key(&p.parent))
        .copied()
        .collect();
    found.sort_by_key(|p| (p.start, p.pid));
    let session = |p: &Process| Session {
        leader: p.pid,
        start: p.start,
    };
    let commands = found.iter().map(|p| Command {
        session: session(p),
    });
    commands.collect()
}

/// Ends a command and what it began. Gives how many processes are left, which should be none.
pub(super) fn end(place: &Place, session: Session) -> usize {
    let mut sessions = BTreeSet::from([session.leader]);
    let mut members: BTreeMap<i32, u64> = BTreeMap::new();
    kill_rounds(|| {
        let processes = place.processes();
        loop {
            let before = members.len();
            for p in processes.values().filter(|p| p.start >= session.start) {
                let is_child = members.contains_key(&p.parent);
                if is_child || sessions.contains(&p.session) {
                    members.insert(p.pid, p.start);
                    sessions.insert(p.session);
                }
            }
            if members.len() == before {
                break;
            }
        }
        let alive = |p: &&Process| members.get(&p.pid) == Some(&p.start);
        processes.values().filter(alive).copied().collect()
    })
}

/// Ends processes that were begun since then and hold the output of a command whose leader is gone: pipes that lead to
/// the runtime, and are not the container's own. Gives how many are left.
pub(super) fn end_holders(place: &Place, since: Ticks) -> usize {
    kill_rounds(|| {
        let processes = place.processes();
        // The container's first process, and whoever began it.
        let outside = processes
            .values()
            .filter(|p| !processes.contains_key(&p.parent));
        let Some(first) = outside.min_by_key(|p| (p.start, p.pid)) else {
            return Vec::new();
        };
        let young = |p: &&Process| {
            p.pid != first.pid && p.start >= since.0 && !processes.contains_key(&p.session)
        };
        let young: Vec<Process> = processes.values().filter(young).copied().collect();
        if young.is_empty() {
            return young;
        }
        let own = output_pipes(first.pid);
        let runtimes = pipes(first.parent, None);
        let holds = |p: &Process| {
            let held = output_pipes(p.pid);
            held.iter()
                .any(|pipe| runtimes.contains(pipe) && !own.contains(pipe))
        };
        young.into_iter().filter(holds).collect()
    })
}

/// Kills what `find` gives until it gives nothing.
fn kill_rounds(mut find: impl FnMut() -> Vec<Process>) -> usize {
    let mut pause = PAUSE;
    for _ in 0..ROUNDS {
        let found = find();
        if found.is_empty() {
            return 0;
        }
        for process in &found {
            kill(process);
        }
        thread::sleep(pause);
        pause *= 2;
    }
    find().len()
}

fn kill(process: &Process) {
    let still = |_| stat(process.pid).is_some_and(|now| now.start == process.start);
    if let Err(errno) = sigkill::kill(process.pid, still) {
        tracing::warn!(pid = process.pid, %errno, "cannot kill");
    }
}

fn stat(pid: i32) -> Option<Process> {
    let stat = read(pid, "stat");
    let stat = String::from_utf8_lossy(&stat);
    // pid (name) state ppid pgrp session … ; the name may hold anything. proc_pid_stat(5).
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    // Field 22 of the line, the session being the sixth.
    let start = fields.nth(15)?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        session,
        start,
    })
}

fn read(pid: i32, file: &str) -> Vec<u8> {
    read_file(Path::new(&format!("/proc/{pid}/{file}")))
}

fn read_file(path: &Path) -> Vec<u8> {
    use std::io::Read as _;
    let mut content = Vec::new();
    // A process or a cgroup that is gone has nothing to say.
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(MAX_FILE).read_to_end(&mut content);
    }
    content
}

/// The pipes that a process writes its output and errors to.
fn output_pipes(pid: i32) -> BTreeSet<PathBuf> {
    pipes(pid, Some(&["1", "2"]))
}

fn pipes(pid: i32, only: Option<&[&str]>) -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeSet::new();
    };
    let wanted =
        |name: &std::ffi::OsStr| only.is_none_or(|only| only.iter().any(|wanted| *wanted == name));
    entries
        .filter_map(Result::ok)
        .filter(|entry| wanted(&entry.file_name()))
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|link| link.as_os_str().as_encoded_bytes().starts_with(b"pipe:"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command as Program, Stdio};

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let mut child = Program::new("sleep")
            .arg("100")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = stat(pid).unwrap();
        assert_eq!(found.pid, pid);
        assert_eq!(found.parent, i32::try_from(std::process::id()).unwrap());
        let now = Ticks::of(&Clock::system());
        assert!(
            found.start <= now.0 && found.start + 6000 > now.0,
            "{found:?} {now:?}"
        );
        kill(&Process {
            start: found.start + 1,
            ..found
        });
        assert!(
            child.try_wait().unwrap().is_none(),
            "another process of that pid"
        );
        kill(&found);
        assert!(!child.wait().unwrap().success());
        assert!(stat(pid).is_none());
    }

    #[test]
    fn the_cgroup_of_a_container_is_where_its_processes_say() {
        let at = |line: &str| directory(line, "0123abcd").map(|path| path.display().to_string());
        for (line, path) in [
            (
                "5:cpu,cpuacct:/kubepods/pod1/0123abcd",
                "cpu,cpuacct/kubepods/pod1/0123abcd",
            ),
            ("1:name=systemd:/k/0123abcd/sub/x", "systemd/k/0123abcd"),
            (
                "0::/k.slice/cri-containerd-0123abcd.scope/init",
                "k.slice/cri-containerd-0123abcd.scope",
            ),
        ] {
            assert_eq!(at(line), Some(format!("/sys/fs/cgroup/{path}")), "{line}");
        }
        for line in ["0::/../k/0123abcd", "0::/other", "", "0123abcd"] {
            assert_eq!(at(line), None, "{line}");
        }
    }

    #[test]
    fn this_process_is_found_by_the_name_of_its_cgroup() {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let names = own.lines().filter_map(|line| line.rsplit('/').next());
        // On a machine without cgroups there is nothing to find.
        let Some(name) = names
            .filter(|name| name.len() > 4)
            .max_by_key(|name| name.len())
        else {
            return;
        };
        let place = Place::new(name);
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(place.processes().contains_key(&pid), "searched");
        assert!(place.processes().contains_key(&pid), "listed");
    }

    #[test]
    fn a_command_is_known_by_its_words() {
        let mut child = Program::new("/bin/sh")
            .args(["-c", "read line; :", "x"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let command = Command {
            session: Session {
                leader: i32::try_from(child.id()).unwrap(),
                start: 0,
            },
        };
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        // Until the child is another program, its words are those of this one.
        while !read(command.session.leader, "cmdline").starts_with(b"/bin/sh\0") {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(command.runs(&words(&["sh", "-c", "read line; :", "x"])));
        assert!(command.runs(&words(&["/other/sh", "-c", "read line; :", "x"])));
        // As for a script `read line; :` of that interpreter.
        assert!(command.runs(&words(&["read line; :", "x"])));
        assert!(!command.runs(&words(&["bash", "-c", "read line; :", "x"])));
        assert!(!command.runs(&words(&["sh", "-c", "read line; :"])));
        assert!(!command.runs(&[]));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
