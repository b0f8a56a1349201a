//! What a node that is short of something takes on.

use super::*;
use crate::eviction::Pressure;

fn pressure(memory: bool, disk: bool, pid: bool) -> Pressure {
    Pressure { memory, disk, pid }
}

fn from_api(spec: Value) -> Pod {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "p", "annotations": {"kubernetes.io/config.source": "api"}},
        "spec": spec,
    });
    serde_json::from_value(pod).unwrap()
}

#[test]
fn a_node_short_of_memory_refuses_those_that_ask_for_none() {
    let best_effort = json!({"containers": [{"name": "c", "image": "i"}]});
    let burstable = json!({"containers": [{
        "name": "c", "image": "i", "resources": {"requests": {"memory": "1Mi"}},
    }]});
    let tolerating = |key: &str| {
        let mut spec = best_effort.clone();
        spec["tolerations"] = json!([{"key": key, "operator": "Exists"}]);
        from_api(spec)
    };
    let memory = pressure(true, false, false);
    let refused = admit_under(memory, &from_api(best_effort.clone())).unwrap_err();
    assert_eq!(refused.reason, "Evicted");
    assert_eq!(
        refused.message,
        "The node had condition: [MemoryPressure]. "
    );
    assert_eq!(admit_under(memory, &from_api(burstable.clone())), Ok(()));
    let tolerates = tolerating("node.kubernetes.io/memory-pressure");
    assert_eq!(admit_under(memory, &tolerates), Ok(()));
    let other = tolerating("node.kubernetes.io/disk-pressure");
    assert!(admit_under(memory, &other).is_err());
    assert_eq!(
        admit_under(pressure(false, false, false), &from_api(best_effort)),
        Ok(())
    );
    let both = admit_under(pressure(true, false, true), &from_api(burstable)).unwrap_err();
    assert_eq!(
        both.message,
        "The node had condition: [MemoryPressure PIDPressure]. "
    );
}

#[test]
fn critical_and_static_pods_come_in_whatever_is_short() {
    let all = pressure(true, true, true);
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    assert!(admit_under(all, &from_api(spec.clone())).is_err());
    let mut critical = spec.clone();
    critical["priority"] = json!(2_000_000_000);
    assert_eq!(admit_under(all, &from_api(critical)), Ok(()));
    let mut fixed = from_api(spec);
    let annotations = fixed.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.source".into(), "file".into());
    assert_eq!(admit_under(all, &fixed), Ok(()));
}
