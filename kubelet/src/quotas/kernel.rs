//! What the kernel is asked about projects, by system calls that no crate of this program wraps: the one module with
//! unsafe code. Each function hands the kernel memory of its own of the size that the call's interface fixes, and no
//! pointer outlives the call.

#![expect(
    unsafe_code,
    reason = "ioctl(2) and quotactl_fd(2) take pointers; every other way to a project's usage is a program of another package"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

use super::Usage;

/// `struct fsxattr` (linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_IOC_FSGETXATTR`.
const GET: Opcode = opcode::read::<Attributes>(b'X', 31);
/// `FS_IOC_FSSETXATTR`.
const SET: Opcode = opcode::write::<Attributes>(b'X', 32);
/// `FS_XFLAG_PROJINHERIT`: what is made in the directory is of its project.
const INHERIT: u32 = 0x200;

/// `struct if_dqblk` (linux/quota.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Quota {
    block_hard: u64,
    block_soft: u64,
    bytes: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_grace: u64,
    inode_grace: u64,
    valid: u32,
}

/// `QCMD(Q_GETQUOTA, PRJQUOTA)` (linux/quota.h).
const GET_QUOTA: u32 = (0x0080_0007 << 8) | 2;

fn attributes(dir: impl AsFd) -> io::Result<Attributes> {
    // SAFETY: the opcode is that of a call which writes a `struct fsxattr`, and of nothing else.
    let got = unsafe { ioctl(dir, Getter::<GET, Attributes>::new()) };
    got.map_err(io::Error::from)
}

/// The project of a directory, and whether what is made in it is of the same; 0 is none.
pub(super) fn project(dir: impl AsFd) -> io::Result<(u32, bool)> {
    let attributes = attributes(dir)?;
    Ok((attributes.project, attributes.flags & INHERIT != 0))
}

/// Has a directory, and what will be made in it, be of the project `id`.
pub(super) fn set_project(dir: impl AsFd, id: u32) -> io::Result<()> {
    let mut wanted = attributes(&dir)?;
    wanted.project = id;
    wanted.flags |= INHERIT;
    // SAFETY: the opcode is that of a call which reads a `struct fsxattr`, and of nothing else.
    let set = unsafe { ioctl(dir, Setter::<SET, Attributes>::new(wanted)) };
    set.map_err(io::Error::from)
}

/// What the project `id` takes of the file system that `dir` is in: files that are deleted and open, too.
///
/// # Errors
/// When nobody counts there.
pub(super) fn usage(dir: impl AsFd, id: u32) -> io::Result<Usage> {
    let mut quota = Quota::default();
    // SAFETY: the command writes one `struct if_dqblk` to its last argument, which points to one.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            dir.as_fd().as_raw_fd(),
            GET_QUOTA,
            id,
            std::ptr::from_mut(&mut quota),
        )
    };
    match done {
        0 => Ok(Usage {
            bytes: quota.bytes,
            inodes: quota.inodes,
        }),
        _ => match io::Error::last_os_error() {
            // XFS, of a project that has nothing.
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(Usage::default()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The interface's sizes, which the numbers of the calls and the kernel go by.
    #[test]
    fn the_kernel_writes_as_much_as_there_is_room_for() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Quota>(), 72);
        assert_eq!(GET, 0x801c_581f);
        assert_eq!(SET, 0x401c_5820);
        assert_eq!(GET_QUOTA, 0x8000_0702);
    }

    #[test]
    fn nobody_counts_projects_of_proc() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(project(&proc).is_err());
        assert!(set_project(&proc, 1).is_err());
        assert!(usage(&proc, 1).is_err());
    }
}
