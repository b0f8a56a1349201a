//! Golden cases: `tests/golden/status/<case>/{pod.json,steps.json} -> status.json`.
//!
//! A step is one derivation; what it derives is the next one's previous status. The golden is the last step's status as
//! the API has it. `UPDATE_GOLDEN=1` writes the goldens anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::*;
use crate::pod::{Pod, QosClass};
use crate::probes::ProbeView;
use crate::probes::facts::Facts;
use crate::record::{Loaded, Record, RecordFile, RecordWriter};
use crate::resize::{Pending, PendingReason, Progress};
use crate::runtime::{ContainerState, LinuxUser, ObservedContainer, ObservedPod, ObservedSandbox};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Step {
    now: Timestamp,
    #[serde(default)]
    sandboxes: Vec<SandboxStep>,
    #[serde(default)]
    containers: Vec<ContainerStep>,
    #[serde(default)]
    waiting: BTreeMap<String, (String, String)>,
    #[serde(default)]
    probes: BTreeMap<String, (bool, bool)>,
    #[serde(default)]
    terminating: bool,
    #[serde(default)]
    finished: bool,
    #[serde(default)]
    rejected: Option<(String, String)>,
    #[serde(default)]
    failure: Option<(String, String)>,
    /// For whose sake the node ends the pod: the message of `DisruptionTarget`.
    #[serde(default)]
    disruption: Option<String>,
    #[serde(default)]
    host_ips: Vec<IpAddr>,
    /// The gate `ContainerStopSignals`.
    #[serde(default)]
    stop_signals: bool,
    /// Why the resources that the pod asks for were not given: `Deferred` or `Infeasible`, and a sentence.
    #[serde(default)]
    resize_pending: Option<(String, String)>,
    /// Some that were given are not in effect; with what went wrong, which may be nothing.
    #[serde(default)]
    resize_in_progress: Option<String>,
    /// The agent was restarted before this step and kept no record.
    #[serde(default)]
    forget: bool,
    /// A moment between two others: the same again is shown as what follows it.
    #[serde(default)]
    passing: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SandboxStep {
    id: String,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    stopped: bool,
    #[serde(default)]
    ips: Vec<IpAddr>,
    #[serde(default)]
    host_network: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ContainerStep {
    name: String,
    #[serde(default)]
    attempt: u32,
    #[serde(default = "first_sandbox")]
    sandbox: String,
    state: String,
    #[serde(default)]
    started: Option<Timestamp>,
    #[serde(default)]
    finished: Option<Timestamp>,
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    /// User, group, supplemental groups.
    #[serde(default)]
    user: Option<(i64, i64, Vec<i64>)>,
    #[serde(default)]
    stop_signal: Option<String>,
    /// Repeats `message`, for long ones.
    #[serde(default = "once")]
    message_times: usize,
}

fn first_sandbox() -> String {
    "s0".to_owned()
}

fn once() -> usize {
    1
}

fn nanoseconds(time: Option<Timestamp>) -> i64 {
    time.map_or(0, |t| i64::try_from(t.as_nanosecond()).unwrap())
}

impl ContainerStep {
    fn observed(&self) -> ObservedContainer {
        ObservedContainer {
            id: format!("{}-{}-{}", self.sandbox, self.name, self.attempt).into(),
            sandbox: self.sandbox.as_str().into(),
            name: self.name.as_str().into(),
            attempt: self.attempt,
            state: match self.state.as_str() {
                "created" => ContainerState::Created,
                "running" => ContainerState::Running,
                "exited" => ContainerState::Exited,
                "unknown" => ContainerState::Unknown,
                other => panic!("no container state {other}"),
            },
            created_at: nanoseconds(self.started),
            started_at: nanoseconds(self.started),
            finished_at: nanoseconds(self.finished),
            exit_code: self.exit_code,
            reason: self.reason.as_str().into(),
            message: self.message.repeat(self.message_times).into(),
            image: format!("docker.io/library/{}:1", self.name).into(),
            image_ref: format!("docker.io/library/{}@sha256:00", self.name).into(),
            hash: "".into(),
            log_path: "".into(),
            grace_seconds: None,
            user: self.user.clone().map(|(uid, gid, groups)| {
                let user = LinuxUser { uid, gid, groups };
                Box::new(user)
            }),
            stop_signal: self.stop_signal.as_deref().map(Into::into),
            recursive_read_only: None,
        }
    }
}

impl Step {
    fn observed(&self) -> ObservedPod {
        ObservedPod {
            sandboxes: self
                .sandboxes
                .iter()
                .map(|s| ObservedSandbox {
                    id: s.id.as_str().into(),
                    attempt: s.attempt,
                    ready: !s.stopped,
                    created_at: 0,
                    ips: s.ips.clone(),
                    host_network: s.host_network,
                })
                .collect(),
            containers: self
                .containers
                .iter()
                .map(ContainerStep::observed)
                .collect(),
        }
    }

    fn derive(&self, pod: &Pod, start_time: Timestamp, previous: Option<&PodStatus>) -> PodStatus {
        let waiting = self.waiting.iter().map(|(name, (reason, message))| {
            let waiting = Waiting {
                reason: reason.as_str().into(),
                message: message.as_str().into(),
            };
            (name.as_str().into(), waiting)
        });
        let waiting: BTreeMap<Arc<str>, Waiting> = waiting.collect();
        let probes = self.probes.iter().map(|(name, (started, ready))| {
            let view = ProbeView {
                started: *started,
                ready: *ready,
                failed: None,
            };
            (name.as_str().into(), view)
        });
        let probes: BTreeMap<Arc<str>, ProbeView> = probes.collect();
        let rejected = self.rejected.as_ref().map(|(reason, message)| Rejected {
            reason: reason.as_str().into(),
            message: message.as_str().into(),
        });
        let failure = self.failure.as_ref().map(|(reason, message)| PodFailure {
            reason: reason.as_str().into(),
            message: message.as_str().into(),
            disruption: self.disruption.as_deref().map(Into::into),
        });
        let pending = self.resize_pending.as_ref().map(|(reason, message)| {
            let reason = match reason.as_str() {
                "Deferred" => PendingReason::Deferred,
                "Infeasible" => PendingReason::Infeasible,
                other => panic!("no resize is {other}"),
            };
            let message = message.as_str().into();
            Arc::new(Pending { reason, message })
        });
        let actuating = self.resize_in_progress.as_deref();
        let resize = Progress {
            pending,
            actuating: actuating.map(|error| Some(error).filter(|e| !e.is_empty()).map(Into::into)),
        };
        let observed = self.observed();
        let mut input = StatusInput {
            pod,
            qos: QosClass::BestEffort,
            observed: &observed,
            waiting: &waiting,
            probes: &probes,
            previous: previous.filter(|_| !self.forget),
            start_time,
            terminating: self.terminating,
            finished: self.finished,
            rejected: rejected.as_ref(),
            failure: failure.as_ref(),
            host_ips: &self.host_ips,
            stop_signals: self.stop_signals,
            resize: &resize,
            now: self.now,
        };
        let status = derive_status(&input);
        input.previous = Some(&status);
        input.now += jiff::SignedDuration::from_secs(3600);
        if !self.passing {
            let again = derive_status(&input);
            assert_eq!(again, status, "the same again changes nothing");
        }
        status
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn last_status(case: &Path) -> String {
    let pod: Pod = read(&case.join("pod.json"));
    let steps: Vec<Step> = read(&case.join("steps.json"));
    let start_time = steps[0].now;
    let mut status: Option<PodStatus> = None;
    for step in &steps {
        status = Some(step.derive(&pod, start_time, status.as_ref()));
    }
    let written = serialise(&pod, &status.expect("a case has a step"), "containerd");
    serde_json::to_string_pretty(&written).unwrap() + "\n"
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/status")
}

#[test]
fn goldens() {
    let mut cases: Vec<_> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(
        cases.len() > 20,
        "only {} cases in {}",
        cases.len(),
        root().display()
    );
    let mut wrong = Vec::new();
    for case in cases {
        let golden = case.join("status.json");
        let now = last_status(&case);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &now).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if expected != now {
            let case = case
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            wrong.push(format!("== {case}: expected\n{expected}got\n{now}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A restart of the agent, a day's step of the wall clock either way, and no probe result yet: nothing flips.
#[test]
fn a_restart_of_the_agent_changes_nothing_of_what_runs() {
    let case = root().join("probe-not-ready");
    let pod: Pod = read(&case.join("pod.json"));
    let steps: Vec<Step> = read(&case.join("steps.json"));
    let step = &steps[0];
    let before = step.derive(&pod, step.now, None);
    let mut record = Record::default();
    record.take_status(&before);
    let directory = tempfile::tempdir().unwrap();
    let mut writer = RecordWriter::new(directory.path().to_owned());
    writer.store(&record, Duration::ZERO, false).unwrap();

    let Loaded::Good(kept) = RecordFile::load(directory.path()) else {
        panic!("the record is there");
    };
    let observed = step.observed();
    let previous = kept.previous_status(QosClass::BestEffort);
    for hours in [-24, 0, 24] {
        let now = step.now + jiff::SignedDuration::from_hours(hours);
        let after = derive_status(&StatusInput {
            pod: &pod,
            qos: QosClass::BestEffort,
            observed: &observed,
            waiting: &BTreeMap::new(),
            probes: &Facts::of_record(&kept.containers).views(&pod, &observed),
            previous: previous.as_ref(),
            start_time: now,
            terminating: false,
            finished: false,
            rejected: None,
            failure: None,
            host_ips: &[],
            stop_signals: false,
            resize: &Progress::default(),
            now,
        });
        assert_eq!(after, before, "{hours} h");
    }
}
