//! Why there is no agent.

use std::path::PathBuf;

use cri_proto::EndpointError;

use super::DriverError;
use crate::admission::sysctls::SysctlPatternError;
use crate::api::ApiError;
use crate::cgroups::CgroupsError;
use crate::dir::DirError;
use crate::eviction::ThresholdError;
use crate::logs::LogsError;
use crate::managers::ManagersError;
use crate::node::NodeError;
use crate::poddir::PodDirError;
use crate::server::{BindError, SelfSignedError, ServingTlsError, SocketError};
use crate::userns;

/// Why the agent cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The runtime's endpoint.
    #[error("containerRuntimeEndpoint is of no use")]
    Endpoint(#[from] EndpointError),
    /// A fact of the machine.
    #[error("cannot learn about this machine")]
    Node(#[from] NodeError),
    /// Swap is on, and must not be.
    #[error(
        "running with swap on is not supported, please disable swap or set failSwapOn to false (--fail-swap-on=false); in use: {}",
        .0.join(", ")
    )]
    Swap(Vec<String>),
    /// Swap for pods where the kernel cannot share it out.
    #[error("swap feature is enabled and LimitedSwap but it is only supported with cgroupv2")]
    LimitedSwap,
    /// cgroup v1, and it must not be.
    #[error(
        "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is in maintenance mode; set failCgroupV1 to false to run on it all the same"
    )]
    CgroupV1,
    /// The cgroups above the pods.
    #[error("cannot set up the cgroups of pods")]
    Cgroups(#[from] CgroupsError),
    /// The runtime and the configuration do not agree on a cgroup driver.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Thresholds of eviction.
    #[error(transparent)]
    Eviction(#[from] ThresholdError),
    /// CPU, memory and topology managers.
    #[error(transparent)]
    Managers(#[from] ManagersError),
    /// The ids for user namespaces of pods.
    #[error("create user namespace manager")]
    UserNamespaces(#[from] userns::OpenError),
    /// The root directory.
    #[error("cannot set up the root directory")]
    Directories(#[from] PodDirError),
    /// The directory of device plugins.
    #[error("cannot set up the directory of device plugins")]
    Devices(#[source] DirError),
    /// The log directories.
    #[error("cannot set up the directories of logs")]
    Logs(#[from] LogsError),
    /// The directories of who has pulled which image.
    #[error("cannot set up the records of pulled images below the root directory")]
    PullRecords(#[source] std::io::Error),
    /// `allowedUnsafeSysctls`.
    #[error("allowedUnsafeSysctls")]
    Sysctls(#[from] SysctlPatternError),
    /// A reserved amount.
    #[error("{field}[{resource}]: {text:?} is not a quantity")]
    Reserved {
        /// `systemReserved` or `kubeReserved`.
        field: &'static str,
        /// `cpu`, `memory` …
        resource: String,
        /// What the configuration has.
        text: String,
    },
    /// More is reserved than there is.
    #[error("invalid Node Allocatable configuration. {0}")]
    Allocatable(String),
    /// A share of `qosReserved`.
    #[error("--qos-reserved value failed to parse: {0:?} is no percentage from 0% to 100%")]
    QosReserved(String),
    /// What `qosReserved` knows nothing of.
    #[error("--qos-reserved value failed to parse: cannot reserve {0:?} resource")]
    QosReservedResource(String),
    /// The cgroup of daemons cannot be held to what is reserved for them.
    #[error("{0}")]
    ReservedCgroup(String),
    /// A node of a cluster without the files that kubeadm writes.
    #[error(
        "neither --kubeconfig={} nor {} is there: join the node to a cluster, or run it by itself, without --kubeconfig",
        .kubeconfig.display(),
        .bootstrap.as_ref().map_or_else(|| "a file of --bootstrap-kubeconfig".to_owned(), |path| format!("--bootstrap-kubeconfig={}", path.display()))
    )]
    Kubeconfig {
        /// `--kubeconfig`.
        kubeconfig: PathBuf,
        /// `--bootstrap-kubeconfig`.
        bootstrap: Option<PathBuf>,
    },
    /// A kubeconfig that cannot be understood.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A port that cannot be served.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// Certificates of the node's API.
    #[error("cannot serve the node's API")]
    Tls(#[from] ServingTlsError),
    /// The same, where they are the agent's own.
    #[error(transparent)]
    SelfSigned(#[from] SelfSignedError),
    /// The agent's own socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A task that must live as long as the agent ended.
    #[error("the agent's {task} ended: {why}")]
    TaskEnded {
        /// Which one.
        task: &'static str,
        /// A panic's text, or that it returned.
        why: String,
    },
}
