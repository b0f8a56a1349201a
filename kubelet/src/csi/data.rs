//! `vol_data.json`: what has to be known to give a volume back when its pod's spec is gone. Upstream's file and keys, so
//! that either agent finds its way in what the other has mounted; a key of our own says since which boot it is done.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

use super::error::CsiError;
use crate::dir::{Dir, DirError};

/// Its name, beside `mount` and `globalmount`.
pub(super) const FILE: &str = "vol_data.json";
/// What is written before it takes that name.
const NEW: &str = ".vol_data.json.new";
/// Bytes read of it.
const MOST: u64 = 64 << 10;
/// Only root looks into it.
const MODE: u32 = 0o600;

/// How a volume lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifecycle {
    /// As long as its PersistentVolume.
    #[default]
    Persistent,
    /// As long as its pod.
    Ephemeral,
}

impl Lifecycle {
    /// As the API has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "Persistent",
            Self::Ephemeral => "Ephemeral",
        }
    }
}

/// What the file holds. Those of a staged volume have driver, handle and `done` alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct VolumeData {
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub(super) spec_name: String,
    #[serde(rename = "volumeHandle")]
    pub(super) handle: String,
    #[serde(rename = "driverName")]
    pub(super) driver: String,
    #[serde(rename = "nodeName", skip_serializing_if = "String::is_empty")]
    pub(super) node: String,
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub(super) attachment: String,
    #[serde(
        rename = "volumeLifecycleMode",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) lifecycle: Option<Lifecycle>,
    #[serde(
        rename = "seLinuxMountContext",
        skip_serializing_if = "String::is_empty"
    )]
    pub(super) selinux: String,
    /// Ours: the boot in which the driver has said that it is staged, or published. Empty before.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) done: String,
    /// What other agents write.
    #[serde(flatten)]
    pub(super) other: BTreeMap<String, serde_json::Value>,
}

impl VolumeData {
    /// Whether it is of the same volume.
    pub(super) fn is_of(&self, driver: &str, handle: &str) -> bool {
        self.driver == driver && self.handle == handle
    }
}

/// What is in `dir`; none where there is no such file.
///
/// # Errors
/// When it cannot be read, or is none.
pub(super) fn read(dir: &Dir) -> Result<Option<VolumeData>, CsiError> {
    let Some(bytes) = dir.read_file(FILE, MOST)? else {
        return Ok(None);
    };
    let data = serde_json::from_slice(&bytes).map_err(|error| CsiError::Data {
        path: dir.path_of(FILE).display().to_string(),
        why: error.to_string(),
    })?;
    Ok(Some(data))
}

/// Writes it, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(dir: &Dir, data: &VolumeData) -> Result<(), CsiError> {
    let failed = |source| DirError {
        action: "write",
        path: dir.path_of(FILE),
        source,
    };
    let bytes = serde_json::to_vec(data).map_err(|error| failed(error.into()))?;
    dir.remove_file(NEW)?;
    let mut file = dir.ensure_file(NEW, MODE)?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    written.map_err(failed)?;
    Ok(dir.rename(NEW, FILE)?)
}

/// Removes it.
///
/// # Errors
/// When it is there and cannot be removed.
pub(super) fn remove(dir: &Dir) -> Result<(), CsiError> {
    dir.remove_file(NEW)?;
    Ok(dir.remove_file(FILE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_has_upstreams_keys() {
        let place = tempfile::tempdir().unwrap();
        let dir = Dir::open(place.path()).unwrap();
        assert!(read(&dir).unwrap().is_none());
        let data = VolumeData {
            spec_name: "v".into(),
            handle: "h".into(),
            driver: "d".into(),
            node: "n".into(),
            attachment: "csi-1".into(),
            lifecycle: Some(Lifecycle::Ephemeral),
            done: "boot".into(),
            ..VolumeData::default()
        };
        write(&dir, &data).unwrap();
        assert_eq!(read(&dir).unwrap(), Some(data));
        let text = std::fs::read_to_string(place.path().join(FILE)).unwrap();
        let keys: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
        let keys: Vec<_> = keys.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "attachmentID",
                "done",
                "driverName",
                "nodeName",
                "specVolID",
                "volumeHandle",
                "volumeLifecycleMode"
            ]
        );
        remove(&dir).unwrap();
        assert!(read(&dir).unwrap().is_none());
    }

    #[test]
    fn what_upstream_has_written_is_read() {
        let place = tempfile::tempdir().unwrap();
        let text = r#"{"attachmentID":"csi-a","driverName":"d","nodeName":"n","specVolID":"pv","volumeHandle":"h","volumeLifecycleMode":"Persistent","new":"x"}"#;
        std::fs::write(place.path().join(FILE), text).unwrap();
        let data = read(&Dir::open(place.path()).unwrap()).unwrap().unwrap();
        assert!(data.is_of("d", "h") && !data.is_of("d", "other"));
        assert_eq!(data.lifecycle, Some(Lifecycle::Persistent));
        assert_eq!(data.done, "");
        std::fs::write(place.path().join(FILE), "{").unwrap();
        let torn = read(&Dir::open(place.path()).unwrap()).unwrap_err();
        assert!(torn.to_string().contains("failed to load volume data file"));
    }
}
