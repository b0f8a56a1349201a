//! One cgroup below the root of every hierarchy: where the node's processes live, and how they are found and ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where containerd, its shims and the agent run; the pods' cgroups are its siblings.
const RUNTIME: &str = "runtime";
/// Kill, look, kill: how often, 20 ms apart.
const KILL_ROUNDS: u32 = 500;

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// `cgroup2`, or the controllers of a `cgroup` mount.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it is the unified hierarchy.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.controllers == ["cgroup2"]
    }
}

/// The hierarchies mounted on this machine.
///
/// # Errors
/// When `/proc/self/mountinfo` cannot be read.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

/// One line of mountinfo (proc(5)), when it is a cgroup hierarchy's.
fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (mount, source) = line.split_once(" - ")?;
    let mount = PathBuf::from(mount.split(' ').nth(4)?);
    let mut source = source.split(' ');
    let controllers = match source.next()? {
        "cgroup2" => vec!["cgroup2".to_owned()],
        "cgroup" => source
            .nth(1)?
            .split(',')
            .filter(|option| !matches!(*option, "rw" | "ro" | "clone_children" | "xattr"))
            .map(str::to_owned)
            .collect(),
        _ => return None,
    };
    Some(Hierarchy { mount, controllers })
}

/// The node's cgroup in every hierarchy; removed when dropped, with the processes in it.
pub(super) struct CgroupTree {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

impl CgroupTree {
    pub(super) fn create(name: &str) -> Result<Self> {
        let tree = Self {
            name: name.to_owned(),
            hierarchies: hierarchies()?,
        };
        ensure!(
            !tree.hierarchies.is_empty(),
            "no cgroup hierarchy is mounted"
        );
        let only_v2 = tree.hierarchies.iter().all(Hierarchy::is_v2);
        for hierarchy in &tree.hierarchies {
            let own = hierarchy.mount.join(name);
            fs::create_dir(&own).with_context(|| format!("create {}", own.display()))?;
            if only_v2 {
                delegate(&hierarchy.mount)?;
                delegate(&own)?;
            }
            // A new cpuset of v1 is empty, and no process may enter it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.controllers.iter().any(|c| c == "cpuset") {
                    let value = fs::read(hierarchy.mount.join(file))?;
                    fs::write(own.join(file), &value)?;
                    fs::create_dir_all(own.join(RUNTIME))?;
                    fs::write(own.join(RUNTIME).join(file), &value)?;
                }
            }
            fs::create_dir_all(own.join(RUNTIME))
                .with_context(|| format!("create a cgroup in {}", own.display()))?;
        }
        Ok(tree)
    }

    /// The node's cgroups with this name, made by a process that is no more.
    pub(super) fn left_behind(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            hierarchies: hierarchies()?,
        })
    }

    /// The files a process writes itself to, to belong to the node.
    pub(super) fn entrances(&self) -> impl Iterator<Item = PathBuf> {
        self.roots()
            .map(|root| root.join(RUNTIME).join("cgroup.procs"))
    }

    fn roots(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|h| h.mount.join(&self.name))
    }

    pub(super) fn dir(&self, controller: &str, below: &str) -> Result<PathBuf> {
        let v2 = self.hierarchies.iter().find(|h| h.is_v2());
        let hierarchy = self
            .hierarchies
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == controller))
            .or(v2)
            .with_context(|| format!("no hierarchy has the controller {controller}"))?;
        Ok(hierarchy.mount.join(&self.name).join(below))
    }

    /// Ends every process in the tree, whoever started it: containerd, shims, agent, containers. Returns when none
    /// is left or after ten seconds.
    pub(super) fn kill_all(&self) {
        for _ in 0..KILL_ROUNDS {
            let mut pids = Vec::new();
            for root in self.roots() {
                // cgroup v2 since Linux 5.14 kills the whole subtree at once, forks in flight included.
                let _ = fs::write(root.join("cgroup.kill"), "1");
                collect_pids(&root, &mut pids);
            }
            pids.sort_unstable();
            pids.dedup();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            sleep(Duration::from_millis(20));
        }
        eprintln!("{}: processes survived SIGKILL", self.name);
    }
}

impl CgroupTree {
    /// The processes of the pods.
    pub(super) fn of_pods(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for root in self.roots() {
            for child in children(&root).iter().filter(|c| !c.ends_with(RUNTIME)) {
                collect_pids(child, &mut pids);
            }
        }
        pids
    }

    /// The processes of containerd, its shims and the agent.
    pub(super) fn of_runtime(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for root in self.roots() {
            collect_pids(&root.join(RUNTIME), &mut pids);
        }
        pids
    }
}

impl Drop for CgroupTree {
    fn drop(&mut self) {
        self.kill_all();
        for root in self.roots() {
            // A cgroup stays busy for a moment after its last process has gone.
            for round in 0..KILL_ROUNDS {
                match remove_tree(&root) {
                    Ok(()) => break,
                    Err(error) if round + 1 == KILL_ROUNDS => {
                        eprintln!("remove {}: {error}", root.display());
                    }
                    Err(_) => sleep(Duration::from_millis(20)),
                }
            }
        }
    }
}

/// Lets the children of `dir` use every controller that `dir` has.
fn delegate(dir: &Path) -> Result<()> {
    let has = fs::read_to_string(dir.join("cgroup.controllers"))
        .with_context(|| format!("controllers of {}", dir.display()))?;
    for controller in has.split_whitespace() {
        let file = dir.join("cgroup.subtree_control");
        fs::write(&file, format!("+{controller}"))
            .with_context(|| format!("enable {controller} in {}", file.display()))?;
    }
    Ok(())
}

fn collect_pids(dir: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process outside of our pid namespace: not ours.
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for child in children(dir) {
        collect_pids(&child, pids);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_among_the_mounts() {
        let v1 = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let v1 = parse_mount(v1).unwrap();
        assert_eq!(v1.mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(v1.controllers, ["cpu", "cpuacct"]);
        assert!(!v1.is_v2());
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert!(parse_mount(v2).unwrap().is_v2());
        assert!(parse_mount("22 1 8:1 / / rw - ext4 /dev/sda rw").is_none());
    }
}
