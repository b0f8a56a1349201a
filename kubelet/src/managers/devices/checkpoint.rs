//! The file that outlives the agent: who has which devices, and which resources there were. Its form is upstream's
//! (`kubelet_internal_checkpoint`), checksum and all, so that a node changes from upstream's kubelet to this agent and back.
//!
//! Upstream's checksum is 32 bits of FNV-1a over what its library prints of the Go value (`k8s.io/utils/dump`, `ForHash`):
//! type names, field names, and values in a form of its own, which is printed here likewise.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cri_proto::deviceplugin::ContainerAllocateResponse;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use static_pods::fnv::Fnv32;

use super::holdings::{ByNode, Holding, Holdings};
use crate::dir::{Dir, DirError};

/// In the directory of device plugins.
pub(super) const NAME: &str = "kubelet_internal_checkpoint";
/// What a file that is of no use is moved to. Not hidden: upstream would take it for one of its own.
pub(super) const SET_ASIDE: &str = "kubelet_internal_checkpoint.bad";
/// The same once more, for when the first is of no use. Hidden, so that upstream passes it over.
pub(super) const COPY: &str = ".kubelet_internal_checkpoint.copy";
/// No such file is larger, bytes.
const MOST: u64 = 16 << 20;
/// As upstream's.
const MODE: u32 = 0o600;

/// What is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// Who has what.
    pub(super) holdings: Holdings,
    /// The healthy devices of each resource that a plugin offered.
    pub(super) registered: BTreeMap<String, Vec<String>>,
}

/// What a look at the file brought.
#[derive(Debug)]
pub(super) enum Loaded {
    /// There is none.
    Missing,
    /// What it has.
    Good(Kept),
    /// It is not as it was written.
    Bad {
        /// What is wrong with it.
        why: CheckpointFault,
        /// What can be made out all the same: devices that somebody may have.
        salvaged: Kept,
    },
}

/// Why a file is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckpointFault {
    #[error("it cannot be read")]
    Unreadable(#[source] DirError),
    #[error("it is larger than {MOST} bytes")]
    TooLarge,
    #[error("it does not have the form of a checkpoint of devices")]
    Form(#[source] serde_json::Error),
    #[error("its checksum is {said}, and that of its content {is}")]
    Checksum { said: u64, is: u64 },
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u64,
}

/// A list or map that is absent is not an empty one to the checksum.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: Option<BTreeMap<String, Option<Vec<String>>>>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<BTreeMap<i64, Option<Vec<String>>>>,
    alloc_resp: Option<String>,
}

/// Reads the checkpoint `name` in `dir`.
pub(super) fn load(dir: &Dir, name: &str) -> Loaded {
    let bad = |why| Loaded::Bad {
        why,
        salvaged: Kept::default(),
    };
    let bytes = match dir.read_file(name, MOST + 1) {
        Ok(None) => return Loaded::Missing,
        Ok(Some(bytes)) if bytes.len() as u64 > MOST => return bad(CheckpointFault::TooLarge),
        Ok(Some(bytes)) => bytes,
        Err(error) => return bad(CheckpointFault::Unreadable(error)),
    };
    let file: File = match serde_json::from_slice(&bytes) {
        Ok(file) => file,
        Err(error) => return bad(CheckpointFault::Form(error)),
    };
    let is = checksum(&file.data);
    let kept = file.data.kept();
    match file.checksum == is {
        true => Loaded::Good(kept),
        false => Loaded::Bad {
            why: CheckpointFault::Checksum {
                said: file.checksum,
                is,
            },
            salvaged: kept,
        },
    }
}

/// The content of a file that has `kept`, for `dir`.
///
/// # Errors
/// When it has no such form.
pub(super) fn encode(dir: &Dir, kept: &Kept) -> Result<Vec<u8>, DirError> {
    let data = Data::of(kept);
    let file = File {
        checksum: checksum(&data),
        data,
    };
    serde_json::to_vec(&file).map_err(|error| DirError {
        action: "encode",
        path: dir.path_of(NAME),
        source: error.into(),
    })
}

/// Writes the checkpoint and its copy, each in one step that outlives a power cut.
///
/// # Errors
/// When one cannot be written.
pub(super) fn store(dir: &Dir, content: &[u8]) -> Result<(), DirError> {
    dir.replace(NAME, content, MODE)?;
    dir.replace(COPY, content, MODE)
}

