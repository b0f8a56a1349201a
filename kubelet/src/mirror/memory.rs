//! What this room did, for as long as the watch of the API server's pods does not show it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pod::{PodName, PodUid};
use crate::sources::{ApiPods, MirrorPod};

/// A mirror that was created and does not show in the watch for this long is created again; it is there then, and the
/// API server says so.
const TRUSTED_FOR: Duration = Duration::from_secs(60);

/// By name of the pod.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: BTreeMap<PodName, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The UID of the mirror that was deleted last, while the watch may still have it, and when that was.
    deleted: Option<(PodUid, Duration)>,
    /// The mirror that is there by the API server's word, while the watch does not have it, and since when.
    found: Option<(MirrorPod, Duration)>,
}

impl Entry {
    fn has_deleted(&self, uid: &PodUid) -> bool {
        self.deleted
            .as_ref()
            .is_some_and(|(deleted, _)| deleted == uid)
    }
}

impl Memory {
    /// The mirror called `name`: what `api` has, but for what is known better.
    pub(super) fn mirror<'a>(
        &'a self,
        name: &PodName,
        api: &'a ApiPods,
        now: Duration,
    ) -> Option<&'a MirrorPod> {
        let entry = self.entries.get(name);
        let is_deleted = |uid: &PodUid| entry.is_some_and(|entry| entry.has_deleted(uid));
        let shown = api.mirrors.get(name).filter(|m| !is_deleted(&m.uid));
        let found = || {
            let (mirror, at) = entry?.found.as_ref()?;
            (now.saturating_sub(*at) < TRUSTED_FOR && !is_deleted(&mirror.uid)).then_some(mirror)
        };
        shown.or_else(found)
    }

    /// How long until something that was found is doubted; none where nothing waits to be shown.
    pub(super) fn expires_in(&self, now: Duration) -> Option<Duration> {
        let found = self
            .entries
            .values()
            .filter_map(|entry| entry.found.as_ref());
        let left = found.map(|(_, at)| TRUSTED_FOR.saturating_sub(now.saturating_sub(*at)));
        left.min()
    }

    /// Forgets what `api` shows by now, or has overtaken.
    pub(super) fn see(&mut self, api: &ApiPods, now: Duration) {
        self.entries.retain(|name, entry| {
            let shown = api.mirrors.get(name).map(|mirror| &mirror.uid);
            // Once shown it is the watch's to say whether it is still there.
            entry.found.take_if(|(mirror, at)| {
                shown == Some(&mirror.uid) || now.saturating_sub(*at) >= TRUSTED_FOR
            });
            entry
                .deleted
                .take_if(|(uid, at)| shown != Some(uid) && now.saturating_sub(*at) >= TRUSTED_FOR);
            entry.found.is_some() || entry.deleted.is_some()
        });
    }

    /// The API server says that this is the mirror called `name`. False when it is the one that was deleted: somebody's
    /// finalizer holds it.
    pub(super) fn found(&mut self, name: PodName, mirror: MirrorPod, now: Duration) -> bool {
        let entry = self.entries.entry(name).or_default();
        if entry.has_deleted(&mirror.uid) {
            return false;
        }
        entry.found = Some((mirror, now));
        true
    }

    /// The mirror called `name` that had `uid` is gone, whatever the watch has.
    pub(super) fn gone(&mut self, name: PodName, uid: PodUid, now: Duration) {
        let entry = self.entries.entry(name).or_default();
        entry.found.take_if(|(mirror, _)| mirror.uid == uid);
        entry.deleted = Some((uid, now));
    }
}
