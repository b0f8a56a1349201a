//! What the agent writes into the volumes of a pod. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Volume;

use super::payload::Payload;
use super::{SetUpError, downward_api, keyed, projected};
use crate::cgroups::resources::ResourceList;
use crate::errors::error_chain;
use crate::objects::PodSnapshot;
use crate::pod::{self, Pod};

/// What contents are made of.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The objects that it refers to.
    pub objects: &'a PodSnapshot,
    /// What pods may use of the node: the limit of a container that has none.
    pub allocatable: &'a ResourceList,
    /// When they were made; generations of files are named after it.
    pub now: Timestamp,
}

/// The contents of those volumes of one pod that the agent writes.
#[derive(Debug, Default)]
pub struct Contents {
    volumes: BTreeMap<String, Result<Payload, SetUpError>>,
    made_at: Timestamp,
}

impl Contents {
    /// The contents of the pod's volumes, as they should be now.
    #[must_use]
    pub fn of(inputs: &Inputs<'_>) -> Self {
        let volumes = pod::spec(inputs.pod).volumes.iter().flatten();
        let volumes = volumes.filter_map(|volume| {
            let payload = payload(volume, inputs)?;
            Some((volume.name.clone(), payload))
        });
        Self {
            volumes: volumes.collect(),
            made_at: inputs.now,
        }
    }

    /// Whether some volume of `pod` is one that the agent writes.
    #[must_use]
    pub fn any(pod: &Pod) -> bool {
        let mut volumes = pod::spec(pod).volumes.iter().flatten();
        volumes.any(|volume| Written::of(volume).is_some())
    }

    /// A number that is another one for other contents.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, made) in &self.volumes {
            name.hash(&mut hasher);
            match made {
                Ok(payload) => payload.hash(&mut hasher),
                Err(error) => error_chain(error).hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    pub(super) fn take(&mut self, volume: &str) -> Result<Payload, SetUpError> {
        let made = self.volumes.remove(volume);
        made.unwrap_or(Err(SetUpError::NoContent))
    }

    pub(super) fn made_at(&self) -> Timestamp {
        self.made_at
    }
}

fn payload(volume: &Volume, inputs: &Inputs<'_>) -> Option<Result<Payload, SetUpError>> {
    let (pod, objects) = (inputs.pod, inputs.objects);
    if let Some(source) = &volume.config_map {
        return Some(keyed::config_map(source, objects));
    }
    if let Some(source) = &volume.secret {
        return Some(keyed::secret(source, objects));
    }
    if let Some(source) = &volume.downward_api {
        return Some(downward_api::payload(source, pod, inputs.allocatable));
    }
    let source = volume.projected.as_ref()?;
    Some(projected::payload(&volume.name, source, inputs))
}

/// A kind of volume whose files the agent writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The kind's directory in `volumes/`.
    pub(super) plugin: &'static str,
    pub(super) in_memory: bool,
}

impl Written {
    pub(super) fn of(volume: &Volume) -> Option<Self> {
        let (plugin, in_memory) = if volume.config_map.is_some() {
            (keyed::CONFIG_MAP_PLUGIN, false)
        } else if volume.secret.is_some() {
            (keyed::SECRET_PLUGIN, true)
        } else if volume.downward_api.is_some() {
            (downward_api::PLUGIN, true)
        } else if volume.projected.is_some() {
            (projected::PLUGIN, true)
        } else {
            return None;
        };
        Some(Self { plugin, in_memory })
    }
}
