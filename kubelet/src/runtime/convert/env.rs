//! A container's environment.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVarSource, FileKeySelector};

use super::NodeSettings;
use super::downward::{self, DownwardError};
use super::env_file::{self, EnvFile};
use super::expand::expand;
use super::service_env;
use crate::objects::{Kind, ObjectData, ObjectError, PodSnapshot, ServiceLinks};
use crate::pod::{self, Pod};

/// Why an environment cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A configMap or secret that is not there.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A key that a configMap or secret does not have.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
    },
    /// The API server has not said yet which services there are.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    NoServices,
    /// A `fileKeyRef` to a volume that the pod does not have.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoFileVolume(String),
    /// A file that cannot be read, or is not of the form.
    #[error("couldn't parse env file")]
    File,
    /// A variable that is not in its file.
    #[error("environment variable key {key:?} not found in file {path:?}")]
    NoFileKey {
        /// The key.
        key: String,
        /// The file on the node.
        path: String,
    },
    /// A field or resource without a value.
    #[error(transparent)]
    Downward(#[from] DownwardError),
}

impl EnvError {
    /// Whether a change of an object, or the first word on services, may let it succeed.
    #[must_use]
    pub fn waits_for_objects(&self) -> bool {
        matches!(
            self,
            Self::Object(_) | Self::NoKey { .. } | Self::NoServices
        )
    }
}

/// Variables in the order in which they were first named; each once, with its last value.
#[derive(Default)]
pub(super) struct Environment(Vec<(String, Vec<u8>)>);

impl Environment {
    /// The value of `name`. One that is no text, as a secret's may be, is no part of a text either.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(have, _)| have == name);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(have, _)| have == name)
    }

    fn put(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(have, _)| have == name) {
            Some((_, have)) => *have = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The same with `given` before it, as far as there is no variable of that name.
    pub(super) fn over(self, given: &BTreeMap<String, String>) -> Self {
        let more = given.iter().filter(|(name, _)| !self.has(name));
        let more = more.map(|(name, value)| (name.clone(), value.clone().into_bytes()));
        Self(more.chain(self.0.clone()).collect())
    }

    /// `text` with its references to these variables replaced.
    pub(super) fn expand(&self, text: &str) -> String {
        expand(text, |name| self.get(name))
    }

    /// As [`Environment::expand`], where each variable must have a value that is not empty.
    ///
    /// # Errors
    /// The names of those that have none, in order.
    pub(super) fn expand_all(&self, text: &str) -> Result<String, Vec<String>> {
        let missing = RefCell::new(BTreeSet::new());
        let expanded = expand(text, |name| {
            let value = self.get(name).filter(|value| !value.is_empty());
            if value.is_none() {
                missing.borrow_mut().insert(name.to_owned());
            }
            value
        });
        let missing: Vec<_> = missing.into_inner().into_iter().collect();
        match missing.is_empty() {
            true => Ok(expanded),
            false => Err(missing),
        }
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (String, Vec<u8>)> {
        self.0.into_iter()
    }
}

/// Files that environments refer to, by volume and path, for those volumes that the pod has.
pub type EnvFiles = BTreeMap<(String, String), EnvFile>;

/// What the environment of `container` is taken from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) pod_ips: &'a [IpAddr],
    pub(super) objects: &'a PodSnapshot,
    pub(super) services: &'a ServiceLinks,
    pub(super) files: &'a EnvFiles,
    pub(super) node: &'a NodeSettings,
}

