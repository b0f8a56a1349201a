//! The instances of containers that run on a node, seen from below the runtime, and whether any two were one too many.
//!
//! runc's bundles are read, not containerd's answers: they are there while containerd is killed, stopped or slow. A
//! bundle names its pod and container and the first process; a handle on that process tells its end. Two instances
//! overlap when the older one's process was seen alive after the younger one's had been made: what is told from that is
//! true, though an overlap shorter than the few milliseconds between two looks may be missed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use super::journal::Journal;
use crate::containerd::Node;

/// Between two looks, and how exact the end of a process is known.
const PAUSE: Duration = Duration::from_millis(5);
/// `/proc/<pid>/stat` counts in hundredths of a second (USER_HZ), rounded down.
const TICK: Duration = Duration::from_millis(10);

/// A container of a pod: what may run once at a time. Pods of one namespace and name are one, whatever their UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// `namespace/name` of the pod.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

/// One run of a container. Times are since the machine came up.
#[derive(Debug)]
struct Instance {
    identity: Identity,
    made: Duration,
    /// When the process was last found alive.
    alive: Duration,
    process: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By id: containers that run, or have run and whose bundle is still there.
    instances: BTreeMap<String, Instance>,
    /// What is no container of a pod: sandboxes.
    others: BTreeSet<String>,
    total: usize,
    violations: Vec<String>,
    trouble: Option<String>,
}

