//! Has pods end that are evicted.

use super::Registry;
use crate::eviction::Evict;
use crate::workers::Place;
use crate::workers::queue::{Stage, Wanted};

impl Registry {
    /// Tells the pod's worker. One that has ended, or has not been told to run, is left as it is.
    pub(super) fn evict(&mut self, order: Evict) {
        let Evict { uid, eviction } = order;
        let Some(handle) = self.handles.get(&uid) else {
            eviction.ended.notify_one();
            return;
        };
        let (stage, wanted) = (*handle.stage.borrow(), handle.orders.borrow().wanted);
        let runs = matches!(stage, Stage::Live | Stage::Terminating) && wanted != Wanted::Wait;
        if !runs {
            eviction.ended.notify_one();
            return;
        }
        self.places.ends(&uid);
        let place = Place::Evicted(eviction);
        handle.orders.send_modify(|orders| orders.place = place);
    }
}
