//! The volumes of pods: one file for each kind.
//!
//! Owns: `pods/<uid>/volumes` and `pods/<uid>/plugins`, and the mounts below the former.
//! Inputs: the pod's spec; for volumes whose files the agent writes, their [`Contents`]. Outputs: where on the node each
//! volume lies, for the containers' mounts.
//! Tasks: none; functions block on disks and mounts, the `_in_background` ones away from the task's thread: each teardown
//! on a thread of its own.
//! `keyed`, `downward_api` and `projected` say (purely) which files a volume has; `written` makes the volume, and
//! `atomic_writer` the files, all at once.
//! Deliberately not here: getting objects of the API server (`objects` does), mounting into containers (the runtime does), subPath, enforcing an emptyDir's size on disk
//! (eviction does). Kinds without a file here are refused by name, never left out of the pod.

mod atomic_writer;
mod contents;
mod downward_api;
mod empty_dir;
mod env_files;
mod host_path;
mod keyed;
mod ownership;
mod payload;
mod projected;
mod teardown;
mod written;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Volume;
use static_pods::quantity::InvalidAmount;

use crate::cgroups::resources::ResourceError;
use crate::dir::DirError;
use crate::errors::error_chain;
use crate::objects::{Kind as ObjectKind, ObjectError};
use crate::pod::{self, Pod, PodUid};
use crate::poddir::{PodDir, PodDirError, PodDirs};
use crate::runtime::convert::DownwardError;