/// The watch; it ends when dropped.
pub struct Instances {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Instances {
    /// Watches the bundles below `tasks`, which need not exist yet.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn watch(tasks: PathBuf, journal: Journal) -> Result<Self> {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (for_thread, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("instances".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if let Err(error) = look(&tasks, &for_thread, &journal) {
                        lock(&for_thread).trouble = Some(format!("{error:#}"));
                        std::thread::sleep(PAUSE);
                    }
                }
            })?;
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// The containers that run: id and identity.
    #[must_use]
    pub fn running(&self) -> BTreeMap<String, Identity> {
        let seen = lock(&self.seen);
        let running = seen.instances.iter().filter(|(_, i)| i.process.is_some());
        running
            .map(|(id, instance)| (id.clone(), instance.identity.clone()))
            .collect()
    }

    /// Kills a container's first process, unless it has ended.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(&self, id: &str) -> Result<()> {
        let seen = lock(&self.seen);
        let process = seen.instances.get(id).and_then(|i| i.process.as_ref());
        match process.map(|process| pidfd_send_signal(process, Signal::KILL)) {
            Some(Err(error)) if error != rustix::io::Errno::SRCH => {
                Err(error).context("kill a container")
            }
            _ => Ok(()),
        }
    }

    /// How many instances there have been.
    #[must_use]
    pub fn total(&self) -> usize {
        lock(&self.seen).total
    }

    /// That never two instances of a container ran, and that it was watched throughout.
    ///
    /// # Errors
    /// With every pair that did.
    pub fn ensure_single(&self) -> Result<()> {
        let seen = lock(&self.seen);
        if let Some(trouble) = &seen.trouble {
            bail!("the watch on the instances failed: {trouble}");
        }
        ensure!(
            seen.violations.is_empty(),
            "two instances ran at a time: {:#?}",
            seen.violations
        );
        Ok(())
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say but what is in `trouble`.
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Since the machine came up, as the start times of processes are.
fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// One look at the processes, then at the bundles; takes [`PAUSE`].
fn look(tasks: &Path, seen: &Mutex<Seen>, journal: &Journal) -> Result<()> {
    let asked = now()?;
    let mut guard = lock(seen);
    let ended = ended(&guard)?;
    for (id, instance) in &mut guard.instances {
        if instance.process.is_none() {
            continue;
        }
        if ended.contains(id) {
            instance.process = None;
            journal.note(format_args!("ended: {} {}", short(id), instance.identity));
        } else {
            instance.alive = asked;
        }
    }
    find_new(tasks, &mut guard, journal)?;
    find_overlaps(&mut guard, journal);
    drop(guard);
    std::thread::sleep(PAUSE);
    Ok(())
}

/// The ids whose processes have ended.
fn ended(seen: &Seen) -> Result<BTreeSet<String>> {
    let (ids, mut handles): (Vec<&String>, Vec<PollFd<'_>>) = seen
        .instances
        .iter()
        .filter_map(|(id, i)| {
            let process = i.process.as_ref()?;
            Some((id, PollFd::new(process, PollFlags::IN)))
        })
        .unzip();
    let at_once = Timespec::default();
    poll(&mut handles, Some(&at_once)).context("poll the containers' processes")?;
    let pairs = ids.into_iter().zip(handles);
    Ok(pairs
        .filter(|(_, handle)| !handle.revents().is_empty())
        .map(|(id, _)| id.clone())
        .collect())
}

fn find_new(tasks: &Path, seen: &mut Seen, journal: &Journal) -> Result<()> {
    let mut there = BTreeSet::new();
    match fs::read_dir(tasks) {
        Ok(entries) => {
            for entry in entries {
                // The directory may go while it is read.
                let Ok(entry) = entry else { break };
                // A bundle that is being deleted has a point before its name.
                let name = entry.file_name().into_string();
                there.extend(name.ok().filter(|name| !name.starts_with('.')));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", tasks.display())),
    }
    seen.instances
        .retain(|id, instance| instance.process.is_some() || there.contains(id));
    seen.others.retain(|id| there.contains(id));
    for id in there {
        if seen.instances.contains_key(&id) || seen.others.contains(&id) {
            continue;
        }
        let bundle = tasks.join(&id);
        // Written last; until it is there, nothing runs.
        let Some(pid) = read_pid(&bundle) else {
            continue;
        };
        let Some(identity) = identity(&bundle)? else {
            seen.others.insert(id);
            continue;
        };
        let process = pidfd_open(pid, PidfdFlags::empty()).ok();
        // When it had ended before it was found, its number may be another's already: it is of no time.
        let made = process.as_ref().and_then(|_| started(pid));
        let at = now()?;
        journal.note(format_args!("runs: {} {identity}", short(&id)));
        seen.total += 1;
        seen.instances.insert(
            id,
            Instance {
                identity,
                made: made.unwrap_or(at),
                alive: made.map_or(Duration::ZERO, |_| at),
                process: process.filter(|_| made.is_some()),
            },
        );
    }
    Ok(())
}

fn find_overlaps(seen: &mut Seen, journal: &Journal) {
    let mut found = Vec::new();
    for (old_id, old) in &seen.instances {
        for (id, young) in &seen.instances {
            let same = old_id != id && old.identity == young.identity;
            let older = (old.made, old_id) < (young.made, id);
            if same && older && old.alive > young.made + TICK {
                found.push(format!(
                    "{}: {} (made at {:?}, alive at {:?}) and {} (made at {:?})",
                    young.identity,
                    short(old_id),
                    old.made,
                    old.alive,
                    short(id),
                    young.made
                ));
            }
        }
    }
    for line in found {
        // One line a pair; the times of a pair that goes on change with each look.
        let pair = line.split(" (made").next().unwrap_or_default().to_owned();
        let known = seen.violations.iter().any(|v| v.starts_with(&pair));
        if !known {
            journal.note(format_args!("TWO AT A TIME: {line}"));
            seen.violations.push(line);
        }
    }
}

/// The first process of a bundle, once runc has written it.
fn read_pid(bundle: &Path) -> Option<Pid> {
    let text = fs::read_to_string(bundle.join("init.pid")).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

/// When the process was made.
fn started(pid: Pid) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is in parentheses and may have spaces; the start is the 22nd (proc(5)).
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// The first process of the sandbox of a pod, by the pod's name on the node; not of those in `except`, which only have its name.
///
/// # Errors
/// When the bundles cannot be read.
pub fn sandbox_process(
    node: &Node,
    pod: &str,
    except: &[String],
) -> Result<Option<nix::unistd::Pid>> {
    let bundles = node.bundles();
    for entry in fs::read_dir(&bundles).with_context(|| format!("read {}", bundles.display()))? {
        let bundle = entry?.path();
        let Ok(text) = fs::read(bundle.join("config.json")) else {
            continue;
        };
        let config: Value = serde_json::from_slice(&text)?;
        let said = |key: &str| config["annotations"][format!("io.kubernetes.cri.{key}")].as_str();
        if said("container-type") == Some("sandbox")
            && said("sandbox-name") == Some(pod)
            && !said("sandbox-id").is_some_and(|id| except.iter().any(|other| other == id))
            && let Some(pid) = read_pid(&bundle)
            // The number of one that has ended may be anybody's.
            && fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()))
                .is_ok_and(|cgroups| cgroups.contains(node.name()))
        {
            return Ok(Some(nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get())));
        }
    }
    Ok(None)
}

/// Whose bundle it is; none for a sandbox, and for a bundle that is going.
fn identity(bundle: &Path) -> Result<Option<Identity>> {
    let Ok(text) = fs::read(bundle.join("config.json")) else {
        return Ok(None);
    };
    let config: Value = serde_json::from_slice(&text)
        .with_context(|| format!("read config.json of {}", bundle.display()))?;
    let said = |key: &str| {
        let value = &config["annotations"][format!("io.kubernetes.cri.{key}")];
        value.as_str().map(str::to_owned)
    };
    if said("container-type").as_deref() != Some("container") {
        return Ok(None);
    }
    let names = said("sandbox-namespace").zip(said("sandbox-name"));
    let (namespace, pod) = names.context("a container's bundle names no pod")?;
    Ok(Some(Identity {
        pod: format!("{namespace}/{pod}"),
        container: said("container-name").context("a container's bundle has no name")?,
    }))
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pod, self.container)
    }
}

