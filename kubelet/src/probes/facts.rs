//! What is known of a pod's containers besides that they run.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Container;

use super::spec::ProbeKey;
use super::{FailedProbe, ProbeKind, ProbeView};
use crate::pod::{self, ContainerKind, Pod};
use crate::record::ContainerRecord;
use crate::runtime::{ContainerId, ContainerState, ObservedPod};

/// The verdicts of a pod's probes, each with the instance it is of, and hooks that are not done.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    verdicts: BTreeMap<ProbeKey, (ContainerId, bool)>,
    /// Instances whose postStart hook is not done.
    hooks: BTreeSet<ContainerId>,
}

impl Facts {
    /// What an earlier life of the agent has established.
    pub(crate) fn of_record(records: &BTreeMap<String, ContainerRecord>) -> Self {
        let mut facts = Self::default();
        for (name, record) in records {
            let kinds = [
                (ProbeKind::Startup, record.started),
                (ProbeKind::Readiness, record.ready),
            ];
            for (kind, passes) in kinds.into_iter().filter(|(_, passes)| *passes) {
                let key = ProbeKey {
                    container: name.as_str().into(),
                    kind,
                };
                let id = ContainerId::from(record.id.as_str());
                facts.verdicts.insert(key, (id, passes));
            }
        }
        facts
    }

    /// Takes a verdict. True when it is another than before.
    pub(super) fn take(&mut self, key: &ProbeKey, id: &ContainerId, passes: bool) -> bool {
        let verdict = (id.clone(), passes);
        if self.verdicts.get(key) == Some(&verdict) {
            return false;
        }
        let initial = self.verdict_of(key, id).is_none() && initially(key.kind) == Some(passes);
        self.verdicts.insert(key.clone(), verdict);
        !initial
    }

    /// Notes that an instance's postStart hook runs, or is done. True when that is news.
    pub(super) fn hook(&mut self, id: &ContainerId, runs: bool) -> bool {
        match runs {
            true => self.hooks.insert(id.clone()),
            false => self.hooks.remove(id),
        }
    }

    /// Notes that no postStart hook runs any more. True when that is news.
    pub(super) fn hooks_over(&mut self) -> bool {
        let news = !self.hooks.is_empty();
        self.hooks.clear();
        news
    }

    /// `observed` without instances whose postStart hook is not done.
    pub(super) fn shown<'a>(&self, observed: &'a ObservedPod) -> Cow<'a, ObservedPod> {
        let mut containers = observed.containers.iter();
        if !containers.any(|c| self.hook_runs(&c.id)) {
            return Cow::Borrowed(observed);
        }
        let mut shown = observed.clone();
        shown.containers.retain(|c| !self.hook_runs(&c.id));
        Cow::Owned(shown)
    }

    /// Whether the instance's postStart hook is not done.
    pub(super) fn hook_runs(&self, id: &ContainerId) -> bool {
        self.hooks.contains(id)
    }

    pub(super) fn verdict_of(&self, key: &ProbeKey, id: &ContainerId) -> Option<bool> {
        let (of, passes) = self.verdicts.get(key)?;
        (of == id).then_some(*passes)
    }

    fn verdict(&self, container: &Arc<str>, kind: ProbeKind, id: &ContainerId) -> Option<bool> {
        let key = ProbeKey {
            container: container.clone(),
            kind,
        };
        self.verdict_of(&key, id)
    }

    /// Whether the instance has started: its hook is done, and its startup probe has passed.
    pub(super) fn started(&self, name: &Arc<str>, spec: &Container, id: &ContainerId) -> bool {
        let probed = spec.startup_probe.is_none()
            || self.verdict(name, ProbeKind::Startup, id) == Some(true);
        probed && !self.hook_runs(id)
    }

    /// What is known of each container that runs and has anything to be known of it.
    pub(crate) fn views(&self, pod: &Pod, observed: &ObservedPod) -> BTreeMap<Arc<str>, ProbeView> {
        let mut views = BTreeMap::new();
        for (kind, spec) in pod::containers(pod) {
            let probed = ProbeKind::ALL.iter().any(|kind| kind.of(spec).is_some());
            let newest = observed.newest(&spec.name);
            let running = newest.filter(|c| c.state == ContainerState::Running);
            let Some(running) = running.filter(|_| kind != ContainerKind::Init) else {
                continue;
            };
            if !probed && !self.hook_runs(&running.id) {
                continue;
            }
            let verdict = |kind: ProbeKind| {
                let asked = kind.of(spec).is_some();
                asked.then(|| self.verdict(&running.name, kind, &running.id))
            };
            let fails = |kind| verdict(kind) == Some(Some(false));
            let failed = if fails(ProbeKind::Liveness) {
                Some(FailedProbe::Liveness)
            } else if fails(ProbeKind::Startup) {
                Some(FailedProbe::Startup)
            } else {
                None
            };
            let view = ProbeView {
                started: self.started(&running.name, spec, &running.id),
                ready: verdict(ProbeKind::Readiness).is_none_or(|ready| ready == Some(true)),
                failed,
            };
            views.insert(running.name.clone(), view);
        }
        views
    }

    /// Forgets instances that are no more.
    pub(super) fn forget_gone(&mut self, observed: &ObservedPod) {
        let known = |id: &ContainerId| observed.containers.iter().any(|c| c.id == *id);
        self.hooks.retain(known);
        self.verdicts.retain(|_, (id, _)| known(id));
    }
}

