//! Images: is it here, may it be pulled, pull it; remove what nobody uses.
//!
//! Owns: the queue of pulls, their rate limit and their back-off (all in memory); what an image name may look like;
//! the node's registry credentials while a pull uses them; the files about who has pulled what ([`PullRecords`]).
//! Inputs: a container's image and policy, the secrets that its pod brings along; the runtime's image service behind [`ImageRuntime`]; docker configuration
//! files. Outputs: [`ImageReady`] or [`ImageError`]; events through the caller's closure.
//! Tasks: where images are to be removed now and again, one that does ([`ImageCollector`]; which ones is `garbage`'s, pure).
//! Otherwise none: a look-up and a pull are part of the future of whoever asked (see [`ImagePuller::ensure`] for what
//! dropping it does).

pub mod archives;
mod backoff;
mod collector;
mod credential;
mod credentials;
mod error;
mod event;
mod garbage;
mod limit;
mod name;
mod policy;
mod presence;
mod providers;
mod pull_secrets;
mod pulled;
mod puller;

pub use collector::{CollectError, CollectorInputs, ImageCollector, ImagePolicy};
pub use credential::{Credential, CredentialOwner};
pub use credentials::{CredentialFileError, Keyring, NodeCredentials};
pub use error::ImageError;
pub use event::{ImageEvent, PULLING};
pub use name::{ImageName, InvalidImageName};
pub use policy::{Decision, PullPolicy, decide};
pub use providers::{ProviderError, Providers};
pub use pull_secrets::credentials_in_secrets;
pub use pulled::{AccountUse, PullRecords, VerificationPolicy, wrong_pattern};
pub use puller::{Claimant, ImagePuller, ImageRequest, ImageRuntime, PullConfig};

use std::fmt::Write as _;

use crate::runtime::ImageRef;

/// A digest in hexadecimal.
pub(crate) fn hex(digest: &ring::digest::Digest) -> String {
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// SHA-256 in hexadecimal.
fn sha256_hex(bytes: &[u8]) -> String {
    hex(&ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// Whom an image runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    /// A numeric user.
    Uid(i64),
    /// A user that only the image's own `/etc/passwd` can tell the number of.
    Name(String),
}

impl Default for ImageUser {
    /// Root: what an image that says nothing runs as.
    fn default() -> Self {
        Self::Uid(0)
    }
}

/// An image that a container can be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReady {
    /// What the runtime calls it; a tag that moves after this changes nothing.
    pub image_ref: ImageRef,
    /// Whom it runs as unless the pod says otherwise.
    pub user: ImageUser,
    /// Bytes on disk.
    pub size_bytes: u64,
}