/// As much of an id as people compare.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use serde_json::json;

    use super::*;

    /// A bundle as runc and containerd write it, with a process of ours for the container's.
    fn bundle(tasks: &Path, id: &str, kind: &str, container: &str) -> Child {
        let process = Command::new("sleep").arg("100").spawn().unwrap();
        let directory = tasks.join(id);
        fs::create_dir(&directory).unwrap();
        let annotations = json!({
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.container-name": container,
            "io.kubernetes.cri.sandbox-namespace": "default",
            "io.kubernetes.cri.sandbox-name": "a-node",
        });
        let config = json!({ "annotations": annotations }).to_string();
        fs::write(directory.join("config.json"), config).unwrap();
        fs::write(directory.join("init.pid"), process.id().to_string()).unwrap();
        process
    }

    fn wait_until(what: impl Fn() -> bool) {
        let mut looks = (0..4000).map(|_| std::thread::sleep(PAUSE));
        assert!(looks.any(|()| what()));
    }

    fn end(mut process: Child) {
        process.kill().unwrap();
        process.wait().unwrap();
    }

    #[test]
    fn two_instances_at_a_time_are_found_and_one_after_the_other_is_fine() {
        let tasks = tempfile::tempdir().unwrap();
        let path = tasks.path().to_owned();
        let watch = Instances::watch(path.clone(), Journal::default()).unwrap();
        let sandbox = bundle(&path, "s1", "sandbox", "");
        let first = bundle(&path, "c1", "container", "main");
        let beside = bundle(&path, "c2", "container", "other");
        wait_until(|| watch.running().len() == 2);
        end(first);
        wait_until(|| watch.running().len() == 1);
        let second = bundle(&path, "c3", "container", "main");
        wait_until(|| watch.running().len() == 2);
        std::thread::sleep(TICK * 5);
        watch.ensure_single().unwrap();
        let third = bundle(&path, "c4", "container", "main");
        wait_until(|| watch.ensure_single().is_err());
        let said = watch.ensure_single().unwrap_err().to_string();
        assert!(said.contains("default/a-node/main: c3 "), "{said}");
        assert!(said.contains(" and c4 "), "{said}");
        assert_eq!(watch.total(), 4);
        [sandbox, beside, second, third].into_iter().for_each(end);
    }
}
