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
/// Those without which pods cannot be held to their limits on version 2.
const NEEDED_V2: [&str; 3] = ["cpu", "memory", "pids"];
/// Those that must be mounted on version 1, as upstream has it.
const NEEDED_V1: [&str; 4] = ["cpu", "cpuacct", "cpuset", "memory"];
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

/// Refuses a machine that lacks a controller pods need.
pub(super) fn check(
    version: Version,
    root: &Path,
    hierarchies: &[Hierarchy],
) -> Result<(), CgroupsError> {
    let needed: &[&'static str] = match version {
        Version::V1 => &NEEDED_V1,
        Version::V2 => &NEEDED_V2,
    };
    let is_missing = |controller: &&str| !hierarchies.iter().any(|h| h.has(controller));
    let missing: Vec<_> = needed.iter().copied().filter(is_missing).collect();
    match (missing.is_empty(), version) {
        (true, _) => Ok(()),
        (false, Version::V1) => Err(CgroupsError::NotMounted {
            missing,
            root: root.to_owned(),
        }),
        (false, Version::V2) => Err(CgroupsError::NotInKernel {
            missing,
            file: root.join("cgroup.controllers"),
        }),
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
    pub(super) fn enable_controllers(&self, level: &Dir) -> Result<(), CgroupsError> {
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
            let set = level.set("cgroup.subtree_control", &format!("+{controller}"));
            set.map_err(|source| CgroupsError::NotHandedDown { controller, source })?;
        }
        Ok(())
    }

    /// Version 2: the controllers the kernel has and `level` does not.
    pub(super) fn not_handed_down(&self, level: &Dir) -> Result<Vec<&'static str>, DirError> {
        let content = level.read_file("cgroup.controllers", FILE_LIMIT)?;
        let present = words(&content.unwrap_or_default());
        Ok(missing_controllers(&self.controllers, &present).collect())
    }
}

/// Whether the kernel can limit swap: `own` is the cgroup of this process on version 2, `/` and the path from the root.
/// The root itself has no such file there.
#[must_use]
pub fn limits_swap(version: Version, root: &Path, own: &str) -> bool {
    let file = match version {
        Version::V1 => root.join("memory/memory.memsw.limit_in_bytes"),
        Version::V2 => {
            let own = root.join(own.trim_start_matches('/'));
            own.join("memory.swap.max")
        }
    };
    file.exists()
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
            device: "0:29".to_owned(),
            root: "/".into(),
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

    fn with(version: Version, controllers: &str) -> Hierarchy {
        Hierarchy {
            version,
            root: "/sys/fs/cgroup".into(),
            controllers: words(controllers.as_bytes()),
        }
    }

    #[test]
    fn a_machine_without_a_controller_is_refused_with_the_remedy() {
        let root = Path::new("/sys/fs/cgroup");
        let refusal = |version, hierarchies: &[Hierarchy]| {
            check(version, root, hierarchies).unwrap_err().to_string()
        };
        let v2 = [with(Version::V2, "cpuset cpu io")];
        assert_eq!(
            refusal(Version::V2, &v2),
            "the cgroup controllers memory, pids are not in /sys/fs/cgroup/cgroup.controllers: pods need them; boot \
             the kernel without cgroup_disable for them (a Raspberry Pi: with cgroup_enable=memory), and with \
             systemd.unified_cgroup_hierarchy=1 where cgroup v1 holds them"
        );
        // Neither huge pages nor cpusets are in every kernel.
        let v2 = [with(Version::V2, "cpu memory pids")];
        assert!(check(Version::V2, root, &v2).is_ok());
        let v1 = [
            with(Version::V1, "cpu cpuacct"),
            with(Version::V1, "cpuset"),
        ];
        assert_eq!(
            refusal(Version::V1, &v1),
            "the cgroup controllers memory are not mounted below /sys/fs/cgroup: pods need them; mount them, or boot \
             with cgroup v2 (systemd.unified_cgroup_hierarchy=1)"
        );
        let v1 = [v1[0].clone(), v1[1].clone(), with(Version::V1, "memory")];
        assert!(check(Version::V1, root, &v1).is_ok());
    }

    #[test]
    fn a_controller_that_cannot_be_handed_down_is_named_with_its_file() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("cgroup.controllers"), "memory").unwrap();
        std::os::unix::fs::symlink("x", temp.path().join("cgroup.subtree_control")).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let hierarchy = with(Version::V2, "memory pids");
        assert_eq!(hierarchy.not_handed_down(&dir).unwrap(), ["pids"]);
        assert!(hierarchy.enable_controllers(&dir).is_err());

        let file = "/sys/fs/cgroup/a/cgroup.subtree_control";
        let refusal = |errno: rustix::io::Errno| {
            let error = CgroupsError::NotHandedDown {
                controller: "memory",
                source: DirError {
                    action: "set",
                    path: file.into(),
                    source: errno.into(),
                },
            };
            crate::errors::error_chain(&error)
        };
        assert_eq!(
            refusal(rustix::io::Errno::BUSY),
            format!(
                "cannot hand the cgroup controller memory down to pods (processes in that very cgroup are in the \
                 way: move them into one of their own, or set cgroupRoot to a cgroup without processes): cannot set \
                 {file}: Device or resource busy (os error 16)"
            )
        );
        assert_eq!(
            refusal(rustix::io::Errno::ACCESS),
            format!(
                "cannot hand the cgroup controller memory down to pods: cannot set {file}: Permission denied (os error 13)"
            )
        );
        let taken = CgroupsError::TakenAway {
            missing: vec!["cpuset"],
            file: "/sys/fs/cgroup/kubepods/cgroup.controllers".into(),
        };
        assert_eq!(
            taken.to_string(),
            "the cgroup controllers cpuset are not in /sys/fs/cgroup/kubepods/cgroup.controllers, though they are \
             enabled above it: something on this machine takes them away again"
        );
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
    fn swap_can_be_limited_where_the_kernel_has_a_file_for_it() {
        let temp = tempfile::tempdir().unwrap();
        let limits = |version, own| limits_swap(version, temp.path(), own);
        assert!(!limits(Version::V1, "/") && !limits(Version::V2, "/a.slice/b"));
        std::fs::create_dir_all(temp.path().join("a.slice/b")).unwrap();
        std::fs::create_dir(temp.path().join("memory")).unwrap();
        std::fs::write(temp.path().join("a.slice/b/memory.swap.max"), "max").unwrap();
        assert!(!limits(Version::V1, "/") && limits(Version::V2, "/a.slice/b"));
        assert!(!limits(Version::V2, "/"));
        std::fs::write(temp.path().join("memory/memory.memsw.limit_in_bytes"), "1").unwrap();
        assert!(limits(Version::V1, "/"));
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
