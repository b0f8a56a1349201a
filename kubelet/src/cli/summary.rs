//! A pod in one line, with the words that `kubectl get pods` has for it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod, PodStatus};

use super::age;

/// What the columns of a pod say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// `1/2`.
    pub(super) ready: String,
    /// The phase, or what says more: `CrashLoopBackOff`, `Init:0/2`, `Terminating` …
    pub(super) status: String,
    /// `3`, or `3 (5m ago)`.
    pub(super) restarts: String,
    /// Since when, or `<unknown>`.
    pub(super) age: String,
}

/// Restarts, and when the last instance before one ended.
#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &ContainerStatus) {
        self.count = self.count.saturating_add(status.restart_count);
        let ended = status.last_state.as_ref();
        let ended = ended.and_then(|state| state.terminated.as_ref()?.finished_at.as_ref());
        self.last = self.last.max(ended.map(|time| time.0));
    }

    fn text(&self, now: Timestamp) -> String {
        match (self.count, self.last) {
            (0, _) | (_, None) => self.count.to_string(),
            (count, Some(last)) => format!("{count} ({} ago)", since(last, now)),
        }
    }
}

impl Summary {
    /// What there is to say of `pod` at `now`.
    pub(super) fn of(pod: &Pod, now: Timestamp) -> Self {
        let none = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&none);
        let spec = pod.spec.as_ref();
        let init_specs = spec
            .and_then(|spec| spec.init_containers.as_deref())
            .unwrap_or_default();
        let containers = spec.map_or(0, |spec| spec.containers.len());
        let sidecars = init_specs
            .iter()
            .filter(|container| is_sidecar(container))
            .count();

        let mut word = status.phase.clone().unwrap_or_default();
        if let Some(reason) = status.reason.as_deref().filter(|reason| !reason.is_empty()) {
            reason.clone_into(&mut word);
        }
        let init = Init::of(status, init_specs);
        let mut ready = init.ready_sidecars;
        let mut restarts = init.restarts;
        if let Some(stands) = init.stands {
            word = stands;
        }
        if init.over || is_true(status, "Initialized") {
            restarts = init.sidecar_restarts;
            let mut one_runs = false;
            for container in status.container_statuses.iter().flatten().rev() {
                restarts.add(container);
                let Some(state) = &container.state else {
                    continue;
                };
                match said(state) {
                    Some(said) => word = said,
                    None if container.ready && state.running.is_some() => {
                        one_runs = true;
                        ready += 1;
                    }
                    None => {}
                }
            }
            if word == "Completed" && one_runs {
                let word_of_ready = match is_true(status, "Ready") {
                    true => "Running",
                    false => "NotReady",
                };
                word_of_ready.clone_into(&mut word);
            }
        }
        let ends = pod.metadata.deletion_timestamp.is_some();
        if ends && !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            "Terminating".clone_into(&mut word);
        }
        Self {
            ready: format!("{ready}/{}", containers + sidecars),
            status: word,
            restarts: restarts.text(now),
            age: begun(pod).map_or_else(|| "<unknown>".to_owned(), |time| since(time, now)),
        }
    }
}

/// What the init containers amount to.
struct Init {
    /// They do not keep the others waiting.
    over: bool,
    /// Which one is at it, or why it is not: the pod's word while they are not over.
    stands: Option<String>,
    ready_sidecars: usize,
    restarts: Restarts,
    sidecar_restarts: Restarts,
}

impl Init {
    fn of(status: &PodStatus, specs: &[Container]) -> Self {
        let mut found = Self {
            over: true,
            stands: None,
            ready_sidecars: 0,
            restarts: Restarts::default(),
            sidecar_restarts: Restarts::default(),
        };
        let statuses = status.init_container_statuses.iter().flatten();
        for (index, container) in statuses.enumerate() {
            let spec = specs.iter().find(|spec| spec.name == container.name);
            let sidecar = spec.is_some_and(is_sidecar);
            found.restarts.add(container);
            if sidecar {
                found.sidecar_restarts.add(container);
            }
            let state = container.state.clone().unwrap_or_default();
            let ended_well = state
                .terminated
                .as_ref()
                .is_some_and(|ended| ended.exit_code == 0);
            if ended_well {
                continue;
            }
            if sidecar && container.started == Some(true) {
                found.ready_sidecars += usize::from(container.ready);
                continue;
            }
            let word = match said(&state) {
                Some(word) if word != "PodInitializing" => word,
                _ => format!("{index}/{}", specs.len()),
            };
            found.stands = Some(format!("Init:{word}"));
            found.over = false;
            break;
        }
        found
    }
}

/// What a state has to say for itself, when it does not run.
fn said(state: &ContainerState) -> Option<String> {
    let not_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(reason) = state
        .waiting
        .as_ref()
        .and_then(|waiting| not_empty(&waiting.reason))
    {
        return Some(reason);
    }
    let ended = state.terminated.as_ref()?;
    Some(
        not_empty(&ended.reason).unwrap_or_else(|| match ended.signal {
            Some(signal) if signal != 0 => format!("Signal:{signal}"),
            _ => format!("ExitCode:{}", ended.exit_code),
        }),
    )
}

pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn is_true(status: &PodStatus, condition: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|found| found.type_ == condition && found.status == "True")
}

/// When the pod was made; a static one that no API server knows was made when it was taken in.
pub(super) fn begun(pod: &Pod) -> Option<Timestamp> {
    let made = pod.metadata.creation_timestamp.as_ref();
    let taken = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    made.or(taken).map(|time| time.0)
}

/// How long ago.
pub(super) fn since(time: Timestamp, now: Timestamp) -> String {
    age::short(now.duration_since(time).as_secs())
}

#[cfg(test)]
mod tests;
