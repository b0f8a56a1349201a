//! Pods that are replaced when an object changes that they refer to: their UID changes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{ManifestSet, ObjectMemory};
use crate::identity::{self, NodeName};
use crate::manifest::{PodKey, StaticPod};

/// What each such pod was last, so that the same pod stays the same allocation.
#[derive(Default)]
pub(super) struct Following {
    pub(super) memory: Option<Box<dyn ObjectMemory>>,
    made: BTreeMap<PodKey, Made>,
}

struct Made {
    /// The pod as its file has it.
    of: Arc<Pod>,
    pod: Arc<Pod>,
}

impl Following {
    /// Gives the pods of `set` that ask for it a UID that goes by the objects; `seen` says when a UID was first seen.
    pub(super) fn identify(&mut self, set: &mut ManifestSet, seen: &mut dyn FnMut(&str) -> String) {
        let Some(memory) = &mut self.memory else {
            return;
        };
        let mut made = BTreeMap::new();
        for (key, pod) in set.pods.iter_mut().filter(|(_, pod)| pod.follows) {
            let version = memory.version(&pod.pod, &set.objects);
            let uid = identity::versioned_uid(pod.uid(), version);
            let before = self.made.remove(key).filter(|before| {
                let same = before.pod.metadata.uid.as_deref() == Some(&uid);
                same && Arc::ptr_eq(&before.of, &pod.pod)
            });
            let now = before.unwrap_or_else(|| {
                let mut new = Pod::clone(&pod.pod);
                identity::set_uid(&mut new, &uid);
                identity::set_seen(&mut new, &seen(&uid));
                Made {
                    of: Arc::clone(&pod.pod),
                    pod: Arc::new(new),
                }
            });
            pod.pod = Arc::clone(&now.pod);
            made.insert(key.clone(), now);
        }
        self.made = made;
    }

    /// Has those pods of `set` remembered that refer to objects.
    pub(super) fn remember(&mut self, set: &ManifestSet, node: &NodeName) {
        let Some(memory) = &mut self.memory else {
            return;
        };
        let suffix = format!("-{}", node.as_str().to_lowercase());
        let as_written = |pod: &StaticPod| {
            let key = pod.key();
            let name = key.name.strip_suffix(&suffix).unwrap_or(&key.name);
            (key.namespace.to_string(), name.to_owned())
        };
        let users = set.pods.values().filter(|pod| pod.refers);
        let users: BTreeSet<_> = users.map(as_written).collect();
        memory.users(users);
    }
}