/// The environment that the spec asks for, and the services. A value may refer to variables named before it and to those
/// of services, to no later ones.
pub(super) fn environment(sources: &Sources<'_>) -> Result<Environment, EnvError> {
    let ServiceLinks::Known(services) = sources.services else {
        return Err(EnvError::NoServices);
    };
    let of_services = service_env::variables(services);
    let of_service = |name: &str| {
        // Of two services whose names read the same in capitals the last counts.
        let found = of_services.iter().rev().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    };
    let mut env = Environment::default();
    for from in sources.container.env_from.iter().flatten() {
        sources.all_of(from, &mut env)?;
    }
    for var in sources.container.env.iter().flatten() {
        match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => {
                let value = expand(text, |name| match env.has(name) {
                    true => env.get(name),
                    false => of_service(name),
                });
                env.put(&var.name, value);
            }
            (_, None) => env.put(&var.name, ""),
            (_, Some(from)) => {
                // What is optional and not there is as if nobody had named it.
                if let Some(value) = sources.value(from)? {
                    env.put(&var.name, value);
                }
            }
        }
    }
    let declared = env.0.len();
    for (name, value) in of_services {
        let shadowed = env.0[..declared].iter().any(|(have, _)| *have == name);
        if !shadowed {
            env.put(&name, value);
        }
    }
    Ok(env)
}

impl Sources<'_> {
    /// Adds every value of a configMap or secret.
    fn all_of(&self, from: &EnvFromSource, env: &mut Environment) -> Result<(), EnvError> {
        let (kind, name, optional) = if let Some(source) = &from.config_map_ref {
            (Kind::ConfigMap, &source.name, source.optional)
        } else if let Some(source) = &from.secret_ref {
            (Kind::Secret, &source.name, source.optional)
        } else {
            return Ok(());
        };
        let optional = optional.unwrap_or(false);
        let Some(data) = self.objects.get_optional(kind, name, optional)? else {
            return Ok(());
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in data.data() {
            env.put(&format!("{prefix}{key}"), &**value);
        }
        Ok(())
    }

    /// The value that a variable takes from elsewhere; none where it is optional and not there.
    fn value(&self, from: &EnvVarSource) -> Result<Option<Vec<u8>>, EnvError> {
        let text = |value: String| Ok(Some(value.into_bytes()));
        if let Some(field) = &from.field_ref {
            return text(downward::field_for_env(
                self.pod,
                field,
                self.pod_ips,
                self.node,
            )?);
        }
        if let Some(field) = &from.resource_field_ref {
            let (pod, container) = (self.pod, self.container);
            return text(downward::resource_for_env(
                pod, container, field, self.node,
            )?);
        }
        if let Some(key) = &from.config_map_key_ref {
            return self.key(Kind::ConfigMap, &key.name, &key.key, key.optional);
        }
        if let Some(key) = &from.secret_key_ref {
            return self.key(Kind::Secret, &key.name, &key.key, key.optional);
        }
        match &from.file_key_ref {
            Some(key) if self.node.env_files => self.file_key(key),
            _ => text(String::new()),
        }
    }

    fn key(
        &self,
        kind: Kind,
        name: &str,
        key: &str,
        optional: Option<bool>,
    ) -> Result<Option<Vec<u8>>, EnvError> {
        let optional = optional.unwrap_or(false);
        let data: Option<Arc<ObjectData>> = self.objects.get_optional(kind, name, optional)?;
        match data.as_ref().and_then(|data| data.get(key)) {
            Some(value) => Ok(Some(value.to_vec())),
            None if optional => Ok(None),
            None => Err(EnvError::NoKey {
                kind: match kind {
                    Kind::ConfigMap => "ConfigMap",
                    Kind::Secret => "Secret",
                },
                namespace: pod::PodName::of(self.pod).namespace.to_string(),
                name: name.to_owned(),
                key: key.to_owned(),
            }),
        }
    }

    fn file_key(&self, key: &FileKeySelector) -> Result<Option<Vec<u8>>, EnvError> {
        let file = self
            .files
            .get(&(key.volume_name.clone(), key.path.clone()))
            .ok_or_else(|| EnvError::NoFileVolume(key.volume_name.clone()))?;
        let value = match &file.text {
            Some(text) => env_file::value(text, &key.key).map_err(|why| {
                tracing::warn!(path = file.path, why, "no file of variables");
                EnvError::File
            })?,
            None => return Err(EnvError::File),
        };
        match value.is_empty() {
            false => Ok(Some(value.into_bytes())),
            true if key.optional.unwrap_or(false) => Ok(None),
            true => Err(EnvError::NoFileKey {
                key: key.key.clone(),
                path: file.path.clone(),
            }),
        }
    }
}
