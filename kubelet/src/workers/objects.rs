//! What a worker does about the objects of the API server that its pod refers to: it starts nothing without them, and
//! hears when there is reason to try again.

use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use super::hold::{FOR_OBJECT, Hold};
use super::start::StartError;
use crate::csi::{CsiVolume, of_pod};
use crate::events::About;
use crate::images::{Keyring, credentials_in_secrets};
use crate::pod::{self, Pod};
use crate::status::Waiting;
use crate::volumes::{Contents, Given, MountedVolumes, VolumeError};

impl Worker {
    /// Sets up the pod's volumes, with what is known of its objects now.
    pub(super) async fn set_up_volumes(
        &mut self,
        pod: &Arc<Pod>,
    ) -> Result<MountedVolumes, StartError> {
        if pod::spec(pod).volumes.as_ref().is_none_or(Vec::is_empty) {
            return Ok(MountedVolumes::new());
        }
        let contents = match Contents::any(pod) {
            true => {
                self.look_at_objects().await;
                self.upkeep.contents(&self.tools, pod, &self.objects)
            }
            false => Contents::default(),
        };
        let claimed = self.tools.claims.resolve(pod, &self.uid).await;
        let mut claimed = claimed.map_err(StartError::Claims)?;
        let mut drivers = Vec::new();
        claimed.retain(|_, claimed| {
            let of_driver = CsiVolume::of_claim(claimed);
            let other = of_driver.is_none();
            drivers.extend(of_driver);
            other
        });
        drivers.extend(of_pod(pod, &self.uid));
        // Before anybody writes: a driver may take its time.
        self.drivers.mark_seen();
        let csi = self.tools.csi.clone();
        let driven = csi.set_up(pod.clone(), self.uid.clone(), drivers).await;
        let given = Given { contents, claimed };
        let turn = self.upkeep.turn().await;
        let volumes = self.tools.volumes.clone();
        let uid = self.uid.clone();
        let done = volumes.set_up_in_background(pod.clone(), uid, given, turn);
        let mut errors: Vec<_> = driven.failed.into_iter().map(VolumeError::from).collect();
        match done.await {
            Ok(mut volumes) if errors.is_empty() => {
                volumes.extend(driven.mounted);
                Ok(volumes)
            }
            Ok(_) => Err(StartError::Volumes(errors)),
            Err(more) => {
                errors.extend(more);
                Err(StartError::Volumes(errors))
            }
        }
    }

    /// What has failed is tried again: a driver that a volume needs may be there now, or the volume attached.
    pub(super) fn forgive_drivers(&mut self) {
        let waits = self.memory.prepared.is_none();
        self.memory.holds.retain(|key, _| !waits && key.is_some());
    }

    /// Waits until what the pod refers to is known, within reason, and notes that whatever follows goes by it.
    pub(super) async fn look_at_objects(&mut self) {
        self.objects.settle().await;
        self.memory.objects_seen = *self.objects.news().borrow();
    }

    /// The credentials that the pod brings along. Upstream tells of those that cannot be had, and goes on.
    pub(super) fn pull_secrets(&self, pod: &Pod) -> Keyring {
        let secrets = pod::spec(pod).image_pull_secrets.iter().flatten();
        let names = secrets.map(|secret| secret.name.as_str());
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Keyring::default();
        }
        let objects = self.objects.snapshot(pod);
        let (keyring, missing) = credentials_in_secrets(&objects, &names);
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            About::pod(pod).warning("FailedToRetrieveImagePullSecret", &message);
        }
        keyring
    }

    /// Puts something off until what the pod refers to is another than it was when it failed.
    pub(super) fn hold_for_object(
        &mut self,
        key: Option<Arc<str>>,
        waiting: Option<Waiting>,
        now: Duration,
    ) {
        let seen = self.memory.objects_seen;
        self.memory.object_waits.insert(key.clone(), seen);
        let hold = Hold::until(now + FOR_OBJECT, waiting);
        self.memory.holds.insert(key, hold);
    }

    /// Waits for a change of what the pod refers to that may let something succeed which has failed for want of it; gives
    /// the count of the pod's news. For ever where nothing has.
    pub(super) fn objects_changed(&self) -> impl Future<Output = u64> + use<> {
        let mut news = self.objects.news();
        let waits = self.memory.object_waits.clone();
        async move {
            let stale = |count: &u64| waits.values().any(|seen| seen != count);
            // The sender is the worker's own. Cancel-safe: it is a state.
            let changed = news.wait_for(stale).await.map(|count| *count);
            match changed {
                Ok(count) => count,
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Nothing of the pod runs any more: its volumes are not written again, and its objects not watched for it.
    pub(super) async fn let_go_of_objects(&mut self) {
        self.republish.end();
        self.upkeep.end().await;
        self.objects.release();
        self.memory.object_waits.clear();
    }

    /// What has failed for want of an object is tried again, where the pod's objects have changed since: `count` is that
    /// of their news.
    pub(super) fn forgive_objects(&mut self, count: u64) {
        let holds = &mut self.memory.holds;
        self.memory.object_waits.retain(|key, seen| {
            if *seen != count {
                holds.remove(key);
            }
            *seen == count
        });
    }
}
