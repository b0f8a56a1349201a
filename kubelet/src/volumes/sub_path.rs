//! `subPath` and `subPathExpr`: a part of a volume, for one mount of one container.
//!
//! The very file that was found in the volume is mounted at `volume-subpaths/<volume>/<container>/<index of the mount>`,
//! by handle, and the runtime gets that path: what a container does to the volume meanwhile changes nothing about it. The
//! mount stays until the pod's volumes are given back; a container that starts again has it if it still is the same file.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{VolumeError, bind, teardown};
use crate::dir::{Dir, DirError, failed};
use crate::errors::error_chain;
use crate::pod::PodUid;
use crate::poddir::{PodDir, VOLUME_SUBPATHS};

use beneath::{Refused, Root};

mod beneath;

const PRIVATE: u32 = 0o750;
const ON_THIS_MOUNT: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_XDEV);
/// What a file is mounted on.
const MOUNT_POINT: u32 = 0o640;

/// One mount of a container that has a subPath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    /// The place of the mount among those of its container.
    pub index: usize,
    /// The volume's name.
    pub volume: String,
    /// Where the volume lies on the node.
    pub volume_path: PathBuf,
    /// The path in it: relative, without steps back, variables replaced.
    pub path: String,
}

impl SubPath {
    /// What it is mounted on.
    fn name(&self) -> String {
        self.index.to_string()
    }
}

/// Where on the node the subPaths of a container are mounted, by the place of the mount among the container's.
pub type SubPaths = BTreeMap<usize, PathBuf>;

/// A subPath that a container cannot have. The texts are upstream's, and tell nothing of the node's files: the log does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubPathError {
    /// The volume itself is not there.
    #[error("stat {}: no such file or directory", .0.display())]
    NoVolume(PathBuf),
    /// A directory cannot be made in the volume.
    #[error(
        "failed to create subPath directory for volumeMount {volume:?} of container {container:?}"
    )]
    Create {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// It does not lie in the volume, or cannot be mounted.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    Prepare {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
}

/// What was found in a volume, and what for.
pub(super) struct Found<'a> {
    wanted: &'a SubPath,
    file: OwnedFd,
    is_dir: bool,
    /// It is mounted already.
    stays: bool,
}

/// One container's subPaths.
#[derive(Clone, Debug)]
pub struct SubPathRequest {
    /// The pod.
    pub uid: PodUid,
    /// The container's name.
    pub container: String,
    /// Its mounts that have a subPath; at least one.
    pub wanted: Vec<SubPath>,
}

