//! The mounted cgroup hierarchies: one of version 2, or several of version 1.

use std::io;
use std::path::{Path, PathBuf};

use super::CgroupsError;
use crate::dir::{Dir, DirError};
use crate::mounts;

/// `statfs` magic of cgroup v2 (`CGROUP2_SUPER_MAGIC`, linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// Controllers of version 2 that pods need below them, where the kernel has them.
const WANTED_V2: [&str; 5] = ["cpu", "cpuset", "memory", "hugetlb", "pids"];
/// Options of a v1 mount that name no controller.
const PLAIN_OPTIONS: [&str; 6] = [
    "rw",
    "ro",
    "clone_children",
    "noprefix",
    "xattr",
    "cpuset_v2_mode",
];
/// Longest content of a cgroup file that is read.
pub(super) const FILE_LIMIT: u64 = 64 << 10;

/// The version of the cgroup filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller or group of them.
    V1,
    /// One hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// Its controllers; a named one of version 1 has its name (`name=systemd`).
    pub(super) controllers: Vec<String>,
}

pub(super) fn detect(root: &Path) -> Result<Version, CgroupsError> {
    match rustix::fs::statfs(root) {
        Ok(stat) if u64::try_from(stat.f_type).is_ok_and(|magic| magic == CGROUP2_MAGIC) => {
            Ok(Version::V2)
        }
        Ok(_) => Ok(Version::V1),
        Err(errno) => Err(lookup(root, errno.into())),
    }
}

pub(super) fn find(version: Version, root: &Path) -> Result<Vec<Hierarchy>, CgroupsError> {
    let found = match version {
        Version::V1 => {
            let table = mounts::read().map_err(|source| lookup(root, source))?;
            of_mounts(&table, root)
        }
        Version::V2 => {
            let controllers = Dir::open(root)?
                .read_file("cgroup.controllers", FILE_LIMIT)?
                .ok_or_else(|| CgroupsError::NoHierarchy(root.to_owned()))?;
            vec![Hierarchy {
                version,
                root: root.to_owned(),
                controllers: words(&controllers),
            }]
        }
    };
    match found.is_empty() {
        true => Err(CgroupsError::NoHierarchy(root.to_owned())),
        false => Ok(found),
    }
}

/// Version 1: each set of controllers once, at its shortest mount point.
fn of_mounts(table: &[mounts::Mount], root: &Path) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in table {
        if mount.fs_type != "cgroup" || !mount.mount_point.starts_with(root) {
            continue;
        }
        let options = mount.super_options.iter();
        let controllers: Vec<String> = options
            .filter(|option| {
                let option = option.as_str();
                !PLAIN_OPTIONS.contains(&option) && !option.starts_with("release_agent=")
            })
            .cloned()
            .collect();
        let length = |path: &Path| path.as_os_str().len();
        match found.iter_mut().find(|h| h.controllers == controllers) {
            Some(same) if length(&same.root) > length(&mount.mount_point) => {
                same.root.clone_from(&mount.mount_point);
            }
            Some(_) => {}
            None => found.push(Hierarchy {
                version: Version::V1,
                root: mount.mount_point.clone(),
                controllers,
            }),
        }
    }
    found
}

impl Hierarchy {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Makes the cgroup `name` in `parent`.
    pub(super) fn ensure_level(&self, parent: &Dir, name: &str) -> Result<Dir, DirError> {
        let level = parent.ensure_child(name, 0o755)?;
        if self.version == Version::V1 && self.has("cpuset") {
            // No process can enter a cpuset of version 1 that has no cpus or no memory nodes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let is_empty = |dir: &Dir| {
                    let content = dir.read_file(file, FILE_LIMIT)?.unwrap_or_default();
                    Ok::<_, DirError>(content.trim_ascii().is_empty())
                };
                if is_empty(&level)? {
                    let content = parent.read_file(file, FILE_LIMIT)?.unwrap_or_default();
                    let content = String::from_utf8_lossy(content.trim_ascii()).into_owned();
                    if !content.is_empty() {
                        level.set(file, &content)?;
                    }
                }
            }
        }
        Ok(level)
    }

    /// Version 2: lets the cgroups below `level` have controllers. Those the kernel lacks are skipped.
    pub(super) fn enable_controllers(&self, level: &Dir) -> Result<(), DirError> {
        if self.version != Version::V2 {
            return Ok(());
        }
        let list = |file| {
            let content = level.read_file(file, FILE_LIMIT)?.unwrap_or_default();
            Ok::<_, DirError>(words(&content))
        };
        let present = list("cgroup.controllers")?;
        let enabled = list("cgroup.subtree_control")?;
        for controller in missing_controllers(&present, &enabled) {
            level.set("cgroup.subtree_control", &format!("+{controller}"))?;
        }
        Ok(())
    }
}

