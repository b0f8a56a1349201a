//! Images: is it here, may it be pulled, pull it; remove what nobody uses.
//!
//! Owns: the queue of pulls, their rate limit and their back-off (all in memory); what an image name may look like;
//! the node's registry credentials while a pull uses them.
//! Inputs: a container's image and policy, the secrets that its pod brings along; the runtime's image service behind [`ImageRuntime`]; docker configuration
//! files. Outputs: [`ImageReady`] or [`ImageError`]; events through the caller's closure.
//! Tasks: where images are to be removed now and again, one that does ([`ImageCollector`]; which ones is `garbage`'s, pure).
//! Otherwise none: a look-up and a pull are part of the future of whoever asked (see [`ImagePuller::ensure`] for what
//! dropping it does).
//! Does not: run credential-provider plugins, or keep records of who pulled what.

pub mod archives;
mod backoff;
mod collector;
mod credentials;
mod error;
mod event;
mod garbage;
mod limit;
mod name;
mod policy;
mod presence;
mod pull_secrets;
mod puller;

pub use collector::{CollectError, CollectorInputs, ImageCollector, ImagePolicy};
pub use credentials::{Credential, CredentialFileError, Keyring, NodeCredentials};
pub use error::ImageError;
pub use event::{ImageEvent, PULLING};
pub use name::{ImageName, InvalidImageName};
pub use policy::{Decision, PullPolicy, decide};
pub use pull_secrets::credentials_in_secrets;
pub use puller::{ImagePuller, ImageRequest, ImageRuntime, PullConfig};

use crate::runtime::ImageRef;

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
