//! What a pod's probes and hooks have established of its containers.
//!
//! Owns: [`ProbeView`], the word in which results reach `plan/` and `status/`.

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
