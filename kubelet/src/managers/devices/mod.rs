//! Devices that plugins offer to containers (device plugins, `v1beta1`).
//!
//! Owns: `<root>/device-plugins`: the socket that plugins register at (`registration`), and the checkpoint of who has what
//! (`checkpoint`, in upstream's form); the devices that there are, and who has or was promised which (`inventory`, pure;
//! `choice`, pure: which ones a container gets; `hints`, pure: from which NUMA nodes they could come).
//! Inputs: plugins that register, by that socket or in `plugins_registry`, their lists of devices; pods that are admitted,
//! that are gone.
//! Outputs: how many devices the node reports ([`Devices::counts`]); refusals; what containers are made with
//! ([`DeviceGrants`]); the health of what pods have ([`Devices::health`]); who has what, for `PodResources`.
//! Tasks: one for the agent ([`run_devices`]), which waits for connections and new plugins; below it one a connection, and
//! one a plugin, which waits for its next list.
//! Does not: hold a lock while a plugin is asked, or have anybody wait for a plugin but the pods that want its devices.
//!
//! Source: the Kubernetes document "Device Plugins", and upstream's `pkg/kubelet/cm/devicemanager`.

mod allocate;
mod checkpoint;
mod choice;
mod given;
mod hints;
mod holdings;
mod inventory;
mod plugin;
mod provider;
mod registration;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use static_pods::fnv::Fnv64;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::dir::{Dir, DirError};
use crate::errors::error_chain;
use crate::pod::{Pod, PodUid};
use checkpoint::{COPY, Kept, Loaded, NAME, SET_ASIDE};
use inventory::Inventory;
use plugin::Plugin;

pub use allocate::DeviceError;
pub use given::DeviceGrants;
pub use inventory::DeviceCounts;
pub use registration::{DevicePluginRegistration, run_devices};

/// In the root directory.
const DIRECTORY: &str = "device-plugins";
/// Mode of that directory.
const PRIVATE: u32 = 0o750;
/// A file in it that says, as upstream leaves it, that a kubelet was here.
const MARK: &str = "DEPRECATION";

/// The devices of the node. Clones are the same.
#[derive(Clone)]
pub struct Devices(Arc<Inner>);

