use super::*;

use serde_json::json;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({ "metadata": {"name": "p"}, "spec": spec })).unwrap()
}

fn container(name: &str, requests: &[(&str, &str)], limits: &[(&str, &str)]) -> serde_json::Value {
    let map = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), json!(v)))
            .collect::<serde_json::Map<_, _>>()
    };
    json!({"name": name, "resources": {"requests": map(requests), "limits": map(limits)}})
}

fn sidecar(name: &str, requests: &[(&str, &str)], limits: &[(&str, &str)]) -> serde_json::Value {
    let mut c = container(name, requests, limits);
    c["restartPolicy"] = json!("Always");
    c
}

fn nth(pod: &Pod, n: usize) -> &Container {
    pod::containers(pod).nth(n).unwrap().1
}

const GI: u64 = 1 << 30;

fn node() -> NodeCapacity {
    NodeCapacity {
        memory_bytes: 8 * GI,
        huge_page_sizes: vec![2 << 20, GI],
    }
}

#[test]
fn shares_weight_and_quota_keep_within_the_kernels_bounds() {
    assert_eq!(
        [0, 1, 2, 100, 1000, 300_000, i64::MAX, -5].map(shares),
        [2, 2, 2, 102, 1024, 262_144, 262_144, 2]
    );
    assert_eq!(
        [0, 2, 102, 1024, 262_144, u64::MAX].map(weight),
        [1, 1, 4, 39, 10_000, 10_000]
    );
    assert_eq!(
        [0, 1, 10, 500, 2000].map(|m| quota(m, 100_000)),
        [0, 1000, 1000, 50_000, 200_000]
    );
    assert_eq!(quota(500, 5_000), 2_500);
}

#[test]
fn qos_class_follows_requests_and_limits() {
    let both = [("cpu", "1"), ("memory", "1Gi")];
    let cases = [
        (
            json!({"containers": [container("a", &[], &[])]}),
            QosClass::BestEffort,
        ),
        (
            json!({"containers": [container("a", &[("cpu", "0")], &[])]}),
            QosClass::BestEffort,
        ),
        (
            json!({"containers": [container("a", &[("example.com/gpu", "1")], &[("example.com/gpu", "1")])]}),
            QosClass::BestEffort,
        ),
        (
            json!({"containers": [container("a", &both, &both)]}),
            QosClass::Guaranteed,
        ),
        // A limit alone is a request, too.
        (
            json!({"containers": [container("a", &[], &both)]}),
            QosClass::Guaranteed,
        ),
        // 1000m is 1.
        (
            json!({"containers": [container("a", &[("cpu", "1000m")], &both)]}),
            QosClass::Guaranteed,
        ),
        (
            json!({"containers": [container("a", &[("cpu", "100m")], &both)]}),
            QosClass::Burstable,
        ),
        (
            json!({"containers": [container("a", &both, &both), container("b", &[], &[])]}),
            QosClass::Burstable,
        ),
        (
            json!({"containers": [container("a", &both, &both)], "initContainers": [container("i", &[], &[])]}),
            QosClass::Burstable,
        ),
        (
            json!({"containers": [container("a", &[], &[("memory", "1Gi")])]}),
            QosClass::Burstable,
        ),
        (
            json!({"containers": [container("a", &[], &[])], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}),
            QosClass::Guaranteed,
        ),
        (
            json!({"containers": [container("a", &[], &[])], "resources": {"requests": {"cpu": "1"}}}),
            QosClass::Burstable,
        ),
        (
            json!({"containers": [container("a", &both, &both)], "resources": {}}),
            QosClass::BestEffort,
        ),
    ];
    for (spec, class) in cases {
        assert_eq!(qos_class(&pod(spec.clone())), class, "{spec}");
    }
}

#[test]
fn init_containers_raise_the_sum_and_sidecars_add_to_it() {
    let spec = json!({
        "initContainers": [
            container("first", &[("cpu", "3")], &[]),
            sidecar("proxy", &[("cpu", "200m")], &[]),
            container("second", &[("cpu", "3")], &[]),
        ],
        "containers": [container("a", &[("cpu", "1")], &[]), container("b", &[("cpu", "1")], &[])],
        "overhead": {"cpu": "50m", "memory": "10Mi"},
    });
    let requests = pod_requests(&pod(spec)).unwrap();
    assert_eq!(requests["cpu"].milli(), 3250);
    assert_eq!(requests["memory"].value(), 10 << 20);

    let spec = json!({
        "initContainers": [container("first", &[("cpu", "1")], &[]), sidecar("proxy", &[("cpu", "200m")], &[])],
        "containers": [container("a", &[("cpu", "1")], &[]), container("b", &[("cpu", "1")], &[])],
    });
    assert_eq!(pod_requests(&pod(spec)).unwrap()["cpu"].milli(), 2200);
}

