//! Which attachable volumes are in use, or about to be, and by whom: what `status.volumesInUse` of the node says, so that
//! no controller detaches them meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::pod::PodUid;

/// Who uses a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    /// The node, on which it is staged.
    Node,
    /// A pod.
    Pod(PodUid),
}

/// Users by volume, and the volumes as a state to wait for.
#[derive(Debug, Default)]
pub(super) struct InUse {
    users: Mutex<BTreeMap<String, BTreeSet<User>>>,
    volumes: watch::Sender<BTreeSet<String>>,
}

impl InUse {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<User>>> {
        // Nothing panics under this lock.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what there is now, where that is news. With the lock, so that the last word is the last state.
    fn show(&self, users: &BTreeMap<String, BTreeSet<User>>) {
        self.volumes.send_if_modified(|shown| {
            let news = !shown.iter().eq(users.keys());
            if news {
                *shown = users.keys().cloned().collect();
            }
            news
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeSet<String>> {
        self.volumes.subscribe()
    }

    /// `user` uses the volume called `unique` from now on.
    pub(super) fn begin(&self, unique: &str, user: User) {
        let mut users = self.lock();
        users.entry(unique.to_owned()).or_default().insert(user);
        self.show(&users);
    }

    /// `user` no longer uses the volume called `unique`.
    pub(super) fn end(&self, unique: &str, user: &User) {
        let mut users = self.lock();
        if let Some(own) = users.get_mut(unique) {
            own.remove(user);
        }
        users.retain(|_, own| !own.is_empty());
        self.show(&users);
    }

    /// `user` uses nothing any more.
    pub(super) fn end_all(&self, user: &User) {
        let mut users = self.lock();
        for own in users.values_mut() {
            own.remove(user);
        }
        users.retain(|_, own| !own.is_empty());
        self.show(&users);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_in_use_until_its_last_user_has_left() {
        let in_use = InUse::default();
        let mut shown = in_use.subscribe();
        let pod = |uid: &str| User::Pod(PodUid::parse(uid).unwrap());
        in_use.begin("v", pod("a"));
        in_use.begin("v", User::Node);
        in_use.begin("w", pod("a"));
        assert!(shown.borrow_and_update().iter().eq(["v", "w"]));
        in_use.end_all(&pod("a"));
        assert!(shown.borrow_and_update().iter().eq(["v"]));
        in_use.end("v", &pod("b"));
        assert!(!shown.has_changed().unwrap());
        in_use.end("v", &User::Node);
        assert!(shown.borrow_and_update().is_empty());
    }
}