fn missing_controllers<'a>(
    present: &'a [String],
    enabled: &'a [String],
) -> impl Iterator<Item = &'static str> + 'a {
    WANTED_V2.into_iter().filter(|wanted| {
        let has = |list: &[String]| list.iter().any(|name| name == wanted);
        has(present) && !has(enabled)
    })
}

/// The sizes of huge page the kernel supports, bytes, from `sys_hugepages` (`/sys/kernel/mm/hugepages`, with one
/// `hugepages-<n>kB` each). None where there is no such directory.
#[must_use]
pub fn huge_page_sizes(sys_hugepages: &Path) -> Vec<u64> {
    let size = |name: &str| -> Option<u64> {
        let kilobytes = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        kilobytes.parse::<u64>().ok()?.checked_mul(1024)
    };
    let entries = std::fs::read_dir(sys_hugepages).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut sizes: Vec<u64> = names.filter_map(|name| size(&name)).collect();
    sizes.sort_unstable();
    sizes
}

/// All huge pages of `size` bytes that the machine holds, bytes; none where the kernel has no such pages.
#[must_use]
pub fn huge_page_bytes(sys_hugepages: &Path, size: u64) -> u64 {
    let file = sys_hugepages.join(format!("hugepages-{}kB/nr_hugepages", size / 1024));
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let pages: u64 = text.trim().parse().unwrap_or(0);
    pages.saturating_mul(size)
}

fn words(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    text.split_whitespace().map(str::to_owned).collect()
}

fn lookup(path: &Path, source: io::Error) -> CgroupsError {
    CgroupsError::Lookup {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(at: &str, fs_type: &str, options: &str) -> mounts::Mount {
        mounts::Mount {
            mount_point: at.into(),
            fs_type: fs_type.into(),
            super_options: options.split(',').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn finds_each_hierarchy_once() {
        let table = [
            mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            mount(
                "/sys/fs/cgroup/other/cpu,cpuacct",
                "cgroup",
                "rw,cpu,cpuacct",
            ),
            mount(
                "/sys/fs/cgroup/systemd",
                "cgroup",
                "rw,xattr,name=systemd,release_agent=/x",
            ),
            mount("/sys/fs/cgroup/unified", "cgroup2", "rw"),
            mount("/elsewhere/memory", "cgroup", "rw,memory"),
            mount("/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
        ];
        let found = of_mounts(&table, Path::new("/sys/fs/cgroup"));
        let shown: Vec<_> = found
            .iter()
            .map(|h| (h.root.to_str().unwrap(), h.controllers.join(",")))
            .collect();
        assert_eq!(
            shown,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct".to_owned()),
                ("/sys/fs/cgroup/systemd", "name=systemd".to_owned()),
                ("/sys/fs/cgroup/memory", "memory".to_owned()),
            ]
        );
    }

    #[test]
    fn enables_the_controllers_pods_need_and_the_kernel_has() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        std::fs::write(
            temp.path().join("cgroup.controllers"),
            "cpuset cpu io memory rdma\n",
        )
        .unwrap();
        std::fs::write(temp.path().join("cgroup.subtree_control"), "").unwrap();
        let found = find(Version::V2, temp.path()).unwrap();
        found[0].enable_controllers(&dir).unwrap();
        // A plain file keeps what was written last over what was written before.
        let written = std::fs::read_to_string(temp.path().join("cgroup.subtree_control")).unwrap();
        assert!(written.starts_with("+memory"), "{written:?}");
        let list = |text: &str| words(text.as_bytes());
        let missing: Vec<_> =
            missing_controllers(&list("cpuset cpu io memory"), &list("memory")).collect();
        assert_eq!(missing, ["cpu", "cpuset"]);
    }

    #[test]
    fn reads_the_sizes_of_huge_pages() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["hugepages-1048576kB", "hugepages-2048kB", "other"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
        }
        assert_eq!(huge_page_sizes(temp.path()), [2 << 20, 1 << 30]);
        assert!(huge_page_sizes(&temp.path().join("none")).is_empty());
        std::fs::write(temp.path().join("hugepages-2048kB/nr_hugepages"), "3\n").unwrap();
        assert_eq!(huge_page_bytes(temp.path(), 2 << 20), 6 << 20);
        assert_eq!(huge_page_bytes(temp.path(), 1 << 30), 0);
    }

    #[test]
    fn a_plain_directory_is_not_version_2() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(detect(temp.path()).unwrap(), Version::V1);
        assert!(detect(&temp.path().join("none")).is_err());
        assert!(matches!(
            find(Version::V1, temp.path()),
            Err(CgroupsError::NoHierarchy(_))
        ));
    }
}
