//! From files to one set: one pod a name, one a UID, one object a kind and name. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::ManifestSet;
use crate::manifest::{ManifestError, ManifestWarning, PodKey, Problem, StaticPod};
use crate::object::LocalObject;
use crate::tree::Position;

/// What one file contributes.
pub(super) struct Holding<'a> {
    pub(super) pods: &'a [StaticPod],
    pub(super) objects: &'a [Arc<LocalObject>],
    pub(super) problems: &'a [ManifestError],
    pub(super) warnings: &'a [ManifestWarning],
}

/// Puts the pods and objects of all files together, files in the order of their paths. Of two of one name, or two pods of one
/// UID, the later one counts, and the other is a problem until then.
pub(super) fn merge<'a>(files: impl Iterator<Item = Holding<'a>>) -> ManifestSet {
    let mut set = ManifestSet::default();
    let mut uids: BTreeMap<String, PodKey> = BTreeMap::new();
    for file in files {
        set.problems.extend(file.problems.iter().cloned());
        set.warnings.extend(file.warnings.iter().cloned());
        for pod in file.pods {
            let key = pod.key();
            let winner = format!("{}:{}", pod.path.display(), pod.at);
            if let Some(loser) = set.pods.remove(&key) {
                uids.remove(loser.uid());
                let problem = Problem::Duplicate {
                    what: format!("pod {key}"),
                    winner: winner.clone(),
                };
                set.problems.push(lost(&loser.path, loser.at, problem));
            }
            let same_uid = uids.insert(pod.uid().to_owned(), key.clone());
            if let Some(loser) = same_uid.and_then(|other| set.pods.remove(&other)) {
                let uid = pod.uid().to_owned();
                let problem = Problem::SameUid { uid, winner };
                set.problems.push(lost(&loser.path, loser.at, problem));
            }
            set.pods.insert(key, pod.clone());
        }
        for object in file.objects {
            let key = object.key.clone();
            if let Some(loser) = set.objects.insert(key, object.clone()) {
                let problem = Problem::Duplicate {
                    what: object.key.to_string(),
                    winner: format!("{}:{}", object.path.display(), object.at),
                };
                set.problems.push(lost(&loser.path, loser.at, problem));
            }
        }
    }
    set
}

fn lost(path: &Arc<Path>, at: Position, problem: Problem) -> ManifestError {
    ManifestError {
        path: path.clone(),
        at,
        problem,
    }
}
