//! Which volumes there are, for whoever counts them.

use k8s_openapi::api::core::v1::Volume;

use super::contents::Written;
use super::{Kind, empty_dir, kind, nfs};
use crate::csi::PLUGIN_DIR;
use crate::pod::PodUid;
use crate::poddir::{PodDirs, VOLUMES};

/// hostPath has no directory of its own.
pub(super) const HOST_PATH: &str = "kubernetes.io~host-path";
/// Nor has an image, which the runtime mounts.
const IMAGE: &str = "kubernetes.io~image";

/// What upstream calls the kind of `volume`: `kubernetes.io/empty-dir`; none for one that is not built.
#[must_use]
pub(crate) fn plugin(volume: &Volume) -> Option<String> {
    let directory = match kind(volume) {
        Kind::EmptyDir => empty_dir::PLUGIN,
        Kind::HostPath(_) => HOST_PATH,
        Kind::Nfs(_) => nfs::PLUGIN,
        Kind::Written(Written { plugin, .. }) => plugin,
        Kind::Image => IMAGE,
        Kind::Driver => PLUGIN_DIR,
        // What stands behind a claim says that.
        Kind::Claim | Kind::Other => return None,
    };
    Some(qualified(directory))
}

/// How many volumes of each kind the pod `uid` has on the node, under the kinds' names.
#[must_use]
pub(crate) fn present(dirs: &PodDirs, uid: &PodUid) -> Vec<(String, usize)> {
    let Ok(Some(pod)) = dirs.get(uid) else {
        return Vec::new();
    };
    let Ok(Some(volumes)) = pod.dir().child(VOLUMES) else {
        return Vec::new();
    };
    let kinds = volumes.subdirectories().unwrap_or_default();
    let counted = kinds.iter().filter_map(|plugin| {
        let names = volumes.child(plugin).ok()??.subdirectories().ok()?;
        Some((qualified(plugin), names.len()))
    });
    counted.collect()
}

/// A kind's name from that of its directory.
pub(super) fn qualified(directory: &str) -> String {
    directory.replace('~', "/")
}
