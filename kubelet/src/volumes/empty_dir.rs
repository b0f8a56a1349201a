//! emptyDir: a directory that lives as long as its pod, on disk, in memory or in huge pages.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Volume;
use rustix::fs;
use rustix::io::Errno;
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use static_pods::quantity::Quantity;

use super::huge_pages::{self, HUGETLBFS_MAGIC, Pages};
use super::{SetUpError, VolumesConfig, ownership};
use crate::cgroups::resources::{self, CpuQuotaConfig};
use crate::dir::{Dir, DirError};
use crate::pod::{self, Pod};
use crate::poddir::{PLUGINS, PodDir, VOLUMES};
use crate::quotas::Quotas;

/// The kind's directory in `volumes/` and `plugins/`.
pub(super) const PLUGIN: &str = "kubernetes.io~empty-dir";
/// There once the volume is set up whole.
const READY: &str = "ready";
/// Anybody in the pod may write.
const MODE: u32 = 0o777;
const PRIVATE: u32 = 0o750;
/// `statfs` magic of tmpfs (`TMPFS_MAGIC`, linux/magic.h).
const TMPFS_MAGIC: u64 = 0x0102_1994;

pub(super) fn set_up(
    dir: &PodDir,
    pod: &Pod,
    volume: &Volume,
    config: &VolumesConfig,
    quotas: Option<&Quotas>,
) -> Result<PathBuf, SetUpError> {
    let source = volume.empty_dir.as_ref();
    let medium = source.and_then(|source| source.medium.as_deref());
    let medium = medium.unwrap_or_default();
    let wanted = match (medium, Pages::of_medium(medium)?) {
        ("", _) => Medium::Disk,
        ("Memory", _) => Medium::Memory,
        (_, Some(pages)) => Medium::HugePages(pages),
        (other, None) => return Err(SetUpError::Medium(other.to_owned())),
    };
    let place = Place::of(dir, PLUGIN, &volume.name, &volume.name)?;
    if place.is_ready()? {
        match (place.present()?, wanted) {
            // What the pod did with it since, its modes above all, is the pod's.
            (Present::Plain, Medium::Disk) | (Present::Tmpfs(_), Medium::Memory) => {
                return Ok(place.path());
            }
            (Present::HugePages(..), Medium::HugePages(Pages::Any)) => return Ok(place.path()),
            (Present::HugePages(_, have), Medium::HugePages(Pages::Of(size))) if have == size => {
                return Ok(place.path());
            }
            _ => {}
        }
    }
    let volume_dir = match wanted {
        Medium::HugePages(pages) => place.ensure_huge_pages(pages.size(pod, medium)?)?,
        Medium::Disk | Medium::Memory => place.ensure(wanted == Medium::Memory, || {
            let limit = source.and_then(|source| source.size_limit.as_ref());
            size(pod, limit.map(|quantity| quantity.0.as_str()), config)
        })?,
    };
    // Others may give their files another project.
    if let Some(quotas) = quotas.filter(|_| wanted == Medium::Disk && pod::has_own_users(pod)) {
        quotas.assign(&volume_dir);
    }
    let context = pod::spec(pod).security_context.as_ref();
    if let Some(fs_group) = context.and_then(|context| context.fs_group) {
        ownership::apply(&volume_dir, fs_group, false)?;
    }
    place.note_ready()?;
    Ok(place.path())
}

/// What a volume is kept in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Medium {
    Disk,
    Memory,
    HugePages(Pages),
}

/// Where a volume of the pod's own lies, and the note that it is set up whole.
pub(super) struct Place {
    parent: Dir,
    name: String,
    notes: Dir,
}

impl Place {
    /// The place of the volume `name` of the kind whose directory is `plugin`.
    pub(super) fn of(
        dir: &PodDir,
        plugin: &str,
        name: &str,
        note: &str,
    ) -> Result<Self, SetUpError> {
        let volumes = dir.dir().ensure_child(VOLUMES, PRIVATE)?;
        let plugins = dir.dir().ensure_child(PLUGINS, PRIVATE)?;
        let notes = plugins.ensure_child(PLUGIN, PRIVATE)?;
        Ok(Self {
            parent: volumes.ensure_child(plugin, PRIVATE)?,
            name: name.to_owned(),
            notes: notes.ensure_child(note, PRIVATE)?,
        })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.parent.path_of(&self.name)
    }

    fn is_ready(&self) -> Result<bool, SetUpError> {
        Ok(self.notes.file_size(READY)?.is_some())
    }

    pub(super) fn note_ready(&self) -> Result<(), SetUpError> {
        self.notes.ensure_file(READY, 0o640)?;
        Ok(())
    }

