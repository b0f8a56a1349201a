//! The node's object, as far as it is known.

use std::sync::Arc;

use tokio::sync::watch;

use crate::node::NodeObject;
use crate::sources::StalePods;

/// The node's object as the API server has it; until it has been heard, as it was kept beside the pods that go on meanwhile.
pub struct KnownNode {
    object: watch::Receiver<Option<Arc<NodeObject>>>,
    stale: watch::Receiver<Arc<StalePods>>,
}

impl KnownNode {
    /// By these two.
    #[must_use]
    pub fn new(
        object: watch::Receiver<Option<Arc<NodeObject>>>,
        stale: watch::Receiver<Arc<StalePods>>,
    ) -> Self {
        Self { object, stale }
    }

    /// The object as it is known now.
    pub(super) fn now(&mut self) -> Option<Arc<NodeObject>> {
        let object = self.object.borrow_and_update().clone();
        // It comes with its pods, whose arrival wakes whoever asks.
        object.or_else(|| self.stale.borrow().node.clone())
    }

    /// Waits until the API server has said something new; for ever where nobody will. Cancel-safe: it is a state.
    pub(super) async fn changed(&mut self) {
        if self.object.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
