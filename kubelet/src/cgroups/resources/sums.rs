//! Sums of requests and limits: over a container's own list, over the stages of a pod's start, over the whole pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use static_pods::quantity::Quantity;

use super::{CPU, HUGE_PAGES, MEMORY, ResourceError, ResourceList};
use crate::pod::{self, ContainerKind, Pod};

#[derive(Clone, Copy)]
pub(super) enum Side {
    Requests,
    Limits,
}

fn parse_list(
    list: Option<&BTreeMap<String, RawQuantity>>,
    owner: impl Fn() -> String,
    field: &'static str,
) -> Result<ResourceList, ResourceError> {
    let amounts = list.into_iter().flatten().map(|(name, quantity)| {
        match Quantity::parse_amount(&quantity.0) {
            Ok(amount) => Ok((name.clone(), amount)),
            Err(source) => Err(ResourceError {
                owner: owner(),
                field,
                resource: name.clone(),
                text: quantity.0.chars().take(80).collect(),
                source,
            }),
        }
    });
    amounts.collect()
}

fn side_of(
    resources: Option<&ResourceRequirements>,
    side: Side,
    owner: impl Fn() -> String,
) -> Result<ResourceList, ResourceError> {
    let (list, field) = match side {
        Side::Requests => (resources.and_then(|r| r.requests.as_ref()), "requests"),
        Side::Limits => (resources.and_then(|r| r.limits.as_ref()), "limits"),
    };
    parse_list(list, owner, field)
}

pub(super) fn limits_of(c: &Container) -> Result<ResourceList, ResourceError> {
    let owner = || format!("container {:?}", c.name);
    side_of(c.resources.as_ref(), Side::Limits, owner)
}

/// A container's requests; where it has only a limit, that is what it asks for.
pub(super) fn requests_of(c: &Container) -> Result<ResourceList, ResourceError> {
    let owner = || format!("container {:?}", c.name);
    let mut requests = limits_of(c)?;
    requests.extend(side_of(c.resources.as_ref(), Side::Requests, owner)?);
    Ok(requests)
}

/// Pod-level `spec.resources`, as far as they are of the kinds that may be given there.
pub(super) fn pod_level(pod: &Pod, side: Side) -> Result<ResourceList, ResourceError> {
    let mut list = side_of(pod::spec(pod).resources.as_ref(), side, || "pod".to_owned())?;
    list.retain(|name, _| is_pod_level(name));
    Ok(list)
}

fn is_pod_level(name: &str) -> bool {
    name == CPU || name == MEMORY || name.starts_with(HUGE_PAGES)
}

/// Pod-level requests with the API's defaults: what the containers ask for in sum, else the pod-level limit.
pub(super) fn pod_level_requests(pod: &Pod) -> Result<ResourceList, ResourceError> {
    let mut requests = pod_level(pod, Side::Limits)?;
    if !requests.is_empty() {
        let mut sum = sum_of_containers(pod, requests_of)?;
        sum.retain(|name, _| name == CPU || name == MEMORY);
        requests.extend(sum);
    }
    requests.extend(pod_level(pod, Side::Requests)?);
    Ok(requests)
}

pub(super) fn overhead(pod: &Pod) -> Result<ResourceList, ResourceError> {
    let overhead = pod::spec(pod).overhead.as_ref();
    parse_list(overhead, || "pod".to_owned(), "overhead")
}

/// Hands what runs at each stage of the pod's start (each init container beside the sidecars before it) to `stage`,
/// and returns the sum of all sidecars.
fn init_stages(
    pod: &Pod,
    of: impl Fn(&Container) -> Result<ResourceList, ResourceError>,
    mut stage: impl FnMut(&ResourceList),
) -> Result<ResourceList, ResourceError> {
    let mut sidecars = ResourceList::new();
    for (kind, container) in pod::containers(pod) {
        let own = of(container)?;
        match kind {
            // An ephemeral container asks for nothing.
            ContainerKind::Regular | ContainerKind::Ephemeral => {}
            ContainerKind::Sidecar => {
                add(&mut sidecars, &own);
                stage(&sidecars);
            }
            ContainerKind::Init => {
                let mut beside = sidecars.clone();
                add(&mut beside, &own);
                stage(&beside);
            }
        }
    }
    Ok(sidecars)
}

pub(super) fn sum_of_containers(
    pod: &Pod,
    of: impl Fn(&Container) -> Result<ResourceList, ResourceError>,
) -> Result<ResourceList, ResourceError> {
    let mut most_in_init = ResourceList::new();
    let mut total = init_stages(pod, &of, |stage| raise(&mut most_in_init, stage))?;
    for regular in &pod::spec(pod).containers {
        add(&mut total, &of(regular)?);
    }
    raise(&mut total, &most_in_init);
    Ok(total)
}

/// Whether at every stage of the pod's life something limits the resource `name`: only then has the sum a meaning
/// as a limit of the whole pod.
pub(super) fn every_stage_limits(pod: &Pod, name: &str) -> Result<bool, ResourceError> {
    let mut all = true;
    init_stages(pod, limits_of, |stage| {
        all &= !amount(stage, name).is_zero();
    })?;
    for regular in &pod::spec(pod).containers {
        all &= !amount(&limits_of(regular)?, name).is_zero();
    }
    Ok(all)
}

pub(super) fn amount(list: &ResourceList, name: &str) -> Quantity {
    list.get(name).cloned().unwrap_or_default()
}

pub(super) fn add(list: &mut ResourceList, more: &ResourceList) {
    for (name, amount) in more {
        let sum = list.entry(name.clone()).or_default();
        *sum = sum.plus(amount);
    }
}

fn raise(list: &mut ResourceList, floor: &ResourceList) {
    for (name, amount) in floor {
        let most = list.entry(name.clone()).or_default();
        if *most < *amount {
            most.clone_from(amount);
        }
    }
}
