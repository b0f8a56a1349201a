//! Between the admission of a pod and its first step: its devices are asked for, each pod's beside the others', so that a
//! plugin that does not answer keeps nobody waiting but those who want its devices.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::{Id, JoinSet};

use super::Registry;
use crate::managers::AllocateError;
use crate::managers::devices::DeviceError;
use crate::pod::{Pod, PodName, PodUid};
use crate::workers::{Place, Wanted};

/// Pods whose devices are asked for.
#[derive(Default)]
pub(super) struct Fetches {
    tasks: JoinSet<Result<(), DeviceError>>,
    pods: BTreeMap<Id, PodUid>,
}

/// What came of it.
pub(super) struct Fetched {
    uid: PodUid,
    given: Result<(), DeviceError>,
}

impl Fetches {
    /// Whether the pod's devices are asked for.
    pub(super) fn has(&self, uid: &PodUid) -> bool {
        self.pods.values().any(|pod| pod == uid)
    }

    /// The next that is done; none while none is under way. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Fetched> {
        let (id, given) = match self.tasks.join_next_with_id().await? {
            Ok(done) => done,
            Err(error) => (error.id(), Err(DeviceError::failed(&error))),
        };
        let uid = self.pods.remove(&id)?;
        Some(Fetched { uid, given })
    }
}

impl Registry {
    /// Begins to ask for the devices that the pod was promised. False where there are none to ask for.
    pub(super) fn fetch_devices(&mut self, uid: &PodUid, pod: &Arc<Pod>) -> bool {
        if !self.tools.devices.is_pending(uid) {
            return false;
        }
        let (devices, pod, asking) = (self.tools.devices.clone(), pod.clone(), uid.clone());
        let task = async move { devices.fetch(&asking, &pod).await };
        let id = self.fetches.tasks.spawn(task).id();
        self.fetches.pods.insert(id, uid.clone());
        true
    }

    /// Has a pod begin that has its devices, and refuses one that does not get them.
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let Fetched { uid, given } = fetched;
        let Some(handle) = self.handles.get(&uid) else {
            return;
        };
        let (wanted, place) = {
            let orders = handle.orders.borrow();
            (orders.wanted, orders.place.clone())
        };
        // One that is to end meanwhile gives its devices back with its place.
        let leaves = matches!(
            place,
            Place::Preempted | Place::Leaving(_) | Place::Evicted(_)
        );
        if wanted == Wanted::Stop || leaves {
            return;
        }
        match given {
            Ok(()) => self.order(&uid, |orders| {
                orders.wanted = Wanted::Run;
                orders.place = Place::Granted;
            }),
            Err(error) => {
                let name = PodName::of(&handle.orders.borrow().pod);
                tracing::warn!(pod = %name, %uid, %error, "a pod does not get its devices");
                self.places.refuse(&uid);
                let error = AllocateError::Unexpected(error.to_string());
                self.refuse(&uid, error.rejection());
            }
        }
    }

    /// There are other devices than before: pods that were refused are asked for again, and those show it whose devices
    /// have another health.
    pub(super) fn follow_devices(&mut self) {
        self.freed = true;
        for uid in self.tools.devices.take_changed() {
            // Its worker looks again.
            self.order(&uid, |_| {});
        }
    }
}
