//! The line of `systemctl status`: what the agent waits for, how its pods are, what is wrong. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use static_pods::watch::ManifestSet;

use crate::join::Troubles;
use crate::pod::PodUid;
use crate::status::{ConditionKind, Phase, PodView, State};

/// What a waiting container says when nothing is wrong with it.
const ON_THE_WAY: &[&str] = &["ContainerCreating", "PodInitializing", ""];
/// How many pods, or files, are named; the others are counted.
const MOST_NAMED: usize = 3;

/// All there is to say.
#[derive(Default)]
pub(super) struct Facts<'a> {
    /// What hangs.
    pub(super) hang: Option<&'a str>,
    /// The sources have not been read yet; from where they are.
    pub(super) reading: Option<&'a str>,
    /// Why the runtime at that path does not answer.
    pub(super) runtime: Option<(&'a str, &'a str)>,
    /// What is wrong with the node's certificates.
    pub(super) troubles: Option<&'a Troubles>,
    pub(super) pods: &'a [PodView],
    /// Why pods as a whole do not start.
    pub(super) setbacks: BTreeMap<PodUid, &'static str>,
    pub(super) manifests: Option<&'a ManifestSet>,
    /// What the last reload left behind.
    pub(super) note: Option<&'a str>,
}

impl Facts<'_> {
    pub(super) fn line(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.hang.map(str::to_owned));
        if let Some((path, why)) = self.runtime {
            parts.push(format!("waiting for the runtime at {path}: {why}"));
        }
        let troubles = self.troubles.into_iter().flat_map(Troubles::all);
        parts.extend(troubles.map(str::to_owned));
        if let Some(from) = self.reading {
            parts.push(format!("reading the manifests of {from}"));
        } else {
            parts.push(pods(self.pods, &self.setbacks));
        }
        parts.extend(self.manifests.and_then(refused));
        parts.extend(self.note.map(str::to_owned));
        parts.join("; ")
    }
}

/// How one pod is, as far as the line goes.
enum Condition {
    Failing(String),
    Starting,
    NotReady,
    Ended,
    Well,
}

fn pods(pods: &[PodView], setbacks: &BTreeMap<PodUid, &'static str>) -> String {
    let (mut failing, mut starting, mut not_ready, mut ended) = (Vec::new(), 0, 0, 0);
    for view in pods {
        let uid = view.pod.metadata.uid.as_deref();
        let setback = uid.and_then(|uid| setbacks.get(uid).copied());
        match condition(view, setback) {
            Condition::Failing(why) => failing.push(format!("{} {why}", name(view))),
            Condition::Starting => starting += 1,
            Condition::NotReady => not_ready += 1,
            Condition::Ended => ended += 1,
            Condition::Well => {}
        }
    }
    let mut text = match pods.len() {
        0 => return "no pods".to_owned(),
        1 => "1 pod".to_owned(),
        n => format!("{n} pods"),
    };
    let others = [
        (starting, "starting"),
        (not_ready, "not ready"),
        (ended, "ended"),
    ];
    if failing.is_empty() && others.iter().all(|(n, _)| *n == 0) {
        text.push_str(" running");
    }
    for (count, word) in others.into_iter().filter(|(count, _)| *count > 0) {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {count} {word}");
    }
    if !failing.is_empty() {
        let _ = write!(text, ", {} failing: {}", failing.len(), some(&failing));
    }
    text
}

fn condition(view: &PodView, setback: Option<&str>) -> Condition {
    let status = &view.status;
    if let Some(reason) = &status.reason {
        return Condition::Failing(reason.to_string());
    }
    match status.phase {
        Phase::Succeeded => return Condition::Ended,
        Phase::Failed => return Condition::Failing("Failed".to_owned()),
        Phase::Pending | Phase::Running => {}
    }
    let waits = status
        .all_containers()
        .find_map(|container| match &container.state {
            State::Waiting(waiting) if !ON_THE_WAY.contains(&&*waiting.reason) => {
                Some(waiting.reason.to_string())
            }
            _ => None,
        });
    let ready = status.condition(ConditionKind::Ready);
    match (waits.or(setback.map(str::to_owned)), status.phase) {
        (Some(reason), _) => Condition::Failing(reason),
        (None, Phase::Pending) => Condition::Starting,
        _ if ready.is_some_and(|ready| !ready.status) => Condition::NotReady,
        _ => Condition::Well,
    }
}

fn name(view: &PodView) -> String {
    let meta = &view.pod.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&meta.namespace), part(&meta.name))
}

/// Files that are refused in whole or in part.
fn refused(set: &ManifestSet) -> Option<String> {
    let mut problems: Vec<String> = Vec::new();
    let mut paths: Vec<_> = set.problems.iter().map(|problem| &problem.path).collect();
    paths.sort();
    paths.dedup();
    for path in &paths {
        let first = set.problems.iter().find(|problem| problem.path == **path)?;
        problems.push(format!("{}:{}", path.display(), first.at));
    }
    match problems.len() {
        0 => None,
        1 => Some(format!("1 manifest refused: {}", problems[0])),
        n => Some(format!("{n} manifests refused: {}", some(&problems))),
    }
}

