//! What the node, its pods and their containers use.
//!
//! Owns: reading the kernel's numbers of cgroups (version 1 and 2), network namespaces and file systems; the rates that
//! come of two readings ([`Readings`], [`Summary`]).
//! Inputs: the pods on the board, what the runtime shows of them, where their cgroups, logs and volumes are; for
//! writable layers and images, which only the runtime can tell, its answers.
//! Outputs: one set of readings for each that asks. Tasks: none. Nothing is read between two questions: what a rate needs
//! is kept from the question before, and what volumes take is kept for `volumeStatsAggPeriod`, since it takes a walk.
//! Reading happens away from tasks' threads, one question at a time: two at once would only take longer.
//! Deliberately not here: the text formats (`server`), what the agent counts of itself (`metrics`), eviction.

mod assemble;
mod claims;
mod disk;
mod level;
mod machine;
mod network;
mod numbers;
mod pod_disks;
mod pods;
mod rates;
mod sandbox_image;
mod summary;
mod volumes;

#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cri_proto::{ImageClient, RuntimeClient, v1};
use jiff::Timestamp;

use crate::cgroups::Cgroups;
use crate::claims::Claims;
use crate::clock::Clock;
use crate::csi::Csi;
use crate::images::PullRecords;
use crate::logs::PodLogs;
use crate::observe::Observer;
use crate::pod::PodUid;
use crate::poddir::PodDirs;
use crate::quotas::Quotas;
use crate::status::StatusBoard;

use claims::ClaimCache;
use level::Roots;
use rates::Rates;
use sandbox_image::SandboxImage;
use volumes::VolumeCache;

pub use claims::ClaimUsage;
pub(crate) use disk::of_files;
pub use disk::{FileSystem, Taken};
pub(crate) use machine::topology;
pub use machine::{DiskCounts, Meminfo};
pub use network::{Interface, Traffic};
pub use numbers::{Cpu, DiskTraffic, Memory, Numbers, Pressure, Stall, Stalls, Throttling};
pub use pod_disks::{ContainerDisks, NodeMemory, PodDisks};
pub use pods::{
    ContainerReading, DeviceReading, LevelReading, PodReading, ProcessReading, Readings,
    SandboxReading,
};
pub use summary::Summary;
pub(crate) use summary::{MemoryStats, PodStats};
pub use volumes::VolumeUsage;

/// How long the runtime has to tell what images and writable layers take. Without an answer they are left out.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Processor and memory: what `/metrics/resource` needs.
    Usage,
    /// The same, and how long work had to wait for them.
    Pressure,
    /// The same with networks and processes.
    Summary,
    /// All there is, with file descriptors, limits, disks.
    Everything,
}

/// What the room works with.
pub struct StatsInputs {
    /// The node's name.
    pub node_name: String,
    /// The pods.
    pub board: StatusBoard,
    /// What runs of them.
    pub observer: Arc<Observer>,
    /// Where their cgroups are.
    pub cgroups: Arc<Cgroups>,
    /// Where their files are.
    pub dirs: PodDirs,
    /// What counts volumes, where the kernel does.
    pub quotas: Option<Quotas>,
    /// Where their logs are.
    pub logs: PodLogs,
    /// The agent's root directory: nodefs.
    pub root: PathBuf,
    /// Asked for writable layers.
    pub runtime: RuntimeClient,
    /// Asked for the images' file system.
    pub images: ImageClient,
    /// Wall clock and monotonic time.
    pub clock: Clock,
    /// Which claims pods have.
    pub claims: Claims,
    /// Asked what their volumes take.
    pub csi: Csi,
    /// Who has pulled which image, where that is written down.
    pub pulls: Option<Arc<PullRecords>>,
    /// The digest of the configuration of credential providers, if there is one.
    pub providers: Option<String>,
    /// `volumeStatsAggPeriod`: for how long what volumes take is true; none where nobody wants to know.
    pub volumes_every: Option<Duration>,
    /// Where the kernel tells of processes: `/proc`.
    pub proc: PathBuf,
    /// Where it tells of devices: `/sys`.
    pub sys: PathBuf,
}

impl StatsInputs {
    /// Where volumes are, and what counts some of them.
    fn volumes_on_disk(&self) -> (&PodDirs, Option<&Quotas>) {
        (&self.dirs, self.quotas.as_ref())
    }
}

/// Reads what is used. Shared by reference.
pub struct Stats {
    inputs: StatsInputs,
    roots: Roots,
    /// The agent's own cgroup, where it has one of its own.
    own: OnceLock<Option<String>>,
    rates: Mutex<Rates>,
    volumes: Mutex<VolumeCache>,
    claims: ClaimCache,
    turn: tokio::sync::Mutex<()>,
    sandbox_image: SandboxImage,
}

