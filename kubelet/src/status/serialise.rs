//! A status in Kubernetes' types, made when it is written out and dropped afterwards.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::owned::is_written_by_node;
use super::resources;
use super::types::{Condition, ContainerStatus, PodStatus, State, Terminated};
use crate::pod::{self, ContainerKind, Pod};
use crate::runtime::LinuxUser;

/// What container ids are prefixed with in a status: the runtime's own name for itself.
pub const RUNTIME: &str = "containerd";

/// `status` of `pod` as the Kubernetes API has it, with times in whole seconds.
///
/// `runtime` is the runtime's own name for itself (CRI `Version`, `containerd`): container ids read
/// `<runtime>://<id>`. Fields and conditions that others own are taken over from the pod's own `status`.
///
/// The types have no way to write a null, so `lastProbeTime` and unknown times are left out where upstream writes
/// `null`; a reader of the API cannot tell the two apart.
#[must_use]
pub fn serialise(pod: &Pod, status: &PodStatus, runtime: &str) -> api::PodStatus {
    let theirs = pod.status.as_ref();
    // A generation of 0 is how the API writes none.
    let generation = pod.metadata.generation.filter(|g| *g != 0);
    let statuses = |of: &[ContainerStatus]| -> Option<Vec<api::ContainerStatus>> {
        let list: Vec<_> = of.iter().map(|c| container(pod, c, runtime)).collect();
        (!list.is_empty()).then_some(list)
    };
    let pod_ips: Vec<_> = status
        .pod_ips
        .iter()
        .map(|ip| api::PodIP { ip: ip.to_string() })
        .collect();
    let host_ips: Vec<_> = status
        .host_ips
        .iter()
        .map(|ip| api::HostIP { ip: ip.to_string() })
        .collect();
    let refused = status.containers.is_empty();
    api::PodStatus {
        allocated_resources: if refused {
            None
        } else {
            resources::pod_requests(pod)
        },
        conditions: conditions(theirs, status, generation),
        container_statuses: statuses(&status.containers),
        ephemeral_container_statuses: statuses(&status.ephemeral_containers),
        host_ip: status.host_ips.first().map(IpAddr::to_string),
        host_ips: (!host_ips.is_empty()).then_some(host_ips),
        init_container_statuses: statuses(&status.init_containers),
        message: status.message.as_deref().map(str::to_owned),
        observed_generation: generation,
        phase: Some(status.phase.as_str().to_owned()),
        pod_ip: status.pod_ips.first().map(IpAddr::to_string),
        pod_ips: (!pod_ips.is_empty()).then_some(pod_ips),
        qos_class: Some(status.qos.as_str().to_owned()),
        reason: status.reason.as_deref().map(str::to_owned),
        resources: (!refused).then(|| api::ResourceRequirements {
            limits: resources::pod_limits(pod),
            requests: resources::pod_requests(pod),
            ..api::ResourceRequirements::default()
        }),
        start_time: status.start_time.map(seconds),
        nominated_node_name: theirs.and_then(|s| s.nominated_node_name.clone()),
        resource_claim_statuses: theirs.and_then(|s| s.resource_claim_statuses.clone()),
        extended_resource_claim_status: theirs
            .and_then(|s| s.extended_resource_claim_status.clone()),
        ..api::PodStatus::default()
    }
}

/// Other owners' conditions first, then the node's.
fn conditions(
    theirs: Option<&api::PodStatus>,
    status: &PodStatus,
    generation: Option<i64>,
) -> Option<Vec<api::PodCondition>> {
    if status.conditions.is_empty() {
        return None;
    }
    let theirs = theirs
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten();
    let ours = |type_: &str| {
        let mut written = status.conditions.iter();
        is_written_by_node(type_) || written.any(|c| c.kind.as_str() == type_)
    };
    let foreign = theirs.filter(|c| !ours(&c.type_)).cloned();
    let own = status.conditions.iter().map(|c| condition(c, generation));
    Some(foreign.chain(own).collect())
}

fn condition(condition: &Condition, generation: Option<i64>) -> api::PodCondition {
    api::PodCondition {
        last_probe_time: None,
        last_transition_time: Some(seconds(condition.last_transition)),
        message: condition.message.as_deref().map(str::to_owned),
        observed_generation: generation,
        reason: condition.reason.map(str::to_owned),
        status: if condition.status { "True" } else { "False" }.to_owned(),
        type_: condition.kind.as_str().to_owned(),
    }
}

