//! Every field a pod's spec can have, and what this version does about it. The one place that says so.
//!
//! A table mirrors one type of the API. A test takes the names of each type's fields from the API crate and holds
//! them against its table, so that no field is in the API and not here, nor here and not in the API.
//! To build a feature: build it, then change its row.

use serde_json::Value;

use super::NodeFeatures;
use super::predicates::is_extended;

/// Reason of a pod that uses what this version does not have.
pub(super) const UNSUPPORTED: &str = "PodFeatureUnsupported";

/// What is done about a field.
pub(super) enum Field {
    /// It takes effect, whatever it holds.
    Built,
    /// It has no effect on a node, for the reason beside the row; upstream's kubelet does not act on it either.
    NoEffect,
    /// The pod is refused when the field asks for what is not built.
    Refused(Refusal),
    /// An object, its fields by a table of their own.
    Object(&'static Table),
    /// A list of such objects.
    List(&'static Table),
    /// A map from resource name to quantity.
    Resources(fn(resource: &str, node: &NodeFeatures) -> Asked),
}

/// What is done about a resource that a container asks for.
pub(super) enum Asked {
    /// It takes effect.
    Built,
    /// Accepted, not acted upon, and said so once.
    Warned(&'static str),
    /// The pod is refused.
    Refused(&'static str),
}

/// When a field refuses its pod, and the reason and words for it.
pub(super) struct Refusal {
    /// Whether this value asks for what is not built.
    pub(super) when: fn(&Value, &NodeFeatures) -> bool,
    /// The status reason.
    pub(super) reason: &'static str,
    /// What is missing, as an end of the sentence "<path> …".
    pub(super) why: &'static str,
}

/// The fields of one type.
pub(super) type Table = [(&'static str, Field)];

use Field::{Built, List, NoEffect, Object, Refused, Resources};

const fn refused(when: fn(&Value, &NodeFeatures) -> bool, why: &'static str) -> Field {
    Refused(Refusal {
        when,
        reason: UNSUPPORTED,
        why,
    })
}

/// Anything but what reads as not set.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

fn set(value: &Value, _: &NodeFeatures) -> bool {
    is_set(value)
}

fn set_without_api(value: &Value, node: &NodeFeatures) -> bool {
    is_set(value) && !node.api_server
}

const VOLUME_KIND: &str = "is a kind of volume that is not supported in this version";

/// `PodSpec`.
pub(super) const POD_SPEC: &Table = &[
    ("activeDeadlineSeconds", Built),
    ("affinity", Object(AFFINITY)),
    ("automountServiceAccountToken", NoEffect), // read by the API server's admission
    ("containers", List(CONTAINER)),
    ("dnsConfig", Built),
    ("dnsPolicy", Built),
    ("enableServiceLinks", Built),
    // Only the API server's subresource sets them: a manifest that has any is not valid.
    (
        "ephemeralContainers",
        refused(set_without_api, "come through an API server only"),
    ),
    ("hostAliases", Built),
    ("hostIPC", Built),
    ("hostNetwork", Built),
    ("hostPID", Built),
    ("hostUsers", Built),
    ("hostname", Built),
    ("hostnameOverride", Built),
    ("imagePullSecrets", Built),
    ("initContainers", List(CONTAINER)),
    ("nodeName", Built),
    ("nodeSelector", Built),
    ("os", Built),
    ("overhead", Built),
    ("preemptionPolicy", NoEffect), // read by the scheduler
    ("priority", Built),
    ("priorityClassName", NoEffect), // resolved by the API server's admission
    ("readinessGates", Built),
    (
        "resourceClaims",
        refused(
            set,
            "need dynamic resource allocation, which is not supported in this version",
        ),
    ),
    (
        "resources",
        Refused(Refusal {
            when: |value, node| is_set(value) && !node.pod_level_resources,
            reason: "PodLevelResourcesNotSupported",
            why: "at pod level is not supported on the node",
        }),
    ),
    ("restartPolicy", Built),
    (
        "runtimeClassName",
        refused(
            set_without_api,
            "needs runtime classes, which come from an API server",
        ),
    ),
    ("schedulerName", NoEffect), // read by the scheduler
    (
        "schedulingGates",
        refused(
            set,
            "keep a pod from running, and nothing on a node lifts them",
        ),
    ),
    ("schedulingGroup", NoEffect), // read by the scheduler
    ("securityContext", Object(POD_SECURITY_CONTEXT)),
    ("serviceAccount", NoEffect), // the older name of the next
    ("serviceAccountName", Built),
    ("setHostnameAsFQDN", Built),
    ("shareProcessNamespace", Built),
    ("subdomain", Built),
    ("terminationGracePeriodSeconds", Built),
    ("tolerations", Built),
    ("topologySpreadConstraints", NoEffect), // read by the scheduler
    ("volumes", List(VOLUME)),
];

/// `Affinity`.
pub(super) const AFFINITY: &Table = &[
    ("nodeAffinity", Object(NODE_AFFINITY)),
    ("podAffinity", NoEffect),     // read by the scheduler
    ("podAntiAffinity", NoEffect), // read by the scheduler
];

/// `NodeAffinity`.
pub(super) const NODE_AFFINITY: &Table = &[
    ("preferredDuringSchedulingIgnoredDuringExecution", NoEffect), // read by the scheduler
    ("requiredDuringSchedulingIgnoredDuringExecution", Built),
];

/// `Container`, init and regular.
pub(super) const CONTAINER: &Table = &[
    ("args", Built),
    ("command", Built),
    ("env", Built),
    ("envFrom", Built),
    ("image", Built),
    ("imagePullPolicy", Built),
    ("lifecycle", Object(LIFECYCLE)),
    ("livenessProbe", Built),
    ("name", Built),
    ("ports", Built),
    ("readinessProbe", Built),
    ("resizePolicy", NoEffect), // read when a running pod is resized, which needs an API server
    ("resources", Object(RESOURCES)),
    ("restartPolicy", Built),
    ("restartPolicyRules", Built),
    ("securityContext", Object(SECURITY_CONTEXT)),
    ("startupProbe", Built),
    ("stdin", Built),
    ("stdinOnce", Built),
    ("terminationMessagePath", Built),
    ("terminationMessagePolicy", Built),
    ("tty", Built),
    ("volumeDevices", Built),
    ("volumeMounts", List(VOLUME_MOUNT)),
    ("workingDir", Built),
];

/// `Lifecycle`.
pub(super) const LIFECYCLE: &Table = &[
    ("postStart", Built),
    ("preStop", Built),
    // Behind a feature gate, and passed over without it, as upstream does.
    ("stopSignal", Built),
];

/// `ResourceRequirements` of a container.
pub(super) const RESOURCES: &Table = &[
    (
        "claims",
        refused(
            set,
            "need dynamic resource allocation, which is not supported in this version",
        ),
    ),
    ("limits", Resources(request)),
    ("requests", Resources(request)),
];

fn request(resource: &str, node: &NodeFeatures) -> Asked {
    match resource {
        pages if pages.starts_with("hugepages-") && !node.hugepages => {
            Asked::Refused("is not supported in this version")
        }
        // As upstream: what no device plugin of the node offers is counted by somebody else, or by nobody.
        extended if is_extended(extended) && !node.devices.contains(extended) => {
            Asked::Warned("is ignored: nothing on this node offers it")
        }
        _ => Asked::Built,
    }
}

/// `SecurityContext`.
pub(super) const SECURITY_CONTEXT: &Table = &[
    ("allowPrivilegeEscalation", Built),
    ("appArmorProfile", Built),
    ("capabilities", Built),
    ("privileged", Built),
    ("procMount", Built),
    ("readOnlyRootFilesystem", Built),
    ("runAsGroup", Built),
    ("runAsNonRoot", Built),
    ("runAsUser", Built),
    ("seLinuxOptions", Built),
    ("seccompProfile", Built),
    ("windowsOptions", NoEffect), // for Windows only
];

/// `PodSecurityContext`.
pub(super) const POD_SECURITY_CONTEXT: &Table = &[
    ("appArmorProfile", Built),
    ("fsGroup", Built),
    ("fsGroupChangePolicy", Built),
    ("runAsGroup", Built),
    ("runAsNonRoot", Built),
    ("runAsUser", Built),
    ("seLinuxChangePolicy", NoEffect), // for persistent volumes only
    ("seLinuxOptions", Built),
    ("seccompProfile", Built),
    ("supplementalGroups", Built),
    // Looked at before the rest, as upstream: see `admit_groups_policy`.
    ("supplementalGroupsPolicy", Built),
    ("sysctls", Built),
    ("windowsOptions", NoEffect), // for Windows only
];

/// `VolumeMount`.
pub(super) const VOLUME_MOUNT: &Table = &[
    ("mountPath", Built),
    ("mountPropagation", Built),
    ("name", Built),
    ("readOnly", Built),
    ("recursiveReadOnly", Built),
    ("subPath", Built),
    ("subPathExpr", Built),
];

/// `Volume`.
pub(super) const VOLUME: &Table = &[
    ("awsElasticBlockStore", refused(always, VOLUME_KIND)),
    ("azureDisk", refused(always, VOLUME_KIND)),
    ("azureFile", refused(always, VOLUME_KIND)),
    ("cephfs", refused(always, VOLUME_KIND)),
    ("cinder", refused(always, VOLUME_KIND)),
    ("configMap", Built),
    ("csi", Built),
    ("downwardAPI", Built),
    ("emptyDir", Built),
    ("ephemeral", Built),
    ("fc", refused(always, VOLUME_KIND)),
    ("flexVolume", refused(always, VOLUME_KIND)),
    ("flocker", refused(always, VOLUME_KIND)),
    ("gcePersistentDisk", refused(always, VOLUME_KIND)),
    ("gitRepo", refused(always, VOLUME_KIND)),
    ("glusterfs", refused(always, VOLUME_KIND)),
    ("hostPath", Built),
    ("image", Built),
    ("iscsi", refused(always, VOLUME_KIND)),
    ("name", Built),
    ("nfs", Built),
    ("persistentVolumeClaim", Built),
    ("photonPersistentDisk", refused(always, VOLUME_KIND)),
    ("portworxVolume", refused(always, VOLUME_KIND)),
    ("projected", Object(PROJECTED)),
    ("quobyte", refused(always, VOLUME_KIND)),
    ("rbd", refused(always, VOLUME_KIND)),
    ("scaleIO", refused(always, VOLUME_KIND)),
    ("secret", Built),
    ("storageos", refused(always, VOLUME_KIND)),
    ("vsphereVolume", refused(always, VOLUME_KIND)),
];

/// A volume's source says its kind by being there, even when it is an empty object.
fn always(value: &Value, _: &NodeFeatures) -> bool {
    !value.is_null()
}

/// `ProjectedVolumeSource`.
pub(super) const PROJECTED: &Table = &[("defaultMode", Built), ("sources", List(PROJECTION))];

/// `VolumeProjection`.
pub(super) const PROJECTION: &Table = &[
    ("clusterTrustBundle", Built),
    ("configMap", Built),
    ("downwardAPI", Built),
    ("podCertificate", Built),
    ("secret", Built),
    ("serviceAccountToken", Built),
];
