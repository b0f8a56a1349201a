//! Volumes of storage drivers (CSI): those that live as long as their pod, and those of PersistentVolumes.
//!
//! Owns: which drivers are there (`drivers`), what is published to pods (`pods/<uid>/volumes/kubernetes.io~csi` and
//! `volumeDevices`), what is staged for the node (`plugins/kubernetes.io/csi`), the node's CSINode and what else the API
//! server learns of the node's drivers (`node_info`), `status.volumesInUse`.
//! Inputs: plugins that register (`plugins/` hears them), pods and their PersistentVolumes, CSIDrivers, secrets, tokens and
//! VolumeAttachments of the API server. Outputs: where volumes lie; calls to drivers; words why one does not come.
//! Tasks: one for the agent that gives back staged volumes which nobody uses ([`Csi::run_sweeps`]); on a joined node one
//! that talks to the API server ([`Csi::run`]); one for each set-up or teardown under way, which goes on until the driver
//! has answered or its time is over, whoever waits: a volume is never mounted and unmounted at a time.
//!
//! What is where is read from the disk (`vol_data.json` beside each mount, upstream's file), so that neither a restart of
//! the agent nor a spec that is gone keeps a volume. Nothing here unmounts: drivers do, and what one leaves mounted stays.
//! Deliberately not here: resolving claims, attaching (the controller does), and mounting into containers.

mod block;
mod call;
mod cluster;
mod data;
mod drivers;
mod error;
mod expand;
mod in_use;
mod locks;
mod names;
mod node_info;
mod object;
mod places;
mod republish;
mod selinux;
mod set_up;
mod tear_down;
mod usage;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::node::OwnNode;
use crate::pod::{self, Pod, PodUid};
use crate::poddir::PodDirs;

pub use data::Lifecycle;
pub use drivers::Registration;
use drivers::{Driver, Registry};
pub use error::{CallError, CsiError, CsiFailure, Operation};
use in_use::InUse;
use locks::Locks;
pub(crate) use names::PLUGIN_DIR;
use node_info::Published;
use object::DriverObjects;
pub(crate) use selinux::file_context;
pub use set_up::CsiMounted;
pub use usage::{Amount, Condition, Usage};
pub use volume::{CsiVolume, SecretRef};

/// Settings of this room.
#[derive(Clone, Debug, Default)]
pub struct CsiConfig {
    /// The agent's directory.
    pub root: PathBuf,
    /// The node's name.
    pub node: String,
    /// Which boot this is; empty where nobody knows, and then nothing counts as mounted before.
    pub boot: String,
    /// Whether there is an API server.
    pub joins: bool,
    /// `enableControllerAttachDetach`.
    pub controller_attaches: bool,
    /// How often volumes are published again whose drivers want that.
    pub republish_every: Duration,
    /// The SELinux context of containers' files; none where SELinux is off.
    pub file_context: Option<String>,
    /// Whether drivers are asked how their volumes are (`CSIVolumeHealth`).
    pub asks_condition: bool,
}

/// The connection to the API server.
#[derive(Clone)]
struct Link {
    client: kube::Client,
    own: watch::Receiver<OwnNode>,
}

/// Volumes of drivers. Cheap to clone; clones share all of it.
#[derive(Clone)]
pub struct Csi(Arc<Inner>);

/// What clones share.
pub struct Inner {
    root: PathBuf,
    node: String,
    boot: String,
    joins: bool,
    controller_attaches: bool,
    republish_every: Duration,
    file_context: Option<String>,
    asks_condition: bool,
    dirs: PodDirs,
    drivers: Arc<Registry>,
    objects: DriverObjects,
    /// What the API server was told of the drivers.
    published: watch::Sender<Published>,
    /// None until the node has joined.
    link: watch::Sender<Option<Link>>,
    /// Whether the node's CSINode is there.
    initialized: watch::Sender<bool>,
    /// Goes up whenever a volume that did not come may come now.
    news: watch::Sender<u64>,
    /// Attachable volumes that are, or are about to be, in use.
    in_use: InUse,
    /// Held while volumes of a pod are set up or torn down.
    pods: Locks<PodUid>,
    /// Held while a volume is staged or unstaged, and while who uses it is counted: by driver and handle.
    staging: Locks<(String, String)>,
    /// A staged volume that nobody uses could not be given back.
    left_staged: Notify,
}

impl std::ops::Deref for Csi {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl std::fmt::Debug for Csi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Csi").finish_non_exhaustive()
    }
}

