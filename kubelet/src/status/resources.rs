//! What a pod asks for as a whole: `status.allocatedResources` and `status.resources`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::cgroups::resources::{self, ResourceError, ResourceList};
use crate::pod::Pod;

type List = BTreeMap<String, Quantity>;

/// The requests of the pod, as [`resources::pod_requests`] sums them. `None` when empty, or not to be read (which the
/// pod's start reports).
pub(super) fn pod_requests(pod: &Pod) -> Option<List> {
    write(resources::pod_requests(pod))
}

/// The limits of the pod, as [`pod_requests`].
pub(super) fn pod_limits(pod: &Pod) -> Option<List> {
    write(resources::pod_limits(pod))
}

fn write(list: Result<ResourceList, ResourceError>) -> Option<List> {
    let write = |(name, amount): (String, static_pods::quantity::Quantity)| {
        (name, Quantity(amount.to_string()))
    };
    let list: List = list.ok()?.into_iter().map(write).collect();
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": json})).unwrap()
    }

    fn shown(list: Option<List>) -> String {
        let list = list.unwrap_or_default();
        let pairs: Vec<_> = list.iter().map(|(k, v)| format!("{k}={}", v.0)).collect();
        pairs.join(" ")
    }

    #[test]
    fn a_pod_asks_for_the_sum_or_the_peak_of_its_initialisation() {
        let pod = pod(serde_json::json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}},
                {"name": "init", "resources": {"requests": {"cpu": "2", "memory": "1Mi"}}},
            ],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "960Mi"}, "limits": {"cpu": "1"}}},
                {"name": "b", "resources": {"requests": {"cpu": "0.25"}}},
            ],
        }));
        assert_eq!(shown(pod_requests(&pod)), "cpu=2100m memory=1Gi");
        assert_eq!(shown(pod_limits(&pod)), "cpu=1");
    }

    #[test]
    fn requests_of_the_pods_own_replace_the_sum_and_overhead_comes_on_top() {
        let pod = pod(serde_json::json!({
            "overhead": {"cpu": "50m", "memory": "8Mi"},
            "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "4"}},
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}}}],
        }));
        assert_eq!(
            shown(pod_requests(&pod)),
            "cpu=3050m ephemeral-storage=1Gi memory=8Mi"
        );
        assert_eq!(shown(pod_limits(&pod)), "cpu=4050m");
    }

    #[test]
    fn a_pod_that_asks_for_nothing_has_no_list() {
        let pod = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        assert_eq!(pod_requests(&pod), None);
        assert_eq!(pod_limits(&pod), None);
    }
}
