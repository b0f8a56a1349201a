//! ConfigMaps and Secrets of manifests: they serve static pods, and nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use static_pods::object::ObjectKind;
use static_pods::watch::ManifestSet;
use tokio::sync::watch;

use super::cell::News;
use super::data::{Found, ObjectData};
use super::kept::ObjectKey;
use super::references::{Kind, objects_of};
use super::snapshot::PodSnapshot;
use crate::pod::{Pod, PodName};

impl From<ObjectKind> for Kind {
    fn from(kind: ObjectKind) -> Self {
        match kind {
            ObjectKind::ConfigMap => Self::ConfigMap,
            ObjectKind::Secret => Self::Secret,
        }
    }
}

/// An object as manifests know it.
#[must_use]
pub fn key_of((kind, namespace, name): &ObjectKey) -> static_pods::object::ObjectKey {
    static_pods::object::ObjectKey {
        kind: match kind {
            Kind::ConfigMap => ObjectKind::ConfigMap,
            Kind::Secret => ObjectKind::Secret,
        },
        namespace: (&**namespace).into(),
        name: (&**name).into(),
    }
}

/// The objects of the manifests, as they are at one moment.
#[derive(Debug, Default)]
pub struct LocalObjects {
    objects: BTreeMap<ObjectKey, Arc<ObjectData>>,
    /// Whether all manifests have been read: until then one that is not here may yet come.
    ready: bool,
}

impl LocalObjects {
    /// Those of `set`. Their values are shared with it.
    #[must_use]
    pub fn of(set: &ManifestSet) -> Self {
        let objects = set.objects.iter().map(|(key, object)| {
            let key = (key.kind.into(), (*key.namespace).into(), (*key.name).into());
            (key, Arc::new(ObjectData::from(&object.content)))
        });
        Self {
            objects: objects.collect(),
            ready: set.ready,
        }
    }

    fn get(&self, key: &ObjectKey) -> Found<Arc<ObjectData>> {
        match self.objects.get(key) {
            Some(data) => Found::There(data.clone()),
            None if self.ready => Found::Missing,
            None => Found::default(),
        }
    }
}

/// Who hears of changes of which objects.
type Listeners = Vec<(Weak<News>, BTreeSet<ObjectKey>)>;

/// The objects of the manifests, as they are now, for the pods that refer to them.
pub(super) struct Local {
    objects: watch::Receiver<Arc<LocalObjects>>,
    /// Where a user puts one that is missing.
    directory: Arc<Path>,
    listeners: Mutex<Listeners>,
}

impl Local {
    pub(super) fn new(objects: watch::Receiver<Arc<LocalObjects>>, directory: &Path) -> Self {
        Self {
            objects,
            directory: directory.into(),
            listeners: Mutex::default(),
        }
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        // Nothing panics under this lock.
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Arc<LocalObjects> {
        self.objects.borrow().clone()
    }

    /// Has `news` told of each change of what `pod` refers to, until it is dropped.
    pub(super) fn listen(&self, pod: &Pod, news: &Arc<News>) {
        let keys: BTreeSet<ObjectKey> = objects_of(pod).collect();
        let own = Arc::downgrade(news);
        let mut listeners = self.listeners();
        listeners.retain(|(other, _)| other.strong_count() > 0 && !other.ptr_eq(&own));
        if !keys.is_empty() {
            listeners.push((own, keys));
        }
    }

    /// Tells `news` of nothing any more.
    pub(super) fn leave(&self, news: &Arc<News>) {
        let own = Arc::downgrade(news);
        self.listeners().retain(|(other, _)| !other.ptr_eq(&own));
    }

    /// Whether it is known of all that `pod` refers to what it is, or that it is not there.
    pub(super) fn is_answered(&self, pod: &Pod) -> bool {
        let now = self.now();
        now.ready || objects_of(pod).all(|key| now.objects.contains_key(&key))
    }

    /// What `pod` refers to, as it is now.
    pub(super) fn snapshot(&self, pod: &Pod) -> PodSnapshot {
        let now = self.now();
        let namespace = PodName::of(pod).namespace;
        let none = PodSnapshot::of_manifests(&namespace, self.directory.clone());
        objects_of(pod).fold(none, |snapshot, key| {
            let found = now.get(&key);
            snapshot.with(key.0, &key.2, found)
        })
    }

    /// Tells of changes, for as long as there is somebody to make them.
    pub(super) async fn run(&self) {
        let mut objects = self.objects.clone();
        let mut before = Arc::<LocalObjects>::default();
        loop {
            let now = objects.borrow_and_update().clone();
            let tells =
                |keys: &BTreeSet<ObjectKey>| keys.iter().any(|k| before.get(k) != now.get(k));
            for (news, keys) in self.listeners().iter() {
                if let Some(news) = news.upgrade().filter(|_| tells(keys)) {
                    news.send_modify(|count| *count += 1);
                }
            }
            before = now;
            if objects.changed().await.is_err() {
                return;
            }
        }
    }
}
