//! Memory and swap of containers on cgroup v2.

use super::*;

#[test]
fn burstable_containers_have_their_share_of_limited_swap() {
    let node = NodeSettings {
        limited_swap: Some(4 << 30),
        ..node()
    };
    let of = |spec: serde_json::Value, resources: serde_json::Value| {
        let pod = pod_with(spec, json!({ "resources": resources }));
        let all = container_of(&pod, "c", &node).unwrap().linux.unwrap();
        all.resources.unwrap().unified["memory.swap.max"].clone()
    };
    let asks = |request: &str, limit: &str| json!({ "requests": { "memory": request }, "limits": { "memory": limit } });
    let plain = || json!({});
    // Of 8 GiB of memory and 4 GiB of swap.
    assert_eq!(of(plain(), asks("1Gi", "2Gi")), "536870912");
    let request = json!({ "requests": { "memory": "100Mi" } });
    assert_eq!(of(plain(), request.clone()), "52428800");
    assert_eq!(of(plain(), asks("1001", "2Gi")), "500", "cut off");
    for (spec, resources, why) in [
        (plain(), asks("1Gi", "1Gi"), "all it may use"),
        (plain(), json!({}), "best effort"),
        (plain(), json!({ "requests": { "cpu": "1" } }), "no memory"),
        (plain(), asks("9Gi", "10Gi"), "more than there is"),
        (
            plain(),
            json!({ "limits": { "cpu": "1", "memory": "1Gi" } }),
            "guaranteed",
        ),
        (json!({ "priority": 2_000_000_000 }), request, "critical"),
    ] {
        assert_eq!(of(spec, resources), "0", "{why}");
    }
}

#[test]
fn memory_is_kept_and_throttled_where_that_is_on() {
    let node = NodeSettings {
        memory_qos: Some(MemoryQos {
            throttling_factor: 0.9,
            reserves: true,
        }),
        ..node()
    };
    let pod = pod_with(
        json!({}),
        json!({ "resources": { "requests": { "memory": "1Gi" } } }),
    );
    let all = container_of(&pod, "c", &node).unwrap().linux.unwrap();
    let unified = all.resources.unwrap().unified;
    let high = (1_u64 << 30) + ((6_u64 << 30) * 9 / 10);
    let expected = [
        ("memory.high", (high / 4096 * 4096).to_string()),
        ("memory.low", (1 << 30).to_string()),
        ("memory.oom.group", "1".to_owned()),
        ("memory.swap.max", "0".to_owned()),
    ];
    let expected = expected.map(|(file, value)| (file.to_owned(), value));
    assert_eq!(unified, BTreeMap::from(expected));
    // In place too: the files are all that is changed of them.
    let container = &pod::spec(&pod).containers[0];
    let resized = resized_container(&pod, container, &ContainerGrants::default(), &node).unwrap();
    assert_eq!(resized.unified, unified);
}
