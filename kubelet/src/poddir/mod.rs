//! The pods' directories on the node: `<root>/pods/<uid>` with what is not a volume's.
//!
//! Owns: `pods/<uid>` itself, `containers/` (termination messages) and `etc-hosts` in it, and its removal.
//! Inputs: pod UIDs, the text of the hosts file. Outputs: paths for the runtime to mount, termination messages.
//! Tasks: none; functions block on the disk, [`PodDirs::remove`] on as much as the pod left behind.
//! Deliberately not here: what lies in `volumes/` and `volume-subpaths/` (the room `volumes`), logs, and unmounting: a directory with
//! anything mounted below it is not removed, whatever the reason.

pub mod etc_hosts;
mod termination;

use std::io;
use std::path::{Path, PathBuf};

use crate::dir::{Dir, DirError};
use crate::mounts;
use crate::pod::PodUid;

pub use termination::{MAX_TERMINATION_MESSAGE, falls_back_to_logs};

/// The directory of all pods in the root directory.
const PODS: &str = "pods";
/// In a pod's directory.
const CONTAINERS: &str = "containers";
pub(crate) const ETC_HOSTS: &str = "etc-hosts";
/// The pod's volumes.
pub(crate) const VOLUMES: &str = "volumes";
/// Parts of volumes that containers mount (`subPath`), each mounted here.
pub(crate) const VOLUME_SUBPATHS: &str = "volume-subpaths";
/// The pod's volumes that are block devices.
pub(crate) const VOLUME_DEVICES: &str = "volumeDevices";
/// What the pod's claims are bound to, for as long as it has their volumes.
pub(crate) const CLAIMS: &str = "claims.json";
/// Which of the node's ids the pod's users have, where they are not the node's own.
pub(crate) const USER_NAMESPACE: &str = "userns";
/// What the kinds of volume note for themselves.
pub(crate) const PLUGINS: &str = "plugins";
/// Mode of these directories: nobody but root and its group looks into other people's pods.
const PRIVATE: u32 = 0o750;

/// Why a pod's directory could not be made, read or removed. Each is worth another try with back-off.
#[derive(Debug, thiserror::Error)]
pub enum PodDirError {
    /// A file or directory.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The mount table could not be read.
    #[error("cannot tell what is mounted below {}", path.display())]
    Mounts {
        /// The pod's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something is mounted below the directory.
    #[error("directory of pod {uid} is kept: {} is mounted", path.display())]
    Mounted {
        /// The pod.
        uid: PodUid,
        /// One of the mount points.
        path: PathBuf,
    },
    /// A volume has not been torn down.
    #[error("directory of pod {uid} is kept: volume {} is not torn down", path.display())]
    VolumeLeft {
        /// The pod.
        uid: PodUid,
        /// One of the volumes.
        path: PathBuf,
    },
    /// The thread that did it ended early.
    #[error("the work on the directory of pod {uid} was interrupted")]
    Interrupted {
        /// The pod.
        uid: PodUid,
        /// How.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// The directories of all pods.
#[derive(Clone, Debug)]
pub struct PodDirs {
    pods: PathBuf,
}

impl PodDirs {
    /// Makes `<root_dir>/pods` where it is missing, both 0750.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(root_dir: &Path) -> Result<Self, PodDirError> {
        let root = Dir::open_or_create(root_dir, PRIVATE)?;
        match root.child_or_mount(PODS)? {
            Some(_) => {}
            None => drop(root.ensure_child(PODS, PRIVATE)?),
        }
        Ok(Self {
            pods: root.path_of(PODS),
        })
    }

    /// The directory of all pods.
    pub(crate) fn all(&self) -> &Path {
        &self.pods
    }

    /// The agent's root directory.
    pub(crate) fn root(&self) -> &Path {
        // They lie in it.
        self.pods.parent().unwrap_or(&self.pods)
    }

    /// Where the directory of the pod `uid` is, or would be.
    #[must_use]
    pub fn path(&self, uid: &PodUid) -> PathBuf {
        self.pods.join(uid.as_str())
    }

    /// Makes the directory of the pod `uid` and the directories in it, all 0750. Idempotent.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn ensure(&self, uid: &PodUid) -> Result<PodDir, PodDirError> {
        let dir = Dir::open(&self.pods)?.ensure_child(uid.as_str(), PRIVATE)?;
        for name in [VOLUMES, PLUGINS, CONTAINERS] {
            dir.ensure_child(name, PRIVATE)?;
        }
        Ok(PodDir { dir })
    }

    /// The directory of the pod `uid`, `None` where it has none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn get(&self, uid: &PodUid) -> Result<Option<PodDir>, PodDirError> {
        let dir = Dir::open(&self.pods)?.child(uid.as_str())?;
        Ok(dir.map(|dir| PodDir { dir }))
    }

