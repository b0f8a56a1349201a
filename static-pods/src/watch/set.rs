//! From files to one set: one pod a name, one a UID. Pure.

use std::collections::BTreeMap;

use super::ManifestSet;
use crate::manifest::{ManifestError, ManifestWarning, PodKey, Problem, StaticPod};

/// What one file contributes.
pub(super) struct Holding<'a> {
    pub(super) pods: &'a [StaticPod],
    pub(super) problems: &'a [ManifestError],
    pub(super) warnings: &'a [ManifestWarning],
}

/// Puts the pods of all files together, files in the order of their paths. Of two pods of one name, or one UID, the
/// later one counts, and the other is a problem until then.
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
                let pod = key.to_string();
                let problem = Problem::Duplicate {
                    pod,
                    winner: winner.clone(),
                };
                set.problems.push(lost(&loser, problem));
            }
            let same_uid = uids.insert(pod.uid().to_owned(), key.clone());
            if let Some(loser) = same_uid.and_then(|other| set.pods.remove(&other)) {
                let uid = pod.uid().to_owned();
                set.problems
                    .push(lost(&loser, Problem::SameUid { uid, winner }));
            }
            set.pods.insert(key, pod.clone());
        }
    }
    set
}

fn lost(loser: &StaticPod, problem: Problem) -> ManifestError {
    ManifestError {
        path: loser.path.clone(),
        at: loser.at,
        problem,
    }
}
