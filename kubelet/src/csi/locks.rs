//! One lock for each of many things, made when somebody wants it and gone when nobody does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Locks by key.
pub(super) struct Locks<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Locks<K> {
    /// Waits for the lock of `key`. Cancel-safe: a turn that is not taken goes to the next.
    pub(super) async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        let lock = {
            // Nothing panics under this lock.
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(&key).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::default();
                    locks.insert(key, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holds_up_only_who_wants_the_same() {
        let locks = Locks::default();
        let held = locks.lock("a").await;
        drop(locks.lock("b").await);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(10), locks.lock("a"));
        assert!(waits.await.is_err());
        drop(held);
        drop(locks.lock("a").await);
        drop(locks.lock("b").await);
        assert_eq!(locks.0.lock().unwrap().len(), 1, "the others are forgotten");
    }
}
