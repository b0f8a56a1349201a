//! From what is known of a pod to its status. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus as ApiPodStatus;

use super::conditions::{self, Facts};
use super::containers::{self, Side};
use super::phase;
use super::types::{Phase, PodStatus, Waiting};
use crate::pod::{self, Pod, QosClass};
use crate::probes::ProbeView;
use crate::resize::Progress;
use crate::runtime::{ContainerState, ObservedPod};

/// Why a pod was not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// One CamelCase word: `OutOfcpu`, `NodeAffinity` …
    pub reason: Arc<str>,
    /// A sentence; the status puts "Pod was rejected: " before it.
    pub message: Arc<str>,
}

/// Why a pod that was admitted has to end in `Failed`, whatever its containers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// One CamelCase word: `DeadlineExceeded`, `Evicted` …
    pub reason: Arc<str>,
    /// A sentence, published as it is.
    pub message: Arc<str>,
    /// What the condition `DisruptionTarget` says, where the node ends the pod for the sake of others.
    pub disruption: Option<Arc<str>>,
}

/// All that a pod's status depends on.
#[derive(Clone, Copy, Debug)]
pub struct StatusInput<'a> {
    /// The pod. Its own `status` counts as the API server's copy: what is terminal there stays so.
    pub pod: &'a Pod,
    /// Its quality of service.
    pub qos: QosClass,
    /// What the runtime holds of it.
    pub observed: &'a ObservedPod,
    /// By container: why it does not run. An entry for a container that runs, or that will not be started again, is
    /// passed over.
    pub waiting: &'a BTreeMap<Arc<str>, Waiting>,
    /// By container: what probes and hooks say. A container without an entry counts as started and ready while it runs.
    pub probes: &'a BTreeMap<Arc<str>, ProbeView>,
    /// The status before this one: the last one derived, or after a restart of the agent what its record kept.
    pub previous: Option<&'a PodStatus>,
    /// When the agent took the pod on; a start time in `previous` outranks it.
    pub start_time: Timestamp,
    /// The pod is being stopped: nothing in it is started again.
    pub terminating: bool,
    /// Nothing of the pod runs and nothing more will: a terminal phase may be published. Passed over while the runtime
    /// shows a running container.
    pub finished: bool,
    /// The pod was not admitted.
    pub rejected: Option<&'a Rejected>,
    /// The pod was admitted and has to fail.
    pub failure: Option<&'a PodFailure>,
    /// How far the pod has come with the resources that it asks for.
    pub resize: &'a Progress,
    /// The node's addresses, primary first, at most one a family; empty when unknown.
    pub host_ips: &'a [IpAddr],
    /// Signals that ask containers to stop are shown (feature gate `ContainerStopSignals`).
    pub stop_signals: bool,
    /// The time, for conditions that flip.
    pub now: Timestamp,
}

impl StatusInput<'_> {
    /// Whether the pod comes from a file or a URL.
    pub(super) fn is_static(&self) -> bool {
        pod::is_static(self.pod)
    }

    /// The status that came with the pod.
    pub(super) fn api_status(&self) -> Option<&ApiPodStatus> {
        self.pod.status.as_ref()
    }

    fn terminal_before(&self) -> Option<Phase> {
        let api = || Phase::parse(self.api_status()?.phase.as_deref()?);
        self.previous
            .map(|p| p.phase)
            .filter(|p| p.is_terminal())
            .or_else(|| api().filter(|p| p.is_terminal()))
    }

    fn nothing_runs(&self) -> bool {
        let mut states = self.observed.containers.iter().map(|c| c.state);
        !states.any(|s| s == ContainerState::Running)
    }
}