use contents::Written;
pub use contents::{Contents, Inputs};
pub use env_files::env_files;

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
    fn set_up(volume: &Volume, cause: SetUpError) -> Self {
        Self::SetUp {
            volume: volume.name.clone(),
            cause: Box::new(cause),
        }
    }

    /// Whether a change of an object that the pod refers to may let it succeed.
    #[must_use]
    pub fn waits_for_objects(&self) -> bool {
        matches!(self, Self::SetUp { cause, .. } if cause.waits_for_objects())
    }

    /// Whether it is only that the API server has not answered.
    #[must_use]
    pub fn waits_for_answer(&self) -> bool {
        matches!(self, Self::SetUp { cause, .. } if cause.waits_for_answer())
    }

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
    /// An object or token that cannot be had.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A key that the object does not have.
    #[error("{}references non-existent {} key: {key}", key_words(*kind).0, key_words(*kind).1)]
    NoKey {
        /// What the object is.
        kind: ObjectKind,
        /// The key.
        key: String,
    },
    /// A field or resource of the pod without a value.
    #[error(transparent)]
    Downward(#[from] DownwardError),
    /// A path of a file that does not stay in the volume.
    #[error("invalid path: {0}")]
    Path(String),
    /// More than one volume may hold, bytes.
    #[error("the files of the volume have {0} bytes, more than are written")]
    TooLarge(usize),
    /// A source of a projected volume that is not built.
    #[error("projected source {0} is not supported by this kubelet")]
    SourceNotBuilt(&'static str),
    /// Nobody has said what is to be written.
    #[error("the content of the volume is not known")]
    NoContent,
    /// Several sources of one volume.
    #[error("[{}]", several(.0))]
    Several(Vec<SetUpError>),
}

/// How upstream words the lack of a key.
fn key_words(kind: ObjectKind) -> (&'static str, &'static str) {
    match kind {
        ObjectKind::ConfigMap => ("configmap ", "config"),
        ObjectKind::Secret => ("", "secret"),
    }
}

fn several(errors: &[SetUpError]) -> String {
    let texts: Vec<_> = errors.iter().map(|error| error_chain(error)).collect();
    texts.join(", ")
}

impl SetUpError {
    /// An error of all of `errors`; none of none.
    fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        // As upstream: what is wrong twice is said once.
        let mut said = Vec::new();
        errors.retain(|error| {
            let text = error_chain(error);
            let news = !said.contains(&text);
            said.push(text);
            news
        });
        match errors.pop() {
            None => Ok(()),
            Some(only) if errors.is_empty() => Err(only),
            Some(last) => {
                errors.push(last);
                Err(Self::Several(errors))
            }
        }
    }

    fn waits_for_objects(&self) -> bool {
        match self {
            Self::Object(_) | Self::NoKey { .. } => true,
            Self::Several(errors) => errors.iter().any(Self::waits_for_objects),
            _ => false,
        }
    }

    fn waits_for_answer(&self) -> bool {
        match self {
            Self::Object(error) => error.is_no_answer(),
            Self::Several(errors) => errors.iter().all(Self::waits_for_answer),
            _ => false,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::HostPathType { .. }
            | Self::HostPathCreate { .. }
            | Self::Mount { .. }
            | Self::Foreign(_)
            | Self::Dir(_)
            | Self::Object(_)
            | Self::NoKey { .. }
            | Self::TooLarge(_)
            | Self::NoContent => Retry::BackOff,
            Self::Several(errors) => {
                let again = errors.iter().any(|error| error.retry() == Retry::BackOff);
                if again {
                    Retry::BackOff
                } else {
                    Retry::OnChange
                }
            }
            Self::NoPlugin
            | Self::HostPathSteps(_)
            | Self::HostPathUnknownType(_)
            | Self::Medium(_)
            | Self::MediumNotBuilt(_)
            | Self::SizeLimit { .. }
            | Self::Resources(_)
            | Self::Downward(_)
            | Self::Path(_)
            | Self::SourceNotBuilt(_)
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
    /// so it may be called at each sync and after a restart of the agent. `contents` is what is written into those whose
    /// files the agent writes.
    ///
    /// # Errors
    /// One for each volume that could not be set up; the others are.
    pub fn set_up(
        &self,
        pod: &Pod,
        uid: &PodUid,
        mut contents: Contents,
    ) -> Result<MountedVolumes, Vec<VolumeError>> {
        let dir = self.dirs.ensure(uid).map_err(|error| vec![error.into()])?;
        let mut mounted = MountedVolumes::new();
        let mut failed = Vec::new();
        for volume in pod::spec(pod).volumes.iter().flatten() {
            let kind = kind(volume);
            let done = match kind {
                Kind::EmptyDir => empty_dir::set_up(&dir, pod, volume, &self.config),
                Kind::HostPath(source) => host_path::check(source),
                Kind::Written(kind) => self.write(&dir, pod, volume, kind, &mut contents),
                Kind::Other => Err(SetUpError::NoPlugin),
            };
            match done {
                Ok(path) => {
                    let read_only = matches!(kind, Kind::Written(_));
                    mounted.insert(volume.name.clone(), HostVolume { path, read_only });
                }
                Err(cause) => failed.push(VolumeError::set_up(volume, cause)),
            }
        }
        if failed.is_empty() {
            Ok(mounted)
        } else {
            Err(failed)
        }
    }

    /// Gives those volumes of `pod` whose files the agent writes their `contents`; what is the same is left as it is.
    ///
    /// # Errors
    /// One for each volume that could not be written; it keeps what it had.
    pub fn refresh(
        &self,
        pod: &Pod,
        uid: &PodUid,
        mut contents: Contents,
    ) -> Result<(), Vec<VolumeError>> {
        let dir = self.dirs.ensure(uid).map_err(|error| vec![error.into()])?;
        let mut failed = Vec::new();
        for volume in pod::spec(pod).volumes.iter().flatten() {
            if let Kind::Written(kind) = kind(volume)
                && let Err(cause) = self.write(&dir, pod, volume, kind, &mut contents)
            {
                failed.push(VolumeError::set_up(volume, cause));
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed),
        }
    }

    fn write(
        &self,
        dir: &PodDir,
        pod: &Pod,
        volume: &Volume,
        kind: Written,
        contents: &mut Contents,
    ) -> Result<PathBuf, SetUpError> {
        let payload = contents.take(&volume.name)?;
        let made_at = contents.made_at();
        written::set_up(dir, pod, volume, kind, &payload, &self.config, made_at)
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

    /// [`Volumes::set_up`] away from the task's thread; `turn` is dropped once it is done, whoever waits for that.
    ///
    /// # Errors
    /// As [`Volumes::set_up`].
    pub async fn set_up_in_background(
        self: Arc<Self>,
        pod: Arc<Pod>,
        uid: PodUid,
        contents: Contents,
        turn: impl Send + 'static,
    ) -> Result<MountedVolumes, Vec<VolumeError>> {
        let of = uid.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = self.set_up(&pod, &of, contents);
            drop(turn);
            done
        });
        done.await.unwrap_or_else(|panic| {
            let source = io::Error::other(panic);
            Err(vec![VolumeError::Interrupted { uid, source }])
        })
    }

    /// [`Volumes::refresh`] away from the task's thread; `turn` is dropped once it is done, whoever waits for that.
    ///
    /// # Errors
    /// As [`Volumes::refresh`].
    pub async fn refresh_in_background(
        self: Arc<Self>,
        pod: Arc<Pod>,
        uid: PodUid,
        contents: Contents,
        turn: impl Send + 'static,
    ) -> Result<(), Vec<VolumeError>> {
        let of = uid.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = self.refresh(&pod, &of, contents);
            drop(turn);
            done
        });
        done.await.unwrap_or_else(|panic| {
            let source = io::Error::other(panic);
            Err(vec![VolumeError::Interrupted { uid, source }])
        })
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

#[derive(Clone, Copy)]
enum Kind<'a> {
    EmptyDir,
    HostPath(&'a k8s_openapi::api::core::v1::HostPathVolumeSource),
    Written(Written),
    Other,
}

fn kind(volume: &Volume) -> Kind<'_> {
    if let Some(source) = &volume.host_path {
        return Kind::HostPath(source);
    }
    if let Some(written) = Written::of(volume) {
        return Kind::Written(written);
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
