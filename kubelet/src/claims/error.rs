//! Why a pod's claims do not become volumes, in upstream's words.

use crate::volumes::VolumeError;

/// What is wrong with one claim, or with the volume behind it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The claim cannot be had.
    #[error("failed to fetch PVC from API server: {why}")]
    FetchClaim {
        /// What the API server says, or what was in the way of asking it.
        why: String,
        /// Whether it was the API server that said so.
        answered: bool,
    },
    /// The claim goes, and does not wait for pods.
    #[error("PVC is being deleted")]
    Deleted,
    /// There is no volume behind it yet.
    #[error("PVC is not bound")]
    NotBound,
    /// It is bound to nothing.
    #[error("PVC has empty pvc.Spec.VolumeName")]
    NoVolumeName,
    /// A claim of the name that a generic ephemeral volume gives, made for somebody else.
    #[error("it was not created for the pod")]
    NotOwned,
    /// The volume cannot be had.
    #[error("failed to fetch PV {volume} from API server: {why}")]
    FetchVolume {
        /// Its name.
        volume: String,
        /// What the API server says, or what was in the way of asking it.
        why: String,
        /// Whether it was the API server that said so.
        answered: bool,
    },
    /// The volume does not know of any claim.
    #[error(
        "found PV object {volume} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
    )]
    NoClaimRef {
        /// Its name.
        volume: String,
    },
    /// The volume is another claim's: of one that had this name before, perhaps.
    #[error(
        "found PV object {volume} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {wanted}"
    )]
    OtherClaim {
        /// Its name.
        volume: String,
        /// Whose it is.
        uid: String,
        /// Whose it should be.
        wanted: String,
    },
    /// A device that is to be mounted, or files that are to be a device.
    #[error("volume {volume} has volumeMode {mode}, but is specified in {field}")]
    Mode {
        /// Its name in the pod's spec.
        volume: String,
        /// What it is.
        mode: &'static str,
        /// `volumeMounts` or `volumeDevices`.
        field: &'static str,
    },
    /// The volume belongs to other nodes.
    #[error(
        "{}.NodeAffinity check failed for volume {volume:?} : no matching NodeSelectorTerms",
        step(*.block)
    )]
    Affinity {
        /// The name of the persistent volume.
        volume: String,
        /// It is a device.
        block: bool,
    },
    /// Another pod of the node has the volume, and it is for one pod at a time.
    #[error(
        "{}.{} failed for volume {volume:?} : volume uses the ReadWriteOncePod access mode and is already in use by another pod",
        step(*.block), if *.block { "SetUpDevice" } else { "SetUp" }
    )]
    InUse {
        /// The name of the persistent volume.
        volume: String,
        /// It is a device.
        block: bool,
    },
    /// What was found out cannot be kept.
    #[error("cannot keep what the pod's claims are bound to: {0}")]
    NotKept(String),
}

/// What upstream calls making a volume ready.
fn step(block: bool) -> &'static str {
    match block {
        true => "MapVolume",
        false => "MountVolume",
    }
}

impl ClaimError {
    /// Whether it is only that the API server has not answered.
    pub(super) fn is_no_answer(&self) -> bool {
        matches!(
            self,
            Self::FetchClaim {
                answered: false,
                ..
            } | Self::FetchVolume {
                answered: false,
                ..
            }
        )
    }

    /// What upstream says of it, where `claim` of `namespace`, which `pod` refers to, is what it is about.
    fn about(&self, namespace: &str, claim: &str, pod: &str) -> String {
        match self {
            Self::NotOwned => format!(
                "PVC {namespace}/{claim} was not created for pod {namespace}/{pod} (pod is not owner)"
            ),
            Self::Mode { .. } => self.to_string(),
            other => format!("error processing PVC {namespace}/{claim}: {other}"),
        }
    }
}

/// One volume of a pod that is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimFailure {
    /// Its name in the pod's spec.
    pub(super) volume: String,
    /// The claim's name.
    pub(super) claim: String,
    /// What is wrong.
    pub(super) error: ClaimError,
}

/// Why a pod's claims do not become volumes. Displays as the texts of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimsError {
    pub(super) namespace: String,
    pub(super) pod: String,
    /// All volumes that the pod's containers use, sorted.
    pub(super) expected: Vec<String>,
    /// At least one.
    pub(super) failures: Vec<ClaimFailure>,
}

impl ClaimsError {
    /// The reason of the events that tell of it.
    pub const REASON: &str = VolumeError::REASON;

    /// What the pod's events say, in upstream's words: of all that is wrong with claims at once, and of each volume that
    /// is not for this pod.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let own = |failure: &&ClaimFailure| {
            matches!(
                failure.error,
                ClaimError::Affinity { .. } | ClaimError::InUse { .. }
            )
        };
        let unprocessed: Vec<_> = self.failures.iter().filter(|f| !own(f)).collect();
        let mut texts = Vec::new();
        if !unprocessed.is_empty() {
            let mut names: Vec<_> = unprocessed.iter().map(|f| f.volume.as_str()).collect();
            names.sort_unstable();
            let causes = unprocessed
                .iter()
                .map(|f| f.error.about(&self.namespace, &f.claim, &self.pod));
            let causes: Vec<_> = causes.collect();
            texts.push(format!(
                "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[], failed to process volumes=[{}]: {}",
                self.expected.join(" "),
                names.join(" "),
                causes.join("; ")
            ));
        }
        let of_others = self.failures.iter().filter(own);
        texts.extend(of_others.map(|failure| failure.error.to_string()));
        texts
    }

    /// Whether it is only that the API server has not answered.
    #[must_use]
    pub fn waits_for_answer(&self) -> bool {
        self.failures.iter().all(|f| f.error.is_no_answer())
    }
}

impl std::fmt::Display for ClaimsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.texts().join("; "))
    }
}

impl std::error::Error for ClaimsError {}
