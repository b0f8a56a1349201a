//! The file source: static pods from a directory or one file, and the objects that they refer to.

use std::collections::BTreeMap;
use std::sync::Arc;

use static_pods::watch::ManifestSet;
use tokio::sync::watch;

use super::Desired;
use crate::objects::LocalObjects;
use crate::pod::PodUid;

/// Turns each set of manifests into the desired pods, and what they may refer to: that first, so that no pod finds what
/// was before it. Ends when the watch on the directory does.
pub async fn run_file_source(
    mut manifests: watch::Receiver<Arc<ManifestSet>>,
    objects: watch::Sender<Arc<LocalObjects>>,
    desired: watch::Sender<Arc<Desired>>,
) {
    loop {
        let set = manifests.borrow_and_update().clone();
        objects.send_replace(Arc::new(LocalObjects::of(&set)));
        desired.send_replace(Arc::new(desired_of(&set)));
        if manifests.changed().await.is_err() {
            return;
        }
    }
}

/// A UID names a directory, so one that cannot is refused here for good; `static-pods` has refused it before.
fn desired_of(set: &ManifestSet) -> Desired {
    let mut pods = BTreeMap::new();
    for entry in set.pods.values() {
        match PodUid::of(&entry.pod) {
            Ok(uid) => {
                pods.insert(uid, entry.pod.clone());
            }
            Err(error) => tracing::error!(path = %entry.path.display(), %error, "pod is ignored"),
        }
    }
    Desired {
        pods,
        ready: set.ready,
    }
}