fn container(pod: &Pod, status: &ContainerStatus, runtime: &str) -> api::ContainerStatus {
    let ephemeral = status.kind == ContainerKind::Ephemeral;
    let late = match ephemeral {
        true => pod::ephemeral_containers(pod).find(|c| c.name == *status.name),
        false => None,
    };
    let mut regular = pod::containers(pod).map(|(_, c)| c);
    let spec = late
        .as_ref()
        .or_else(|| regular.find(|c| c.name == *status.name));
    // What was never made has been given nothing.
    let given = spec.filter(|_| status.id.is_some());
    let requirements = |c: &api::Container| c.resources.clone().unwrap_or_default();
    let last = status.last.as_deref();
    api::ContainerStatus {
        allocated_resources: given
            .and_then(|c| c.resources.as_ref()?.requests.clone())
            .filter(|requests| !requests.is_empty()),
        allocated_resources_status: health(status),
        container_id: status.id.as_ref().map(|id| format!("{runtime}://{id}")),
        image: status.image.to_string(),
        image_id: status
            .image_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        last_state: Some(
            last.map_or_else(api::ContainerState::default, |end| terminated(end, runtime)),
        ),
        name: status.name.to_string(),
        ready: status.ready,
        resources: given.map(requirements),
        restart_count: i32::try_from(status.restart_count).unwrap_or(i32::MAX),
        started: (!ephemeral).then_some(status.started),
        state: Some(state(&status.state, runtime)),
        stop_signal: status.stop_signal.as_deref().map(str::to_owned),
        user: status.user.as_deref().map(user),
        volume_mounts: spec.and_then(volume_mounts),
    }
}

fn health(status: &ContainerStatus) -> Option<Vec<api::ResourceStatus>> {
    let of_device = |(id, works): &(String, bool)| api::ResourceHealth {
        health: Some(if *works { "Healthy" } else { "Unhealthy" }.to_owned()),
        resource_id: id.clone(),
        ..api::ResourceHealth::default()
    };
    let resources = status.devices.iter().map(|of| api::ResourceStatus {
        name: of.resource.clone(),
        resources: Some(of.devices.iter().map(of_device).collect()),
    });
    (!status.devices.is_empty()).then(|| resources.collect())
}

fn user(user: &LinuxUser) -> api::ContainerUser {
    api::ContainerUser {
        linux: Some(api::LinuxContainerUser {
            gid: user.gid,
            supplemental_groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
            uid: user.uid,
        }),
    }
}

fn state(state: &State, runtime: &str) -> api::ContainerState {
    match state {
        State::Waiting(waiting) => api::ContainerState {
            waiting: Some(api::ContainerStateWaiting {
                message: text(&waiting.message),
                reason: text(&waiting.reason),
            }),
            ..api::ContainerState::default()
        },
        State::Running { started_at } => api::ContainerState {
            running: Some(api::ContainerStateRunning {
                started_at: Some(seconds(*started_at)),
            }),
            ..api::ContainerState::default()
        },
        State::Terminated(end) => terminated(end, runtime),
    }
}

fn terminated(end: &Terminated, runtime: &str) -> api::ContainerState {
    api::ContainerState {
        terminated: Some(api::ContainerStateTerminated {
            container_id: end.id.as_ref().map(|id| format!("{runtime}://{id}")),
            exit_code: end.exit_code,
            finished_at: end.finished_at.map(seconds),
            message: text(&end.message),
            reason: text(&end.reason),
            signal: None,
            started_at: end.started_at.map(seconds),
        }),
        ..api::ContainerState::default()
    }
}

/// The mounts as the spec has them. Recursive read-only mounts are refused at admission when demanded and not made when
/// merely wished for, so that a read-only mount always says `Disabled`.
fn volume_mounts(container: &api::Container) -> Option<Vec<api::VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let list: Vec<_> = mounts
        .iter()
        .map(|mount| {
            let read_only = mount.read_only.unwrap_or(false);
            api::VolumeMountStatus {
                mount_path: mount.mount_path.clone(),
                name: mount.name.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| "Disabled".to_owned()),
                volume_status: None,
            }
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

/// The API leaves empty strings out.
fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The API's times have whole seconds.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}
