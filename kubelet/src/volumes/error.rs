//! Why volumes are not set up or torn down, and what may help.

use std::io;
use std::path::PathBuf;

use static_pods::quantity::InvalidAmount;

use super::programs::ProgramError;
use crate::cgroups::resources::ResourceError;
use crate::csi::CsiFailure;
use crate::dir::DirError;
use crate::errors::error_chain;
use crate::objects::{Kind as ObjectKind, ObjectError};
use crate::pod::PodUid;
use crate::poddir::PodDirError;
use crate::runtime::convert::DownwardError;

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
    #[error("{} for volume \"{volume}\" : {}", cause.step(), error_chain(&**cause))]
    SetUp {
        /// Its name in the spec; that of the persistent volume, where a claim stands before it.
        volume: String,
        /// What is wrong.
        cause: Box<SetUpError>,
    },
    /// One volume of a storage driver. Displays as the whole text of the event, as above.
    #[error(transparent)]
    Driver(#[from] CsiFailure),
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
    /// `volume` is the name in the pod's spec, or that of the persistent volume behind a claim.
    pub(super) fn set_up(volume: &str, cause: SetUpError) -> Self {
        Self::SetUp {
            volume: volume.to_owned(),
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

    /// The reason of the event that tells of most.
    pub const REASON: &str = "FailedMount";

    /// The reason of the event that tells of it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SetUp { cause, .. } if cause.is_of_device() => "FailedMapVolume",
            Self::Driver(failure) => failure.operation.reason(),
            _ => Self::REASON,
        }
    }

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
    /// A device of a kind of volume that has none.
    #[error("no block volume plugin matched")]
    NoBlock,
    /// A path of a local volume that steps back.
    #[error("invalid path: {0} must not contain '..'")]
    LocalSteps(String),
    /// There is nothing at a local volume's path.
    #[error("path {path:?} cannot be used")]
    LocalPath {
        /// The path.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is something else at a local volume's path.
    #[error("only directory and block device are supported")]
    LocalKind,
    /// The path of a device leads nowhere.
    #[error("device {} cannot be used", path.display())]
    DevicePath {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A device that is none.
    #[error("{} is no block device", .0.display())]
    NoDevice(PathBuf),
    /// The file system on a device cannot be mounted.
    #[error(
        "local: failed to mount device {} at {} (fstype: {fs_type}), error {}",
        device.display(), at.display(), error_chain(source)
    )]
    Device {
        /// The device.
        device: PathBuf,
        /// Where.
        at: PathBuf,
        /// What it should have.
        fs_type: String,
        /// Why not. Part of the text, as upstream has it.
        source: Box<ProgramError>,
    },
    /// Nothing is on a device that may not be written to.
    #[error("cannot mount unformatted disk {0} as we are manipulating it in read-only mode")]
    Unformatted(String),
    /// Nobody can tell what is on a device.
    #[error("failed to get disk format of disk {device}: {says}")]
    Format {
        /// The device.
        device: String,
        /// What blkid(8) says.
        says: String,
    },
    /// The file system on a device is broken.
    #[error("'fsck' found errors on device {device} but could not correct them: {says}")]
    Errors {
        /// The device.
        device: String,
        /// What fsck(8) says.
        says: String,
    },
    /// A program that mounts or formats.
    #[error(transparent)]
    Program(Box<ProgramError>),
    /// The mount table.
    #[error("cannot tell what is mounted")]
    Mounts(#[source] io::Error),
    /// Something that is to be mounted anew stays mounted.
    #[error(transparent)]
    Unmount(#[from] Box<VolumeError>),
    /// Mount options for a kind of volume that is not mounted.
    #[error("mount options are not supported for this volume type")]
    NoMountOptions,
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
    /// Huge pages of several sizes, and a medium that does not say which.
    #[error("medium: {0} can't be used if container requests multiple huge page sizes")]
    HugePagesSizes(String),
    /// Huge pages that no container asks for.
    #[error(
        "medium {0}: hugePages storage requested, but there is no resource request for huge pages"
    )]
    HugePagesNotAsked(String),
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
    /// A file system in memory cannot be mounted.
    #[error("cannot mount {what} at {}", path.display())]
    Mount {
        /// What.
        what: &'static str,
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
    /// Trust bundles of nobody, or by labels that are none.
    #[error("ClusterTrustBundle projection requires either name or signerName to be set")]
    NoTrustWish,
    /// Nobody has said what is to be written.
    #[error("the content of the volume is not known")]
    NoContent,
    /// Several sources of one volume.
    #[error("[{}]", several(.0))]
    Several(Vec<SetUpError>),
}

impl From<ProgramError> for SetUpError {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
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
    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
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

    /// What upstream was doing when it fails so.
    fn step(&self) -> &'static str {
        match self {
            Self::LocalPath { .. } | Self::LocalKind => {
                "MountVolume.NewMounter initialization failed"
            }
            Self::NoMountOptions => "MountVolume.MountOptionSupport check failed",
            Self::Device { .. }
            | Self::Unformatted(_)
            | Self::Format { .. }
            | Self::Errors { .. } => "MountVolume.MountDevice failed",
            Self::NoBlock => "MapVolume.FindMapperPluginBySpec failed",
            Self::DevicePath { .. } => "MapVolume.EvalHostSymlinks failed",
            Self::NoDevice(_) => "MapVolume.MapBlockVolume failed",
            _ => "MountVolume.SetUp failed",
        }
    }

    /// Whether it is about a raw block device.
    fn is_of_device(&self) -> bool {
        matches!(
            self,
            Self::NoBlock | Self::DevicePath { .. } | Self::NoDevice(_)
        )
    }

    fn retry(&self) -> Retry {
        match self {
            Self::LocalPath { .. }
            | Self::LocalKind
            | Self::DevicePath { .. }
            | Self::NoDevice(_)
            | Self::Device { .. }
            | Self::Unformatted(_)
            | Self::Format { .. }
            | Self::Errors { .. }
            | Self::Program(_)
            | Self::Mounts(_)
            | Self::Unmount(_)
            | Self::HostPathType { .. }
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
            | Self::NoBlock
            | Self::LocalSteps(_)
            | Self::NoMountOptions
            | Self::HostPathSteps(_)
            | Self::HostPathUnknownType(_)
            | Self::Medium(_)
            | Self::HugePagesSizes(_)
            | Self::HugePagesNotAsked(_)
            | Self::SizeLimit { .. }
            | Self::Resources(_)
            | Self::Downward(_)
            | Self::Path(_)
            | Self::NoTrustWish
            | Self::FsGroup(_) => Retry::OnChange,
        }
    }
}
