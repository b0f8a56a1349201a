//! Objects, their revisions, and the history from which watches are served.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

/// Changes that are kept when nobody compacts.
const HISTORY: usize = 20_000;

/// Position of the resource, namespace (empty for global ones), name.
pub(super) type Key = (usize, String, String);

/// One step from a revision to the next.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) key: Key,
    pub(super) was: Option<Arc<Value>>,
    /// None after a deletion.
    pub(super) is: Option<Arc<Value>>,
    /// What was deleted, with the revision of the deletion.
    pub(super) last: Option<Arc<Value>>,
}

/// What watchers wait for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pulse {
    /// The newest revision.
    pub(super) revision: u64,
    /// How often a test has asked for bookmarks.
    pub(super) bookmarks: u64,
    /// How often a test has ended every watch.
    pub(super) ended: u64,
}

/// Everything that is stored.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
    history: VecDeque<Change>,
    /// Versions below this one are no longer known.
    compacted: u64,
    ids: u64,
    pulse: watch::Sender<Pulse>,
}

impl Store {
    pub(super) fn new() -> Self {
        let pulse = Pulse {
            revision: 1,
            ..Pulse::default()
        };
        Self {
            objects: BTreeMap::new(),
            revision: 1,
            history: VecDeque::new(),
            compacted: 0,
            ids: 0,
            pulse: watch::Sender::new(pulse),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The objects of one resource, by namespace and name.
    pub(super) fn of(&self, resource: usize) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let from = (resource, String::new(), String::new());
        let range = self.objects.range(from..);
        range.take_while(move |((r, ..), _)| *r == resource)
    }

    /// A number that was not given before.
    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Puts an object there with a new version. One that is as it was keeps its version, and nobody is told.
    pub(super) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        let was = self.objects.get(&key).cloned();
        if let Some(was) = &was {
            object["metadata"]["resourceVersion"] = was["metadata"]["resourceVersion"].clone();
            if **was == object {
                return Arc::clone(was);
            }
        }
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let is = Arc::new(object);
        self.objects.insert(key.clone(), Arc::clone(&is));
        self.remember(Change {
            revision: self.revision,
            key,
            was,
            is: Some(Arc::clone(&is)),
            last: None,
        });
        is
    }

    /// Takes an object away and gives it with the version of its end.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let was = self.objects.remove(key)?;
        self.revision += 1;
        let mut last = Value::clone(&was);
        last["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let last = Arc::new(last);
        self.remember(Change {
            revision: self.revision,
            key: key.clone(),
            was: Some(was),
            is: None,
            last: Some(Arc::clone(&last)),
        });
        Some(last)
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        if self.history.len() > HISTORY
            && let Some(first) = self.history.pop_front()
        {
            self.compacted = first.revision;
        }
        let revision = self.revision;
        self.pulse.send_modify(|pulse| pulse.revision = revision);
    }

    /// Forgets how things came to be as they are: every version given out so far expires, for watches that run too.
    pub(super) fn expire(&mut self) {
        self.revision += 1;
        self.history.clear();
        self.compacted = self.revision;
        let revision = self.revision;
        self.pulse.send_modify(|pulse| pulse.revision = revision);
    }

    /// Makes every watch that wants them send a bookmark.
    pub(super) fn bookmark(&self) {
        self.pulse.send_modify(|pulse| pulse.bookmarks += 1);
    }

    /// Ends every watch, as the server does after its time.
    pub(super) fn end_watches(&self) {
        self.pulse.send_modify(|pulse| pulse.ended += 1);
    }

    /// The changes after `revision`.
    ///
    /// # Errors
    /// The oldest version that is known, when that one is older.
    pub(super) fn since(&self, revision: u64) -> Result<Vec<Change>, u64> {
        if revision < self.compacted {
            return Err(self.compacted);
        }
        let newer = self.history.iter().rev();
        let mut newer: Vec<Change> = newer
            .take_while(|change| change.revision > revision)
            .cloned()
            .collect();
        newer.reverse();
        Ok(newer)
    }

    /// The objects of one resource as they were at `revision`.
    ///
    /// # Errors
    /// As [`Store::since`].
    pub(super) fn snapshot(
        &self,
        resource: usize,
        revision: u64,
    ) -> Result<BTreeMap<Key, Arc<Value>>, u64> {
        let mut objects: BTreeMap<Key, Arc<Value>> = self
            .of(resource)
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        for change in self.since(revision)?.into_iter().rev() {
            if change.key.0 != resource {
                continue;
            }
            match change.was {
                Some(was) => objects.insert(change.key, was),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        (0, "x".to_owned(), name.to_owned())
    }

    fn object(name: &str, data: u64) -> Value {
        json!({ "metadata": { "name": name, "namespace": "x" }, "data": data })
    }

    #[test]
    fn the_same_again_is_no_change() {
        let mut store = Store::new();
        let first = store.put(key("a"), object("a", 1));
        let again = store.put(key("a"), object("a", 1));
        assert_eq!(first, again);
        assert_eq!(store.since(1).unwrap().len(), 1);
        let other = store.put(key("a"), object("a", 2));
        assert_ne!(
            other["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
    }

    #[test]
    fn a_snapshot_undoes_what_came_later() {
        let mut store = Store::new();
        store.put(key("a"), object("a", 1));
        store.put(key("b"), object("b", 1));
        let then = store.revision();
        store.put(key("a"), object("a", 2));
        store.put(key("c"), object("c", 1));
        let last = store.remove(&key("b")).unwrap();
        assert_eq!(
            last["metadata"]["resourceVersion"],
            json!(store.revision().to_string())
        );
        let before = store.snapshot(0, then).unwrap();
        let before: Vec<_> = before.values().map(|o| o["data"].clone()).collect();
        assert_eq!(before, [json!(1), json!(1)]);
        assert_eq!(store.snapshot(0, store.revision()).unwrap().len(), 2);
        store.expire();
        assert!(store.snapshot(0, then).is_err());
        assert!(store.since(store.revision()).unwrap().is_empty());
    }
}
