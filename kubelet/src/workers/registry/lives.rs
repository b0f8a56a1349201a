//! Which pods have not ended, for those who clean up behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Registry;
use crate::pod::{PodName, PodUid};

/// Pods of which something may run, or has to be stopped, by UID.
pub type Lives = BTreeMap<PodUid, PodName>;

impl Registry {
    /// Tells who lives, where anybody wants to know. Before the runtime has been seen nobody can say.
    pub(super) fn tell_lives(&self, runtime_seen: bool) {
        let told = &self.tools.lives;
        if told.receiver_count() == 0 || !runtime_seen {
            return;
        }
        let views = self
            .handles
            .iter()
            .map(|(uid, handle)| (uid, handle.view()));
        let lives = views
            .filter(|(_, view)| view.holds_its_name())
            .map(|(uid, view)| (uid.clone(), view.name));
        // What these run is known again when they have another worker.
        let resting = self.panicked.values().map(|lost| &lost.pod);
        let resting = resting.map(|pod| (pod.uid.clone(), pod.pod_name()));
        let lives: Lives = lives.chain(resting).collect();
        told.send_if_modified(|before| {
            let news = before.as_deref() != Some(&lives);
            if news {
                *before = Some(Arc::new(lives));
            }
            news
        });
    }
}
