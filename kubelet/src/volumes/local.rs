//! local: a directory of the node, or the file system on one of its block devices, as a persistent volume.
//!
//! A directory is mounted in the pod's own; the file system on a device is mounted once for all pods, at
//! `<root>/plugins/kubernetes.io/local-volume/mounts/<volume>` ([`super::device`]), and from there likewise.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::LocalVolumeSource;
use rustix::mount::MountFlags;

use super::persistent::Work;
use super::progress::Progress;
use super::{SetUpError, bind, ownership, teardown};
use crate::claims::ClaimedVolume;
use crate::dir::{Dir, DirError};
use crate::events::About;
use crate::mounts;
use crate::pod;
use crate::poddir::VOLUMES;

/// The kind's directory in `volumes/` and `volumeDevices/`.
pub(super) const PLUGIN: &str = "kubernetes.io~local-volume";
/// The file system of a device where the volume does not say (upstream's `defaultFSType`).
const FS_TYPE: &str = "ext4";
const PRIVATE: u32 = 0o750;

/// Mounts the volume for the pod, and says where. What is mounted there already stays.
pub(super) fn set_up(
    work: &Work<'_>,
    claimed: &ClaimedVolume,
    source: &LocalVolumeSource,
) -> Result<PathBuf, SetUpError> {
    let name = &claimed.volume.metadata.name;
    let options = claimed.volume.mount_options();
    let path = Path::new(&source.path);
    let kind = kind(&source.path)?;
    let volumes = work.dir.dir().ensure_child(VOLUMES, PRIVATE)?;
    let parent = volumes.ensure_child(PLUGIN, PRIVATE)?;
    match parent.child(name) {
        Err(error) if error.is_mount() => return Ok(parent.path_of(name)),
        other => drop(other?),
    }
    let at_device;
    let from = match kind.is_block_device() {
        false => path,
        true => {
            let fs_type = source.fs_type.as_deref().filter(|text| !text.is_empty());
            let fs_type = fs_type.unwrap_or(FS_TYPE);
            at_device = work.devices.mount(
                (name, path, fs_type),
                (claimed.read_only, options.clone()),
                work.is_awaited,
            )?;
            at_device.as_path()
        }
    };
    let from = Dir::open(from)?;
    let others = mounts::of_same(from.path()).map_err(SetUpError::Mounts)?;
    if let Some(wanted) = fs_group(work)
        && others.iter().any(|other| other.starts_with(work.pods))
    {
        warn_of_group(work, name, &from, wanted)?;
    }
    let target = parent.ensure_child(name, PRIVATE)?;
    let done = mount(work, (&from, &target), &parent, name, claimed, &others);
    if done.is_err() {
        // The next attempt makes all of it, or says that something is in the way.
        let _ = teardown::unmount_below(&parent, Some(name));
        let _ = parent.remove_empty(name);
    }
    done.map(|()| parent.path_of(name))
}

fn mount(
    work: &Work<'_>,
    (from, target): (&Dir, &Dir),
    parent: &Dir,
    name: &str,
    claimed: &ClaimedVolume,
    others: &[PathBuf],
) -> Result<(), SetUpError> {
    let failed = |action| {
        move |errno: rustix::io::Errno| DirError {
            action,
            path: parent.path_of(name),
            source: errno.into(),
        }
    };
    bind::bind(from, target).map_err(failed("mount"))?;
    let foreign = || SetUpError::Foreign(parent.path_of(name));
    let mounted = parent.child_or_mount(name)?.ok_or_else(foreign)?;
    let mut flags = bind::flags(&claimed.volume.mount_options());
    flags.set(
        MountFlags::RDONLY,
        claimed.read_only || flags.contains(MountFlags::RDONLY),
    );
    if !flags.is_empty() {
        bind::set_options(&mounted, flags).map_err(failed("set the mount options of"))?;
    }
    // As upstream: who has the volume first decides whose group it is.
    match fs_group(work) {
        Some(group) if !claimed.read_only && others.is_empty() => {
            let policy = ownership::ChangePolicy::of(work.pod);
            let progress = Progress::of(work.pod, mounted.path());
            ownership::apply_by(policy, &mounted, group, false, progress)
        }
        _ => Ok(()),
    }
}

/// What is at the volume's path, links followed.
fn kind(path: &str) -> Result<FileType, SetUpError> {
    if path.split('/').any(|step| step == "..") {
        return Err(SetUpError::LocalSteps(path.to_owned()));
    }
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    let kind = kind.map_err(|source| SetUpError::LocalPath {
        path: path.to_owned(),
        source,
    })?;
    match kind.is_dir() || kind.is_block_device() {
        true => Ok(kind),
        false => Err(SetUpError::LocalKind),
    }
}

fn fs_group(work: &Work<'_>) -> Option<i64> {
    let context = pod::spec(work.pod).security_context.as_ref();
    context.and_then(|context| context.fs_group)
}

/// Tells the pod that others have the volume, with another group than it wants.
fn warn_of_group(work: &Work<'_>, name: &str, from: &Dir, wanted: i64) -> Result<(), SetUpError> {
    let stat = rustix::fs::fstat(from).map_err(|errno| DirError {
        action: "look up",
        path: from.path().to_owned(),
        source: errno.into(),
    })?;
    let has = i64::from(stat.st_gid);
    if has != wanted {
        About::pod(work.pod).warning(
            "AlreadyMountedVolume",
            &format!(
                "The requested fsGroup is {wanted}, but the volume {name} has GID {has}. The volume may not be shareable."
            ),
        );
    }
    Ok(())
}
