//! From CRI's messages to the agent's own words.
//!
//! Identity comes only from the labels and annotations of behaviour upstream fixed: `io.kubernetes.pod.*`,
//! `io.kubernetes.container.*`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cri_proto::v1;

use super::convert::{annotation, label, signal_name};
use super::{ContainerId, ContainerState, ImageRef, LinuxUser, ObservedContainer, ObservedSandbox};
use crate::pod::PodUid;

/// The pod that a sandbox or container with these labels belongs to; none where the labels are not the kubelet's.
#[must_use]
pub fn owner(labels: &BTreeMap<String, String>) -> Option<PodUid> {
    PodUid::parse(labels.get(label::POD_UID)?).ok()
}

/// The state that CRI numbers.
#[must_use]
pub fn container_state(state: i32) -> ContainerState {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(v1::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(v1::ContainerState::ContainerExited) => ContainerState::Exited,
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    }
}

/// Whether a sandbox in this state of CRI is ready.
#[must_use]
pub fn sandbox_ready(state: i32) -> bool {
    state == v1::PodSandboxState::SandboxReady as i32
}

/// A container from its entry in the list and its status.
#[must_use]
pub fn container(listed: &v1::Container, status: &v1::ContainerStatus) -> ObservedContainer {
    let metadata = listed.metadata.as_ref();
    let name = listed
        .labels
        .get(label::CONTAINER_NAME)
        .map(String::as_str)
        .or(metadata.map(|m| m.name.as_str()));
    let image =
        |spec: Option<&v1::ImageSpec>| -> Arc<str> { spec.map_or("", |i| i.image.as_str()).into() };
    ObservedContainer {
        id: ContainerId::from(listed.id.as_str()),
        sandbox: listed.pod_sandbox_id.as_str().into(),
        name: name.unwrap_or_default().into(),
        attempt: metadata.map_or(0, |m| m.attempt),
        state: container_state(status.state),
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason.as_str().into(),
        message: status.message.as_str().into(),
        image: image(status.image.as_ref()),
        image_ref: ImageRef::from(status.image_ref.as_str()),
        hash: listed
            .annotations
            .get(annotation::HASH)
            .map_or("", String::as_str)
            .into(),
        log_path: status.log_path.as_str().into(),
        grace_seconds: listed
            .annotations
            .get(annotation::TERMINATION_GRACE_PERIOD)
            .and_then(|s| s.parse().ok()),
        user: status.user.as_ref().and_then(|user| {
            let linux = user.linux.as_ref()?;
            Some(Box::new(LinuxUser {
                uid: linux.uid,
                gid: linux.gid,
                groups: linux.supplemental_groups.clone(),
            }))
        }),
        stop_signal: signal_name(status.stop_signal()),
        recursive_read_only: recursive_read_only(&status.mounts),
    }
}

fn recursive_read_only(mounts: &[v1::Mount]) -> Option<Arc<[Box<str>]>> {
    let recursive = mounts.iter().filter(|mount| mount.recursive_read_only);
    let paths: Arc<[Box<str>]> = recursive
        .map(|m| m.container_path.as_str().into())
        .collect();
    (!paths.is_empty()).then_some(paths)
}

/// A sandbox from its entry in the list; its addresses are asked for separately.
#[must_use]
pub fn sandbox(listed: &v1::PodSandbox) -> ObservedSandbox {
    ObservedSandbox {
        id: listed.id.as_str().into(),
        attempt: listed.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: sandbox_ready(listed.state),
        created_at: listed.created_at,
        ips: Vec::new(),
        host_network: false,
    }
}

/// Fills in what only the status of a sandbox says: addresses and the network namespace.
pub fn fill_sandbox(sandbox: &mut ObservedSandbox, status: &v1::PodSandboxStatus) {
    let namespaces = status.linux.as_ref().and_then(|l| l.namespaces.as_ref());
    let options = namespaces.and_then(|n| n.options.as_ref());
    sandbox.ready = sandbox_ready(status.state);
    sandbox.host_network = options.is_some_and(|o| o.network == v1::NamespaceMode::Node as i32);
    let network = status.network.as_ref().filter(|_| !sandbox.host_network);
    let texts =
        network.map(|n| std::iter::once(&n.ip).chain(n.additional_ips.iter().map(|a| &a.ip)));
    sandbox.ips = texts
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .collect();
}

/// Newest first: by attempt, which only goes up, then by creation time. The runtime's clock may have been stepped.
pub fn newest_first(sandboxes: &mut [ObservedSandbox], containers: &mut [ObservedContainer]) {
    sandboxes
        .sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
    containers
        .sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
}
