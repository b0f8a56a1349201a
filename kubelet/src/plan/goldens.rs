//! Golden cases: `tests/golden/plan/<case>/{pod.json,observed.json} -> plan.txt`.
//!
//! `observed.json` is what is known beside the spec; `plan.txt` is the plan as it is displayed. A case with `terminate`
//! is planned as a pod that nobody wants any more. `UPDATE_GOLDEN=1` writes the goldens anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::tests::HOUR;
use super::*;
use crate::probes::FailedProbe;
use crate::runtime::ImageRef;
use crate::runtime::observed::newest_first;

/// Upstream's `maxContainerRestartPeriod` by default.
const CAP: Duration = Duration::from_secs(300);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Known {
    #[serde(default)]
    sandboxes: Vec<Sandbox>,
    #[serde(default)]
    containers: Vec<Instance>,
    #[serde(default)]
    probes: BTreeMap<String, Probed>,
    /// By container: how often it was started again, and when last.
    #[serde(default)]
    restarted: BTreeMap<String, Restarted>,
    /// By container: the attempt that follows the newest log.
    #[serde(default)]
    attempts_on_disk: BTreeMap<String, u32>,
    /// Seconds of grace that a pod which ends has left.
    #[serde(default)]
    terminate: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Sandbox {
    id: String,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    stopped: bool,
    #[serde(default)]
    no_address: bool,
    #[serde(default)]
    host_network: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Instance {
    name: String,
    #[serde(default)]
    attempt: u32,
    #[serde(default = "first_sandbox")]
    sandbox: String,
    state: String,
    #[serde(default)]
    exit_code: i32,
    /// Seconds since it ended.
    #[serde(default = "an_hour")]
    ended_ago: u64,
    /// Seconds for which it ran.
    #[serde(default = "an_hour")]
    ran: i64,
    /// The image that it was made from; the spec's where none is given.
    #[serde(default)]
    image: Option<String>,
    /// It was made by somebody who writes no hash.
    #[serde(default)]
    no_hash: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Probed {
    #[serde(default = "yes")]
    started: bool,
    #[serde(default = "yes")]
    ready: bool,
    #[serde(default)]
    failed: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Restarted {
    times: u32,
    /// Seconds since the last time.
    ago: u64,
}

fn first_sandbox() -> String {
    "s0".to_owned()
}

fn an_hour<T: From<u16>>() -> T {
    T::from(3600)
}

fn yes() -> bool {
    true
}

impl Known {
    fn observed(&self, pod: &Pod) -> ObservedPod {
        let sandboxes = self.sandboxes.iter().map(|s| ObservedSandbox {
            id: s.id.as_str().into(),
            attempt: s.attempt,
            ready: !s.stopped,
            created_at: i64::from(s.attempt),
            ips: match s.no_address || s.host_network {
                true => Vec::new(),
                false => vec!["10.0.0.1".parse().unwrap()],
            },
            host_network: s.host_network,
        });
        let containers = self.containers.iter().map(|c| c.observed(pod));
        let mut observed = ObservedPod {
            sandboxes: sandboxes.collect(),
            containers: containers.collect(),
        };
        newest_first(&mut observed.sandboxes, &mut observed.containers);
        observed
    }

    fn backoffs(&self, pod: &Pod) -> Backoffs {
        let mut backoffs = Backoffs::new(Backoffs::INITIAL, CAP);
        for (name, restarted) in &self.restarted {
            let container = pod::container(pod, name).expect("a container of the pod");
            let at = HOUR * 100 - Duration::from_secs(restarted.ago);
            for _ in 0..restarted.times {
                backoffs.advance(BackoffKey::of(&container), Exit::at(at), at);
            }
        }
        backoffs
    }

    fn plan(&self, pod: &Pod) -> PodPlan {
        let observed = self.observed(pod);
        if let Some(seconds) = self.terminate {
            return plan_termination(pod, &observed, Duration::from_secs(seconds));
        }
        let now = HOUR * 100;
        let ended = |c: &Instance| Exit::at(now - Duration::from_secs(c.ended_ago));
        let exits = self.containers.iter().map(|c| (c.id(), ended(c))).collect();
        let names = |(name, attempt): (&String, &u32)| (Arc::from(name.as_str()), *attempt);
        let probes = self.probes.iter().map(|(name, probed)| {
            let view = ProbeView {
                started: probed.started,
                ready: probed.ready,
                failed: probed.failed.as_deref().map(|probe| match probe {
                    "liveness" => FailedProbe::Liveness,
                    "startup" => FailedProbe::Startup,
                    other => panic!("no probe {other} ends a container"),
                }),
            };
            (Arc::from(name.as_str()), view)
        });
        plan_pod(&PlanInput {
            pod,
            observed: &observed,
            backoff: &self.backoffs(pod),
            exits: &exits,
            attempts_on_disk: &self.attempts_on_disk.iter().map(names).collect(),
            probes: &probes.collect(),
            resized: &BTreeSet::new(),
            now,
        })
    }
}

impl Instance {
    fn id(&self) -> ContainerId {
        match self.sandbox.as_str() {
            "s0" => format!("{}-{}", self.name, self.attempt).into(),
            other => format!("{other}-{}-{}", self.name, self.attempt).into(),
        }
    }

    fn observed(&self, pod: &Pod) -> ObservedContainer {
        let spec = pod::container(pod, &self.name);
        let own = spec.as_ref().and_then(|c| c.image.as_deref());
        let image = self.image.as_deref().or(own).unwrap_or_default();
        let hash = match self.no_hash {
            true => String::new(),
            false => convert::container_hash(&self.name, image),
        };
        ObservedContainer {
            id: self.id(),
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
            created_at: i64::from(self.attempt),
            started_at: 1,
            finished_at: 1 + self.ran * 1_000_000_000,
            exit_code: self.exit_code,
            reason: "".into(),
            message: "".into(),
            image: image.into(),
            image_ref: ImageRef::from(image),
            hash: hash.into(),
            log_path: "".into(),
            grace_seconds: None,
            user: None,
            stop_signal: None,
            recursive_read_only: None,
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The pod of a case: `metadata` is the same in all of them.
fn read_pod(case: &Path) -> Pod {
    let mut pod: Pod = read(&case.join("pod.json"));
    pod.metadata.name = Some("web".to_owned());
    pod.metadata.namespace = Some("default".to_owned());
    pod.metadata.uid = Some("u1".to_owned());
    pod
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan")
}

#[test]
fn goldens() {
    let entries = std::fs::read_dir(root()).unwrap();
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 60, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let pod = read_pod(&case);
        let known: Known = read(&case.join("observed.json"));
        let now = known.plan(&pod).to_string();
        let golden = case.join("plan.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &now).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if expected != now {
            let case = case.file_name().unwrap_or_default().to_string_lossy();
            wrong.push(format!("== {case}: expected\n{expected}got\n{now}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
