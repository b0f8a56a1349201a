//! What the node has to offer.

use super::*;

#[test]
fn sysctls_are_allowed_by_name_prefix_and_namespace() {
    let sysctl = |name: &str, more: Value| {
        let mut spec = json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        merge(&mut spec, more);
        pod(spec)
    };
    admitted(&sysctl("net.ipv4.tcp_syncookies", json!({})));
    admitted(&sysctl("net/ipv4/tcp_syncookies", json!({})));
    admitted(&sysctl("net.core.somaxconn", json!({})));
    for (name, more, why) in [
        (
            "kernel.msgmax",
            json!({}),
            "\"kernel.msgmax\" not allowlisted",
        ),
        (
            "net/ipv4/tcp_mem",
            json!({}),
            "\"net.ipv4.tcp_mem\" not allowlisted",
        ),
        (
            "net.core.somaxconn",
            json!({"hostNetwork": true}),
            "\"net.core.somaxconn\" not allowed with host Net enabled",
        ),
        (
            "kernel.shm_rmid_forced",
            json!({"hostIPC": true}),
            "\"kernel.shm_rmid_forced\" not allowed with host IPC enabled",
        ),
    ] {
        refused(
            &sysctl(name, more),
            "SysctlForbidden",
            &format!("forbidden sysctl: {why}"),
        );
    }
    let old = NodeFeatures {
        sysctls: SysctlAllowlist::new((4, 14), &[]).unwrap(),
        ..node()
    };
    refused_on(
        &old,
        &sysctl("net.ipv4.tcp_rmem", json!({})),
        "SysctlForbidden",
        "forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowlisted",
    );
}

#[test]
fn other_operating_systems_are_refused() {
    let os_field = "Failed to admit pod as the OS field doesn't match node OS";
    refused(
        &pod(json!({"os": {"name": "windows"}})),
        "PodOSNotSupported",
        os_field,
    );
    let mut labelled = pod(json!({}));
    labelled.metadata.labels = Some([("kubernetes.io/os".to_owned(), "windows".to_owned())].into());
    refused(
        &labelled,
        "PodOSSelectorNodeLabelDoesNotMatch",
        "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
    );
}

#[test]
fn node_selectors_and_affinity_hold_for_static_pods() {
    let affinity = |terms: Value| {
        pod(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }}}))
    };
    let expression = |operator: &str, key: &str, values: Value| {
        affinity(
            json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]),
        )
    };
    for good in [
        pod(json!({"nodeSelector": {"kubernetes.io/os": "linux"}})),
        expression("In", "kubernetes.io/hostname", json!(["x", "node-1"])),
        expression("NotIn", "zone", json!(["a"])),
        expression("Exists", "cores", json!([])),
        expression("DoesNotExist", "zone", json!([])),
        expression("Gt", "cores", json!(["7"])),
        expression("Lt", "cores", json!(["9"])),
        affinity(
            json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]),
        ),
    ] {
        admitted(&good);
    }
    for bad in [
        pod(json!({"nodeSelector": {"zone": "a"}})),
        expression("In", "zone", json!(["a"])),
        expression("NotIn", "cores", json!(["8"])),
        expression("Exists", "zone", json!([])),
        expression("DoesNotExist", "cores", json!([])),
        expression("Gt", "cores", json!(["8"])),
        expression("Lt", "cores", json!(["eight"])),
        expression("Near", "cores", json!(["8"])),
        affinity(json!([{}])),
        affinity(
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-2"]}]}]),
        ),
    ] {
        refused(
            &bad,
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
    }
    refused(
        &pod(json!({"nodeName": "node-2"})),
        "NodeName",
        "Predicate NodeName failed: node(s) didn't match the requested node name",
    );
}

#[test]
fn app_armor_is_needed_only_by_pods_that_use_it() {
    let without = NodeFeatures {
        app_armor: false,
        ..node()
    };
    let off = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
    let mut annotated = pod(json!({}));
    annotated.metadata.annotations = Some(
        [(
            "container.apparmor.security.beta.kubernetes.io/c".to_owned(),
            "localhost/p".to_owned(),
        )]
        .into(),
    );
    let by_pod = pod(json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}));
    let by_container = with_container(
        json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "p"}}}),
    );
    for pod in [&annotated, &by_pod, &by_container] {
        admitted(pod);
        refused_on(&without, pod, "AppArmor", off);
    }
    let unconfined = pod(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}));
    assert_eq!(admit_features(&unconfined, &without), Ok(()));
    refused(
        &with_container(json!({"securityContext": {"appArmorProfile": {"type": "Localhost"}}})),
        "AppArmor",
        "Cannot enforce AppArmor: container \"c\" has a Localhost AppArmor profile without a name",
    );
}
