//! Handles of one cgroup in every hierarchy that has numbers of it.

use std::time::UNIX_EPOCH;

use crate::cgroups::{CgroupMount, Version};
use crate::dir::Dir;

/// Controllers whose files are read.
const WANTED_V1: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];
/// Longest content of a file that is read; `cgroup.procs` of a container with thousands of processes fits.
const FILE_LIMIT: u64 = 256 << 10;

/// The mounted hierarchies.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    pub(super) version: Version,
    mounts: Vec<CgroupMount>,
}

impl Roots {
    /// Of `mounts` those that have numbers.
    pub(super) fn new(version: Version, mut mounts: Vec<CgroupMount>) -> Self {
        if version == Version::V1 {
            let wanted = |controller: &String| WANTED_V1.contains(&controller.as_str());
            mounts.retain(|mount| mount.controllers.iter().any(wanted));
        }
        Self { version, mounts }
    }

    /// The cgroup that all others lie in.
    pub(super) fn open(&self) -> Level<'_> {
        let open = |mount: &CgroupMount| Dir::open(&mount.root).ok();
        Level {
            roots: self,
            path: String::new(),
            dirs: self.mounts.iter().map(open).collect(),
        }
    }
}

/// One cgroup. A hierarchy that does not have it, or no more, has no numbers of it.
#[derive(Debug)]
pub(super) struct Level<'a> {
    roots: &'a Roots,
    path: String,
    dirs: Vec<Option<Dir>>,
}

impl Level<'_> {
    pub(super) fn version(&self) -> Version {
        self.roots.version
    }

    /// The path from the root: `/kubepods/burstable`.
    pub(super) fn path(&self) -> &str {
        match self.path.is_empty() {
            true => "/",
            false => &self.path,
        }
    }

    /// The cgroup `name` in this one; none where no hierarchy has it.
    pub(super) fn child(&self, name: &str) -> Option<Self> {
        let child = |dir: &Option<Dir>| dir.as_ref()?.child(name).ok().flatten();
        let dirs: Vec<Option<Dir>> = self.dirs.iter().map(child).collect();
        let path = format!("{}/{name}", self.path);
        dirs.iter().any(Option::is_some).then_some(Self {
            roots: self.roots,
            path,
            dirs,
        })
    }

    /// The cgroup that `names` lead to.
    pub(super) fn descend(self, names: &[String]) -> Option<Self> {
        names
            .iter()
            .try_fold(self, |level, name| level.child(name.as_str()))
    }

    /// The names of the cgroups in this one.
    pub(super) fn children(&self) -> Vec<String> {
        let mut dirs = self.dirs.iter().flatten();
        let names = dirs.next().map(Dir::subdirectories);
        names.and_then(Result::ok).unwrap_or_default()
    }

    /// The content of `file`, one of `controller`'s; none where there is none.
    pub(super) fn read(&self, controller: &str, file: &str) -> Option<String> {
        let has = |mount: &CgroupMount| mount.controllers.iter().any(|name| name == controller);
        let mut mounts = self.roots.mounts.iter().zip(&self.dirs);
        let dir = match self.roots.version {
            // The root of version 2 has files of controllers that are in use by others, too.
            Version::V2 => self.dirs.first()?.as_ref()?,
            Version::V1 => mounts.find(|(mount, _)| has(mount))?.1.as_ref()?,
        };
        let content = dir.read_file(file, FILE_LIMIT).ok()??;
        String::from_utf8(content).ok()
    }

    /// `file` as one number; the word `max`, as all that is no number, is none.
    pub(super) fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.read(controller, file)?.trim().parse().ok()
    }

    /// The processes that are in the cgroup itself.
    pub(super) fn processes(&self) -> Vec<u32> {
        let text = self.dirs.iter().flatten().find_map(|dir| {
            let content = dir.read_file("cgroup.procs", FILE_LIMIT).ok()??;
            String::from_utf8(content).ok()
        });
        let text = text.unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// When the cgroup was made, seconds since the epoch, as far as the kernel tells: the earliest time that a hierarchy
    /// shows of it.
    pub(super) fn made_at(&self) -> Option<i64> {
        let time = |dir: &Dir| {
            let changed = std::fs::metadata(dir.path()).ok()?.modified().ok()?;
            let since = changed.duration_since(UNIX_EPOCH).ok()?;
            i64::try_from(since.as_secs()).ok()
        };
        self.dirs.iter().flatten().filter_map(time).min()
    }
}
