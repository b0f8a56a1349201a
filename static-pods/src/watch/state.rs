//! What is known of one manifest file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::set;
use crate::manifest::{ManifestError, ManifestWarning, Problem, StaticPod};
use crate::object::LocalObject;
use crate::tree::Position;

/// What one file held when it was last read.
#[derive(Default)]
pub(super) struct FileState {
    /// The version read; `None` before the first.
    pub(super) identity: Option<Identity>,
    /// A newer version that may still be being written, and since when it has been as it is.
    pub(super) fresh: Option<(Identity, Instant)>,
    pub(super) held: Held,
    pub(super) problems: Vec<ManifestError>,
    pub(super) warnings: Vec<ManifestWarning>,
}

impl FileState {
    pub(super) fn holding(&self) -> set::Holding<'_> {
        set::Holding {
            pods: &self.held.pods,
            objects: &self.held.objects,
            problems: &self.problems,
            warnings: &self.warnings,
        }
    }
}

/// One version of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// How long ago the file last changed in any way; nothing when that is in the future.
    pub(super) fn age(&self, wall: SystemTime) -> Option<Duration> {
        let (seconds, nanos) = self.modified.max(self.changed);
        let since_epoch = Duration::new(seconds.try_into().ok()?, nanos.try_into().ok()?);
        wall.duration_since(UNIX_EPOCH)
            .ok()?
            .checked_sub(since_epoch)
    }
}

/// The pods and objects of one file.
#[derive(Default)]
pub(super) struct Held {
    pub(super) pods: Vec<StaticPod>,
    pub(super) objects: Vec<Arc<LocalObject>>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.objects.is_empty()
    }

    /// What is in `before`, and not in this, joins it: any of that may be what is broken now.
    pub(super) fn keep(&mut self, before: &Self) {
        let pods = before.pods.iter();
        let pods = pods.filter(|old| !self.pods.iter().any(|pod| pod.key() == old.key()));
        let pods: Vec<_> = pods.cloned().collect();
        self.pods.extend(pods);
        let objects = before.objects.iter();
        let objects = objects.filter(|old| !self.objects.iter().any(|new| new.key == old.key));
        let objects: Vec<_> = objects.cloned().collect();
        self.objects.extend(objects);
    }

    /// What is as it was in `before` is the same allocation, and the receivers see that nothing changed.
    pub(super) fn share(&mut self, before: &Self) {
        for pod in &mut self.pods {
            if let Some(old) = before.pods.iter().find(|old| old.pod == pod.pod) {
                pod.pod = Arc::clone(&old.pod);
            }
        }
        for object in &mut self.objects {
            if let Some(old) = before.objects.iter().find(|old| *old == object) {
                *object = Arc::clone(old);
            }
        }
    }

    /// Takes those objects out that would change one of `before` which never changes, and says why.
    pub(super) fn without_broken_promises(&mut self, before: &Self) -> Vec<(Position, Problem)> {
        let mut problems = Vec::new();
        self.objects.retain(|new| {
            let old = before.objects.iter().find(|old| old.key == new.key);
            let field = old.and_then(|old| old.content.refuses(&new.content));
            if let Some(field) = field {
                let object = new.key.to_string();
                problems.push((new.at, Problem::Immutable { field, object }));
            }
            field.is_none()
        });
        problems
    }
}
