//! How much memory containers ask for. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use static_pods::quantity::Quantity;

use super::MEMORY;
use crate::pod::{self, ContainerKind, Pod};

/// Bytes by resource.
pub(super) type Request = BTreeMap<String, u64>;

/// What the container requests of memory and huge pages. A limit without a request is one.
pub(super) fn of_container(container: &Container) -> Request {
    let resources = container.resources.as_ref();
    let lists = resources.map(|resources| [&resources.limits, &resources.requests]);
    let amounts = lists.into_iter().flatten().flatten().flatten();
    let amounts = amounts.filter(|(name, _)| *name == MEMORY || name.starts_with("hugepages-"));
    let read = |(name, amount): (
        &String,
        &k8s_openapi::apimachinery::pkg::api::resource::Quantity,
    )| {
        let amount = Quantity::parse_amount(&amount.0).ok()?;
        Some((name.clone(), u64::try_from(amount.value()).ok()?))
    };
    // Requests come last, and win.
    amounts.filter_map(read).collect()
}

/// What the pod's containers have at once, at most, of what its regular ones ask for.
pub(super) fn of_pod(pod: &Pod) -> Request {
    let (mut apps, mut sidecars, mut inits) = (Request::new(), Request::new(), Request::new());
    for (kind, container) in pod::containers(pod) {
        for (name, size) in of_container(container) {
            match kind {
                ContainerKind::Init => {
                    let beside = sidecars.get(&name).copied().unwrap_or(0);
                    let most = inits.entry(name).or_default();
                    *most = (*most).max(beside.saturating_add(size));
                }
                ContainerKind::Sidecar => *sidecars.entry(name).or_default() += size,
                _ => *apps.entry(name).or_default() += size,
            }
        }
    }
    let sum = |(name, size): (String, u64)| {
        let of = |list: &Request| list.get(&name).copied().unwrap_or(0);
        let lasting = size.saturating_add(of(&sidecars));
        let most = lasting.max(of(&inits));
        (name, most)
    };
    apps.into_iter().map(sum).collect()
}