    /// The pods that have a directory: among them those nobody knows any more. Names that are no UID are left out.
    ///
    /// # Errors
    /// When the directory of all pods cannot be read.
    pub fn list(&self) -> Result<Vec<PodUid>, PodDirError> {
        let mut names = Dir::open(&self.pods)?.subdirectories()?;
        names.sort();
        let uids = names.iter().filter_map(|name| PodUid::parse(name).ok());
        Ok(uids.collect())
    }

    /// Removes the directory of the pod `uid` and all in it, once its volumes are torn down. Refuses, and removes
    /// nothing, while anything is mounted below it or a volume is left. May be called again.
    ///
    /// # Errors
    /// When it refuses, or something cannot be removed.
    pub fn remove(&self, uid: &PodUid) -> Result<(), PodDirError> {
        let Some(pod) = self.get(uid)? else {
            return Ok(());
        };
        let mounted = mounts::below(pod.path()).map_err(|source| PodDirError::Mounts {
            path: pod.path().to_owned(),
            source,
        })?;
        if let Some(mount) = mounted.into_iter().next() {
            return Err(PodDirError::Mounted {
                uid: uid.clone(),
                path: mount.mount_point,
            });
        }
        if let Some(volumes) = pod.dir.child(VOLUMES)? {
            for plugin in volumes.subdirectories()? {
                let left = volumes.child(&plugin)?.map(|plugin| {
                    let first = plugin.names()?.into_iter().next();
                    Ok::<_, DirError>(first.map(|name| plugin.path_of(&name)))
                });
                if let Some(path) = left.transpose()?.flatten() {
                    return Err(PodDirError::VolumeLeft {
                        uid: uid.clone(),
                        path,
                    });
                }
            }
        }
        drop(pod);
        Ok(Dir::open(&self.pods)?.remove_tree(uid.as_str())?)
    }

    /// [`PodDirs::remove`] away from the task's thread.
    ///
    /// # Errors
    /// As [`PodDirs::remove`].
    pub async fn remove_in_background(&self, uid: &PodUid) -> Result<(), PodDirError> {
        let (dirs, pod) = (self.clone(), uid.clone());
        match tokio::task::spawn_blocking(move || dirs.remove(&pod)).await {
            Ok(done) => done,
            Err(source) => Err(PodDirError::Interrupted {
                uid: uid.clone(),
                source,
            }),
        }
    }
}

/// The directory of one pod.
#[derive(Debug)]
pub struct PodDir {
    dir: Dir,
}

impl PodDir {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The handle, for the rooms that own something in it.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Writes the pod's hosts file ([`etc_hosts`]), 0644, and returns its path. The file stays the same one, so that
    /// containers that run see the change.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_etc_hosts(&self, content: &[u8]) -> Result<PathBuf, PodDirError> {
        self.dir.rewrite(ETC_HOSTS, content, 0o644)?;
        Ok(self.dir.path_of(ETC_HOSTS))
    }
}

#[cfg(test)]
mod tests;
