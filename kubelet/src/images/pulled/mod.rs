//! Who has pulled which image, so that an image which is here for one pod's credentials is not everybody's
//! (`KubeletEnsureSecretPulledImages`, KEP-2535).
//!
//! Owns: `image_manager/pulling` (an image is being pulled, or was when the agent died) and `image_manager/pulled` (it was
//! pulled, and by what right) below the root directory, both as upstream has them, file by file.
//! Inputs: pulls as they begin and end, what the runtime holds. Outputs: whether a pod may use an image that is here.
//! Tasks: none.
//! Does not: keep anything of it in memory but the pulls under way, hold any credentials (there are hashes), touch an image
//! or a container: what runs goes on, whatever becomes of the files.

mod files;
mod policy;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cri_proto::v1::Image;

use super::ImageName;
use super::name::bare_name;
use crate::clock::Clock;
use crate::metrics::kubelet;
use files::{Directory, FileError};
use record::Record;

pub use policy::{VerificationPolicy, wrong_pattern};
pub use record::AccountUse;
pub(super) use record::{PulledWith, SecretUse};

/// Where both directories are, below the root directory.
const DIRECTORY: &str = "image_manager";

/// The files. One a node, shared by reference.
#[derive(Debug)]
pub struct PullRecords {
    policy: VerificationPolicy,
    pulling: Directory,
    pulled: Directory,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many pulls of an image are under way.
    under_way: BTreeMap<String, usize>,
    /// The records that were written since [`PullRecords::mark`], by the name of their file.
    fresh: BTreeSet<String>,
}

/// Whether a pod may use an image that is here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It may.
    Free,
    /// It must pull it, with credentials of its own.
    Refused,
    /// That depends on its credentials, see [`PullRecords::admits`].
    Depends(Rights),
}

/// By what rights an image was pulled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rights(record::Rights);

/// A pull under way. When it is dropped the pull has failed, or was given up.
#[derive(Debug)]
pub(super) struct Intent<'r> {
    records: &'r PullRecords,
    image: String,
    /// Whether the file stays: the image is here, and nothing else says that the agent has pulled it.
    keep: bool,
}

