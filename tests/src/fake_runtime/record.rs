//! What was asked of the runtime, and what never should have come of it.

use tokio::time::Instant;
use tonic::Code;

/// One call, in the order in which they came.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method: `CreateContainer`.
    pub method: &'static str,
    /// What it is about, in the pod's own words: `namespace/pod`, `namespace/pod/container`, or an image as asked for.
    /// Empty for calls about the runtime, and about ids it does not know.
    pub subject: String,
    /// The sandbox or container id it named; for those that make one, the id made, once it is done.
    pub id: String,
    /// When it came.
    pub began: Instant,
    /// When it was answered.
    pub ended: Option<Instant>,
    /// How it was answered; none while it runs, and when the client went away before the answer.
    pub code: Option<Code>,
}

impl Call {
    /// Whether it was answered without an error.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.code == Some(Code::Ok)
    }
}

/// The one thing that must never be: a container was started while another instance of it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `namespace/pod/container`.
    pub subject: String,
    /// The instance that was started.
    pub started: String,
    /// The instances that were running already.
    pub running: Vec<String>,
    /// When, by the runtime's clock, nanoseconds since the epoch.
    pub at: i64,
}
