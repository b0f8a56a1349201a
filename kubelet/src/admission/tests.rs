mod room;

use k8s_openapi::api::core::v1 as api;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::{Value, json};

use super::fields::{self, Field, Table};
use super::*;

/// A deserializer that yields no value, only the names of the fields a type asks for.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

#[derive(Debug)]
struct Done;

impl std::fmt::Display for Done {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Done {}

impl de::Error for Done {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Done;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Done> {
        Err(Done)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Done> {
        *self.0 = fields;
        Err(Done)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields_of<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut names: &'static [&'static str] = &[];
    assert!(T::deserialize(FieldNames(&mut names)).is_err());
    assert!(!names.is_empty());
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}

fn assert_complete<T: for<'de> Deserialize<'de>>(type_name: &str, table: &Table) {
    let mut rows: Vec<_> = table.iter().map(|(name, _)| *name).collect();
    rows.sort_unstable();
    assert_eq!(
        rows,
        fields_of::<T>(),
        "rows of {type_name} and fields of the API"
    );
}

#[test]
fn the_tables_name_every_field_of_the_api_once() {
    assert_complete::<api::PodSpec>("PodSpec", fields::POD_SPEC);
    assert_complete::<api::Affinity>("Affinity", fields::AFFINITY);
    assert_complete::<api::NodeAffinity>("NodeAffinity", fields::NODE_AFFINITY);
    assert_complete::<api::Container>("Container", fields::CONTAINER);
    assert_complete::<api::Lifecycle>("Lifecycle", fields::LIFECYCLE);
    assert_complete::<api::ResourceRequirements>("ResourceRequirements", fields::RESOURCES);
    assert_complete::<api::SecurityContext>("SecurityContext", fields::SECURITY_CONTEXT);
    assert_complete::<api::PodSecurityContext>("PodSecurityContext", fields::POD_SECURITY_CONTEXT);
    assert_complete::<api::VolumeMount>("VolumeMount", fields::VOLUME_MOUNT);
    assert_complete::<api::Volume>("Volume", fields::VOLUME);
    assert_complete::<api::EmptyDirVolumeSource>("EmptyDirVolumeSource", fields::EMPTY_DIR);
}

/// The same trick against the fields that decide isolation, resources and placement: none may be without effect.
#[test]
fn no_isolating_field_is_marked_as_without_effect() {
    let isolating: &[(&str, &Table, &[&str])] = &[
        (
            "PodSpec",
            fields::POD_SPEC,
            &[
                "hostIPC",
                "hostNetwork",
                "hostPID",
                "hostUsers",
                "nodeName",
                "nodeSelector",
                "os",
                "overhead",
                "resourceClaims",
                "resources",
                "runtimeClassName",
                "securityContext",
                "shareProcessNamespace",
                "volumes",
                "ephemeralContainers",
                "affinity",
            ],
        ),
        (
            "Container",
            fields::CONTAINER,
            &[
                "resources",
                "securityContext",
                "volumeDevices",
                "volumeMounts",
            ],
        ),
        (
            "ResourceRequirements",
            fields::RESOURCES,
            &["claims", "limits", "requests"],
        ),
    ];
    for (type_name, table, names) in isolating {
        for name in *names {
            let row = table.iter().find(|(known, _)| known == name);
            assert!(
                row.is_some_and(|(_, field)| !matches!(field, Field::NoEffect | Field::Warned(_))),
                "{type_name}.{name}"
            );
        }
    }
}

fn node() -> NodeFeatures {
    NodeFeatures {
        node_name: "node-1".into(),
        labels: [
            ("kubernetes.io/hostname", "node-1"),
            ("kubernetes.io/os", "linux"),
            ("cores", "8"),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect(),
        sysctls: SysctlAllowlist::new((6, 1), &["net.core.*".into()]).unwrap(),
        app_armor: true,
        ..NodeFeatures::default()
    }
}

/// A pod with one container, `spec` laid over it.
fn pod(spec: Value) -> Pod {
    let mut whole = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    });
    merge(&mut whole["spec"], spec);
    serde_json::from_value(whole).unwrap()
}

/// `spec` with the fields of `container` in its one container.
fn with_container(container: Value) -> Pod {
    let mut whole = json!({"name": "c", "image": "nginx"});
    merge(&mut whole, container);
    pod(json!({"containers": [whole]}))
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

#[track_caller]
fn refused(pod: &Pod, reason: &str, message: &str) {
    refused_on(&node(), pod, reason, message);
}

#[track_caller]
fn refused_on(node: &NodeFeatures, pod: &Pod, reason: &str, message: &str) {
    let rejection = admit_features(pod, node).expect_err(message);
    assert_eq!(
        (&*rejection.reason, rejection.message.as_str()),
        (reason, message)
    );
}

#[track_caller]
fn admitted(pod: &Pod) {
    assert_eq!(admit_features(pod, &node()), Ok(()));
}

#[test]
fn what_is_not_built_refuses_the_pod_by_its_path() {
    let cases = [
        (
            json!({"hostUsers": false}),
            "spec.hostUsers: false asks for a user namespace, which is not supported in this version",
        ),
        (
            json!({"runtimeClassName": "kata"}),
            "spec.runtimeClassName: \"kata\" needs runtime classes, which are not supported in this version",
        ),
        (
            json!({"resourceClaims": [{"name": "gpu"}]}),
            "spec.resourceClaims need dynamic resource allocation, which is not supported in this version",
        ),
        (
            json!({"ephemeralContainers": [{"name": "debug"}]}),
            "spec.ephemeralContainers are not supported in this version",
        ),
        (
            json!({"imagePullSecrets": [{"name": "s"}]}),
            "spec.imagePullSecrets are not supported in this version",
        ),
        (
            json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "v", "nfs": {"server": "s", "path": "/p"}}]}),
            "spec.volumes[1].nfs is a kind of volume that is not supported in this version",
        ),
        (
            json!({"volumes": [{"name": "v", "downwardAPI": {}}]}),
            "spec.volumes[0].downwardAPI is a kind of volume that is not supported in this version",
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {"medium": "HugePages"}}]}),
            "spec.volumes[0].emptyDir.medium: \"HugePages\" is a medium that is not supported in this version",
        ),
        (
            json!({"initContainers": [{"name": "i", "restartPolicy": "Never"}]}),
            "spec.initContainers{i}.restartPolicy: \"Never\" is not supported in this version",
        ),
    ];
    for (spec, message) in cases {
        refused(&pod(spec), "PodFeatureUnsupported", message);
    }
}

