//! What has to be known of ConfigMaps and Secrets of manifests across restarts of the agent: `<root>/static-pod-objects`.
//!
//! Which pods refer to such objects, so that they go on when the node joins a cluster; and which content of an object the
//! pods run with that are replaced when it changes, so that a restart, or an object that is gone, replaces none.
//!
//! The file is one line, a checksum, and JSON. Contents stand in it as keyed hashes, as they do in UIDs: whoever sees a
//! UID can try nothing on it without the key, which is in this file alone. One that is damaged is set aside; pods that
//! are replaced when their objects change are then replaced once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac::{Context, HMAC_SHA256, Key};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use static_pods::fnv::Fnv64;
use static_pods::object::{LocalObject, ObjectKey, Objects};
use static_pods::watch::ObjectMemory;

use crate::config::StaticPodObjects;
use crate::dir::{Dir, DirError};
use crate::errors::error_chain;
use crate::objects::{key_of, objects_of};
use crate::pod::Pod;

/// The name of the file in the agent's root directory.
const NAME: &str = "static-pod-objects";
/// What one that is damaged is called from then on.
const SET_ASIDE: &str = "static-pod-objects.bad";
/// Bytes of the file that are read.
const MOST_BYTES: u64 = 16 << 20;
/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// What stands for an object that has never been there.
const NEVER: &str = "";

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Notes {
    /// Base64.
    key: String,
    /// Namespace and name, as in the manifest, of each pod that refers to objects.
    #[serde(default)]
    pods: BTreeSet<(String, String)>,
    /// What pods that follow their objects run with: by object, a keyed hash.
    #[serde(default)]
    versions: BTreeMap<String, String>,
}

/// The notes of one node.
pub struct ObjectNotes {
    root: PathBuf,
    key: Key,
    notes: Notes,
    /// As the file has them; none while there is no file.
    written: Option<Notes>,
    /// The objects that were asked about since they were tidied up.
    asked: BTreeSet<String>,
    /// Whether it is for this agent to say which pods refer to objects.
    notes_pods: bool,
}

/// What of static pods' objects is on here.
pub struct ObjectRules {
    /// Which pods may refer to them.
    pub objects: Objects,
    /// None where nothing is to be remembered.
    pub notes: Option<ObjectNotes>,
}

impl ObjectRules {
    /// The rules by `setting` of a node that has an API server or not; `root` is the agent's directory.
    #[must_use]
    pub fn new(root: &Path, setting: StaticPodObjects, joined: bool) -> Self {
        if setting == StaticPodObjects::Never {
            return Self {
                objects: Objects::Off,
                notes: None,
            };
        }
        let (mut notes, damaged) = ObjectNotes::load(root);
        let objects = match (setting, joined) {
            // Nobody knows any more which pods they served. One too many is better than one that ends.
            (StaticPodObjects::Auto, true) if damaged => Objects::On,
            (StaticPodObjects::Auto, true) => Objects::Only(notes.notes.pods.clone()),
            _ => Objects::On,
        };
        notes.notes_pods = objects == Objects::On;
        Self {
            notes: objects.any().then_some(notes),
            objects,
        }
    }
}