/// The reading did not come to an end.
#[derive(Debug, thiserror::Error)]
#[error("the reading of statistics was interrupted")]
pub struct StatsError(#[from] tokio::task::JoinError);

impl Stats {
    /// Reads by these means.
    #[must_use]
    pub fn new(inputs: StatsInputs) -> Arc<Self> {
        let roots = Roots::new(inputs.cgroups.version(), inputs.cgroups.mounts());
        Arc::new(Self {
            roots,
            inputs,
            own: OnceLock::new(),
            rates: Mutex::default(),
            volumes: Mutex::default(),
            claims: ClaimCache::default(),
            turn: tokio::sync::Mutex::default(),
            sandbox_image: SandboxImage::default(),
        })
    }

    /// The inputs, for whoever tells of pods besides.
    #[must_use]
    pub fn inputs(&self) -> &StatsInputs {
        &self.inputs
    }

    /// Reads the cgroups of the node and of its pods.
    ///
    /// # Errors
    /// When the thread that reads ends early.
    pub async fn read(self: &Arc<Self>, depth: Depth) -> Result<Readings, StatsError> {
        let _one_at_a_time = self.turn.lock().await;
        let this = self.clone();
        blocking(move || this.read_now(depth)).await
    }

    /// The answer to `/stats/summary`; `brief`: processor and memory only (`only_cpu_and_memory`).
    ///
    /// # Errors
    /// When the thread that reads ends early. What the runtime does not tell is left out.
    pub async fn summary(self: &Arc<Self>, brief: bool) -> Result<Summary, StatsError> {
        let (layers, images) = match brief {
            true => (Vec::new(), None),
            false => self.ask_runtime().await,
        };
        let claims = match brief {
            true => Arc::default(),
            false => self.claims().await,
        };
        let _one_at_a_time = self.turn.lock().await;
        let this = self.clone();
        blocking(move || {
            let depth = match brief {
                true => Depth::Pressure,
                false => Depth::Summary,
            };
            let readings = this.read_now(depth);
            match brief {
                true => this.assemble(&readings, None),
                false => {
                    let disks = Some((&*layers, images.as_ref()));
                    let mut summary = this.assemble(&readings, disks);
                    summary.add_claims(&readings, &claims);
                    summary
                }
            }
        })
        .await
    }

    /// The image that the runtime makes sandboxes of; empty where it does not tell.
    pub async fn sandbox_image(&self) -> Arc<str> {
        let inputs = &self.inputs;
        let now = inputs.clock.monotonic();
        self.sandbox_image.get(&inputs.runtime, now).await
    }

    /// What writable layers and images take, by the runtime.
    async fn ask_runtime(&self) -> (Vec<v1::ContainerStats>, Option<v1::ImageFsInfoResponse>) {
        let inputs = &self.inputs;
        let layers = inputs.runtime.list_container_stats(None);
        let images = inputs.images.image_fs_info();
        let layers = tokio::time::timeout(RUNTIME_PATIENCE, layers);
        let images = tokio::time::timeout(RUNTIME_PATIENCE, images);
        let (layers, images) = tokio::join!(layers, images);
        if !matches!((&layers, &images), (Ok(Ok(_)), Ok(Ok(_)))) {
            tracing::debug!("the runtime does not tell what writable layers and images take");
        }
        let layers = layers.ok().and_then(Result::ok).unwrap_or_default();
        (layers, images.ok().and_then(Result::ok))
    }

    /// The rate of each cgroup for which there was a reading before.
    fn lock_rates(&self) -> std::sync::MutexGuard<'_, Rates> {
        // A panic leaves the map whole.
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the volumes that the pod `uid` has by way of claims take; each with the claim's name. Blocks on the disk.
    pub(crate) fn claimed_volumes(&self, uid: &PodUid) -> Vec<VolumeUsage> {
        let inputs = &self.inputs;
        let Some(every) = inputs.volumes_every else {
            return Vec::new();
        };
        let now = (self.now(), inputs.clock.monotonic());
        let mut cache = self.lock_volumes();
        let volumes = cache
            .of_pod(inputs.volumes_on_disk(), uid, every, now)
            .iter();
        volumes.filter(|v| v.claim.is_some()).cloned().collect()
    }

    fn lock_volumes(&self) -> std::sync::MutexGuard<'_, VolumeCache> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.inputs.clock.wall()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StatsError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(StatsError::from)
}
