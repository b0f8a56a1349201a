//! Whether containers have started, are ready, and live: asks them, and says what a pod's probes and hooks have
//! established.
//!
//! Owns: when a probe is asked and what its answers amount to (`machine`, pure), how a container is asked (`ask`), what
//! is known of each instance (`facts`), and [`ProbeView`], the word in which it reaches `plan/` and `status/`.
//! Inputs: the pod's spec and observation, what an earlier life of the agent has on record, hooks that run.
//! Outputs: [`PodProbes::views`], news of them ([`PodProbes::changed`]), events.
//! Tasks: one a probe, which sleeps until its next attempt and belongs to the worker of its pod; one a command that was
//! ended and that the runtime has not answered, for three seconds at most.
//! Does not: stop or start anything. A container whose probe has failed is ended by the plan.

mod ask;
mod counts;
pub(crate) mod facts;
mod machine;
mod pod;
mod spec;
mod task;

pub use ask::Prober;
pub use pod::{PodProbes, ProbeNews};
pub use spec::ProbeKind;

/// What probes and hooks say of one running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeView {
    /// The postStart hook is done and the startup probe, where there is one, has passed.
    pub started: bool,
    /// The readiness probe, where there is one, passes at present.
    pub ready: bool,
    /// The probe for whose sake the container has to end.
    pub failed: Option<FailedProbe>,
}

/// A probe that has failed as often as its `failureThreshold` says, and ends its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedProbe {
    /// The liveness probe.
    Liveness,
    /// The startup probe.
    Startup,
}
