//! How many CPUs containers ask for to have for themselves. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use static_pods::quantity::Quantity;

use crate::cgroups::resources::qos_class;
use crate::pod::{self, ContainerKind, Pod, QosClass};

/// How many CPUs the container asks for to have for itself: a whole number of them, in a Guaranteed pod.
pub(super) fn whole_cpus(pod: &Pod, container: &Container) -> usize {
    if qos_class(pod) != QosClass::Guaranteed {
        return 0;
    }
    let resources = container.resources.as_ref();
    let request = resources.and_then(|resources| {
        let requests = resources.requests.as_ref();
        // A limit alone is a request too; sources fill that in, and a pod's own record may be older.
        let request = requests.and_then(|requests| requests.get("cpu"));
        request.or_else(|| resources.limits.as_ref()?.get("cpu"))
    });
    let milli = request.and_then(|request| Quantity::parse_amount(&request.0).ok());
    let milli = milli.map_or(0, |amount| amount.milli());
    match milli % 1000 {
        0 => usize::try_from(milli / 1000).unwrap_or(0),
        _ => 0,
    }
}

/// Whether the pod has resources as a whole: its containers get nothing for themselves then (upstream, unless
/// `PodLevelResourceManagers` is on).
pub(in crate::managers) fn has_pod_level(pod: &Pod) -> bool {
    let resources = pod::spec(pod).resources.as_ref();
    resources.is_some_and(|resources| {
        let some = |list: &Option<BTreeMap<_, _>>| list.as_ref().is_some_and(|l| !l.is_empty());
        some(&resources.requests) || some(&resources.limits)
    })
}

/// How many CPUs the pod's containers have for themselves at once, at most: those that run together, or an init container
/// beside the sidecars before it.
pub(super) fn pod_cpus(pod: &Pod) -> usize {
    let (mut lasting, mut sidecars, mut most) = (0, 0, 0);
    for (kind, container) in pod::containers(pod) {
        let count = whole_cpus(pod, container);
        match kind {
            ContainerKind::Init => most = most.max(sidecars + count),
            ContainerKind::Sidecar => {
                sidecars += count;
                lasting += count;
            }
            _ => lasting += count,
        }
    }
    most.max(lasting)
}
