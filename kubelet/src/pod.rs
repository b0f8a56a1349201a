//! The words every room uses for a pod: its identity, its containers in the order they start, its QoS class.
//!
//! Pure: no I/O, no clock.

mod restart;

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use static_pods::identity::is_path_component;

pub use k8s_openapi::api::core::v1::Pod;
pub use restart::{
    RestartPolicy, may_restart_all, restarts_after_probe, restarts_all, should_restart,
};
pub use static_pods::identity::{
    CONFIG_HASH_ANNOTATION, CONFIG_MIRROR_ANNOTATION, CONFIG_SEEN_ANNOTATION,
    CONFIG_SOURCE_ANNOTATION,
};

/// Seconds a pod gets to stop when its manifest does not say (`spec.terminationGracePeriodSeconds`, v1 API default).
pub const DEFAULT_GRACE_SECONDS: i64 = 30;

/// The UID of a pod: one path component of `[A-Za-z0-9._-]`, checked when made, so that it may name a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(Arc<str>);

/// A UID that cannot name a pod's directory.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "pod UID {0:?} is not 1 to 128 characters of [A-Za-z0-9._-] that start with a letter or digit"
)]
pub struct InvalidPodUid(String);

impl PodUid {
    /// Checks and wraps `text`.
    ///
    /// # Errors
    /// When `text` is empty, longer than 128 bytes, has a character outside `[A-Za-z0-9._-]`, or does not begin
    /// with a letter or a digit.
    pub fn parse(text: &str) -> Result<Self, InvalidPodUid> {
        if is_path_component(text) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidPodUid(text.chars().take(140).collect()))
        }
    }

    /// The UID of `pod`.
    ///
    /// # Errors
    /// When the pod has none, or one that [`PodUid::parse`] refuses.
    pub fn of(pod: &Pod) -> Result<Self, InvalidPodUid> {
        Self::parse(pod.metadata.uid.as_deref().unwrap_or_default())
    }

    /// The UID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for PodUid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Namespace and name of a pod. Shown as upstream shows it: `<name>_<namespace>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name; for a static pod with the node's name behind it.
    pub name: Arc<str>,
}

impl PodName {
    /// The namespace and name of `pod`, `default` where it has no namespace.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod
                .metadata
                .namespace
                .as_deref()
                .unwrap_or("default")
                .into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.name, self.namespace)
    }
}

/// What upstream's messages call a pod: `<name>_<namespace>(<uid>)`.
#[must_use]
pub fn long_name(pod: &Pod) -> String {
    format!(
        "{}({})",
        PodName::of(pod),
        pod.metadata.uid.as_deref().unwrap_or_default()
    )
}

/// When a container of a pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerKind {
    /// A plain init container: runs to its end before the next one.
    Init,
    /// An init container with `restartPolicy: Always`: stays, beside all that follow it.
    Sidecar,
    /// One of `spec.containers`.
    Regular,
    /// One of `spec.ephemeralContainers`: added to a pod that runs, and never restarted.
    Ephemeral,
}

/// The spec of `pod`. A pod without a spec reads as one without containers; sources refuse such pods.
#[must_use]
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// The pod's containers in the order in which they start: init containers and sidecars, then the regular ones.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (ContainerKind, &Container)> {
    let spec = spec(pod);
    let init = spec
        .init_containers
        .iter()
        .flatten()
        .map(|c| match c.restart_policy.as_deref() {
            Some("Always") => (ContainerKind::Sidecar, c),
            _ => (ContainerKind::Init, c),
        });
    init.chain(spec.containers.iter().map(|c| (ContainerKind::Regular, c)))
}

/// The container of `pod` called `name`, of whatever kind.
#[must_use]
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let own = containers(pod).map(|(_, c)| c).find(|c| c.name == name);
    let late = || ephemeral_containers(pod).find(|c| c.name == name);
    own.map(Cow::Borrowed).or_else(|| late().map(Cow::Owned))
}

/// The pod's ephemeral containers in the spec's order, in the form of all other containers.
pub fn ephemeral_containers(pod: &Pod) -> impl Iterator<Item = Container> {
    let late = spec(pod).ephemeral_containers.iter().flatten().cloned();
    late.map(|c| Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    })
}

/// The grace period of a pod, seconds, not below zero: that of its deletion where it has one, else its own spec's.
#[must_use]
pub fn grace_seconds(pod: &Pod) -> i64 {
    let deletion = pod.metadata.deletion_grace_period_seconds;
    deletion
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(DEFAULT_GRACE_SECONDS)
        .max(0)
}

/// Whether the pod comes from a file or a URL.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get(CONFIG_SOURCE_ANNOTATION))
        .is_some_and(|source| source != "api")
}

/// Whether the pod comes from the API server.
#[must_use]
pub fn is_from_api(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get(CONFIG_SOURCE_ANNOTATION))
        .is_some_and(|source| source == "api")
}

/// Whether the pod shares the node's network namespace.
#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// Whether the pod has users and groups of its own (`hostUsers: false`).
#[must_use]
pub fn has_own_users(pod: &Pod) -> bool {
    spec(pod).host_users == Some(false)
}

/// The quality of service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    /// Every container has cpu and memory limits, and requests equal to them.
    Guaranteed,
    /// Some container has a cpu or memory request or limit.
    Burstable,
    /// No container has any.
    BestEffort,
}

impl QosClass {
    /// As `status.qosClass` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}