impl ObjectNotes {
    /// The notes below `root`, and whether there were some that cannot be read.
    fn load(root: &Path) -> (Self, bool) {
        let read = || Dir::open(root)?.read_file(NAME, MOST_BYTES);
        let (written, damaged) = match read() {
            Ok(None) => (None, false),
            Ok(Some(bytes)) => match decode(&bytes) {
                Some(notes) => (Some(notes), false),
                None => (None, true),
            },
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "what is known of static pods' objects cannot be read"
                );
                (None, true)
            }
        };
        if damaged {
            let moved = Dir::open(root).and_then(|dir| dir.rename(NAME, SET_ASIDE));
            let path = root.join(NAME);
            tracing::warn!(path = %path.display(), set_aside = moved.is_ok(), "what is known of static pods' objects is damaged; those that are replaced when one changes are replaced once");
        }
        let notes = written.clone().unwrap_or_else(|| Notes {
            key: STANDARD.encode(random()),
            ..Notes::default()
        });
        let key = STANDARD.decode(&notes.key).unwrap_or_default();
        let found = Self {
            root: root.to_owned(),
            key: Key::new(HMAC_SHA256, &key),
            notes,
            written,
            asked: BTreeSet::new(),
            notes_pods: false,
        };
        (found, damaged)
    }

    fn save(&mut self) {
        if self.written.as_ref() == Some(&self.notes) {
            return;
        }
        match write(&self.root, &self.notes) {
            Ok(()) => self.written = Some(self.notes.clone()),
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(
                    error,
                    "what is known of static pods' objects cannot be kept"
                );
            }
        }
    }

    /// The keyed hash of what `object` holds, in hexadecimal.
    fn hash(&self, object: &LocalObject) -> String {
        let mut context = Context::with_key(&self.key);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        part(object.key.to_string().as_bytes());
        for (mark, values) in [(b"d", &object.content.data), (b"b", &object.content.binary)] {
            for (key, value) in values {
                part(mark);
                part(key.as_bytes());
                part(value);
            }
        }
        let hash = context.sign();
        let bytes = hash.as_ref().iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

impl ObjectMemory for ObjectNotes {
    fn version(&mut self, pod: &Pod, objects: &BTreeMap<ObjectKey, Arc<LocalObject>>) -> u128 {
        let mut all = Context::with_key(&self.key);
        for key in objects_of(pod) {
            let key = key_of(&key);
            let name = key.to_string();
            let known = self.notes.versions.get(&name);
            let hash = match objects.get(&key) {
                Some(object) => self.hash(object),
                None => known.map_or_else(|| NEVER.to_owned(), Clone::clone),
            };
            all.update(name.as_bytes());
            all.update(b"=");
            all.update(hash.as_bytes());
            all.update(b"\n");
            self.asked.insert(name.clone());
            if hash != NEVER {
                self.notes.versions.insert(name, hash);
            }
        }
        // The key has to be kept before a pod runs that goes by it.
        if self.written.is_none() {
            self.save();
        }
        let mut first = [0; 16];
        first.copy_from_slice(&all.sign().as_ref()[..16]);
        u128::from_be_bytes(first)
    }

    fn users(&mut self, pods: BTreeSet<(String, String)>) {
        if self.notes_pods {
            self.notes.pods = pods;
        }
        let asked = std::mem::take(&mut self.asked);
        self.notes.versions.retain(|name, _| asked.contains(name));
        let empty = self.notes.pods.is_empty() && self.notes.versions.is_empty();
        if self.written.is_some() || !empty {
            self.save();
        }
    }
}

/// A key that nobody knows.
fn random() -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    if SystemRandom::new().fill(&mut key).is_err() {
        tracing::error!("no random numbers: UIDs of pods that follow their objects tell of these");
    }
    key
}

fn write(root: &Path, notes: &Notes) -> Result<(), DirError> {
    let json = serde_json::to_vec(notes).unwrap_or_default();
    let mut bytes = format!("{:016x}\n", Fnv64::of(&json)).into_bytes();
    bytes.extend(json);
    Dir::open(root)?.replace(NAME, &bytes, 0o600)
}

fn decode(bytes: &[u8]) -> Option<Notes> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (sum, json) = (&bytes[..end], &bytes[end + 1..]);
    if sum != format!("{:016x}", Fnv64::of(json)).as_bytes() {
        return None;
    }
    let notes: Notes = serde_json::from_slice(json).ok()?;
    let key = STANDARD.decode(&notes.key).ok()?;
    (key.len() == KEY_BYTES).then_some(notes)
}

#[cfg(test)]
mod tests {
    use static_pods::object::{Content, ObjectKind};
    use static_pods::tree::Position;

    use super::*;

