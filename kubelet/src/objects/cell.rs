//! One thing that pods wait for: what is known of it, and which pods hear of changes.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use super::data::Found;

/// How a pod hears that something it refers to has changed: a count that goes up.
pub(super) type News = watch::Sender<u64>;

/// What is known of one object, for all pods that refer to it.
pub(super) struct Cell<T> {
    found: Mutex<Found<T>>,
    listeners: Mutex<Vec<Weak<News>>>,
}

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self {
            found: Mutex::new(Found::default()),
            listeners: Mutex::new(Vec::new()),
        }
    }
}

/// Nothing panics under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone + PartialEq> Cell<T> {
    pub(super) fn get(&self) -> Found<T> {
        lock(&self.found).clone()
    }

    pub(super) fn is_answered(&self) -> bool {
        lock(&self.found).is_answered()
    }

    pub(super) fn listen(&self, news: Weak<News>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(news);
    }

    /// Says what is known now. Who listens hears of it where it is something else than before.
    pub(super) fn set(&self, found: Found<T>) {
        let mut present = lock(&self.found);
        if *present == found {
            return;
        }
        *present = found;
        drop(present);
        for listener in lock(&self.listeners).iter().filter_map(Weak::upgrade) {
            listener.send_modify(|count| *count += 1);
        }
    }
}