impl Csi {
    /// With the pods' directories in `dirs`; no driver has registered yet.
    #[must_use]
    pub fn new(config: CsiConfig, dirs: PodDirs) -> Self {
        let csi = Self(Arc::new(Inner {
            root: config.root,
            node: config.node,
            boot: config.boot,
            joins: config.joins,
            controller_attaches: config.controller_attaches,
            republish_every: config.republish_every,
            file_context: config.file_context,
            asks_condition: config.asks_condition,
            dirs,
            drivers: Arc::default(),
            objects: DriverObjects::default(),
            published: watch::Sender::default(),
            link: watch::Sender::default(),
            initialized: watch::Sender::default(),
            news: watch::Sender::default(),
            in_use: InUse::default(),
            pods: Locks::default(),
            staging: Locks::default(),
            left_staged: Notify::new(),
        }));
        csi.find_in_use();
        csi
    }

    /// Talks to the API server by `client` from now on; `own` is the node as that has it. Never ends.
    pub async fn run(self, client: kube::Client, own: watch::Receiver<OwnNode>) {
        let link = Link {
            client: client.clone(),
            own: own.clone(),
        };
        self.link.send_replace(Some(link));
        tokio::join!(
            self.objects.run(client.clone()),
            self.run_node_info(client, own.clone()),
            self.tell_news(own),
        );
    }

    /// Says so when something has changed that a volume may have failed for.
    async fn tell_news(&self, mut own: watch::Receiver<OwnNode>) {
        let mut drivers = self.drivers.subscribe();
        let mut objects = self.objects.changes();
        let volumes = |own: &OwnNode| match own {
            OwnNode::There(node) => {
                let status = &node.status;
                Some((
                    status.volumes_in_use.clone(),
                    status.volumes_attached.clone(),
                ))
            }
            OwnNode::Unknown | OwnNode::Absent => None,
        };
        let mut before = None;
        loop {
            // Cancel-safe: all are states.
            let ended = tokio::select! {
                changed = drivers.changed() => changed.is_err(),
                changed = objects.changed() => changed.is_err(),
                changed = own.changed() => {
                    let now = volumes(&own.borrow_and_update());
                    if now == before && changed.is_ok() {
                        continue;
                    }
                    before = now;
                    changed.is_err()
                }
            };
            if ended {
                // The senders are in `self` or gone with the process.
                return std::future::pending().await;
            }
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// The driver called `name`.
    ///
    /// # Errors
    /// When it is not registered, `doing` being what it is wanted for.
    fn driver(&self, name: &str, doing: &'static str) -> Result<Driver, CsiError> {
        self.drivers.get(name).ok_or_else(|| CsiError::NoDriver {
            doing,
            driver: name.to_owned(),
        })
    }

    /// Whether the node's CSINode is there; always on a node without an API server.
    #[must_use]
    pub fn initialized(&self) -> watch::Receiver<bool> {
        self.initialized.subscribe()
    }

    /// Attachable volumes that are in use, or about to be.
    #[must_use]
    pub fn in_use(&self) -> watch::Receiver<BTreeSet<String>> {
        self.in_use.subscribe()
    }

    /// News whenever a volume that did not come may come now.
    #[must_use]
    pub fn changes(&self) -> CsiChanges {
        CsiChanges(self.news.subscribe())
    }

    /// Waits until the drivers are others than now.
    pub async fn drivers_changed(&self) {
        let mut drivers = self.drivers.subscribe();
        drivers.mark_unchanged();
        if drivers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Says when it is worth trying again.
#[derive(Debug)]
pub struct CsiChanges(watch::Receiver<u64>);

impl CsiChanges {
    /// What is known now is no news.
    pub fn mark_seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits for news. Never ends for a `pod` without a volume of a driver. Cancel-safe.
    pub async fn changed_for(&mut self, pod: &Pod) {
        if !may_use_driver(pod) || self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether a volume of `pod` may be a driver's.
pub(crate) fn may_use_driver(pod: &Pod) -> bool {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    volumes.into_iter().any(|volume| {
        volume.csi.is_some()
            || volume.persistent_volume_claim.is_some()
            || volume.ephemeral.is_some()
    })
}

/// The volumes of `pod` that live as long as it does.
pub(crate) fn of_pod(pod: &Pod, uid: &PodUid) -> impl Iterator<Item = CsiVolume> {
    let volumes = pod::spec(pod).volumes.iter().flatten();
    volumes.filter_map(move |volume| CsiVolume::of_pod(volume, pod, uid))
}

/// `from` and what `more` has besides; `more` counts.
fn merged(
    mut from: BTreeMap<String, String>,
    more: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    from.extend(more);
    from
}