/// The status of the pod.
///
/// A terminal phase is never left, and never entered before `finished`: until then the phase stays as it was. A static
/// pod that is stopped keeps the phase its containers give it.
#[must_use]
pub fn derive_status(input: &StatusInput<'_>) -> PodStatus {
    if let Some(rejected) = input.rejected {
        return reject(input, rejected);
    }
    let finished = input.finished && input.nothing_runs();
    let mut containers = containers::derive(input, Side::Regular);
    let mut init_containers = containers::derive(input, Side::Init);
    let mut ephemeral_containers = containers::derive_ephemeral(input);

    let mut phase = phase::derive(input, &init_containers, &containers);
    if finished && !input.is_static() && !phase.is_terminal() {
        phase = Phase::Failed;
    }
    if input.failure.is_some() {
        phase = Phase::Failed;
    }
    if let Some(terminal) = input.terminal_before() {
        phase = terminal;
    } else if phase.is_terminal() && !finished {
        phase = phase_before(input, &containers);
    }
    if finished {
        containers::close(input, &mut init_containers, &mut containers);
    }

    let (reason, message) = explanation(input, phase);
    let facts = Facts {
        input,
        phase,
        init_containers: &init_containers,
        containers: &containers,
    };
    let conditions = conditions::derive(&facts);
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    ephemeral_containers.sort_by(|a, b| a.name.cmp(&b.name));
    PodStatus {
        phase,
        reason,
        message,
        start_time: Some(start_time(input)),
        conditions,
        init_containers,
        containers,
        ephemeral_containers,
        pod_ips: pod_ips(input),
        host_ips: input.host_ips.to_vec(),
        qos: input.qos,
    }
}

/// A pod that was not admitted has a phase and nothing else: no containers, no conditions.
fn reject(input: &StatusInput<'_>, rejected: &Rejected) -> PodStatus {
    PodStatus {
        phase: input.terminal_before().unwrap_or(Phase::Failed),
        reason: Some(rejected.reason.clone()),
        message: Some(format!("Pod was rejected: {}", rejected.message).into()),
        start_time: Some(start_time(input)),
        conditions: Vec::new(),
        init_containers: Vec::new(),
        containers: Vec::new(),
        ephemeral_containers: Vec::new(),
        pod_ips: Vec::new(),
        host_ips: Vec::new(),
        qos: input.qos,
    }
}

fn start_time(input: &StatusInput<'_>) -> Timestamp {
    let before = input.previous.and_then(|p| p.start_time);
    let api = || Some(input.api_status()?.start_time.as_ref()?.0);
    before.or_else(api).unwrap_or(input.start_time)
}

/// The phase to keep showing while a pod whose containers have all ended is not wound up.
fn phase_before(input: &StatusInput<'_>, containers: &[super::ContainerStatus]) -> Phase {
    match input.previous {
        Some(previous) => previous.phase,
        None if containers.iter().any(containers::has_run) => Phase::Running,
        None => Phase::Pending,
    }
}

/// Reason and message live as long as the phase they explain; also those that somebody else put there.
fn explanation(input: &StatusInput<'_>, phase: Phase) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let api = input.api_status();
    let api_phase = || api.and_then(|s| Phase::parse(s.phase.as_deref()?));
    let before = input.previous.map(|p| p.phase).or_else(api_phase);
    if before == Some(phase) {
        let previous = input.previous;
        let api_text =
            |text: Option<&String>| text.filter(|t| !t.is_empty()).map(|t| t.as_str().into());
        let reason = previous
            .and_then(|p| p.reason.clone())
            .or_else(|| api_text(api.and_then(|s| s.reason.as_ref())));
        let message = previous
            .and_then(|p| p.message.clone())
            .or_else(|| api_text(api.and_then(|s| s.message.as_ref())));
        if phase.is_terminal() || reason.is_some() || message.is_some() {
            return (reason, message);
        }
    }
    match input.failure {
        Some(failure) if phase == Phase::Failed => {
            (Some(failure.reason.clone()), Some(failure.message.clone()))
        }
        _ => (None, None),
    }
}

/// The pod's addresses: one a family, the family of the node's primary address first.
///
/// A pod whose sandbox has stopped keeps the addresses it had: the API promises them for pods that have completed.
fn pod_ips(input: &StatusInput<'_>) -> Vec<IpAddr> {
    if pod::host_network(input.pod) {
        return input.host_ips.to_vec();
    }
    let sandboxes = &input.observed.sandboxes;
    let current = match sandboxes.first() {
        Some(newest) if newest.ready => newest.ips.as_slice(),
        _ if sandboxes.iter().any(|s| s.ready) => &[],
        _ => input.previous.map_or(&[][..], |p| &p.pod_ips),
    };
    let v6_first = input.host_ips.first().is_some_and(IpAddr::is_ipv6);
    let v4_first = input.host_ips.first().is_some_and(IpAddr::is_ipv4);
    let first_of = |v6: bool| current.iter().copied().find(|ip| ip.is_ipv6() == v6);
    let leads_with_v6 = v6_first || (!v4_first && current.first().is_some_and(IpAddr::is_ipv6));
    [first_of(leads_with_v6), first_of(!leads_with_v6)]
        .into_iter()
        .flatten()
        .collect()
}
