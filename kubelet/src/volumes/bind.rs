//! Mounts by handle: what was found is what is mounted, whatever its name leads to by now.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::mount::{self, MountFlags, MoveMountFlags, OpenTreeFlags};

/// Mounts `file`, without what is mounted in it, on `target`.
pub(super) fn bind(file: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let detached = mount::open_tree(file, "", clone)?;
    let by_handles =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(&detached, "", target, "", by_handles)
}

/// Gives the mount whose root is `mounted` the options of `flags`, and of those that a single mount can have no other.
pub(super) fn set_options(mounted: impl AsFd, flags: MountFlags) -> Result<(), Errno> {
    let handle = format!("/proc/self/fd/{}", mounted.as_fd().as_raw_fd());
    mount::mount_remount(handle, flags | MountFlags::BIND, "")
}

/// What of mount(8)'s `options` a single mount can have. As mount(8) on a bind mount, all others are passed over: they are
/// the file system's, which is mounted already. A later one of a pair counts.
pub(super) fn flags(options: &[String]) -> MountFlags {
    let mut flags = MountFlags::empty();
    for option in options {
        let (flag, on) = match option.as_str() {
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "norelatime" => (MountFlags::RELATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            _ => continue,
        };
        flags.set(flag, on);
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_single_mounts_are_known() {
        let of = |options: &[&str]| {
            let options: Vec<_> = options.iter().map(ToString::to_string).collect();
            flags(&options)
        };
        assert_eq!(of(&[]), MountFlags::empty());
        assert_eq!(of(&["hard", "discard"]), MountFlags::empty());
        assert_eq!(
            of(&["noexec", "ro", "nosuid"]),
            MountFlags::NOEXEC | MountFlags::RDONLY | MountFlags::NOSUID
        );
        assert_eq!(of(&["ro", "noexec", "rw"]), MountFlags::NOEXEC);
    }
}