impl PullRecords {
    /// The files below `root`, whose directories are made where they are missing.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(root: &Path, policy: VerificationPolicy, clock: Clock) -> io::Result<Self> {
        let directory = root.join(DIRECTORY);
        let records = Self {
            policy,
            pulling: Directory::open(&directory.join("pulling"))?,
            pulled: Directory::open(&directory.join("pulled"))?,
            clock,
            state: Mutex::default(),
        };
        records.renew();
        Ok(records)
    }

    /// Writes records of an older version anew, and says of which nothing can be made.
    fn renew(&self) {
        self.pulled.each(|name, bytes| match Record::read(bytes) {
            Ok(record) if files::name_of(&record.image_ref) == name => {
                let text = record.write();
                if text.as_bytes() != bytes {
                    say(
                        &record.image_ref,
                        self.pulled.write(&record.image_ref, &text),
                    );
                }
            }
            _ => tracing::warn!(
                file = name,
                "the record of a pulled image cannot be read: whoever uses that image pulls it anew"
            ),
        });
    }

    /// Whether an agent that died has left pulls that are to be [settled](Self::settle).
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.pulling.count() > 0
    }

    /// A pull of `image`, as a container has it, begins. A pull that cannot be written down is none: the image would be
    /// everybody's afterwards.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn begin(&self, image: &str) -> Result<Intent<'_>, FileError> {
        let mut state = self.state();
        self.pulling.write(image, &record::intent(image))?;
        *state.under_way.entry(image.to_owned()).or_default() += 1;
        Ok(Intent {
            records: self,
            image: image.to_owned(),
            keep: false,
        })
    }

    /// Whether a pod may use `image`, as its container has it, which is here as `image_ref`.
    pub(super) fn look(&self, image: &str, image_ref: &str) -> Access {
        let (access, result) = self.look_up(image, image_ref);
        if let Some(result) = result {
            kubelet().must_pull_checks.inc(&[result]);
        }
        access
    }

    /// The answer, and what it counts as; nothing while it depends.
    fn look_up(&self, image: &str, image_ref: &str) -> (Access, Option<&'static str>) {
        let state = self.state();
        let record = match self.record(image_ref) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(image, %error, "the record of a pulled image cannot be read, it is pulled anew");
                return (Access::Refused, Some("error"));
            }
        };
        let pulled =
            record.is_some() || state.under_way.contains_key(image) || self.pulling.holds(image);
        drop(state);
        if !self.policy.asks(image, pulled) {
            return (Access::Free, Some("credentialPolicyAllowed"));
        }
        let rights = record
            .as_ref()
            .and_then(|record| record.rights(bare_name(image)));
        match rights {
            Some(rights) if rights.node_pods_accessible => {
                (Access::Free, Some("credentialRecordFound"))
            }
            Some(rights)
                if !(rights.kubernetes_secrets.is_empty()
                    && rights.kubernetes_service_accounts.is_empty()) =>
            {
                (Access::Depends(Rights(rights.clone())), None)
            }
            _ => (Access::Refused, Some("mustAuthenticate")),
        }
    }

    /// Whether a pod that brings these may use the image which was pulled by these rights. A secret that does though it is
    /// another than the one that did is written down, too.
    pub(super) fn admits(
        &self,
        image: &str,
        image_ref: &str,
        rights: &Rights,
        offered: &[PulledWith],
    ) -> bool {
        let admitted = rights.0.admit(offered);
        let result = match admitted {
            Some(_) => "credentialRecordFound",
            None => "mustAuthenticate",
        };
        kubelet().must_pull_checks.inc(&[result]);
        if let Some(Some(secret)) = admitted {
            let with = PulledWith::Secret(secret.clone());
            if let Err(error) = self.learn(image, image_ref, &with) {
                tracing::warn!(image, %error, "the record of a pulled image cannot be written");
            }
        }
        admitted.is_some()
    }

    fn learn(&self, image: &str, image_ref: &str, with: &PulledWith) -> Result<(), FileError> {
        let mut state = self.state();
        let record = self.record(image_ref).unwrap_or_else(|error| {
            tracing::warn!(image, %error, "the record of a pulled image cannot be read, and is written anew");
            None
        });
        let mut record = record.unwrap_or_else(|| Record::new(image_ref));
        if record.learn(bare_name(image), with, self.clock.wall()) {
            self.pulled.write(image_ref, &record.write())?;
        }
        state.fresh.insert(files::name_of(image_ref));
        Ok(())
    }

    /// What is known of the image; none where the file is another's.
    fn record(&self, image_ref: &str) -> Result<Option<Record>, FileError> {
        let Some(bytes) = self.pulled.read(image_ref)? else {
            return Ok(None);
        };
        let record = Record::read(&bytes).map_err(|error| self.pulled.spoilt(image_ref, error))?;
        Ok(Some(record).filter(|record| record.image_ref == image_ref))
    }

    /// Makes what an agent that died has left of its pulls into records of the images that are here, `held` by the runtime:
    /// nobody knows with which credentials they came. What is not here stays as it is, as upstream's: it may come yet.
    pub fn settle(&self, held: &[Image]) {
        let mut intents = Vec::new();
        self.pulling
            .each(|name, bytes| match record::read_intent(bytes) {
                Ok(image) => intents.push(image),
                Err(_) => tracing::warn!(
                    file = name,
                    "what says that an image was being pulled cannot be read"
                ),
            });
        for image in intents {
            let found: Vec<_> = held.iter().filter(|one| is_called(one, &image)).collect();
            let mut written = true;
            for one in &found {
                let learned = self.learn(&image, &one.id, &PulledWith::Unknown);
                written &= say(&image, learned);
            }
            let state = self.state();
            if written && !found.is_empty() && !state.under_way.contains_key(&image) {
                say(&image, self.pulling.remove(&image));
            }
        }
    }

    /// The image is gone, and its record with it, unless it was pulled anew meanwhile.
    pub(super) fn forget(&self, image_ref: &str) {
        let state = self.state();
        if !state.fresh.contains(&files::name_of(image_ref)) {
            say(image_ref, self.pulled.remove(image_ref));
        }
    }

    /// From now on records that are written are fresh.
    pub(super) fn mark(&self) {
        self.state().fresh.clear();
    }

    /// Removes the records of images other than those of `held`, which the runtime was asked for after the last
    /// [`mark`](Self::mark), but for the fresh ones.
    pub(super) fn prune<'i>(&self, held: impl Iterator<Item = &'i str>) {
        let mut keep: BTreeSet<String> = held.map(files::name_of).collect();
        let state = self.state();
        keep.extend(state.fresh.iter().cloned());
        self.pulled.retain(|name| keep.contains(name));
    }

    /// How many files there are: of pulls under way, and of images that were pulled.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.pulling.count(), self.pulled.count())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; were it to, the counts are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intent<'_> {
    /// The image is here as `image_ref`, and was pulled so.
    pub(super) fn succeeded(mut self, image_ref: &str, with: &PulledWith) {
        if let Err(error) = self.records.learn(&self.image, image_ref, with) {
            let image = &self.image;
            tracing::warn!(image, %error, "the record of a pulled image cannot be written");
            self.keep = true;
        }
    }
}

impl Drop for Intent<'_> {
    fn drop(&mut self) {
        let mut state = self.records.state();
        if self.keep {
            return;
        }
        let last = match state.under_way.get_mut(&self.image) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => true,
        };
        if last && say(&self.image, self.records.pulling.remove(&self.image)) {
            state.under_way.remove(&self.image);
        }
    }
}

/// Whether the runtime calls an image so, which a container may call by a shorter name.
fn is_called(held: &Image, image: &str) -> bool {
    let full = ImageName::parse(image).map(|name| name.in_full());
    let mut names = held.repo_tags.iter().chain(&held.repo_digests);
    names.any(|name| name == image || full.as_ref().is_ok_and(|full| full == name))
}

/// Whether it was done; where not, the log says so.
fn say(image: &str, done: Result<(), FileError>) -> bool {
    if let Err(error) = &done {
        tracing::warn!(image, %error, "the record of a pull cannot be written");
    }
    done.is_ok()
}

#[cfg(test)]
mod tests;