/// What a probe counts as until it has a verdict. The startup probe's is neither.
fn initially(kind: ProbeKind) -> Option<bool> {
    match kind {
        ProbeKind::Startup => None,
        ProbeKind::Readiness => Some(false),
        ProbeKind::Liveness => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ObservedContainer;
    use k8s_openapi::api::core::v1::{PodSpec, Probe};

    fn running(name: &str, id: &str) -> ObservedContainer {
        ObservedContainer {
            id: id.into(),
            sandbox: "s".into(),
            name: name.into(),
            attempt: 0,
            state: ContainerState::Running,
            created_at: 1,
            started_at: 2,
            finished_at: 0,
            exit_code: 0,
            reason: "".into(),
            message: "".into(),
            image: "".into(),
            image_ref: "i".into(),
            hash: "".into(),
            log_path: "".into(),
            grace_seconds: None,
            user: None,
            stop_signal: None,
            recursive_read_only: None,
        }
    }

    /// Containers by name, with a probe of each kind whose letter is in the text.
    fn pod(containers: &[(&str, &str)]) -> Pod {
        let containers = containers.iter().map(|(name, probes)| {
            let probe = |letter| probes.contains(letter).then(Probe::default);
            Container {
                name: (*name).into(),
                startup_probe: probe('s'),
                readiness_probe: probe('r'),
                liveness_probe: probe('l'),
                ..Container::default()
            }
        });
        Pod {
            spec: Some(PodSpec {
                containers: containers.collect(),
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    fn key(container: &str, kind: ProbeKind) -> ProbeKey {
        ProbeKey {
            container: container.into(),
            kind,
        }
    }

    #[test]
    fn until_a_probe_has_a_verdict_its_kind_decides() {
        let facts = Facts::default();
        let observed = ObservedPod {
            containers: ["none", "r", "l", "s"]
                .map(|name| running(name, name))
                .into(),
            ..ObservedPod::default()
        };
        let pod = pod(&[
            ("none", ""),
            ("r", "r"),
            ("l", "l"),
            ("s", "s"),
            ("away", "rls"),
        ]);
        let views = facts.views(&pod, &observed);
        let view = |started, ready| ProbeView {
            started,
            ready,
            failed: None,
        };
        let expected = [
            ("l", view(true, true)),
            ("r", view(true, false)),
            ("s", view(false, true)),
        ];
        let expected = expected.map(|(name, view)| (Arc::from(name), view));
        assert_eq!(views, expected.into());
    }

    #[test]
    fn verdicts_are_of_one_instance() {
        let pod = pod(&[("c", "srl")]);
        let mut observed = ObservedPod {
            containers: vec![running("c", "one")],
            ..ObservedPod::default()
        };
        let mut facts = Facts::default();
        let one = ContainerId::from("one");
        assert!(facts.take(&key("c", ProbeKind::Startup), &one, true));
        assert!(
            !facts.take(&key("c", ProbeKind::Startup), &one, true),
            "no news"
        );
        assert!(
            !facts.take(&key("c", ProbeKind::Liveness), &one, true),
            "as it counted before"
        );
        assert!(
            !facts.take(&key("c", ProbeKind::Readiness), &one, false),
            "as it counted before"
        );
        assert!(facts.take(&key("c", ProbeKind::Readiness), &one, true));
        let view = facts.views(&pod, &observed)["c"];
        assert!(view.started && view.ready && view.failed.is_none());
        assert!(facts.take(&key("c", ProbeKind::Liveness), &one, false));
        assert_eq!(
            facts.views(&pod, &observed)["c"].failed,
            Some(FailedProbe::Liveness)
        );
        // The next instance begins anew.
        observed.containers = vec![running("c", "two")];
        let view = facts.views(&pod, &observed)["c"];
        assert!(!view.started && !view.ready && view.failed.is_none());
        assert!(facts.take(&key("c", ProbeKind::Startup), &"two".into(), false));
        assert_eq!(
            facts.views(&pod, &observed)["c"].failed,
            Some(FailedProbe::Startup)
        );
        facts.forget_gone(&observed);
        assert_eq!(facts.verdicts.len(), 1);
    }

    #[test]
    fn a_hook_that_is_not_done_holds_the_start_up() {
        let pod = pod(&[("c", ""), ("d", "r")]);
        let observed = ObservedPod {
            containers: vec![running("c", "one"), running("d", "two")],
            ..ObservedPod::default()
        };
        let mut facts = Facts::default();
        assert!(!facts.views(&pod, &observed).contains_key("c"));
        assert!(facts.hook(&"one".into(), true));
        assert!(!facts.hook(&"one".into(), true));
        assert!(!facts.views(&pod, &observed)["c"].started);
        assert!(facts.views(&pod, &observed)["d"].started);
        let shown = facts.shown(&observed);
        let ids: Vec<&str> = shown.containers.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["two"], "it is not there yet");
        assert!(facts.hook(&"one".into(), false));
        assert_eq!(*facts.shown(&observed), observed);
        assert!(facts.hook(&"two".into(), true));
        assert!(facts.hooks_over());
        assert!(!facts.hooks_over());
        assert!(facts.views(&pod, &observed)["d"].started);
        assert!(!facts.views(&pod, &observed).contains_key("c"));
    }

    #[test]
    fn what_an_earlier_life_established_holds_for_the_same_instance() {
        let record = |id: &str, started, ready| ContainerRecord {
            id: id.into(),
            started,
            ready,
        };
        let records = [
            ("a".to_owned(), record("a1", true, true)),
            ("b".to_owned(), record("b1", true, false)),
            ("c".to_owned(), record("c1", true, true)),
        ];
        let facts = Facts::of_record(&records.into());
        let pod = pod(&[("a", "sr"), ("b", "sr"), ("c", "sr")]);
        let observed = ObservedPod {
            containers: vec![running("a", "a1"), running("b", "b1"), running("c", "c2")],
            ..ObservedPod::default()
        };
        let views = facts.views(&pod, &observed);
        let view = |name: &str| (views[name].started, views[name].ready);
        assert_eq!(view("a"), (true, true));
        assert_eq!(view("b"), (true, false));
        assert_eq!(view("c"), (false, false));
    }
}
