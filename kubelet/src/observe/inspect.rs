//! One look at one pod: two lists, and a status for whatever may have changed since the last look.

use std::collections::BTreeMap;
use std::path::Path;

use cri_proto::{CriError, RuntimeClient, v1};

use crate::errors::error_chain;
use crate::logs::PodLogs;
use crate::pod::PodUid;
use crate::poddir::{self, PodDirs};
use crate::runtime::convert::{annotation, label};
use crate::runtime::observed;
use crate::runtime::{
    ContainerId, ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, SandboxId,
};

/// Where a container's last words are.
pub(super) struct PodFiles {
    pub(super) dirs: PodDirs,
    pub(super) logs: PodLogs,
}

/// Looks at the pod `uid`. What cannot have changed since `before` is not asked for again.
///
/// # Errors
/// What the runtime answers. Something that vanishes between the list and its status is left out.
pub(super) async fn inspect_pod(
    runtime: &RuntimeClient,
    files: &PodFiles,
    uid: &PodUid,
    before: &ObservedPod,
) -> Result<ObservedPod, CriError> {
    let labels = BTreeMap::from([(label::POD_UID.to_owned(), uid.to_string())]);
    let sandboxes = v1::PodSandboxFilter {
        label_selector: labels.clone(),
        ..Default::default()
    };
    let containers = v1::ContainerFilter {
        label_selector: labels,
        ..Default::default()
    };
    let sandboxes = runtime.list_pod_sandbox(Some(sandboxes)).await?;
    let containers = runtime.list_containers(Some(containers)).await?;
    fill(runtime, files, uid, before, &sandboxes, &containers).await
}

/// Completes listed sandboxes and containers of one pod with what only their statuses say.
pub(super) async fn fill(
    runtime: &RuntimeClient,
    files: &PodFiles,
    uid: &PodUid,
    before: &ObservedPod,
    sandboxes: &[v1::PodSandbox],
    containers: &[v1::Container],
) -> Result<ObservedPod, CriError> {
    let mut seen = ObservedPod::default();
    for listed in sandboxes {
        if let Some(sandbox) = look_at_sandbox(runtime, before, listed).await? {
            seen.sandboxes.push(sandbox);
        }
    }
    for listed in containers {
        if let Some(container) = look_at_container(runtime, files, uid, before, listed).await? {
            seen.containers.push(container);
        }
    }
    observed::newest_first(&mut seen.sandboxes, &mut seen.containers);
    Ok(seen)
}

/// Adds to `before` the sandbox `id` that was just made for the pod, or renews it, and looks at nothing else.
///
/// # Errors
/// What the runtime answers.
pub(super) async fn inspect_sandbox(
    runtime: &RuntimeClient,
    before: &ObservedPod,
    id: &SandboxId,
) -> Result<ObservedPod, CriError> {
    let status = runtime.pod_sandbox_status(id.as_str()).await?;
    let status = status.status.unwrap_or_default();
    let mut sandbox = ObservedSandbox {
        id: id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: false,
        created_at: status.created_at,
        ips: Vec::new(),
        host_network: false,
    };
    observed::fill_sandbox(&mut sandbox, &status);
    let mut seen = before.clone();
    seen.sandboxes.retain(|s| s.id != *id);
    seen.sandboxes.push(sandbox);
    observed::newest_first(&mut seen.sandboxes, &mut seen.containers);
    Ok(seen)
}

/// Adds to `before` the container `id` that was just started in `sandbox`, or renews it, and looks at nothing else.
///
/// # Errors
/// What the runtime answers.
pub(super) async fn inspect_container(
    runtime: &RuntimeClient,
    files: &PodFiles,
    uid: &PodUid,
    before: &ObservedPod,
    (sandbox, id): (&SandboxId, &ContainerId),
) -> Result<ObservedPod, CriError> {
    let status = runtime.container_status(id.as_str()).await?;
    let listed = v1::Container {
        id: id.to_string(),
        pod_sandbox_id: sandbox.to_string(),
        metadata: status.metadata.clone(),
        labels: status.labels.clone(),
        annotations: status.annotations.clone(),
        ..v1::Container::default()
    };
    let mut seen = before.clone();
    seen.containers.retain(|c| c.id != *id);
    seen.containers.push(complete(files, uid, &listed, &status));
    observed::newest_first(&mut seen.sandboxes, &mut seen.containers);
    Ok(seen)
}

