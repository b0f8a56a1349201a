//! Unmounts and removes all volumes of one pod, by what is on the node and not by the spec: that may be gone.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{self, MountPropagationFlags, UnmountFlags};

use super::device::Devices;
use super::{THREAD_STACK, VolumeError, block, local};
use super::{downward_api, empty_dir, keyed, projected, sub_path};
use crate::dir::{Dir, DirError};
use crate::mounts;
use crate::pod::PodUid;
use crate::poddir::{CLAIMS, PLUGINS, PodDir, VOLUMES};

/// What the kinds of file systems of NFS servers begin with: `nfs`, `nfs4`.
const NFS: &str = "nfs";
/// How long a server is given to be told that it is unmounted (upstream's `unMountTimeout`).
const NFS_PATIENCE: Duration = Duration::from_secs(60);

/// The kinds whose content is a copy or the pod's own, to be removed with it. Of all other kinds only the empty directory
/// they were mounted on is removed.
const OWN_CONTENT: [&str; 5] = [
    empty_dir::PLUGIN,
    keyed::CONFIG_MAP_PLUGIN,
    keyed::SECRET_PLUGIN,
    downward_api::PLUGIN,
    projected::PLUGIN,
];

pub(super) fn tear_down(
    pod: &PodDir,
    uid: &PodUid,
    root: &Path,
    devices: &Devices,
) -> Result<(), VolumeError> {
    // They hold files of the volumes.
    sub_path::tear_down(pod)?;
    block::tear_down(root, pod, uid)?;
    unmount_volumes(pod, devices)?;
    // The pod has them no longer.
    Ok(pod.dir().remove_file(CLAIMS)?)
}

fn unmount_volumes(pod: &PodDir, devices: &Devices) -> Result<(), VolumeError> {
    let Some(volumes) = pod.dir().child(VOLUMES)? else {
        return Ok(());
    };
    // From here on no volume counts as set up.
    if let Some(notes) = pod.dir().child(PLUGINS)? {
        notes.remove_tree(empty_dir::PLUGIN)?;
    }
    unmount_below(&volumes, None)?;
    for plugin in volumes.subdirectories()? {
        let Some(kind) = volumes.child(&plugin)? else {
            continue;
        };
        for name in kind.names()? {
            if plugin == local::PLUGIN {
                devices.give_back(&name)?;
            }
            match OWN_CONTENT.contains(&plugin.as_str()) {
                true => kind.remove_tree(&name)?,
                false => kind.remove_empty(&name)?,
            }
        }
        volumes.remove_empty(&plugin)?;
    }
    Ok(())
}

/// Unmounts everything mounted below `dir`, the last first; what a container left there through a mount that propagates
/// back, too. Of `only`, where it is one name in `dir`, what is mounted there and below.
pub(super) fn unmount_below(dir: &Dir, only: Option<&str>) -> Result<(), VolumeError> {
    let lookup = |source| VolumeError::Mounts {
        path: dir.path().to_owned(),
        source,
    };
    let root = dir.path().canonicalize().map_err(lookup)?;
    for mounted in mounts::below(dir.path()).map_err(lookup)? {
        let Ok(path) = mounted.mount_point.strip_prefix(&root) else {
            continue;
        };
        if only.is_some_and(|name| !path.starts_with(name)) {
            continue;
        }
        let patience = mounted.fs_type.starts_with(NFS).then_some(NFS_PATIENCE);
        unmount(dir, path, patience).map_err(|source| VolumeError::Unmount {
            path: mounted.mount_point.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Unmounts `path` in `dir`, reached by handle down to the directory it lies in. Mounts on the way lose their peers: those
/// of a directory of the node would lose the same mount, and the node with them.
/// After `patience`, where it is given, it is done by force.
fn unmount(dir: &Dir, path: &Path, patience: Option<Duration>) -> io::Result<()> {
    let names: Option<Vec<&str>> = path
        .components()
        .map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let unreadable = || io::Error::new(io::ErrorKind::InvalidInput, "its name is not UTF-8");
    let names = names.ok_or_else(unreadable)?;
    let Some((last, above)) = names.split_last() else {
        return Ok(());
    };
    let unwrap = |error: DirError| error.source;
    let mut parent = None;
    for name in above {
        let next = parent.as_ref().unwrap_or(dir).child_or_mount(name);
        match next.map_err(unwrap)? {
            Some(next) => {
                let handle = format!("/proc/self/fd/{}", next.as_fd().as_raw_fd());
                match mount::mount_change(handle, MountPropagationFlags::PRIVATE) {
                    // It is no mount point.
                    Ok(()) | Err(Errno::INVAL) => {}
                    Err(errno) => return Err(errno.into()),
                }
                parent = Some(next);
            }
            None => return Ok(()),
        }
    }
    let parent = parent.as_ref().unwrap_or(dir).as_fd();
    let target = format!("/proc/self/fd/{}/{last}", parent.as_raw_fd());
    match patience {
        None => Ok(mount::unmount(target, UnmountFlags::NOFOLLOW)?),
        Some(patience) => unmount_by_force(target, patience),
    }
}

/// Unmounts `target`, what is under way with its server given up after `patience`. Blocks for as long as the kernel.
fn unmount_by_force(target: String, patience: Duration) -> io::Result<()> {
    let force = UnmountFlags::NOFOLLOW | UnmountFlags::FORCE;
    std::thread::scope(|scope| {
        let (told, done) = mpsc::channel();
        let by_force = target.clone();
        std::thread::Builder::new()
            .name("umount".to_owned())
            .stack_size(THREAD_STACK)
            .spawn_scoped(scope, move || {
                // Whoever listens waits for the end of this thread besides.
                let _ = told.send(mount::unmount(target, UnmountFlags::NOFOLLOW));
            })?;
        match done.recv_timeout(patience) {
            Ok(done) => Ok(done?),
            Err(_) => {
                // What the other one waits for fails now. One of the two finds it unmounted.
                let forced = mount::unmount(by_force, force);
                match (done.recv(), forced) {
                    (Ok(Ok(())), _) | (_, Ok(())) => Ok(()),
                    (_, Err(errno)) => Err(errno.into()),
                }
            }
        }
    })
}
