//! The volumes of pods: one file for each kind.
//!
//! Owns: `pods/<uid>/volumes` and `pods/<uid>/plugins`, and the mounts below the former.
//! Inputs: the pod's spec. Outputs: where on the node each volume lies, for the containers' mounts.
//! Tasks: none; functions block on disks and mounts, the `_in_background` ones away from the task's thread: each teardown
//! on a thread of its own.
//! Deliberately not here: mounting into containers (the runtime does), subPath, enforcing an emptyDir's size on disk
//! (eviction does). Kinds without a file here are refused by name, never left out of the pod.

mod empty_dir;
mod host_path;
mod ownership;
mod teardown;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Volume;
use static_pods::quantity::InvalidAmount;

use crate::cgroups::resources::ResourceError;
use crate::dir::DirError;
use crate::errors::error_chain;
use crate::pod::{self, Pod, PodUid};
use crate::poddir::{PodDirError, PodDirs};

/// Where a volume lies on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVolume {
    /// The directory or file to mount.
    pub path: PathBuf,
    /// Whether the kind of volume allows no writing, whatever the mount says.
    pub read_only: bool,
}

/// A pod's volumes by name.
pub type MountedVolumes = BTreeMap<String, HostVolume>;

/// Settings of this room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumesConfig {
    /// What all pods together may use of the node's memory, bytes: the upper bound of an in-memory emptyDir.
    pub allocatable_memory_bytes: u64,
}

/// When a failed set-up is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// With back-off: what is missing may appear.
    BackOff,
    /// Only when the pod or the agent changes.
    OnChange,
}

