//! State files in the root directory, in upstream's form: JSON on one line with a checksum.
//!
//! The checksum is FNV-1a (32 bits) over how Go's `spew` prints the value with a checksum of 0
//! (`pkg/util/hash.DeepHashObject`), so that a node may go from upstream's kubelet to this agent and back. A corrupt file is
//! set aside, where upstream refuses to start.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::errors::error_chain;
use crate::whole_file;

/// The most that is read of a file: far more than any node writes.
const MOST_BYTES: u64 = 16 << 20;

/// Why a state file stands against a start. In upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It was written by another policy.
    #[error(
        "could not restore state from checkpoint: configured policy {configured:?} differs from state checkpoint policy {written:?}, please drain this node and delete the {manager} manager checkpoint file {path:?} before restarting Kubelet"
    )]
    OtherPolicy {
        /// The policy of the configuration.
        configured: String,
        /// The policy of the file.
        written: String,
        /// `CPU` or `memory`.
        manager: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// What it says cannot be, on this machine with this configuration.
    #[error("{why}; invalid state, please drain node and remove policy state file {}", path.display())]
    Invalid {
        /// What does not fit.
        why: String,
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What a state file holds.
pub(super) trait State: Serialize + DeserializeOwned {
    /// The policy that wrote it.
    fn policy(&self) -> &str;
    /// The checksum in it.
    fn checksum(&self) -> u64;
    /// The same with this checksum.
    fn set_checksum(&mut self, checksum: u64);
    /// As Go's `spew` prints it with a checksum of 0.
    fn printed(&self) -> String;
    /// Whether all texts in it can be read.
    fn is_sound(&self) -> bool;
}

/// What was found in a file's place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<S> {
    Good(S),
    Missing,
    /// It was, and has been set aside.
    Corrupt,
}

/// A state file.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// `CPU` or `memory`.
    manager: &'static str,
}

impl StateFile {
    pub(super) fn new(root: &Path, name: &str, manager: &'static str) -> Self {
        Self {
            path: root.join(name),
            manager,
        }
    }

    /// Reads what `policy` has written. A corrupt file is renamed.
    ///
    /// # Errors
    /// When another policy wrote it, or it cannot be read or renamed.
    pub(super) fn load<S: State>(&self, policy: &str) -> Result<Found<S>, StateError> {
        let bytes = match read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            bytes => bytes.map_err(|source| self.unreadable(source))?,
        };
        let why = match serde_json::from_slice::<S>(&bytes) {
            Err(error) => error.to_string(),
            // Upstream takes a file without a checksum too.
            Ok(state) if ![0, checksum(&state)].contains(&state.checksum()) => {
                "its checksum is another".to_owned()
            }
            Ok(state) if !state.is_sound() => "it holds what cannot be read".to_owned(),
            Ok(state) if state.policy() != policy => {
                return Err(StateError::OtherPolicy {
                    configured: policy.to_owned(),
                    written: state.policy().to_owned(),
                    manager: self.manager,
                    path: self.path.clone(),
                });
            }
            Ok(state) => return Ok(Found::Good(state)),
        };
        let aside = self.set_aside().map_err(|source| self.unreadable(source))?;
        tracing::error!(
            path = %self.path.display(),
            aside = %aside.display(),
            why,
            "the state file of the {} manager is corrupt; it is kept beside, and made anew from what runs",
            self.manager
        );
        Ok(Found::Corrupt)
    }

    /// Whether another policy than `policy` wrote the file. Of a file that cannot be made out nobody can say.
    ///
    /// # Errors
    /// When it did.
    pub(super) fn check_policy(&self, policy: &str) -> Result<(), StateError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Written {
            policy_name: String,
        }
        let written = read(&self.path).ok();
        let written = written.and_then(|bytes| serde_json::from_slice::<Written>(&bytes).ok());
        match written {
            Some(Written { policy_name }) if policy_name != policy => {
                Err(StateError::OtherPolicy {
                    configured: policy.to_owned(),
                    written: policy_name,
                    manager: self.manager,
                    path: self.path.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// What the file says does not fit.
    pub(super) fn invalid(&self, why: String) -> StateError {
        StateError::Invalid {
            why,
            path: self.path.clone(),
        }
    }

    fn unreadable(&self, source: io::Error) -> StateError {
        StateError::Read {
            path: self.path.clone(),
            source,
        }
    }

    /// Renames the file to the first name that is free, `.corrupt` and a number behind its own.
    fn set_aside(&self) -> io::Result<PathBuf> {
        let mut number = 0_u32;
        loop {
            let mut name = self.path.as_os_str().to_owned();
            name.push(match number {
                0 => ".corrupt".to_owned(),
                more => format!(".corrupt.{more}"),
            });
            let aside = PathBuf::from(name);
            if !aside.exists() {
                std::fs::rename(&self.path, &aside)?;
                return Ok(aside);
            }
            number += 1;
        }
    }

    /// Puts `state` in the file's place, and says so where that fails: whether it was done.
    pub(super) fn save<S: State>(&self, state: S) -> bool {
        let stored = self.store(state);
        if let Err(error) = &stored {
            tracing::error!(
                path = %self.path.display(),
                error = error_chain(error),
                "cannot write down what the {} manager has given; the next change tries again",
                self.manager
            );
        }
        stored.is_ok()
    }

    /// Puts `state` in the file's place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn store<S: State>(&self, mut state: S) -> io::Result<()> {
        let checksum = checksum(&state);
        state.set_checksum(checksum);
        whole_file::replace(&self.path, &serde_json::to_vec(&state)?, 0o600)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MOST_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn checksum<S: State>(state: &S) -> u64 {
    let hash = state.printed().bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    u64::from(hash)
}
