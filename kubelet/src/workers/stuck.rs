//! Which pods do not end, and why: what those who wait for them show.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::pod::PodName;

/// What keeps pods from ending, by the name that they hold. Cloning shares it.
#[derive(Clone, Default)]
pub struct StuckPods(Arc<watch::Sender<BTreeMap<PodName, Arc<str>>>>);

impl StuckPods {
    /// Says what keeps the pod called `name` from ending.
    pub(super) fn report(&self, name: &PodName, why: &str) {
        self.0.send_if_modified(|stuck| {
            let news = stuck.get(name).is_none_or(|before| **before != *why);
            if news {
                stuck.insert(name.clone(), why.into());
            }
            news
        });
    }

    /// It ends, or has.
    pub(super) fn clear(&self, name: &PodName) {
        self.0
            .send_if_modified(|stuck| stuck.remove(name).is_some());
    }

    /// What keeps the pod called `name` from ending, where that was said.
    #[must_use]
    pub fn why(&self, name: &PodName) -> Option<Arc<str>> {
        self.0.borrow().get(name).cloned()
    }

    /// All that was said.
    #[must_use]
    pub fn all(&self) -> BTreeMap<PodName, Arc<str>> {
        self.0.borrow().clone()
    }

    /// Changes whenever anything is said.
    pub(super) fn changes(&self) -> watch::Receiver<BTreeMap<PodName, Arc<str>>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_news_once_and_goes() {
        let name = |name: &str| PodName {
            namespace: "default".into(),
            name: name.into(),
        };
        let stuck = StuckPods::default();
        let mut changes = stuck.changes();
        stuck.report(&name("a"), "StopPodSandbox");
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        stuck.report(&name("a"), "StopPodSandbox");
        stuck.clear(&name("b"));
        assert!(!changes.has_changed().unwrap());
        assert_eq!(stuck.why(&name("a")).as_deref(), Some("StopPodSandbox"));
        stuck.clear(&name("a"));
        assert!(changes.has_changed().unwrap() && stuck.why(&name("a")).is_none());
    }
}