    /// The directory, made where it is missing: on disk, or in memory of at most `size` bytes. One that was set up whole
    /// keeps its modes.
    pub(super) fn ensure(
        &self,
        in_memory: bool,
        size: impl FnOnce() -> Result<Option<u64>, SetUpError>,
    ) -> Result<Dir, SetUpError> {
        let foreign = || SetUpError::Foreign(self.path());
        match (self.present()?, in_memory) {
            (Present::Tmpfs(mounted), true) => Ok(mounted),
            (Present::Tmpfs(_), false) | (Present::HugePages(..), _) => Err(foreign()),
            (Present::Plain, false) if self.is_ready()? => {
                self.parent.child(&self.name)?.ok_or_else(foreign)
            }
            (Present::Plain | Present::Nothing, false) => {
                Ok(self.parent.ensure_child(&self.name, MODE)?)
            }
            (Present::Plain | Present::Nothing, true) => {
                let below = self.parent.ensure_child(&self.name, MODE)?;
                mount_tmpfs(&below, size()?).map_err(|source| SetUpError::Mount {
                    what: "tmpfs",
                    path: self.path(),
                    source,
                })?;
                self.parent.child_or_mount(&self.name)?.ok_or_else(foreign)
            }
        }
    }

    /// The directory of huge pages of `page_size` bytes, mounted where it is not.
    fn ensure_huge_pages(&self, page_size: u64) -> Result<Dir, SetUpError> {
        let foreign = || SetUpError::Foreign(self.path());
        match self.present()? {
            Present::HugePages(mounted, have) if have == page_size => Ok(mounted),
            Present::HugePages(..) | Present::Tmpfs(_) => Err(foreign()),
            Present::Plain | Present::Nothing => {
                let below = self.parent.ensure_child(&self.name, MODE)?;
                huge_pages::mount(&below, page_size).map_err(|source| SetUpError::Mount {
                    what: "huge pages",
                    path: self.path(),
                    source,
                })?;
                self.parent.child_or_mount(&self.name)?.ok_or_else(foreign)
            }
        }
    }

    fn present(&self) -> Result<Present, SetUpError> {
        present(&self.parent, &self.name)
    }
}

/// What is at the volume's place.
enum Present {
    Nothing,
    Plain,
    Tmpfs(Dir),
    /// With the size of a page, bytes.
    HugePages(Dir, u64),
}

fn present(parent: &Dir, name: &str) -> Result<Present, SetUpError> {
    match parent.child(name) {
        Ok(Some(_)) => Ok(Present::Plain),
        Ok(None) => Ok(Present::Nothing),
        Err(error) if error.is_mount() => {
            let foreign = || SetUpError::Foreign(parent.path_of(name));
            let mounted = parent.child_or_mount(name)?.ok_or_else(foreign)?;
            let stat = fs::fstatfs(&mounted).map_err(|errno| DirError {
                action: "look up",
                path: mounted.path().to_owned(),
                source: errno.into(),
            })?;
            match u64::try_from(stat.f_type) {
                Ok(TMPFS_MAGIC) => Ok(Present::Tmpfs(mounted)),
                Ok(HUGETLBFS_MAGIC) => {
                    Ok(Present::HugePages(mounted, huge_pages::page_size(&stat)))
                }
                _ => Err(foreign()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// The size of a volume in memory: the least of what pods may use on this node, what this pod may use, and what the
/// spec says. Bytes; `None` leaves the kernel's default, half of the memory.
pub(super) fn size(
    pod: &Pod,
    size_limit: Option<&str>,
    config: &VolumesConfig,
) -> Result<Option<u64>, SetUpError> {
    let numbers = resources::pod_resources(pod, &CpuQuotaConfig::default())?;
    let of_pod = numbers.memory_limit_bytes;
    let of_volume = match size_limit {
        None => None,
        Some(text) => match Quantity::parse_amount(text) {
            Ok(amount) => Some(amount.value()),
            Err(source) => {
                let text = text.chars().take(80).collect();
                return Err(SetUpError::SizeLimit { text, source });
            }
        },
    };
    let bounds = [of_pod, of_volume].map(|bound| u64::try_from(bound?).ok());
    let bounds = bounds.into_iter().flatten();
    let bounds = bounds.chain([config.allocatable_memory_bytes]);
    Ok(bounds.filter(|bytes| *bytes > 0).min())
}

/// Mounts a tmpfs of at most `size` bytes on `dir`, by handle; its content is not swapped out where the kernel can
/// promise that (6.4 and later). The root has tmpfs' own mode, 1777.
fn mount_tmpfs(dir: &Dir, size: Option<u64>) -> io::Result<()> {
    mount_new("tmpfs", dir, |tmpfs| {
        mount::fsconfig_set_string(tmpfs, "source", "tmpfs")?;
        if let Some(size) = size {
            mount::fsconfig_set_string(tmpfs, "size", size.to_string())?;
        }
        match mount::fsconfig_set_flag(tmpfs, "noswap") {
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => Ok(()),
            Err(errno) => Err(errno),
        }
    })
}

/// Whether the kernel can promise not to swap out what is in a tmpfs.
#[must_use]
pub fn tmpfs_noswap() -> bool {
    let made = mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC);
    made.is_ok_and(|tmpfs| mount::fsconfig_set_flag(&tmpfs, "noswap").is_ok())
}

/// Mounts a new file system of the kind `kind`, with what `configure` says of it, on `dir`, by handle.
pub(super) fn mount_new(
    kind: &str,
    dir: &Dir,
    configure: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> io::Result<()> {
    let made = mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(made.as_fd())?;
    mount::fsconfig_create(&made)?;
    let detached = mount::fsmount(
        &made,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let by_handles =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(mount::move_mount(&detached, "", dir, "", by_handles)?)
}