    fn pod(name: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": name, "namespace": "ns" },
            "spec": { "containers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "s" } }] }] },
        }))
        .unwrap()
    }

    fn objects(value: &str) -> BTreeMap<ObjectKey, Arc<LocalObject>> {
        let key = ObjectKey {
            kind: ObjectKind::Secret,
            namespace: "ns".into(),
            name: "s".into(),
        };
        let content = Content {
            data: [("a".into(), value.as_bytes().into())].into(),
            ..Content::default()
        };
        let object = LocalObject {
            key: key.clone(),
            content,
            path: Path::new("/m").into(),
            at: Position::START,
        };
        [(key, Arc::new(object))].into()
    }

    fn users(name: &str) -> BTreeSet<(String, String)> {
        [("ns".to_owned(), name.to_owned())].into()
    }

    fn standalone(root: &Path) -> ObjectNotes {
        let rules = ObjectRules::new(root, StaticPodObjects::Auto, false);
        assert_eq!(rules.objects, Objects::On);
        rules.notes.unwrap()
    }

    #[test]
    fn a_version_is_the_same_after_a_restart_and_while_the_object_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let mut notes = standalone(root.path());
        let never = notes.version(&pod("p"), &BTreeMap::new());
        let hush = notes.version(&pod("p"), &objects("hush"));
        assert_ne!(never, hush);
        assert_ne!(hush, notes.version(&pod("p"), &objects("other")));
        assert_eq!(hush, notes.version(&pod("p"), &objects("hush")));
        notes.users(users("p"));
        let file = std::fs::read_to_string(root.path().join(NAME)).unwrap();
        assert!(!file.contains("hush"));
        use std::os::unix::fs::PermissionsExt as _;
        let meta = std::fs::metadata(root.path().join(NAME)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o600);

        let mut again = standalone(root.path());
        assert_eq!(again.version(&pod("p"), &BTreeMap::new()), hush);
        assert_eq!(again.version(&pod("p"), &objects("hush")), hush);
        // Nobody refers to it any more, and what is known of it goes.
        again.users(BTreeSet::new());
        again.users(BTreeSet::new());
        assert_eq!(again.version(&pod("p"), &BTreeMap::new()), never);
    }

    #[test]
    fn another_node_makes_another_version_of_the_same() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let version = |root: &Path| standalone(root).version(&pod("p"), &objects("hush"));
        assert_ne!(version(one.path()), version(other.path()));
        assert_eq!(version(one.path()), version(one.path()));
    }

    #[test]
    fn a_node_that_joins_goes_on_with_the_pods_that_objects_served() {
        let root = tempfile::tempdir().unwrap();
        let rules = |setting, joined| ObjectRules::new(root.path(), setting, joined);
        let fresh = rules(StaticPodObjects::Auto, true);
        assert!(!fresh.objects.any() && fresh.notes.is_none());
        standalone(root.path()).users(users("p"));
        let joined = rules(StaticPodObjects::Auto, true);
        assert_eq!(joined.objects, Objects::Only(users("p")));
        // What that node has is no reason to forget, or to add, any.
        joined.notes.unwrap().users(users("q"));
        let joined = rules(StaticPodObjects::Auto, true);
        assert_eq!(joined.objects, Objects::Only(users("p")));
        assert_eq!(rules(StaticPodObjects::Always, true).objects, Objects::On);
        assert_eq!(rules(StaticPodObjects::Never, true).objects, Objects::Off);
        assert_eq!(rules(StaticPodObjects::Never, false).objects, Objects::Off);
        standalone(root.path()).users(BTreeSet::new());
        assert!(!rules(StaticPodObjects::Auto, true).objects.any());
    }

    #[test]
    fn damaged_notes_end_no_pod() {
        let root = tempfile::tempdir().unwrap();
        standalone(root.path()).users(users("p"));
        let path = root.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_none(), "of {length} bytes");
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let rules = ObjectRules::new(root.path(), StaticPodObjects::Auto, true);
        assert_eq!(rules.objects, Objects::On);
        assert!(root.path().join(SET_ASIDE).exists());
        rules.notes.unwrap().users(users("p"));
        let rules = ObjectRules::new(root.path(), StaticPodObjects::Auto, true);
        assert_eq!(rules.objects, Objects::Only(users("p")));
    }
}
