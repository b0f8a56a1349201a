//! A map that forgets what was used the longest ago.

use std::collections::HashMap;

/// As many entries as client-go's caches of events have (`maxLruCacheEntries`).
pub(super) const MOST_ENTRIES: usize = 4096;

/// Values by hash of their key.
#[derive(Debug)]
pub(super) struct Lru<V> {
    entries: HashMap<u64, (u64, V)>,
    most: usize,
    uses: u64,
}

impl<V> Lru<V> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            most,
            uses: 0,
        }
    }

    /// The value at `key`, made when there is none. What was used the longest ago makes room for it; and before the map
    /// grows, whatever is `idle` goes: a value that says no more than a new one.
    pub(super) fn entry(
        &mut self,
        key: u64,
        make: impl FnOnce() -> V,
        idle: impl Fn(&V) -> bool,
    ) -> &mut V {
        let is_full = self.entries.len() == self.entries.capacity();
        if is_full && !self.entries.contains_key(&key) {
            self.entries.retain(|_, (_, value)| !idle(value));
        }
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.entries.remove(&oldest);
            }
        }
        self.uses += 1;
        let (used, value) = self.entries.entry(key).or_insert_with(|| (0, make()));
        *used = self.uses;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_the_longest_ago_goes() {
        let mut lru = Lru::new(2);
        let never = |_: &u32| false;
        *lru.entry(1, || 10, never) += 1;
        lru.entry(2, || 20, never);
        assert_eq!(*lru.entry(1, || 0, never), 11);
        lru.entry(3, || 30, never);
        assert_eq!(*lru.entry(1, || 0, never), 11);
        assert_eq!(*lru.entry(2, || 0, never), 0, "2 had gone");
        assert_eq!(lru.entries.len(), 2);
    }

    #[test]
    fn what_is_idle_goes_before_the_map_grows() {
        let mut lru = Lru::new(MOST_ENTRIES);
        for key in 0..10_000 {
            lru.entry(key, || key, |value| value % 2 == 0 && *value < key);
            lru.entry(1, || 1, |_| false);
        }
        assert!(lru.entries.len() <= MOST_ENTRIES);
        let mut lru = Lru::new(MOST_ENTRIES);
        for key in 0..10_000 {
            lru.entry(key, || key, |value| *value != 7);
        }
        assert!(lru.entries.capacity() < 16, "{}", lru.entries.capacity());
        assert_eq!(*lru.entry(7, || 0, |_| false), 7);
    }
}
