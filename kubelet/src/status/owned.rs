//! Which parts of a pod's status at the API server are the node's.

use k8s_openapi::api::core::v1 as api;
use static_pods::fnv::Fnv64;

use super::types::ConditionKind;

/// Whether conditions of this type are the node's alone (upstream's `PodConditionByKubelet`). `DisruptionTarget` is not:
/// others write it too, and what they wrote stays.
#[must_use]
pub fn is_written_by_node(type_: &str) -> bool {
    ConditionKind::parse(type_).is_some_and(|kind| kind != ConditionKind::DisruptionTarget)
}

/// A short stand-in for all that the node writes into `status`: equal for statuses that say the same.
///
/// Reason and message are left out: they may be somebody else's for as long as the phase stays. The order of conditions
/// does not count.
#[must_use]
pub fn fingerprint(status: &api::PodStatus) -> u64 {
    let mut conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .filter(|c| is_written_by_node(&c.type_))
        .cloned()
        .map(|c| api::PodCondition {
            // The node writes none, and the API server may show an empty one.
            last_probe_time: None,
            ..c
        })
        .collect();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    let owned = api::PodStatus {
        allocated_resources: status.allocated_resources.clone(),
        conditions: Some(conditions),
        container_statuses: status.container_statuses.clone(),
        ephemeral_container_statuses: status.ephemeral_container_statuses.clone(),
        host_ip: status.host_ip.clone(),
        host_ips: status.host_ips.clone(),
        init_container_statuses: status.init_container_statuses.clone(),
        observed_generation: status.observed_generation,
        phase: status.phase.clone(),
        pod_ip: status.pod_ip.clone(),
        pod_ips: status.pod_ips.clone(),
        qos_class: status.qos_class.clone(),
        resources: status.resources.clone(),
        start_time: status.start_time.clone(),
        ..api::PodStatus::default()
    };
    let mut hash = Fnv64::default();
    // Types that are made for JSON always have one.
    hash.write(&serde_json::to_vec(&owned).unwrap_or_default());
    hash.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(type_: &str, status: &str) -> api::PodCondition {
        api::PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            ..api::PodCondition::default()
        }
    }

    fn status(conditions: Vec<api::PodCondition>) -> api::PodStatus {
        api::PodStatus {
            phase: Some("Running".to_owned()),
            conditions: Some(conditions),
            ..api::PodStatus::default()
        }
    }

    #[test]
    fn what_others_write_does_not_count_and_neither_does_order() {
        let own = || vec![condition("Ready", "True"), condition("Initialized", "True")];
        let plain = fingerprint(&status(own()));
        let mut others = own();
        others.reverse();
        others.push(condition("example.com/gate", "True"));
        others.push(condition("DisruptionTarget", "True"));
        let with_others = api::PodStatus {
            reason: Some("SomebodySaidSo".to_owned()),
            nominated_node_name: Some("n".to_owned()),
            ..status(others)
        };
        assert_eq!(fingerprint(&with_others), plain);
        let flipped = vec![
            condition("Ready", "False"),
            condition("Initialized", "True"),
        ];
        assert_ne!(fingerprint(&status(flipped)), plain);
    }
}
