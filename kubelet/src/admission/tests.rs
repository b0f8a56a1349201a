mod node;
mod pressure;
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
    assert_complete::<api::ProjectedVolumeSource>("ProjectedVolumeSource", fields::PROJECTED);
    assert_complete::<api::VolumeProjection>("VolumeProjection", fields::PROJECTION);
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
                row.is_some_and(|(_, field)| !matches!(field, Field::NoEffect)),
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
            json!({"hostUsers": false, "hostNetwork": true}),
            "Pod requires node features that are not available: UserNamespacesHostNetworkSupport",
        ),
        (
            json!({"runtimeClassName": "kata"}),
            "spec.runtimeClassName: \"kata\" needs runtime classes, which come from an API server",
        ),
        (
            json!({"resourceClaims": [{"name": "gpu"}]}),
            "spec.resourceClaims need dynamic resource allocation, which is not supported in this version",
        ),
        (
            json!({"ephemeralContainers": [{"name": "debug"}]}),
            "spec.ephemeralContainers come through an API server only",
        ),
        (
            json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "v", "iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2026-01.x:y", "lun": 0}}]}),
            "spec.volumes[1].iscsi is a kind of volume that is not supported in this version",
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
            json!({"resources": {"claims": [{"name": "gpu"}]}}),
            "spec.containers[0].resources.claims need dynamic resource allocation, which is not supported in this version",
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}),
            "spec.containers[0].resources.limits[hugepages-2Mi] is not supported in this version",
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
}

#[test]
fn restart_policies_and_deadlines_are_built() {
    let rules =
        json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [3]}}]);
    let pod = pod(json!({
        "activeDeadlineSeconds": 5,
        "readinessGates": [{"conditionType": "x/y"}],
        "initContainers": [{"name": "i", "restartPolicy": "Never", "restartPolicyRules": rules}],
        "containers": [{"name": "c", "restartPolicy": "OnFailure"}],
    }));
    admitted(&pod);
    assert!(
        warnings(&pod, &NodeFeatures::default()).is_empty(),
        "{:?}",
        warnings(&pod, &NodeFeatures::default())
    );
    admitted(&with_container(json!({
        "securityContext": {"procMount": "Default", "privileged": true},
        "resources": {"requests": {"ephemeral-storage": "1Gi", "example.com/gpu": "0"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "volumeMounts": [
            {"name": "a", "mountPath": "/a", "subPath": "b/c"},
            {"name": "a", "mountPath": "/d", "subPathExpr": "$(E)"},
        ],
    })));
}

#[test]
fn what_the_node_can_do_is_admitted() {
    let able = NodeFeatures {
        supplemental_groups_policy: true,
        pod_level_resources: true,
        hugepages: true,
        api_server: true,
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
        (
            pod(json!({"runtimeClassName": "kata"})),
            "PodFeatureUnsupported",
            "spec.runtimeClassName: \"kata\" needs runtime classes, which come from an API server",
        ),
    ];
    for (pod, reason, message) in asks {
        refused(&pod, reason, message);
        assert_eq!(admit_features(&pod, &able), Ok(()), "{message}");
    }
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
        "containers": [container],
        "volumes": [
            {"name": "a", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "b", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
            {"name": "c", "emptyDir": {}},
        ],
    }));
    admitted(&pod);
    assert_eq!(
        warnings(&pod, &NodeFeatures::default()),
        [
            "spec.containers[0].resources.requests[example.com/gpu] is ignored: nothing on this node offers it",
        ]
    );
    assert!(warnings(&self::pod(json!({})), &NodeFeatures::default()).is_empty());
}