#[test]
fn what_is_not_built_of_a_container_refuses_the_pod() {
    let cases = [
        (
            json!({"securityContext": {"procMount": "Unmasked"}}),
            "spec.containers[0].securityContext.procMount: \"Unmasked\" needs user namespaces, which are not supported in this version",
        ),
        (
            json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]}),
            "spec.containers[0].volumeDevices need block volumes, which are not supported in this version",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a"}]}),
            "spec.containers[0].volumeMounts[0].subPath: \"a\" is not supported in this version",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(A)"}]}),
            "spec.containers[0].volumeMounts[0].subPathExpr: \"$(A)\" is not supported in this version",
        ),
        (
            json!({"resources": {"claims": [{"name": "gpu"}]}}),
            "spec.containers[0].resources.claims need dynamic resource allocation, which is not supported in this version",
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}),
            "spec.containers[0].resources.limits[hugepages-2Mi] is not supported in this version",
        ),
        (
            json!({"restartPolicyRules": [{"action": "Restart"}]}),
            "spec.containers[0].restartPolicyRules are not supported in this version",
        ),
        (
            json!({"restartPolicy": "Never"}),
            "spec.containers{c}.restartPolicy: \"Never\" is not supported in this version",
        ),
    ];
    for (container, message) in cases {
        refused(&with_container(container), "PodFeatureUnsupported", message);
    }
}

#[test]
fn fields_left_at_what_they_default_to_refuse_nothing() {
    admitted(&pod(json!({
        "hostUsers": true, "runtimeClassName": "", "ephemeralContainers": [], "imagePullSecrets": [],
        "schedulingGates": [], "overhead": {}, "schedulerName": "default-scheduler", "priority": 2_000_001_000,
        "priorityClassName": "system-node-critical", "nodeName": "node-1", "os": {"name": "linux"},
        "securityContext": {"supplementalGroupsPolicy": "Merge", "fsGroup": 5},
        "volumes": [
            {"name": "a", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "b", "emptyDir": {}},
            {"name": "h", "hostPath": {"path": "/etc", "type": "Directory"}},
        ],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
    })));
    admitted(&with_container(json!({
        "securityContext": {"procMount": "Default", "privileged": true},
        "resources": {"requests": {"ephemeral-storage": "1Gi", "example.com/gpu": "0"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "volumeMounts": [{"name": "a", "mountPath": "/a", "subPath": ""}],
    })));
}

#[test]
fn what_the_node_can_do_is_admitted() {
    let able = NodeFeatures {
        supplemental_groups_policy: true,
        pod_level_resources: true,
        hugepages: true,
        ..node()
    };
    let asks = [
        (
            pod(json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}})),
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ),
        (
            pod(json!({"resources": {"limits": {"cpu": "1"}}})),
            "PodLevelResourcesNotSupported",
            "spec.resources at pod level is not supported on the node",
        ),
        (
            with_container(json!({"resources": {"limits": {"hugepages-1Gi": "1Gi"}}})),
            "PodFeatureUnsupported",
            "spec.containers[0].resources.limits[hugepages-1Gi] is not supported in this version",
        ),
    ];
    for (pod, reason, message) in asks {
        refused(&pod, reason, message);
        assert_eq!(admit_features(&pod, &able), Ok(()), "{message}");
    }
}

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

#[test]
fn what_runs_without_a_feature_is_warned_of() {
    let mut container = json!({
        "livenessProbe": {"exec": {"command": ["true"]}},
        "readinessProbe": {"exec": {"command": ["true"]}},
        "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
    });
    merge(
        &mut container,
        json!({"name": "c", "image": "nginx", "resources": {
            "requests": {"example.com/gpu": "1", "example.com/none": "0", "ephemeral-storage": "1Gi"},
            "limits": {"ephemeral-storage": "1Gi", "memory": "1Gi"},
        }}),
    );
    let pod = pod(json!({
        "readinessGates": [{"conditionType": "x/y"}], "activeDeadlineSeconds": 5, "containers": [container],
        "volumes": [
            {"name": "a", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "b", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
            {"name": "c", "emptyDir": {}},
        ],
    }));
    admitted(&pod);
    assert_eq!(
        warnings(&pod),
        [
            "spec.activeDeadlineSeconds is not enforced in this version",
            "spec.containers[0].lifecycle.preStop is not run in this version",
            "spec.containers[0].livenessProbe is not run in this version",
            "spec.containers[0].readinessProbe is not run in this version",
            "spec.containers[0].resources.limits[ephemeral-storage] is not enforced in this version",
            "spec.containers[0].resources.requests[example.com/gpu] is ignored: nothing on this node offers it",
            "spec.readinessGates are not waited for in this version",
            "spec.volumes[0].emptyDir.sizeLimit is not enforced on disk in this version",
        ]
    );
    assert!(warnings(&self::pod(json!({}))).is_empty());
}
