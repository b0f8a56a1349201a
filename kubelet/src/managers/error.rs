//! Why a pod does not get what it asks for.

use crate::admission::Rejection;

/// Why a container does not get its resources. Its text is the message of the pod that is refused for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// What upstream has no reason of its own for.
    #[error("Allocate failed due to {0}, which is unexpected")]
    Unexpected(String),
    /// A reason of its own.
    #[error("{message}")]
    Reasoned {
        /// Upstream's reason, such as `SMTAlignmentError`.
        reason: &'static str,
        /// What is wrong.
        message: String,
    },
}

impl AllocateError {
    /// No NUMA nodes that the topology manager's policy would have.
    pub(super) fn topology() -> Self {
        Self::Reasoned {
            reason: "TopologyAffinityError",
            message: "Resources cannot be allocated with Topology locality".to_owned(),
        }
    }

    /// The refusal of the pod.
    #[must_use]
    pub fn rejection(&self) -> Rejection {
        let reason = match self {
            Self::Unexpected(_) => "UnexpectedAdmissionError",
            Self::Reasoned { reason, .. } => reason,
        };
        Rejection::new(reason, self.to_string())
    }
}