fn some(names: &[String]) -> String {
    let shown = names.len().min(MOST_NAMED);
    let mut text = names[..shown].join(", ");
    if shown < names.len() {
        let _ = write!(text, " and {} more", names.len() - shown);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use static_pods::manifest::{ManifestError, Problem};
    use static_pods::tree::Position;

    use super::*;
    use crate::pod::{ContainerKind, Pod, QosClass};
    use crate::status::{Condition as PodCondition, ContainerStatus, PodStatus, Waiting};

    fn view(name: &str, change: impl FnOnce(&mut PodStatus)) -> PodView {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("default".to_owned());
        pod.metadata.name = Some(name.to_owned());
        let ready = PodCondition {
            kind: ConditionKind::Ready,
            status: true,
            reason: None,
            message: None,
            last_transition: jiff::Timestamp::UNIX_EPOCH,
        };
        let mut status = PodStatus {
            phase: Phase::Running,
            reason: None,
            message: None,
            start_time: None,
            conditions: vec![ready],
            init_containers: Vec::new(),
            containers: Vec::new(),
            ephemeral_containers: Vec::new(),
            pod_ips: Vec::new(),
            host_ips: Vec::new(),
            qos: QosClass::BestEffort,
        };
        change(&mut status);
        PodView {
            word: crate::status::Word::Current,
            pod: Arc::new(pod),
            status: Arc::new(status),
        }
    }

    fn waiting(status: &mut PodStatus, reason: &str) {
        status.containers.push(ContainerStatus {
            name: "main".into(),
            kind: ContainerKind::Regular,
            state: State::Waiting(Waiting {
                reason: reason.into(),
                message: "".into(),
            }),
            last: None,
            started: false,
            ready: false,
            restart_count: 0,
            image: "i".into(),
            image_id: None,
            id: None,
            user: None,
            stop_signal: None,
            recursive_read_only: None,
            devices: Vec::new(),
        });
    }

    fn line(pods: &[PodView]) -> String {
        let facts = Facts {
            pods,
            ..Facts::default()
        };
        facts.line()
    }

    #[test]
    fn pods_are_counted_and_those_that_fail_are_named() {
        let well = || view("well", |_| {});
        assert_eq!(line(&[]), "no pods");
        assert_eq!(line(&[well()]), "1 pod running");
        assert_eq!(line(&[well(), well()]), "2 pods running");
        let crash = view("x", |s| waiting(s, "CrashLoopBackOff"));
        assert_eq!(
            line(&[well(), crash.clone()]),
            "2 pods, 1 failing: default/x CrashLoopBackOff"
        );
        let starting = view("s", |s| {
            s.phase = Phase::Pending;
            waiting(s, "ContainerCreating");
        });
        let unready = view("u", |s| s.conditions[0].status = false);
        let done = view("d", |s| s.phase = Phase::Succeeded);
        let failed = view("f", |s| s.phase = Phase::Failed);
        let refused = view("r", |s| {
            s.phase = Phase::Failed;
            s.reason = Some("OutOfcpu".into());
        });
        let pull = view("p", |s| {
            s.phase = Phase::Pending;
            waiting(s, "ImagePullBackOff");
        });
        assert_eq!(
            line(&[
                well(),
                starting,
                unready,
                done,
                failed,
                refused,
                pull,
                crash
            ]),
            "8 pods, 1 starting, 1 not ready, 1 ended, 4 failing: default/f Failed, default/r OutOfcpu, default/p ImagePullBackOff and 1 more"
        );
    }

    #[test]
    fn a_pod_whose_sandbox_is_tried_again_and_again_is_failing() {
        let mut set_back = view("x", |s| {
            s.phase = Phase::Pending;
            waiting(s, "ContainerCreating");
        });
        let mut pod = Pod::clone(&set_back.pod);
        pod.metadata.uid = Some("u".to_owned());
        set_back.pod = Arc::new(pod);
        let facts = Facts {
            pods: &[set_back],
            setbacks: [(PodUid::parse("u").unwrap(), "FailedCreatePodSandBox")].into(),
            ..Facts::default()
        };
        assert_eq!(
            facts.line(),
            "1 pod, 1 failing: default/x FailedCreatePodSandBox"
        );
    }

    #[test]
    fn what_is_waited_for_comes_first() {
        let pods = [view("a", |_| {})];
        let facts = Facts {
            runtime: Some(("/run/containerd/containerd.sock", "connection refused")),
            troubles: Some(&Troubles {
                client: Some("it has expired".into()),
                serving: None,
            }),
            pods: &pods,
            note: Some("wanting a restart: maxPods"),
            ..Facts::default()
        };
        assert_eq!(
            facts.line(),
            "waiting for the runtime at /run/containerd/containerd.sock: connection refused; it has expired; 1 pod running; wanting a restart: maxPods"
        );
        let facts = Facts {
            reading: Some("/etc/kubernetes/manifests"),
            hang: Some("ping: hangs"),
            pods: &pods,
            ..Facts::default()
        };
        assert_eq!(
            facts.line(),
            "ping: hangs; reading the manifests of /etc/kubernetes/manifests"
        );
    }

    #[test]
    fn refused_manifests_are_named_once_each() {
        let problem = |path: &str, line| ManifestError {
            path: std::path::Path::new(path).into(),
            at: Position { line, column: 5 },
            problem: Problem::TooLarge,
        };
        let set = |problems| ManifestSet {
            problems,
            ..ManifestSet::default()
        };
        let line = |set: &ManifestSet| {
            let facts = Facts {
                manifests: Some(set),
                ..Facts::default()
            };
            facts.line()
        };
        assert_eq!(line(&set(vec![])), "no pods");
        assert_eq!(
            line(&set(vec![problem("/m/a.yaml", 3), problem("/m/a.yaml", 4)])),
            "no pods; 1 manifest refused: /m/a.yaml:3:5"
        );
        let many = (1..=5).map(|n| problem(&format!("/m/{n}"), n));
        assert_eq!(
            line(&set(many.collect())),
            "no pods; 5 manifests refused: /m/1:1:5, /m/2:2:5, /m/3:3:5 and 2 more"
        );
    }
}
