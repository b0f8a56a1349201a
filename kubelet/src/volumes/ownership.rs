//! `fsGroup`: a volume belongs to a group, and new files in it too (the Kubernetes document "Configure a security
//! context for a pod").

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode};
use rustix::io::Errno;

use super::SetUpError;
use super::progress::Progress;
use crate::dir::{Dir, DirError};
use crate::pod::{self, Pod};

/// The user that every container of `pod` runs as, where the spec says so for each of them and they are the same.
pub(super) fn only_user(pod: &Pod) -> Option<u32> {
    let of_pod = pod::spec(pod).security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.run_as_user);
    let mut users = pod::containers(pod).map(|(_, container)| {
        let own = container.security_context.as_ref();
        own.and_then(|context| context.run_as_user).or(of_pod)
    });
    let first = users.next().flatten()?;
    let same = users.all(|user| user == Some(first));
    u32::try_from(first).ok().filter(|_| same)
}

/// When a volume that outlives its pods is given to the group of one (`fsGroupChangePolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangePolicy {
    /// Each time a pod is about to have it.
    Always,
    /// When its own directory is not the group's yet: large volumes take long.
    OnRootMismatch,
}

impl ChangePolicy {
    /// What `pod` says.
    pub(crate) fn of(pod: &Pod) -> Self {
        let context = pod::spec(pod).security_context.as_ref();
        let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
        match policy {
            Some("OnRootMismatch") => Self::OnRootMismatch,
            _ => Self::Always,
        }
    }
}

/// As [`apply`], unless by `policy` the volume's own directory speaks for all that is in it; `progress` is told of where
/// it takes long.
pub(crate) fn apply_by(
    policy: ChangePolicy,
    volume: &Dir,
    fs_group: i64,
    read_only: bool,
    progress: Progress,
) -> Result<(), SetUpError> {
    if policy == ChangePolicy::OnRootMismatch && is_given(volume, fs_group, read_only)? {
        return Ok(());
    }
    let gid = group(fs_group)?;
    let telling = progress.begin();
    Ok(volume.walk(&mut |entry| {
        telling.count();
        give(entry, gid, read_only)
    })?)
}

/// Whether `volume` itself is as [`apply`] would leave it.
fn is_given(volume: &Dir, fs_group: i64, read_only: bool) -> Result<bool, SetUpError> {
    let stat = fs::fstat(volume).map_err(|errno| DirError {
        action: "look up",
        path: volume.path().to_owned(),
        source: errno.into(),
    })?;
    let wanted = match read_only {
        true => 0o2550,
        false => 0o2770,
    };
    Ok(i64::from(stat.st_gid) == fs_group && stat.st_mode & wanted == wanted)
}

/// Gives all of `volume` to the group `fs_group`, readable and, unless `read_only`, writable for it; directories
/// hand the group on to what is made in them. Links are given away themselves, not what they point to.
pub(crate) fn apply(volume: &Dir, fs_group: i64, read_only: bool) -> Result<(), SetUpError> {
    let gid = group(fs_group)?;
    Ok(volume.walk(&mut |entry| give(entry, gid, read_only))?)
}

fn group(fs_group: i64) -> Result<Gid, SetUpError> {
    // The largest number is the kernel's "unchanged".
    let gid = u32::try_from(fs_group).ok().filter(|gid| *gid != u32::MAX);
    let gid = gid.ok_or(SetUpError::FsGroup(fs_group))?;
    Ok(Gid::from_raw(gid))
}

fn give(entry: BorrowedFd<'_>, gid: Gid, read_only: bool) -> Result<(), Errno> {
    let stat = fs::fstat(entry)?;
    fs::chownat(entry, "", None, Some(gid), AtFlags::EMPTY_PATH)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        return Ok(());
    }
    let mut more = match read_only {
        true => Mode::from_raw_mode(0o440),
        false => Mode::from_raw_mode(0o660),
    };
    if kind == FileType::Directory {
        more |= Mode::from_raw_mode(0o2110);
    }
    // By handle: at its name there may be another file by now. Handles of this kind take no fchmod.
    let by_handle = format!("/proc/self/fd/{}", entry.as_raw_fd());
    fs::chmod(by_handle, Mode::from_raw_mode(stat.st_mode) | more)
}
