//! One container to stop: how long it gets, and what is said of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::{PlanInput, PodPlan, Step};
use crate::pod::{self, ContainerKind, Pod};
use crate::probes::FailedProbe;
use crate::runtime::{ContainerId, ObservedContainer};

/// A container to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStop {
    /// The instance.
    pub id: ContainerId,
    /// Its name in the spec.
    pub name: Arc<str>,
    /// Whether it is one of `spec.initContainers`.
    pub init: bool,
    /// From SIGTERM to SIGKILL, a hook before it included. Zero asks for no hook; SIGTERM to SIGKILL is at least
    /// [`super::MINIMUM_GRACE`].
    pub grace: Duration,
    /// Why, as the event says it.
    pub reason: StopReason,
}

/// Why a container is stopped. Displayed as the message of upstream's `Killing` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The pod ends, or its sandbox does.
    PodEnds,
    /// The name or the image of the container is no longer that of the spec.
    DefinitionChanged,
    /// The runtime cannot tell its state.
    UnknownState,
    /// It runs beside the instance that counts, in another sandbox, or is no longer in the spec.
    Stray,
    /// A probe failed as often as it may.
    FailedProbe {
        /// Which one.
        probe: FailedProbe,
        /// The container is started again.
        restarts: bool,
    },
    /// By a rule of one container all of them start anew.
    AllRestart,
    /// It was given other resources, and its policy is to be made anew for them.
    Resized,
}

impl ContainerStop {
    /// The message of the `Killing` event.
    #[must_use]
    pub fn message(&self) -> String {
        let what = if self.init {
            "Init container"
        } else {
            "Container"
        };
        let name = &self.name;
        // Upstream's words for an init container leave out that it comes back: it always does.
        let outlook = |restarts| match restarts {
            true if !self.init => ", will be restarted",
            _ => "",
        };
        match self.reason {
            StopReason::PodEnds | StopReason::Stray => format!("Stopping container {name}"),
            StopReason::DefinitionChanged => {
                format!("{what} {name} definition changed{}", outlook(true))
            }
            StopReason::UnknownState => {
                format!("{what} is in \"unknown\" state, try killing it before restart")
            }
            StopReason::FailedProbe { probe, restarts } => {
                let probe = match probe {
                    FailedProbe::Liveness => "liveness",
                    FailedProbe::Startup => "startup",
                };
                format!("{what} {name} failed {probe} probe{}", outlook(restarts))
            }
            StopReason::AllRestart => "killing".to_owned(),
            StopReason::Resized => format!("Container {name} resize requires restart"),
        }
    }
}

impl fmt::Display for ContainerStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, id, grace) = (&self.name, &self.id, self.grace);
        write!(f, "{name}={id} within {grace:?} ({})", self.message())
    }
}

impl PodPlan {
    /// Stops one container, for as long as its own probe says where that is what ends it, else as its pod does.
    pub(super) fn stop_one(
        &mut self,
        input: &PlanInput<'_>,
        container: &ObservedContainer,
        reason: StopReason,
    ) {
        let spec = pod::containers(input.pod).find(|(_, c)| *c.name == *container.name);
        let own = match reason {
            StopReason::FailedProbe { probe, .. } => spec.and_then(|(_, c)| grace_of(c, probe)),
            _ => None,
        };
        let init = spec.is_some_and(|(kind, _)| kind != ContainerKind::Regular);
        self.steps.push(Step::Stop(vec![ContainerStop {
            id: container.id.clone(),
            name: container.name.clone(),
            init,
            grace: own.unwrap_or_else(|| pod_grace(input.pod)),
            reason,
        }]));
    }
}

/// What a pod's own spec gives its containers to stop.
pub(super) fn pod_grace(pod: &Pod) -> Duration {
    Duration::from_secs(pod::grace_seconds(pod).unsigned_abs())
}

/// `terminationGracePeriodSeconds` of the probe that failed.
fn grace_of(container: &Container, probe: FailedProbe) -> Option<Duration> {
    let probe: &Probe = match probe {
        FailedProbe::Liveness => container.liveness_probe.as_ref()?,
        FailedProbe::Startup => container.startup_probe.as_ref()?,
    };
    let seconds = probe.termination_grace_period_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
