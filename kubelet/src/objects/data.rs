//! What is kept of a configMap or secret, and of a token.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use static_pods::object::Content;

use super::slim;

/// A value of a configMap or secret.
pub type Bytes = Arc<[u8]>;

/// The content of a configMap or secret. Its Debug shows nothing of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ObjectData {
    /// `data`, by key.
    data: BTreeMap<Box<str>, Bytes>,
    /// `binaryData` of a configMap, by key.
    binary: BTreeMap<Box<str>, Bytes>,
    /// `type` of a secret.
    secret_type: Option<Box<str>>,
    /// `metadata.uid` of a secret of the API.
    uid: Option<Box<str>>,
    immutable: bool,
}

impl ObjectData {
    /// A configMap or secret with this `data`.
    #[must_use]
    pub fn new<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let data = data.into_iter();
        Self {
            data: data
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
            ..Self::default()
        }
    }

    /// The same with this `binaryData`.
    #[must_use]
    pub fn with_binary<'a>(mut self, data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let data = data.into_iter();
        self.binary = data
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        self
    }

    /// The same as a secret of the type `name`.
    #[must_use]
    pub fn with_type(mut self, name: &str) -> Self {
        self.secret_type = Some(name.into());
        self
    }

    /// The same with this UID.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.into());
        self
    }

    /// `metadata.uid` of a secret of the API.
    #[must_use]
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    /// The value of `key` in `data`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.data.get(key)
    }

    /// The value of `key` in `data`, else in `binaryData`.
    #[must_use]
    pub fn get_any(&self, key: &str) -> Option<&Bytes> {
        self.get(key).or_else(|| self.binary.get(key))
    }

    /// `data`, sorted by key.
    pub fn data(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.data.iter().map(|(key, value)| (&**key, value))
    }

    /// `binaryData`, sorted by key.
    pub(super) fn binary(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.binary.iter().map(|(key, value)| (&**key, value))
    }

    /// `data` and `binaryData`.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.data().chain(self.binary())
    }

    /// `type` of a secret.
    #[must_use]
    pub fn secret_type(&self) -> Option<&str> {
        self.secret_type.as_deref()
    }

    /// An object of `data` and `binaryData`.
    pub(super) fn of_parts(
        (data, binary): (
            BTreeMap<Box<str>, slim::Base64>,
            BTreeMap<Box<str>, slim::Base64>,
        ),
        secret_type: Option<Box<str>>,
        immutable: bool,
    ) -> Self {
        let bytes = |(key, value): (_, slim::Base64)| (key, Bytes::from(value.0));
        Self {
            data: data.into_iter().map(bytes).collect(),
            binary: binary.into_iter().map(bytes).collect(),
            secret_type,
            uid: None,
            immutable,
        }
    }

    /// Whether it never changes, and need not be watched.
    pub(super) fn is_immutable(&self) -> bool {
        self.immutable
    }
}

impl fmt::Debug for ObjectData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectData { .. }")
    }
}

impl From<&Content> for ObjectData {
    /// The values are shared.
    fn from(content: &Content) -> Self {
        Self {
            data: content.data.clone(),
            binary: content.binary.clone(),
            secret_type: content.secret_type.clone(),
            uid: None,
            immutable: content.immutable,
        }
    }
}

impl From<slim::ConfigMap> for ObjectData {
    fn from(map: slim::ConfigMap) -> Self {
        let text = |(key, value): (_, Box<str>)| (key, Bytes::from(value.into_boxed_bytes()));
        let binary = |(key, value): (_, slim::Base64)| (key, Bytes::from(value.0));
        Self {
            data: map.data.into_iter().flatten().map(text).collect(),
            binary: map.binary_data.into_iter().flatten().map(binary).collect(),
            secret_type: None,
            uid: None,
            immutable: map.immutable.unwrap_or(false),
        }
    }
}

impl From<slim::Secret> for ObjectData {
    fn from(secret: slim::Secret) -> Self {
        let bytes = |(key, value): (_, slim::Base64)| (key, Bytes::from(value.0));
        let uid = secret.uid();
        Self {
            data: secret.data.into_iter().flatten().map(bytes).collect(),
            binary: BTreeMap::new(),
            uid,
            secret_type: secret.kind,
            immutable: secret.immutable.unwrap_or(false),
        }
    }
}

/// A token of a service account. Its Debug does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Bytes);

impl Token {
    /// Wraps a token.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.as_bytes().into())
    }

    /// The token, to be written where the pod reads it.
    #[must_use]
    pub fn reveal(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token { .. }")
    }
}

/// What is known of something at the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// Nothing yet; why not, where that is known.
    Unknown(Option<Arc<str>>),
    /// There is no such object.
    Missing,
    /// It is this.
    There(T),
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self::Unknown(None)
    }
}

impl<T> Found<T> {
    /// Whether an answer has come, a failure among them.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self, Self::Unknown(None))
    }
}