#[test]
fn the_pod_is_limited_only_where_all_its_containers_are() {
    let limits = [("cpu", "500m"), ("memory", "1Gi")];
    let cfg = CpuQuotaConfig::default();
    let of = |spec| pod_resources(&pod(spec), &cfg).unwrap();

    let all = of(json!({
        "containers": [container("a", &[], &limits), container("b", &[("cpu", "100m")], &limits)],
        "overhead": {"memory": "1Mi"},
    }));
    assert_eq!(
        (
            all.cpu_quota,
            all.cpu_period,
            all.memory_limit_bytes,
            all.cpu_shares
        ),
        (
            Some(100_000),
            Some(100_000),
            Some((2 << 30) + (1 << 20)),
            614
        )
    );
    let some = of(
        json!({"containers": [container("a", &[], &limits), container("b", &[("cpu", "100m")], &[("memory", "1Gi")])]}),
    );
    assert_eq!(
        (
            some.cpu_quota,
            some.cpu_period,
            some.memory_limit_bytes,
            some.cpu_shares
        ),
        (None, None, Some(2 << 30), 614)
    );
    let init_without = of(
        json!({"initContainers": [container("i", &[], &[])], "containers": [container("a", &[], &limits)]}),
    );
    assert_eq!(
        (init_without.cpu_quota, init_without.memory_limit_bytes),
        (None, None)
    );
    let pod_level = of(
        json!({"containers": [container("a", &[], &[])], "resources": {"limits": {"memory": "2Gi"}, "requests": {"cpu": "2"}}}),
    );
    assert_eq!(
        (
            pod_level.cpu_quota,
            pod_level.memory_limit_bytes,
            pod_level.cpu_shares
        ),
        (None, Some(2 << 30), 2048)
    );
    let none = of(json!({"containers": [container("a", &[], &[])]}));
    assert_eq!(
        (none.cpu_quota, none.memory_limit_bytes, none.cpu_shares),
        (None, None, 2)
    );

    let off = CpuQuotaConfig {
        enabled: false,
        ..cfg
    };
    let unenforced = pod_resources(
        &pod(json!({"containers": [container("a", &[], &limits)]})),
        &off,
    )
    .unwrap();
    assert_eq!(unenforced.cpu_quota, Some(-1));
}

#[test]
fn container_numbers() {
    let spec = json!({"containers": [
        container("a", &[("cpu", "100m"), ("memory", "1Gi")], &[("cpu", "250m"), ("memory", "2Gi"), ("hugepages-2Mi", "4Mi")]),
        container("b", &[], &[("cpu", "2")]),
        container("c", &[], &[]),
    ]});
    let pod = pod(spec);
    let cfg = CpuQuotaConfig::default();
    let of = |n, cfg| container_resources(&pod, nth(&pod, n), &node(), cfg).unwrap();
    let huge = |two_mb| {
        [("2MB", two_mb), ("1GB", 0)].map(|(size, limit_bytes)| HugePageLimit {
            page_size: size.to_owned(),
            limit_bytes,
        })
    };
    assert_eq!(
        of(0, &cfg),
        ContainerResources {
            cpu_shares: 102,
            cpu_period: 100_000,
            cpu_quota: 25_000,
            memory_limit_bytes: 2 << 30,
            oom_score_adj: 875,
            hugepages: huge(4 << 20).into(),
        }
    );
    assert_eq!(
        of(1, &cfg),
        ContainerResources {
            cpu_shares: 2048,
            cpu_period: 100_000,
            cpu_quota: 200_000,
            memory_limit_bytes: 0,
            oom_score_adj: 999,
            hugepages: huge(0).into(),
        }
    );
    let third = of(2, &cfg);
    assert_eq!((third.cpu_shares, third.cpu_quota), (2, 0));
    let off = of(
        0,
        &CpuQuotaConfig {
            enabled: false,
            ..cfg
        },
    );
    assert_eq!(
        (off.cpu_period, off.cpu_quota, off.memory_limit_bytes),
        (0, 0, 2 << 30)
    );
}