impl Data {
    fn of(kept: &Kept) -> Self {
        let entries = kept
            .holdings
            .iter()
            .map(|(pod, container, resource, held)| {
                let by_node = held.devices.0.iter();
                Entry {
                    pod_uid: pod.to_owned(),
                    container_name: container.to_owned(),
                    resource_name: resource.to_owned(),
                    device_ids: Some(by_node.map(|(n, ids)| (*n, Some(ids.clone()))).collect()),
                    alloc_resp: Some(BASE64.encode(held.response.encode_to_vec())),
                }
            });
        let entries: Vec<Entry> = entries.collect();
        let registered = kept.registered.iter();
        Self {
            // As upstream writes a list that nothing was added to.
            pod_device_entries: (!entries.is_empty()).then_some(entries),
            registered_devices: Some(
                registered
                    .map(|(resource, ids)| (resource.clone(), Some(ids.clone())))
                    .collect(),
            ),
        }
    }

    /// An entry whose answer cannot be read is passed over, as upstream does.
    fn kept(self) -> Kept {
        let mut holdings = Holdings::default();
        for entry in self.pod_device_entries.into_iter().flatten() {
            let answer = entry.response();
            let Some(response) = answer else {
                let (pod, container) = (entry.pod_uid, entry.container_name);
                tracing::warn!(
                    pod,
                    container,
                    resource = entry.resource_name,
                    "what is kept of a container's devices cannot be read"
                );
                continue;
            };
            let by_node = entry.device_ids.into_iter().flatten();
            let devices = ByNode(
                by_node
                    .map(|(n, ids)| (n, ids.unwrap_or_default()))
                    .collect(),
            );
            let held = Holding { devices, response };
            let (pod, container) = (&entry.pod_uid, &entry.container_name);
            holdings.insert(pod, container, &entry.resource_name, held);
        }
        let registered = self.registered_devices.into_iter().flatten();
        Kept {
            holdings,
            registered: registered
                .map(|(resource, ids)| (resource, ids.unwrap_or_default()))
                .collect(),
        }
    }
}

impl Entry {
    fn response(&self) -> Option<ContainerAllocateResponse> {
        let bytes = BASE64.decode(self.alloc_resp.as_deref().unwrap_or_default());
        ContainerAllocateResponse::decode(bytes.ok()?.as_slice()).ok()
    }
}

fn checksum(data: &Data) -> u64 {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(text, "{}", Printed(data));
    u64::from(Fnv32::of(text.as_bytes()))
}

/// A value as upstream's library prints it for a hash.
struct Printed<'a, T>(&'a T);

/// What is there between brackets, or how a missing one prints.
fn list<T>(
    f: &mut fmt::Formatter<'_>,
    list: Option<&Vec<T>>,
    print: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    let Some(list) = list else {
        return f.write_str("<nil>");
    };
    f.write_str("[")?;
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            f.write_str(" ")?;
        }
        print(f, item)?;
    }
    f.write_str("]")
}

fn map<K: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    map: Option<&BTreeMap<K, Option<Vec<String>>>>,
) -> fmt::Result {
    let Some(map) = map else {
        return f.write_str("<nil>");
    };
    f.write_str("map[")?;
    for (index, (key, ids)) in map.iter().enumerate() {
        if index > 0 {
            f.write_str(" ")?;
        }
        write!(f, "{key}:")?;
        list(f, ids.as_ref(), |f, id| f.write_str(id))?;
    }
    f.write_str("]")
}

impl fmt::Display for Printed<'_, Data> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.0;
        f.write_str("(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)")?;
        list(f, data.pod_device_entries.as_ref(), |f, entry| {
            write!(f, "{}", Printed(entry))
        })?;
        f.write_str(" RegisteredDevices:(map[string][]string)")?;
        map(f, data.registered_devices.as_ref())?;
        f.write_str("}")
    }
}

impl fmt::Display for Printed<'_, Entry> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        write!(
            f,
            "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} DeviceIDs:(checkpoint.DevicesPerNUMA)",
            entry.pod_uid, entry.container_name, entry.resource_name
        )?;
        map(f, entry.device_ids.as_ref())?;
        f.write_str(" AllocResp:([]uint8)")?;
        let bytes = entry.alloc_resp.as_ref().map(|text| {
            // One that is no base64 is refused by upstream's reader, and hashes to something else here.
            BASE64.decode(text).unwrap_or_default()
        });
        list(f, bytes.as_ref(), |f, byte| write!(f, "{byte}"))?;
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests;
