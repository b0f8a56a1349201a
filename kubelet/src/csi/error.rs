//! Why a volume of a storage driver is not there, in upstream's words.

use std::fmt;
use std::io;
use std::time::Duration;

use cri_proto::code_name;
use tonic::{Code, Status};

use super::names::PLUGIN;
use crate::dir::DirError;
use crate::poddir::PodDirError;
use crate::volumes::SetUpError;

/// A call to a plugin that did not succeed. Shown as Go's gRPC shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    code: Code,
    message: String,
}

impl CallError {
    pub(crate) fn of(status: &Status) -> Self {
        Self {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }

    pub(crate) fn late(_after: Duration) -> Self {
        Self {
            code: Code::DeadlineExceeded,
            message: "context deadline exceeded".to_owned(),
        }
    }

    /// Whether the driver has said that nothing of the call goes on (upstream's `isFinalError`).
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(
            self.code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Unavailable
                | Code::ResourceExhausted
                | Code::Aborted
        )
    }

    /// Whether the driver does it only while nobody uses the volume.
    pub(super) fn is_in_use(&self) -> bool {
        self.code == Code::FailedPrecondition
    }

    /// Whether the driver will never do it.
    pub(super) fn is_infeasible(&self) -> bool {
        matches!(
            self.code,
            Code::InvalidArgument | Code::OutOfRange | Code::NotFound
        )
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = code_name(self.code);
        write!(f, "rpc error: code = {code} desc = {}", self.message)
    }
}

impl std::error::Error for CallError {}

/// Why a volume of a driver is not set up, or not torn down.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    /// No plugin of this name has registered, or it has gone.
    #[error(
        "{PLUGIN}: {doing}: driver name {driver} not found in the list of registered CSI drivers"
    )]
    NoDriver {
        /// What was being done.
        doing: &'static str,
        /// The driver.
        driver: String,
    },
    /// The API server has not said what the driver is like.
    #[error("failed to sync csidriver cache: timed out waiting for the condition")]
    NotYet,
    /// There is no API server.
    #[error("{PLUGIN}: failed to get a kubernetes client")]
    NoApiServer,
    /// The driver does not do volumes of this kind.
    #[error("{PLUGIN}: mounter.SetupAt failed to check volume lifecycle mode: {0}")]
    Mode(String),
    /// A policy that is none.
    #[error("{PLUGIN}: mounter.SetupAt failed to check fsGroup policy: {0}")]
    FsGroupPolicy(String),
    /// A secret that the driver is to be given.
    #[error("fetching {what} {namespace}/{name} failed: {why}")]
    Secret {
        /// `NodePublishSecretRef` …
        what: &'static str,
        /// Where it is.
        namespace: String,
        /// What it is called.
        name: String,
        /// Why it cannot be had.
        why: String,
    },
    /// A token that the driver is to be given.
    #[error("{PLUGIN}: mounter.SetUpAt failed to get service accoount token attributes: {0}")]
    Token(String),
    /// The volume is not attached to the node.
    #[error("{0}")]
    Attach(String),
    /// A call to the driver.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A call while a volume is torn down.
    #[error("{PLUGIN}: {doing} failed: {error}")]
    TearDown {
        /// What was being done.
        doing: &'static str,
        /// What the driver says.
        error: CallError,
    },
    /// The driver says that the volume is unpublished, and something is mounted there.
    #[error("{PLUGIN}: the driver has unpublished {0}, and it is still mounted")]
    StillMounted(String),
    /// What is known of a volume on disk cannot be read.
    #[error("{PLUGIN}: unmounter failed to load volume data file [{path}]: {why}")]
    Data {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The mount table.
    #[error("cannot tell what is mounted")]
    Mounts(#[source] io::Error),
    /// A directory or file.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The pod's directory.
    #[error(transparent)]
    PodDir(#[from] PodDirError),
    /// The files of the volume cannot be given to the pod's group.
    #[error("applyFSGroup failed for vol {volume}")]
    FsGroup {
        /// The handle.
        volume: String,
        /// Why not.
        #[source]
        source: Box<SetUpError>,
    },
    /// The thread or task that did it ended early.
    #[error("the work on the volume was interrupted")]
    Interrupted,
}

/// What could not be done for a volume, as upstream's events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Waiting for the controller.
    WaitForAttach,
    /// Staging.
    MountDevice,
    /// Publishing.
    SetUp,
    /// Staging a raw device.
    MapDevice,
    /// Publishing a raw device.
    MapPodDevice,
    /// Growing.
    Expand,
}

impl Operation {
    /// The words before those of the volume.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitForAttach => "MountVolume.WaitForAttach failed",
            Self::MountDevice => "MountVolume.MountDevice failed",
            Self::SetUp => "MountVolume.SetUp failed",
            Self::MapDevice => "MapVolume.SetUpDevice failed",
            Self::MapPodDevice => "MapVolume.MapPodDevice failed",
            Self::Expand => "MountVolume.Setup failed while expanding volume",
        }
    }

    /// Upstream's reason of the event.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::WaitForAttach | Self::MountDevice | Self::SetUp | Self::Expand => "FailedMount",
            Self::MapDevice | Self::MapPodDevice => "FailedMapVolume",
        }
    }
}

/// One volume of a pod that is not set up.
#[derive(Debug, thiserror::Error)]
#[error("{} for volume \"{volume}\" : {}", operation.as_str(), crate::errors::error_chain(error))]
pub struct CsiFailure {
    /// The volume's name: in the pod's spec, or that of its PersistentVolume.
    pub volume: String,
    /// What could not be done.
    pub operation: Operation,
    /// Why not.
    pub error: CsiError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let failure = |operation, error| CsiFailure {
            volume: "v".into(),
            operation,
            error,
        };
        let gone = CsiError::NoDriver {
            doing: "mounter.SetUpAt failed to get CSI client",
            driver: "d.example".into(),
        };
        assert_eq!(
            failure(Operation::SetUp, gone).to_string(),
            "MountVolume.SetUp failed for volume \"v\" : kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: \
             driver name d.example not found in the list of registered CSI drivers"
        );
        let call = CallError::of(&Status::internal("disk on fire"));
        assert!(call.is_final());
        assert_eq!(
            failure(Operation::MountDevice, call.into()).to_string(),
            "MountVolume.MountDevice failed for volume \"v\" : rpc error: code = Internal desc = disk on fire"
        );
        assert!(!CallError::late(Duration::from_secs(120)).is_final());
    }
}
