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

    /// The value at `key`, made when there is none. What was used the longest ago makes room for it.
    pub(super) fn entry(&mut self, key: u64, make: impl FnOnce() -> V) -> &mut V {
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
        *lru.entry(1, || 10) += 1;
        lru.entry(2, || 20);
        assert_eq!(*lru.entry(1, || 0), 11);
        lru.entry(3, || 30);
        assert_eq!(*lru.entry(1, || 0), 11);
        assert_eq!(*lru.entry(2, || 0), 0, "2 had gone");
        assert_eq!(lru.entries.len(), 2);
    }
}
