//! What the volumes of pods take. A walk through all of their files each, so it is kept for a while.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::disk::{self, FileSystem, Taken};
use crate::claims;
use crate::csi::{self, Amount, PLUGIN_DIR};
use crate::dir::Dir;
use crate::pod::PodUid;
use crate::poddir::{PodDirs, VOLUMES};
use crate::quotas::{Quotas, Usage};

/// Kinds whose volumes lie on the node's own disk and count as ephemeral storage.
const ON_DISK: [&str; 2] = ["kubernetes.io~empty-dir", "kubernetes.io~configmap"];
/// The kind whose volumes are mounted from elsewhere on the node: what is taken is what their file system says, as upstream
/// has it, and nobody walks through them.
const LOCAL: &str = "kubernetes.io~local-volume";
/// The kind whose volumes are on a server: asking it may take as long as it is away, so nobody does.
const NFS: &str = "kubernetes.io~nfs";
/// `statfs` magic of tmpfs (`TMPFS_MAGIC`, linux/magic.h).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// What a volume takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    /// The volume's name in the pod's spec.
    pub name: String,
    /// The directory of its kind: `kubernetes.io~empty-dir`.
    pub plugin: String,
    /// When it was looked at.
    pub at: Timestamp,
    /// The file system it lies on.
    pub file_system: FileSystem,
    /// What it takes.
    pub taken: Taken,
    /// The claim that it is a pod's by, in the pod's namespace.
    pub claim: Option<String>,
    /// Whether it takes of the node's disk, for as long as the pod lives.
    pub ephemeral: bool,
}

impl VolumeUsage {
    /// The same as drivers tell of theirs.
    #[must_use]
    pub fn usage(&self) -> csi::Usage {
        let of = &self.file_system;
        csi::Usage {
            bytes: Amount {
                capacity: of.capacity,
                used: self.taken.bytes,
                available: of.available,
            },
            inodes: Amount {
                capacity: of.inodes,
                used: self.taken.inodes,
                available: of.inodes_free,
            },
            condition: None,
        }
    }
}

/// What was found, by pod, and since when.
#[derive(Debug, Default)]
pub(super) struct VolumeCache(HashMap<PodUid, (Duration, Vec<VolumeUsage>)>);

impl VolumeCache {
    /// What the volumes of the pod take, looked at anew where that was `every` ago. Blocks on the disk.
    pub(super) fn of_pod(
        &mut self,
        (dirs, quotas): (&PodDirs, Option<&Quotas>),
        uid: &PodUid,
        every: Duration,
        (at, now): (Timestamp, Duration),
    ) -> &[VolumeUsage] {
        let fresh = |(seen, _): &(Duration, Vec<VolumeUsage>)| now.saturating_sub(*seen) < every;
        if !self.0.get(uid).is_some_and(fresh) {
            let found = look(dirs, quotas, uid, at).unwrap_or_default();
            self.0.insert(uid.clone(), (now, found));
        }
        self.0.get(uid).map_or(&[], |(_, found)| found)
    }

    /// Forgets pods that are gone.
    pub(super) fn keep(&mut self, stays: impl Fn(&PodUid) -> bool) {
        self.0.retain(|uid, _| stays(uid));
    }
}

fn look(
    dirs: &PodDirs,
    quotas: Option<&Quotas>,
    uid: &PodUid,
    at: Timestamp,
) -> Option<Vec<VolumeUsage>> {
    let pod = dirs.get(uid).ok()??;
    let volumes = pod.dir().child(VOLUMES).ok()??;
    let claims = claims::of_pod(&pod);
    let mut found = Vec::new();
    // What drivers have mounted, they tell of.
    let kinds = volumes.subdirectories().ok()?;
    for plugin in kinds.into_iter().filter(|kind| kind != PLUGIN_DIR) {
        let Some(kind) = volumes.child(&plugin).ok().flatten() else {
            continue;
        };
        if plugin == NFS {
            continue;
        }
        for name in kind.subdirectories().unwrap_or_default() {
            let of_claim = claims
                .iter()
                .find(|claimed| plugin == LOCAL && claimed.volume.metadata.name == name);
            if let Some(mut usage) = volume(&kind, &plugin, name, quotas, at) {
                if let Some(claimed) = of_claim {
                    usage.name.clone_from(&claimed.name);
                    usage.claim = Some(claimed.claim.clone());
                }
                found.push(usage);
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Some(found)
}

fn volume(
    kind: &Dir,
    plugin: &str,
    name: String,
    quotas: Option<&Quotas>,
    at: Timestamp,
) -> Option<VolumeUsage> {
    let dir = kind.child_or_mount(&name).ok()??;
    let in_memory = rustix::fs::statfs(dir.path())
        .is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|magic| magic == TMPFS_MAGIC));
    let file_system = FileSystem::of(dir.path())?;
    let taken = match plugin {
        LOCAL => file_system.taken(),
        _ => match quotas.and_then(|quotas| quotas.usage(&dir)) {
            Some(Usage { bytes, inodes }) => Taken { bytes, inodes },
            None => disk::of_tree(&dir)?,
        },
    };
    Some(VolumeUsage {
        at,
        file_system,
        taken,
        claim: None,
        ephemeral: ON_DISK.contains(&plugin) && !in_memory,
        plugin: plugin.to_owned(),
        name,
    })
}
