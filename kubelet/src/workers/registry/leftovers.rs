//! What earlier lives of the agent have left on the node: pods without a source, traces on the disk, logs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Registry;
use crate::errors::error_chain;
use crate::observe::FoundPod;
use crate::pod::{Pod, PodName, PodUid};
use crate::record;
use crate::runtime::{ContainerState, ObservedPod};
use crate::sources::Desired;
use crate::workers::Tools;

impl Registry {
    /// What is told of a pod that was found, and that no source has under this UID.
    pub(super) fn why_unwanted(
        &self,
        uid: &PodUid,
        name: &PodName,
        desired: &Desired,
    ) -> &'static str {
        let succeeded = desired.pods.values().any(|pod| PodName::of(pod) == *name);
        let known = self.tools.dirs.path(uid).join(record::FILE_NAME).exists();
        let observed = self.tools.observer.subscribe(uid).borrow().clone();
        match (succeeded, known) {
            (false, _) => "no source has it",
            _ if !observed
                .containers
                .iter()
                .any(|c| c.state == ContainerState::Running) =>
            {
                "nothing of it runs, and its remains are removed"
            }
            (true, true) => "its manifest has changed while the agent was down; it is replaced",
            (true, false) => {
                "it was started by another kubelet, under a UID of its own; it is replaced, this once"
            }
        }
    }

    /// Removes the logs of pods that were there before this life of the agent and are no more. Once: from now on each
    /// worker removes its own.
    pub(super) fn collect_logs(&mut self, in_runtime: &[FoundPod]) {
        self.logs_collected = true;
        let live = self
            .handles
            .keys()
            .chain(in_runtime.iter().map(|pod| &pod.uid))
            .cloned()
            .collect();
        let collected = self.tools.logs.collect(&live, usize::MAX);
        for error in &collected.errors {
            tracing::warn!(error = error_chain(error), "could not remove old logs");
        }
        if collected.removed > 0 {
            tracing::info!(
                removed = collected.removed,
                "removed logs of pods that are gone"
            );
        }
    }
}

/// Pods that have a directory or a cgroup on this node.
pub(super) fn traces_on_disk(tools: &Tools) -> Vec<FoundPod> {
    let nameless = |uid: PodUid| FoundPod {
        name: uid.as_str().into(),
        namespace: "".into(),
        uid,
    };
    let mut traces: BTreeMap<PodUid, FoundPod> = BTreeMap::new();
    let dirs = tools
        .dirs
        .list()
        .unwrap_or_else(|error| unreadable("the pods' directories", &error));
    let cgroups = tools
        .cgroups
        .list_pods()
        .unwrap_or_else(|error| unreadable("the pods' cgroups", &error));
    traces.extend(
        dirs.into_iter()
            .chain(cgroups)
            .map(|uid| (uid.clone(), nameless(uid))),
    );
    traces.into_values().collect()
}

/// What cannot be listed is left alone.
fn unreadable(what: &str, error: &dyn std::error::Error) -> Vec<PodUid> {
    tracing::warn!(
        error = error_chain(error),
        "cannot list {what}; nothing of them is collected"
    );
    Vec::new()
}

/// A pod made up from what the runtime holds, for one that no source has: enough to end it as it wished to be ended.
pub(super) fn stand_in(uid: &PodUid, name: &PodName, observed: &ObservedPod) -> Pod {
    let mut names: Vec<&str> = observed.containers.iter().map(|c| &*c.name).collect();
    names.sort_unstable();
    names.dedup();
    let containers = names
        .into_iter()
        .map(|n| Container {
            name: n.to_owned(),
            ..Container::default()
        })
        .collect();
    Pod {
        metadata: ObjectMeta {
            name: Some(name.name.to_string()),
            namespace: Some(name.namespace.to_string()),
            uid: Some(uid.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers,
            termination_grace_period_seconds: observed
                .containers
                .iter()
                .find_map(|c| c.grace_seconds),
            ..PodSpec::default()
        }),
        status: None,
    }
}
