//! What of the node's devices, CPUs and memory the containers of its pods were given, for monitoring agents.
//!
//! Owns: the socket `<root>/pod-resources/kubelet.sock`, and on it `PodResourcesLister`, `v1` and `v1alpha1`.
//! Inputs: the board of pods, [`Devices`], what the managers of CPUs and memory say ([`Pinned`]). Outputs: answers; nothing
//! is kept.
//! Tasks: one for the agent ([`run_pod_resources`]), which waits for connections, and one a connection.
//! Does not: answer more than 100 requests a second, ten at once (as upstream; what is more is refused).
//!
//! Source: upstream's `pkg/kubelet/apis/podresources`; KEP-606, KEP-2043 (allocatable), KEP-3695 (Get).

mod alpha;
mod limit;
mod lister;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use cri_proto::podresources::pod_resources_lister_server::PodResourcesListerServer;
use cri_proto::podresources_alpha::pod_resources_lister_server::PodResourcesListerServer as AlphaServer;

use super::devices::Devices;
use super::grpc;
use crate::clock::Clock;
use crate::dir::{Dir, DirError};
use crate::errors::error_chain;
use crate::pod::PodUid;
use crate::server::{SocketError, bind_socket};
use crate::status::StatusBoard;

use limit::Limit;
use lister::Lister;

/// In the root directory.
const DIRECTORY: &str = "pod-resources";
/// Mode of that directory.
const PRIVATE: u32 = 0o750;
/// The socket in it.
const SOCKET: &str = "kubelet.sock";

/// Memory of one kind on some NUMA nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBlock {
    /// `memory`, or `hugepages-<size>`.
    pub kind: String,
    /// Bytes.
    pub bytes: u64,
    /// The nodes that it is of.
    pub nodes: Vec<u32>,
}

/// What containers have of the CPUs and the memory of single NUMA nodes.
pub trait Pinned: Send + Sync {
    /// The CPUs that a container has to itself.
    fn cpus_of(&self, uid: &PodUid, container: &str) -> Vec<u32>;
    /// The CPUs that can be had so, whoever has them.
    fn allocatable_cpus(&self) -> Vec<u32>;
    /// The memory that a container was given.
    fn memory_of(&self, uid: &PodUid, container: &str) -> Vec<MemoryBlock>;
    /// The memory that can be given, whoever has it.
    fn allocatable_memory(&self) -> Vec<MemoryBlock>;
}

/// What the answers are made of.
#[derive(Clone)]
pub struct PodResourcesInputs {
    /// The agent's root directory.
    pub root: PathBuf,
    /// For the limit on requests.
    pub clock: Clock,
    /// The pods.
    pub board: StatusBoard,
    /// Who has which devices.
    pub devices: Devices,
    /// Who has which CPUs, and memory from where.
    pub pinned: Arc<dyn Pinned>,
    /// Whether pods that have ended are left out (`KubeletPodResourcesListUseActivePods`).
    pub only_active: bool,
}

/// Why nobody can ask.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Directory(#[from] DirError),
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// Answers whoever asks. Never ends.
pub async fn run_pod_resources(inputs: PodResourcesInputs) {
    let directory = inputs.root.join(DIRECTORY);
    let bound = Dir::open_or_create(&directory, PRIVATE)
        .map_err(ServeError::from)
        .and_then(|dir| Ok(bind_socket(&dir.path().join(SOCKET))?));
    let (listener, _file) = match bound {
        Ok(bound) => bound,
        Err(error) => {
            tracing::error!(
                error = error_chain(&error),
                "cannot serve the podresources API"
            );
            return std::future::pending().await;
        }
    };
    let limit = Limit::new(inputs.clock.clone());
    let lister = Arc::new(Lister { inputs, limit });
    let routes = Router::new()
        .route_service(
            "/v1.PodResourcesLister/{method}",
            PodResourcesListerServer::from_arc(lister.clone()),
        )
        .route_service(
            "/v1alpha1.PodResourcesLister/{method}",
            AlphaServer::from_arc(lister),
        );
    grpc::serve(listener, routes).await;
}