impl SubPathRequest {
    /// Finds every subPath in its volume, and makes directories that are missing. May take as long as a file system of
    /// the network.
    pub(super) fn find(&self, pod: &PodDir) -> Result<Vec<Found<'_>>, SubPathError> {
        let found = self.wanted.iter().map(|wanted| {
            let file = self.open(pod, wanted)?;
            let look = || -> Result<Found<'_>, DirError> {
                let fail = |errno| failed("look up", &wanted.volume_path, errno);
                let stat = fs::fstat(&file).map_err(fail)?;
                Ok(Found {
                    wanted,
                    is_dir: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                    stays: match self.place(pod, wanted)? {
                        Some(place) => is_mounted(&place, &wanted.name(), &stat)?,
                        None => false,
                    },
                    file,
                })
            };
            look().map_err(|error| self.unprepared(wanted, &error_chain(&error)))
        });
        found.collect()
    }

    /// A handle of what is wanted.
    fn open(&self, pod: &PodDir, wanted: &SubPath) -> Result<OwnedFd, SubPathError> {
        let volume = match open_volume(pod, &wanted.volume_path) {
            Ok(volume) => volume,
            Err(error) if error.source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                return Err(SubPathError::NoVolume(wanted.volume_path.clone()));
            }
            Err(error) => return Err(self.unprepared(wanted, &error_chain(&error))),
        };
        let root = Root::new(volume.into(), &wanted.volume_path);
        root.open(&wanted.path).map_err(|refused| match refused {
            Refused::Resolve(errno) => self.unprepared(wanted, &errno.to_string()),
            Refused::Create(errno) => {
                self.log(wanted, &errno.to_string());
                SubPathError::Create {
                    volume: wanted.volume.clone(),
                    container: self.container.clone(),
                }
            }
        })
    }

    /// Mounts what was found, and asks nothing of the file system that it lies on: that may hang by now.
    pub(super) fn bind(&self, pod: &PodDir, found: &[Found<'_>]) -> Result<SubPaths, SubPathError> {
        let bound = found.iter().map(|found| {
            let path = self.bind_one(pod, found);
            let path = path.map_err(|error| self.unprepared(found.wanted, &error_chain(&error)))?;
            Ok((found.wanted.index, path))
        });
        bound.collect()
    }

    fn bind_one(&self, pod: &PodDir, found: &Found<'_>) -> Result<PathBuf, VolumeError> {
        let place = self.ensure_place(pod, found.wanted)?;
        let name = found.wanted.name();
        let path = place.path_of(&name);
        if found.stays {
            return Ok(path);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Err(Errno::XDEV) = fs::openat2(&place, &*name, flags, Mode::empty(), ON_THIS_MOUNT) {
            teardown::unmount_below(&place, Some(&name))?;
        }
        let target: OwnedFd = match ensure_mount_point(&place, &name, found.is_dir) {
            // There was something of the other kind before.
            Err(_) => {
                remove(&place, &name)?;
                ensure_mount_point(&place, &name, found.is_dir)?
            }
            Ok(target) => target,
        };
        bind::bind(&found.file, &target).map_err(|errno| failed("mount", &path, errno))?;
        Ok(path)
    }

    /// The directory of what is mounted of a volume for the container, if there is one.
    fn place(&self, pod: &PodDir, wanted: &SubPath) -> Result<Option<Dir>, DirError> {
        let Some(all) = pod.dir().child(VOLUME_SUBPATHS)? else {
            return Ok(None);
        };
        match all.child(&wanted.volume)? {
            Some(volume) => volume.child(&self.container),
            None => Ok(None),
        }
    }

    fn ensure_place(&self, pod: &PodDir, wanted: &SubPath) -> Result<Dir, DirError> {
        let all = pod.dir().ensure_child(VOLUME_SUBPATHS, PRIVATE)?;
        let volume = all.ensure_child(&wanted.volume, PRIVATE)?;
        volume.ensure_child(&self.container, PRIVATE)
    }

    fn unprepared(&self, wanted: &SubPath, why: &str) -> SubPathError {
        self.log(wanted, why);
        SubPathError::Prepare {
            volume: wanted.volume.clone(),
            container: self.container.clone(),
        }
    }

    fn log(&self, wanted: &SubPath, error: &str) {
        let (uid, container) = (&self.uid, &self.container);
        let (volume, path) = (&wanted.volume, &wanted.path);
        tracing::warn!(%uid, container, volume, path, error, "no subPath");
    }

    /// The error of all of it.
    pub(super) fn failed(&self, why: &str) -> SubPathError {
        match self.wanted.first() {
            Some(wanted) => self.unprepared(wanted, why),
            None => SubPathError::Prepare {
                volume: String::new(),
                container: self.container.clone(),
            },
        }
    }
}

/// The directory of a volume: by handle where it is the pod's own; the administrator's path otherwise.
fn open_volume(pod: &PodDir, path: &Path) -> Result<Dir, DirError> {
    let Ok(below) = path.strip_prefix(pod.path()) else {
        return Dir::open(path);
    };
    let mut dir = None;
    for name in below.iter() {
        let parent = dir.as_ref().unwrap_or(pod.dir());
        let none = || DirError {
            action: "open",
            path: path.to_owned(),
            source: Errno::NOENT.into(),
        };
        let name = name.to_str().ok_or_else(none)?;
        dir = Some(parent.child_or_mount(name)?.ok_or_else(none)?);
    }
    match dir {
        Some(dir) => Ok(dir),
        None => Dir::open(path),
    }
}

/// Whether the file of `wanted` is mounted at `name`. A file that is mounted keeps its number, whatever becomes of its
/// names.
fn is_mounted(place: &Dir, name: &str, wanted: &Stat) -> Result<bool, DirError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |resolve| fs::openat2(place, name, flags, Mode::empty(), resolve);
    match open(ON_THIS_MOUNT) {
        Ok(_) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::XDEV) => {
            let have = open(ResolveFlags::BENEATH).and_then(fs::fstat);
            // What was removed on its server, or the like, is not what is wanted.
            Ok(have.is_ok_and(|have| have.st_dev == wanted.st_dev && have.st_ino == wanted.st_ino))
        }
        Err(errno) => Err(failed("look up", &place.path_of(name), errno)),
    }
}

fn ensure_mount_point(place: &Dir, name: &str, is_dir: bool) -> Result<OwnedFd, DirError> {
    match is_dir {
        true => Ok(place.ensure_child(name, PRIVATE)?.into()),
        // A file will do for whatever is no directory.
        false => Ok(place.ensure_file(name, MOUNT_POINT)?.into()),
    }
}

/// Unmounts all subPaths of the pod, and removes what they were mounted on: empty directories and files.
pub(super) fn tear_down(pod: &PodDir) -> Result<(), VolumeError> {
    let Some(all) = pod.dir().child(VOLUME_SUBPATHS)? else {
        return Ok(());
    };
    teardown::unmount_below(&all, None)?;
    for volume in all.names()? {
        let Some(containers) = all.child(&volume)? else {
            continue;
        };
        for container in containers.names()? {
            let Some(places) = containers.child(&container)? else {
                continue;
            };
            for place in places.names()? {
                remove(&places, &place)?;
            }
            containers.remove_empty(&container)?;
        }
        all.remove_empty(&volume)?;
    }
    Ok(pod.dir().remove_empty(VOLUME_SUBPATHS)?)
}

fn remove(place: &Dir, name: &str) -> Result<(), DirError> {
    match place.remove_empty(name) {
        Err(error) if error.source.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {
            place.remove_file(name)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests;