async fn look_at_sandbox(
    runtime: &RuntimeClient,
    before: &ObservedPod,
    listed: &v1::PodSandbox,
) -> Result<Option<ObservedSandbox>, CriError> {
    let mut sandbox = observed::sandbox(listed);
    // A sandbox never changes its network, and never becomes ready again.
    if let Some(known) = before
        .sandboxes
        .iter()
        .find(|s| s.id == sandbox.id && (s.host_network || !s.ips.is_empty()))
    {
        sandbox.host_network = known.host_network;
        sandbox.ips.clone_from(&known.ips);
        return Ok(Some(sandbox));
    }
    match runtime.pod_sandbox_status(&listed.id).await {
        Ok(answer) => observed::fill_sandbox(&mut sandbox, &answer.status.unwrap_or_default()),
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(Some(sandbox))
}

async fn look_at_container(
    runtime: &RuntimeClient,
    files: &PodFiles,
    uid: &PodUid,
    before: &ObservedPod,
    listed: &v1::Container,
) -> Result<Option<ObservedContainer>, CriError> {
    let state = observed::container_state(listed.state);
    let known = before.container(&ContainerId::from(listed.id.as_str()));
    if let Some(known) = known.filter(|c| c.state == state && state != ContainerState::Unknown) {
        return Ok(Some(known.clone()));
    }
    let status = match runtime.container_status(&listed.id).await {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(complete(files, uid, listed, &status)))
}

fn complete(
    files: &PodFiles,
    uid: &PodUid,
    listed: &v1::Container,
    status: &v1::ContainerStatus,
) -> ObservedContainer {
    let mut container = observed::container(listed, status);
    if container.state == ContainerState::Exited {
        add_termination_message(files, uid, listed, status, &mut container);
    }
    container
}

/// Behind the runtime's own message comes what the container left in its termination message file.
fn add_termination_message(
    files: &PodFiles,
    uid: &PodUid,
    listed: &v1::Container,
    status: &v1::ContainerStatus,
    container: &mut ObservedContainer,
) {
    let Some(inside) = listed.annotations.get(annotation::TERMINATION_MESSAGE_PATH) else {
        return;
    };
    let policy = listed
        .annotations
        .get(annotation::TERMINATION_MESSAGE_POLICY)
        .map(String::as_str);
    let file = status
        .mounts
        .iter()
        .find(|m| m.container_path == *inside)
        .map(|m| Path::new(&m.host_path));
    let mut left = file
        .and_then(|file| read_message(&files.dirs, uid, &container.name, file))
        .unwrap_or_default();
    if poddir::falls_back_to_logs(policy, status.exit_code, &status.reason, left.is_empty()) {
        left = files
            .logs
            .last_lines(Path::new(&status.log_path))
            .unwrap_or_default();
    }
    container.message = match (&*container.message, left.as_str()) {
        (_, "") => return,
        ("", left) => left.into(),
        (said, left) => format!("{said}: {left}").into(),
    };
}

/// A message that cannot be read costs the message alone.
fn read_message(dirs: &PodDirs, uid: &PodUid, container: &str, file: &Path) -> Option<String> {
    let read = || {
        dirs.get(uid)?
            .map(|dir| dir.termination_message(container, file))
            .transpose()
    };
    read().unwrap_or_else(|error| {
        tracing::debug!(%uid, container, error = error_chain(&error), "no termination message");
        None
    })
}