#[test]
fn a_container_without_limits_lives_under_those_of_its_pod() {
    let pod = pod(
        json!({"containers": [container("a", &[], &[]), container("b", &[], &[("memory", "1Gi")])],
        "resources": {"limits": {"cpu": "1", "memory": "4Gi", "hugepages-1Gi": "1Gi"}}}),
    );
    let of =
        |n| container_resources(&pod, nth(&pod, n), &node(), &CpuQuotaConfig::default()).unwrap();
    let (a, b) = (of(0), of(1));
    assert_eq!(
        (
            a.cpu_shares,
            a.cpu_quota,
            a.memory_limit_bytes,
            a.hugepages[1].limit_bytes
        ),
        (1024, 100_000, 4 << 30, GI)
    );
    assert_eq!(b.memory_limit_bytes, 1 << 30);
}

#[test]
fn oom_score_puts_burstable_between_the_others() {
    let both = [("cpu", "1"), ("memory", "1Gi")];
    let adj = |spec, n| {
        let pod = pod(spec);
        oom_score_adj(&pod, nth(&pod, n), 8 * GI).unwrap()
    };
    assert_eq!(
        adj(json!({"containers": [container("a", &both, &both)]}), 0),
        -997
    );
    assert_eq!(
        adj(json!({"containers": [container("a", &[], &[])]}), 0),
        1000
    );
    assert_eq!(
        adj(
            json!({"containers": [container("a", &[("memory", "8Gi")], &[])]}),
            0
        ),
        3
    );
    assert_eq!(
        adj(
            json!({"containers": [container("a", &[("memory", "99Gi")], &[])]}),
            0
        ),
        3
    );
    // A sidecar is killed no sooner than the least of the containers it serves.
    let spec = json!({
        "initContainers": [sidecar("s", &[], &[])],
        "containers": [container("a", &[("memory", "4Gi")], &[]), container("b", &[("memory", "2Gi")], &[])],
    });
    assert_eq!(adj(spec.clone(), 0), 750);
    assert_eq!(adj(spec, 1), 500);
    // 2 GiB asked for by the pod, 1 GiB by its containers: half a GiB more for each of the two.
    let spec = json!({"containers": [container("a", &[("memory", "1Gi")], &[]), container("b", &[], &[])],
        "resources": {"requests": {"memory": "2Gi"}}});
    assert_eq!(adj(spec.clone(), 0), 813);
    assert_eq!(adj(spec, 1), 938);
}

#[test]
fn node_critical_pods_are_killed_last() {
    let mut pod = pod(json!({"priorityClassName": "system-node-critical",
        "containers": [container("a", &[("memory", "1Gi")], &[])]}));
    let adj = |pod: &Pod| oom_score_adj(pod, nth(pod, 0), 8 * GI).unwrap();
    assert_eq!(
        adj(&pod),
        875,
        "the name alone makes no pod of the API critical"
    );
    let annotations = [(pod::CONFIG_SOURCE_ANNOTATION.to_owned(), "file".to_owned())];
    pod.metadata.annotations = Some(annotations.into());
    assert_eq!(adj(&pod), -997);
    pod.metadata.annotations = None;
    pod.spec.as_mut().unwrap().priority = Some(2_000_001_000);
    assert_eq!(adj(&pod), -997);
}

#[test]
fn an_unreadable_quantity_names_its_place() {
    let pod = pod(json!({"containers": [container("web", &[], &[("memory", "1GB")])]}));
    let error = container_resources(&pod, nth(&pod, 0), &node(), &CpuQuotaConfig::default())
        .expect_err("1GB is no quantity");
    assert_eq!(
        error.to_string(),
        "container \"web\": limits[memory]: \"1GB\" is not a quantity"
    );
    assert_eq!(pod_resources(&pod, &CpuQuotaConfig::default()), Err(error));
}

#[test]
fn huge_page_sizes_are_named_as_the_kernel_names_them() {
    assert_eq!(
        [64 << 10, 2 << 20, GI, 512, 0].map(huge_page_name),
        ["64KB", "2MB", "1GB", "512B", "0B"]
    );
}
