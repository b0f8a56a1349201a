//! Unmounts and removes all volumes of one pod, by what is on the node and not by the spec: that may be gone.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path};

use rustix::io::Errno;
use rustix::mount::{self, MountPropagationFlags, UnmountFlags};

use super::{VolumeError, downward_api, empty_dir, keyed, projected, sub_path};
use crate::dir::{Dir, DirError};
use crate::mounts;
use crate::poddir::{PLUGINS, PodDir, VOLUMES};

/// The kinds whose content is a copy or the pod's own, to be removed with it. Of all other kinds only the empty directory
/// they were mounted on is removed.
const OWN_CONTENT: [&str; 5] = [
    empty_dir::PLUGIN,
    keyed::CONFIG_MAP_PLUGIN,
    keyed::SECRET_PLUGIN,
    downward_api::PLUGIN,
    projected::PLUGIN,
];

pub(super) fn tear_down(pod: &PodDir) -> Result<(), VolumeError> {
    // They hold files of the volumes.
    sub_path::tear_down(pod)?;
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
        unmount(dir, path).map_err(|source| VolumeError::Unmount {
            path: mounted.mount_point.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Unmounts `path` in `dir`, reached by handle down to the directory it lies in. Mounts on the way lose their peers: those
/// of a directory of the node would lose the same mount, and the node with them.
fn unmount(dir: &Dir, path: &Path) -> io::Result<()> {
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
    Ok(mount::unmount(target, UnmountFlags::NOFOLLOW)?)
}
