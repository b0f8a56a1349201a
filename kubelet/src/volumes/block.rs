//! Raw block devices (`volumeDevices`): the pod's own name for one is the link
//! `pods/<uid>/volumeDevices/<plugin>/<volume>`, which the runtime is given; that the node has it for the pod shows in
//! `<root>/plugins/<plugin>/volumeDevices/<volume>/<uid>`, on which the device is mounted. Both are upstream's.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::LocalVolumeSource;
use rustix::fs::{self, Mode, OFlags};

use super::persistent::Work;
use super::{SetUpError, VolumeError, bind, local, teardown};
use crate::dir::{Dir, DirError};
use crate::pod::PodUid;
use crate::poddir::{PodDir, VOLUME_DEVICES};

const PRIVATE: u32 = 0o750;
/// What a device is mounted on.
const MOUNT_POINT: u32 = 0o640;

/// Where the volumes of a kind that are devices show, in the root directory.
fn all_of(root: &Path, plugin: &str) -> PathBuf {
    root.join("plugins").join(plugin).join(VOLUME_DEVICES)
}

/// Gives the pod the device of a local volume called `name`.
pub(super) fn map_local(
    work: &Work<'_>,
    name: &str,
    source: &LocalVolumeSource,
) -> Result<PathBuf, SetUpError> {
    let global = all_of(work.root, local::PLUGIN).join(name);
    let place = DevicePlace {
        pod: work.dir,
        uid: work.uid,
        plugin: local::PLUGIN,
        name,
        global: &global,
    };
    place.map(Path::new(&source.path))
}

/// Where a device that is a pod's volume shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DevicePlace<'a> {
    /// The pod's directory.
    pub(crate) pod: &'a PodDir,
    /// The pod.
    pub(crate) uid: &'a PodUid,
    /// The kind's directory: `kubernetes.io~local-volume`.
    pub(crate) plugin: &'a str,
    /// The name of the persistent volume.
    pub(crate) name: &'a str,
    /// The directory that shows which pods have the device (upstream's global map path).
    pub(crate) global: &'a Path,
}

impl DevicePlace<'_> {
    /// Gives the pod `device`, links followed; says by which path. Idempotent.
    ///
    /// # Errors
    /// When it is no block device, or cannot be mounted or linked.
    pub(crate) fn map(&self, device: &Path) -> Result<PathBuf, SetUpError> {
        let of_device = |source| SetUpError::DevicePath {
            path: device.to_owned(),
            source,
        };
        let device = device.canonicalize().map_err(of_device)?;
        let kind = std::fs::symlink_metadata(&device).map_err(of_device)?;
        if !kind.file_type().is_block_device() {
            return Err(SetUpError::NoDevice(device));
        }
        let global = Dir::open_or_create(self.global, PRIVATE)?;
        let name = self.uid.as_str();
        let failed = |action, errno: rustix::io::Errno| DirError {
            action,
            path: global.path_of(name),
            source: errno.into(),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = fs::open(&device, flags, Mode::empty());
        let handle = handle.map_err(|errno| failed("open", errno))?;
        let wanted = fs::fstat(&handle).map_err(|errno| failed("look up", errno))?;
        // Another device may have the name since, after a reboot above all.
        let there = fs::statat(&global, name, fs::AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|there| there.st_rdev != wanted.st_rdev) {
            teardown::unmount_below(&global, Some(name)).map_err(Box::new)?;
        }
        if !there.is_ok_and(|there| there.st_rdev == wanted.st_rdev) {
            let target = global.ensure_file(name, MOUNT_POINT)?;
            bind::bind(&handle, &target).map_err(|errno| failed("mount", errno))?;
        }
        let links = self.pod.dir().ensure_child(VOLUME_DEVICES, PRIVATE)?;
        let links = links.ensure_child(self.plugin, PRIVATE)?;
        links.ensure_link(self.name, &device)?;
        Ok(links.path_of(self.name))
    }

    /// Takes the device from the pod again. Idempotent.
    ///
    /// # Errors
    /// When something cannot be unmounted or removed.
    pub(crate) fn unmap(&self) -> Result<(), VolumeError> {
        let links = match self.pod.dir().child(VOLUME_DEVICES)? {
            Some(links) => links.child(self.plugin)?,
            None => None,
        };
        if self.global.exists() {
            let global = Dir::open(self.global)?;
            teardown::unmount_below(&global, Some(self.uid.as_str()))?;
            global.remove_file(self.uid.as_str())?;
            remove_unused(self.global, self.name)?;
        }
        match links {
            Some(links) => Ok(links.remove_file(self.name)?),
            None => Ok(()),
        }
    }
}

/// Removes the directory of a device that no pod has any more.
fn remove_unused(global: &Path, name: &str) -> Result<(), VolumeError> {
    let Some(parent) = global.parent().filter(|_| global.ends_with(name)) else {
        return Ok(());
    };
    if Dir::open(global)?.names()?.is_empty() {
        Dir::open(parent)?.remove_empty(name)?;
    }
    Ok(())
}

/// Takes all devices of local volumes from the pod `uid`.
pub(super) fn tear_down(root: &Path, pod: &PodDir, uid: &PodUid) -> Result<(), VolumeError> {
    let Some(all) = pod.dir().child(VOLUME_DEVICES)? else {
        return Ok(());
    };
    if let Some(links) = all.child(local::PLUGIN)? {
        for name in links.names()? {
            let global = all_of(root, local::PLUGIN).join(&name);
            let place = DevicePlace {
                pod,
                uid,
                plugin: local::PLUGIN,
                name: &name,
                global: &global,
            };
            place.unmap()?;
        }
        all.remove_empty(local::PLUGIN)?;
    }
    // What is left is of kinds that somebody else takes back.
    match all.names()?.is_empty() {
        true => Ok(pod.dir().remove_empty(VOLUME_DEVICES)?),
        false => Ok(()),
    }
}