struct Inner {
    dir: Dir,
    clock: Clock,
    inventory: Mutex<Inventory>,
    /// What was written last, as a hash. Held while the file is written, so that an older content never follows a newer one.
    written: Mutex<Option<u64>>,
    /// No agent was here before.
    is_new: bool,
    /// Goes up when there are other devices than before, or their health is another.
    news: watch::Sender<u64>,
    /// Plugins whose lists are to be followed.
    joining: mpsc::UnboundedSender<Arc<Plugin>>,
    /// The other end, until somebody follows.
    joined: Mutex<Option<mpsc::UnboundedReceiver<Arc<Plugin>>>>,
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

/// What `mutex` guards. What a panic left half done is at worst a device that is given back with its pod.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Devices {
    /// Takes over what an earlier agent left in `<root>/device-plugins`. A checkpoint that is not as it was written is
    /// moved aside and named in the log, and its copy counts.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: &Path, clock: Clock) -> Result<Self, DirError> {
        let dir = Dir::open_or_create(&root.join(DIRECTORY), PRIVATE)?;
        let is_new = dir.names()?.iter().all(|name| name.starts_with('.'));
        dir.ensure_file(MARK, 0o644)?;
        let mut healed = false;
        let kept = match checkpoint::load(&dir, NAME) {
            Loaded::Missing => Kept::default(),
            Loaded::Good(kept) => kept,
            Loaded::Bad { why, salvaged } => {
                healed = true;
                let moved = dir.rename(NAME, SET_ASIDE);
                if let Err(error) = &moved {
                    tracing::warn!(
                        error = error_chain(error),
                        "cannot set aside the checkpoint of devices"
                    );
                }
                let (kept, from) = match checkpoint::load(&dir, COPY) {
                    Loaded::Good(copy) => (copy, "its copy counts"),
                    Loaded::Missing | Loaded::Bad { .. } => {
                        (salvaged, "what can be read of it counts")
                    }
                };
                tracing::warn!(
                    reason = "CheckpointUnusable",
                    path = %dir.path_of(NAME).display(),
                    set_aside = %dir.path_of(SET_ASIDE).display(),
                    pods = kept.holdings.pods().count(),
                    "the checkpoint of devices is set aside, and {from}: {}",
                    error_chain(&why)
                );
                kept
            }
        };
        let (joining, joined) = mpsc::unbounded_channel();
        let inventory = Inventory::new(kept, clock.monotonic());
        let devices = Self(Arc::new(Inner {
            dir,
            clock,
            inventory: Mutex::new(inventory),
            written: Mutex::default(),
            is_new,
            news: watch::Sender::default(),
            joining,
            joined: Mutex::new(Some(joined)),
        }));
        if healed {
            devices.save_or_say();
        }
        Ok(devices)
    }

    /// Goes up when there are other devices than before, or their health is another.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.0.news.subscribe()
    }

    /// Whether the node was made anew, so that what the API server has of its devices is of another (upstream's
    /// `ShouldResetExtendedResourceCapacity`).
    #[must_use]
    pub fn are_of_a_new_node(&self) -> bool {
        self.0.is_new
    }

    /// What the node reports now.
    #[must_use]
    pub fn counts(&self) -> DeviceCounts {
        let now = self.0.clock.monotonic();
        let (counts, forgotten) = self.inventory().counts(now);
        if forgotten {
            self.save_or_say();
        }
        counts
    }

    /// The resources that plugins offer, or offered.
    #[must_use]
    pub fn resources(&self) -> BTreeSet<String> {
        self.inventory().known()
    }

    /// Whether a container of `pod` asks for devices that a plugin offers, or offered.
    #[must_use]
    pub fn are_asked_by(&self, pod: &Pod) -> bool {
        self.inventory().is_asked_by(pod)
    }

    /// Pods whose devices have another health than when this was last asked.
    #[must_use]
    pub fn take_changed(&self) -> BTreeSet<PodUid> {
        let changed = self.inventory().take_changed();
        changed
            .iter()
            .filter_map(|uid| PodUid::parse(uid).ok())
            .collect()
    }

    /// The health of each device that a container has: resource, then id and whether it works.
    #[must_use]
    pub fn health(&self, uid: &PodUid, container: &str) -> Vec<(String, Vec<(String, bool)>)> {
        let inventory = self.inventory();
        let held = inventory.holdings.of(uid.as_str(), container);
        let of_resource = |(name, held): (&String, &holdings::Holding)| {
            let ids = held.devices.ids().into_iter().map(|id| {
                let works = inventory.is_healthy(name, &id);
                (id, works)
            });
            (name.clone(), ids.collect())
        };
        held.into_iter().flatten().map(of_resource).collect()
    }

    /// What a container was given: resource, id, and NUMA nodes.
    #[must_use]
    pub fn of_container(&self, uid: &PodUid, container: &str) -> Vec<GivenDevice> {
        let inventory = self.inventory();
        let held = inventory.holdings.of(uid.as_str(), container);
        let of_resource = |(resource, held): (&String, &holdings::Holding)| {
            let nodes = held.devices.nodes().into_iter();
            let devices = nodes.map(|(id, nodes)| GivenDevice {
                resource: resource.clone(),
                id: id.to_owned(),
                nodes: (!nodes.is_empty()).then_some(nodes),
            });
            devices.collect::<Vec<_>>()
        };
        held.into_iter().flatten().flat_map(of_resource).collect()
    }

    /// The devices that can be given, or are.
    #[must_use]
    pub fn allocatable(&self) -> Vec<GivenDevice> {
        let inventory = self.inventory();
        let all = inventory.allocatable();
        let device = |(resource, id, nodes): (&str, &str, Option<&[i64]>)| GivenDevice {
            resource: resource.to_owned(),
            id: id.to_owned(),
            nodes: nodes.map(<[i64]>::to_vec),
        };
        all.map(device).collect()
    }

    /// What `container` of the pod is made with.
    #[must_use]
    pub fn grants(&self, uid: &PodUid, container: &str) -> DeviceGrants {
        let inventory = self.inventory();
        let held = inventory.holdings.of(uid.as_str(), container);
        held.map(DeviceGrants::of).unwrap_or_default()
    }

    fn inventory(&self) -> MutexGuard<'_, Inventory> {
        locked(&self.0.inventory)
    }

    fn tell(&self) {
        self.0.news.send_modify(|count| *count += 1);
    }

    /// Writes down who has what, where that has changed.
    fn save(&self) -> Result<(), DirError> {
        let mut written = locked(&self.0.written);
        let kept = self.inventory().kept();
        let bytes = checkpoint::encode(&self.0.dir, &kept)?;
        let hash = Fnv64::of(&bytes);
        if *written == Some(hash) {
            return Ok(());
        }
        *written = None;
        checkpoint::store(&self.0.dir, &bytes)?;
        *written = Some(hash);
        Ok(())
    }

    fn save_or_say(&self) {
        if let Err(error) = self.save() {
            tracing::error!(
                error = error_chain(&error),
                "cannot write down who has which devices; the next change tries again"
            );
        }
    }
}

/// A device that was given, or can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenDevice {
    /// Its resource.
    pub resource: String,
    /// Its id, by its plugin.
    pub id: String,
    /// Its NUMA nodes; none where the plugin does not say where it is.
    pub nodes: Option<Vec<i64>>,
}
