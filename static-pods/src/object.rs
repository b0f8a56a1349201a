//! ConfigMaps and Secrets from manifests: what static pods refer to on the node itself.
//!
//! Pure. Owns: what such an object is, which static pods may refer to one, and which files may hold a Secret.
//! Deliberately not here: the API's rules ([`crate::validate`]), and what containers find of an object.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::tree::Position;

pub(crate) use read::read;

/// Annotation by which a static pod asks to be replaced when the content of an object that it refers to changes: `"true"`.
pub const REPLACE_ANNOTATION: &str = "agent.kubelet/replace-on-object-change";

/// A kind of object with content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl ObjectKind {
    /// The kind that a document calls `name`.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::ConfigMap, Self::Secret]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }

    /// As documents call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// Kind, namespace and name. Shown as `ConfigMap default/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// What it is.
    pub kind: ObjectKind,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// Values by key.
pub type Values = BTreeMap<Box<str>, Arc<[u8]>>;

/// What an object holds. Its Debug shows nothing of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// `data`; of a Secret with `stringData` over it.
    pub data: Values,
    /// `binaryData` of a ConfigMap.
    pub binary: Values,
    /// `type` of a Secret.
    pub secret_type: Option<Box<str>>,
    /// `immutable`.
    pub immutable: bool,
}

impl Content {
    /// The field of `other` that an API server would not take in the place of this, which never changes.
    #[must_use]
    pub fn refuses(&self, other: &Self) -> Option<&'static str> {
        let fields = [
            ("immutable", !other.immutable),
            ("data", self.data != other.data),
            ("binaryData", self.binary != other.binary),
            ("type", self.secret_type != other.secret_type),
        ];
        let changed = fields.iter().find(|(_, changed)| *changed);
        changed.filter(|_| self.immutable).map(|(field, _)| *field)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content { .. }")
    }
}

/// An object from a file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalObject {
    /// Which one it is.
    pub key: ObjectKey,
    /// What it holds.
    pub content: Content,
    /// The file.
    pub path: Arc<Path>,
    /// Where in the file it begins.
    pub at: Position,
}

/// Which static pods may refer to ConfigMaps and Secrets of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Objects {
    /// None, as upstream; nor are there any.
    #[default]
    Off,
    /// Those with one of these namespaces and names, the latter as their manifests have it.
    Only(BTreeSet<(String, String)>),
    /// All.
    On,
}

impl Objects {
    /// Whether manifests may hold objects.
    #[must_use]
    pub fn any(&self) -> bool {
        match self {
            Self::Off => false,
            Self::Only(pods) => !pods.is_empty(),
            Self::On => true,
        }
    }

    /// Whether the pod called `name` in its manifest may refer to one.
    #[must_use]
    pub fn allow(&self, namespace: &str, name: &str) -> bool {
        match self {
            Self::Off => false,
            Self::Only(pods) => pods.iter().any(|(ns, n)| ns == namespace && n == name),
            Self::On => true,
        }
    }
}

/// Who may read a file, by what its open handle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The owner's user id.
    pub owner: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Access {
    /// Who may read the file of which `meta` was taken.
    #[must_use]
    pub fn of(meta: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            owner: meta.uid(),
            mode: meta.mode() & 0o7777,
        }
    }

    /// Whether it is root's alone.
    #[must_use]
    pub fn is_private(self) -> bool {
        self.owner == 0 && self.mode & 0o077 == 0
    }

    /// Why it is not.
    pub(crate) fn why(self) -> String {
        let mode = format!("mode {:04o}", self.mode);
        match self.owner {
            0 => format!("others than root may use the file ({mode})"),
            owner => format!("the file is not root's, but user {owner}'s ({mode})"),
        }
    }

    /// What makes `path` root's alone, for a shell.
    pub(crate) fn remedy(self, path: &Path) -> String {
        let path = in_shell(&path.to_string_lossy());
        match self.owner {
            0 => format!("chmod 600 {path}"),
            _ => format!("chown root: {path} && chmod 600 {path}"),
        }
    }
}

/// `text` as one word of a shell.
fn in_shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests;