/// Why the volumes of a pod could not be set up or torn down.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// One volume. Displays as the whole text of the event, cause and all; it has no source besides.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {}", error_chain(&**cause))]
    SetUp {
        /// Its name in the spec.
        volume: String,
        /// What is wrong.
        cause: Box<SetUpError>,
    },
    /// Something mounted in a volume stays mounted.
    #[error("cannot unmount {}", path.display())]
    Unmount {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The pod's own directory.
    #[error(transparent)]
    PodDir(#[from] PodDirError),
    /// A directory of a volume.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The mount table.
    #[error("cannot tell what is mounted below {}", path.display())]
    Mounts {
        /// The directory of the pod's volumes.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that did it ended early.
    #[error("the work on the volumes of pod {uid} was interrupted")]
    Interrupted {
        /// The pod.
        uid: PodUid,
        /// How.
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    /// The reason of the event that tells of it.
    pub const REASON: &str = "FailedMount";

    /// When to try again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::SetUp { cause, .. } => cause.retry(),
            _ => Retry::BackOff,
        }
    }
}

/// What is wrong with one volume. Texts that upstream has are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A kind of volume that is not built.
    #[error("no volume plugin matched")]
    NoPlugin,
    /// A path that steps back.
    #[error("invalid HostPath `{0}`: must not contain '..'")]
    HostPathSteps(String),
    /// There is something else at the path, or nothing.
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPathType {
        /// The path.
        path: String,
        /// What the type asks for.
        wanted: &'static str,
    },
    /// No type of the API.
    #[error("{0} is an invalid volume type")]
    HostPathUnknownType(String),
    /// The path cannot be made.
    #[error("cannot create {path}")]
    HostPathCreate {
        /// The path.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No medium of the API.
    #[error("unknown storage medium {0:?}")]
    Medium(String),
    /// A medium that is not built.
    #[error("storage medium {0:?} is not supported by this kubelet")]
    MediumNotBuilt(String),
    /// A size that cannot be read.
    #[error("sizeLimit {text:?} is not a quantity")]
    SizeLimit {
        /// What the spec has.
        text: String,
        /// Why it is none.
        #[source]
        source: InvalidAmount,
    },
    /// The limits of the pod, which bound a volume in memory.
    #[error("cannot compute the pod's memory limit")]
    Resources(#[from] ResourceError),
    /// A group id outside the range of the kernel.
    #[error("fsGroup {0} is no group id")]
    FsGroup(i64),
    /// tmpfs cannot be mounted.
    #[error("cannot mount tmpfs at {}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something else is mounted where the volume belongs.
    #[error("{} is a mount point of another filesystem", .0.display())]
    Foreign(PathBuf),
    /// A directory or file of the volume.
    #[error(transparent)]
    Dir(#[from] DirError),
}

impl SetUpError {
    fn retry(&self) -> Retry {
        match self {
            Self::HostPathType { .. }
            | Self::HostPathCreate { .. }
            | Self::Mount { .. }
            | Self::Foreign(_)
            | Self::Dir(_) => Retry::BackOff,
            Self::NoPlugin
            | Self::HostPathSteps(_)
            | Self::HostPathUnknownType(_)
            | Self::Medium(_)
            | Self::MediumNotBuilt(_)
            | Self::SizeLimit { .. }
            | Self::Resources(_)
            | Self::FsGroup(_) => Retry::OnChange,
        }
    }
}

/// Bytes of the stack of a thread that gives volumes back; only what is used of it takes memory.
const TEAR_DOWN_STACK: usize = 256 << 10;

/// The volumes of all pods.
#[derive(Debug)]
pub struct Volumes {
    dirs: PodDirs,
    config: VolumesConfig,
}

impl Volumes {
    /// Volumes below the pods' directories in `dirs`.
    #[must_use]
    pub fn new(dirs: PodDirs, config: VolumesConfig) -> Self {
        Self { dirs, config }
    }

    /// Sets up every volume of `pod` and says where each lies. Idempotent: what is set up already is left as it is,
    /// so it may be called at each sync and after a restart of the agent.
    ///
    /// # Errors
    /// One for each volume that could not be set up; the others are.
    pub fn set_up(&self, pod: &Pod, uid: &PodUid) -> Result<MountedVolumes, Vec<VolumeError>> {
        let dir = self.dirs.ensure(uid).map_err(|error| vec![error.into()])?;
        let mut mounted = MountedVolumes::new();
        let mut failed = Vec::new();
        for volume in pod::spec(pod).volumes.iter().flatten() {
            let done = match kind(volume) {
                Kind::EmptyDir => empty_dir::set_up(&dir, pod, volume, &self.config),
                Kind::HostPath(source) => host_path::check(source),
                Kind::Other => Err(SetUpError::NoPlugin),
            };
            match done {
                Ok(path) => {
                    let read_only = false;
                    mounted.insert(volume.name.clone(), HostVolume { path, read_only });
                }
                Err(cause) => failed.push(VolumeError::SetUp {
                    volume: volume.name.clone(),
                    cause: Box::new(cause),
                }),
            }
        }
        if failed.is_empty() {
            Ok(mounted)
        } else {
            Err(failed)
        }
    }

    /// Unmounts and removes every volume of the pod `uid`, whatever its spec was. Data of the administrator's own
    /// (hostPath) is not below the pod's directory and never touched. Idempotent; after an error it resumes.
    ///
    /// # Errors
    /// When something cannot be unmounted or removed.
    pub fn tear_down(&self, uid: &PodUid) -> Result<(), VolumeError> {
        match self.dirs.get(uid)? {
            Some(dir) => teardown::tear_down(&dir),
            None => Ok(()),
        }
    }

    /// [`Volumes::set_up`] away from the task's thread.
    ///
    /// # Errors
    /// As [`Volumes::set_up`].
    pub async fn set_up_in_background(
        self: Arc<Self>,
        pod: Arc<Pod>,
        uid: PodUid,
    ) -> Result<MountedVolumes, Vec<VolumeError>> {
        let of = uid.clone();
        match tokio::task::spawn_blocking(move || self.set_up(&pod, &of)).await {
            Ok(done) => done,
            Err(panic) => {
                let source = io::Error::other(panic);
                Err(vec![VolumeError::Interrupted { uid, source }])
            }
        }
    }

    /// [`Volumes::tear_down`] on a thread of its own: an unmount may hang for as long as what it leads to is away, and must
    /// not take the thread that another pod's files wait for.
    ///
    /// # Errors
    /// As [`Volumes::tear_down`].
    pub async fn tear_down_in_background(self: Arc<Self>, uid: PodUid) -> Result<(), VolumeError> {
        let of = uid.clone();
        let (told, done) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("tear-down".to_owned())
            .stack_size(TEAR_DOWN_STACK)
            // Whoever asked may have gone meanwhile, and asks again.
            .spawn(move || drop(told.send(self.tear_down(&of))))
            .map_err(|source| VolumeError::Interrupted {
                uid: uid.clone(),
                source,
            })?;
        // A thread that says nothing has panicked.
        done.await.unwrap_or_else(|_| {
            let source = io::Error::other("it panicked");
            Err(VolumeError::Interrupted { uid, source })
        })
    }
}

enum Kind<'a> {
    EmptyDir,
    HostPath(&'a k8s_openapi::api::core::v1::HostPathVolumeSource),
    Other,
}

fn kind(volume: &Volume) -> Kind<'_> {
    if let Some(source) = &volume.host_path {
        return Kind::HostPath(source);
    }
    // A volume without any source is an emptyDir: the API's default.
    let bare = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    match volume.empty_dir.is_some() || *volume == bare {
        true => Kind::EmptyDir,
        false => Kind::Other,
    }
}

#[cfg(test)]
mod tests;
