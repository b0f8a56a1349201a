//! Why a container has no image yet.

use std::time::Duration;

use super::name::InvalidImageName;

/// Why an image cannot be used. Its text is the message of the waiting container, its [`reason`](Self::reason) the
/// reason beside it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The name is none.
    #[error("Failed to apply default image tag {image:?}: {why}")]
    InvalidName {
        /// As the spec has it.
        image: String,
        /// What is wrong with it.
        why: InvalidImageName,
    },
    /// The runtime could not say whether it has the image.
    #[error("Failed to inspect image {image:?}: {failure}")]
    Inspect {
        /// As the spec has it.
        image: String,
        /// What the runtime said.
        failure: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// It is not there, and the policy is `Never`.
    #[error("Container image {image:?} is not present with pull policy of Never")]
    NeverPull {
        /// As the spec has it.
        image: String,
        /// When to look again.
        retry_after: Duration,
    },
    /// A pull failed.
    #[error("{failure}")]
    Pull {
        /// What the runtime said, word for word.
        failure: String,
        /// When to ask again; from then on until the next pull the answer is [`ImageError::Backoff`].
        retry_after: Duration,
    },
    /// A pull failed, and the runtime says that the registry is not there.
    #[error("image pull failed for {image} because the registry is unavailable{detail}")]
    RegistryUnavailable {
        /// As the spec has it.
        image: String,
        /// What the runtime said beyond that, from its colon on.
        detail: String,
        /// As of [`ImageError::Pull`].
        retry_after: Duration,
    },
    /// A pull failed, and the runtime says that the image's signature does not hold.
    #[error("image pull failed for {image} because the signature validation failed{detail}")]
    SignatureValidationFailed {
        /// As the spec has it.
        image: String,
        /// What the runtime said beyond that, from its colon on.
        detail: String,
        /// As of [`ImageError::Pull`].
        retry_after: Duration,
    },
    /// A pull failed not long ago, and is not tried again yet.
    #[error("Back-off pulling image {image:?}{}", after_colon(.previous))]
    Backoff {
        /// As the spec has it.
        image: String,
        /// Reason and message of the failed pull.
        previous: Option<String>,
        /// When to pull again.
        retry_after: Duration,
    },
}

fn after_colon(previous: &Option<String>) -> String {
    previous
        .as_ref()
        .map(|previous| format!(": {previous}"))
        .unwrap_or_default()
}

impl ImageError {
    /// Upstream's reason: of the waiting container, and of the event `Error: <reason>`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::Inspect { .. } => "ImageInspectError",
            Self::NeverPull { .. } => "ErrImageNeverPull",
            Self::Pull { .. } => "ErrImagePull",
            Self::RegistryUnavailable { .. } => "RegistryUnavailable",
            Self::SignatureValidationFailed { .. } => "SignatureValidationFailed",
            Self::Backoff { .. } => "ImagePullBackOff",
        }
    }

    /// How long to leave it alone. `None`: for good, only another spec can help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::InvalidName { .. } => None,
            Self::Inspect { retry_after, .. }
            | Self::NeverPull { retry_after, .. }
            | Self::Pull { retry_after, .. }
            | Self::RegistryUnavailable { retry_after, .. }
            | Self::SignatureValidationFailed { retry_after, .. }
            | Self::Backoff { retry_after, .. } => Some(*retry_after),
        }
    }

    /// What a failed pull is, by what the runtime said of it. Source of the prefixes: CRI API, `pkg/errors`.
    pub(super) fn of_pull(image: &str, failure: &str, retry_after: Duration) -> Self {
        let image = image.to_owned();
        if let Some(detail) = failure.strip_prefix("RegistryUnavailable") {
            return Self::RegistryUnavailable {
                image,
                detail: detail.to_owned(),
                retry_after,
            };
        }
        if let Some(detail) = failure.strip_prefix("SignatureValidationFailed") {
            return Self::SignatureValidationFailed {
                image,
                detail: detail.to_owned(),
                retry_after,
            };
        }
        Self::Pull {
            failure: failure.to_owned(),
            retry_after,
        }
    }
}
