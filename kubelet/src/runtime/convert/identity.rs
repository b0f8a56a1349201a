//! The names, labels and annotations under which a runtime keeps a pod. All that is known of a running pod after a
//! restart of the agent is read back from these, so they must be those of upstream, to the letter.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use static_pods::fnv::Fnv32;

use crate::pod::{self, Pod};

/// Labels of sandboxes and containers.
pub mod label {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name in the spec.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

/// Annotations of containers.
pub mod annotation {
    /// [`container_hash`](super::container_hash) at creation.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// The restart count, which is also the container's attempt.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Path of the termination message, in the container.
    pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// `File` or `FallbackToLogsOnError`.
    pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// The preStop handler, JSON of the API's `LifecycleHandler`.
    pub const PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
    /// The ports, JSON list of the API's `ContainerPort`.
    pub const PORTS: &str = "io.kubernetes.container.ports";
    /// `metadata.deletionGracePeriodSeconds`, decimal.
    pub const DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
    /// `spec.terminationGracePeriodSeconds`, decimal.
    pub const TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// `terminationMessagePath` of a container that does not say (v1 API default).
pub const DEFAULT_TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
/// `terminationMessagePolicy` of a container that does not say (v1 API default).
const DEFAULT_TERMINATION_MESSAGE_POLICY: &str = "File";

/// Identifies what a container was made of: eight or fewer hexadecimal digits of FNV-1a (32 bit) over how Go prints
/// the bytes of `{"image":…,"name":…}`. A running container with another hash is replaced.
#[must_use]
pub fn container_hash(name: &str, image: &str) -> String {
    let json = format!(
        "{{\"image\":{},\"name\":{}}}",
        go_json_string(image),
        go_json_string(name)
    );
    let mut hash = Fnv32::default();
    hash.write(b"([]uint8)[");
    for (index, byte) in json.bytes().enumerate() {
        if index > 0 {
            hash.write(b" ");
        }
        hash.write(byte.to_string().as_bytes());
    }
    hash.write(b"]");
    format!("{:x}", hash.value())
}

/// A JSON string as Go writes it: safe inside HTML and JavaScript too.
fn go_json_string(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// The log of one instance of a container, below the pod's log directory: `<container>/<attempt>.log`.
#[must_use]
pub fn container_log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(super) fn sandbox_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(pod_labels(pod));
    labels
}

pub(super) fn sandbox_annotations(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.annotations.clone().unwrap_or_default()
}

pub(super) fn container_labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = pod_labels(pod).into();
    labels.insert(label::CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

fn pod_labels(pod: &Pod) -> [(String, String); 3] {
    let name = pod::PodName::of(pod);
    [
        (label::POD_NAME.to_owned(), name.name.to_string()),
        (label::POD_NAMESPACE.to_owned(), name.namespace.to_string()),
        (label::POD_UID.to_owned(), uid(pod).to_owned()),
    ]
}

pub(super) fn container_annotations(
    pod: &Pod,
    container: &Container,
    attempt: u32,
) -> BTreeMap<String, String> {
    let image = container.image.as_deref().unwrap_or_default();
    let pre_stop = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    let policy = container
        .termination_message_policy
        .as_deref()
        .unwrap_or(DEFAULT_TERMINATION_MESSAGE_POLICY);
    // These types hold nothing that JSON cannot, so that a failure is not to be had; it would only drop the annotation.
    let pre_stop = pre_stop.and_then(|handler| serde_json::to_string(handler).ok());
    let ports = ports.and_then(|ports| serde_json::to_string(ports).ok());
    let seconds = |seconds: Option<i64>| seconds.map(|seconds| seconds.to_string());
    [
        (
            annotation::HASH,
            Some(container_hash(&container.name, image)),
        ),
        (annotation::RESTART_COUNT, Some(attempt.to_string())),
        (
            annotation::TERMINATION_MESSAGE_PATH,
            Some(termination_message_path(container).to_owned()),
        ),
        (
            annotation::TERMINATION_MESSAGE_POLICY,
            Some(policy.to_owned()),
        ),
        (
            annotation::DELETION_GRACE_PERIOD,
            seconds(pod.metadata.deletion_grace_period_seconds),
        ),
        (
            annotation::TERMINATION_GRACE_PERIOD,
            seconds(pod::spec(pod).termination_grace_period_seconds),
        ),
        (annotation::PRE_STOP_HANDLER, pre_stop),
        (annotation::PORTS, ports),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect()
}

pub(super) fn termination_message_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .unwrap_or(DEFAULT_TERMINATION_MESSAGE_PATH)
}
