//! What a pod takes of the node while it has a place there.

use std::collections::BTreeMap;
use std::fmt;

use crate::cgroups::resources::{ResourceError, pod_requests, qos_class};
use crate::pod::{self, ContainerKind, Pod, PodName, QosClass};

/// Amounts by resource: `cpu` in thousandths of a core, everything else in whole units (bytes, pieces).
pub type Amounts = BTreeMap<String, i64>;

/// The resource that counts in thousandths.
pub(super) const CPU: &str = "cpu";
/// The resource that counts pods: every pod asks for one.
pub(super) const PODS: &str = "pods";

/// `spec.priority` from which on a pod is critical (`system-cluster-critical`, the Kubernetes document "Guaranteed
/// scheduling for critical add-on pods").
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// The address of a host port that names none: all of the node's.
const ANY_ADDRESS: &str = "0.0.0.0";

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The node's address; `0.0.0.0` for all of them.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had. An address collides with itself and with `0.0.0.0`, in either order.
    #[must_use]
    pub fn collides_with(&self, other: &Self) -> bool {
        let any = self.address == ANY_ADDRESS || other.address == ANY_ADDRESS;
        self.port == other.port
            && self.protocol == other.protocol
            && (any || self.address == other.address)
    }
}

impl fmt::Display for HostPort {
    /// `8080/TCP`, or `10.0.0.1:8080/TCP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address != ANY_ADDRESS {
            write!(f, "{}:", self.address)?;
        }
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// What one pod takes, and what decides whether it may be made to give it up.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its namespace and name.
    pub name: PodName,
    /// What it asks for: the sum over containers and sidecars, no less than any init container needs, overridden by
    /// pod-level requests, with the overhead.
    pub requests: Amounts,
    /// Ports of the node: of regular containers and of sidecars. Plain init containers do not hold theirs.
    pub ports: Vec<HostPort>,
    /// Its quality of service.
    pub qos: QosClass,
    /// Static, a mirror, or of a critical priority.
    pub critical: bool,
    /// `spec.priority`.
    pub priority: Option<i32>,
}

impl Claim {
    /// What `pod` takes.
    ///
    /// # Errors
    /// When one of its quantities cannot be read.
    pub fn of(pod: &Pod) -> Result<Self, ResourceError> {
        Ok(Self {
            requests: requests(pod)?,
            ..Self::without_requests(pod)
        })
    }

    /// What a pod that runs already takes: requests that cannot be read count as none.
    #[must_use]
    pub fn of_running(pod: &Pod) -> Self {
        Self::of(pod).unwrap_or_else(|_| Self::without_requests(pod))
    }

    fn without_requests(pod: &Pod) -> Self {
        Self {
            name: PodName::of(pod),
            requests: Amounts::new(),
            ports: host_ports(pod),
            qos: qos_class(pod),
            critical: is_critical(pod),
            priority: pod::spec(pod).priority,
        }
    }

    /// How much of `resource` becomes free without the pod.
    pub(super) fn amount(&self, resource: &str) -> i64 {
        match resource {
            PODS => 1,
            other => self.requests.get(other).copied().unwrap_or(0),
        }
    }

    /// Whether the pod may push `other` off the node: a critical pod one that is not, any pod one of lower priority.
    pub(super) fn may_preempt(&self, other: &Self) -> bool {
        (self.critical && !other.critical)
            || matches!((self.priority, other.priority), (Some(own), Some(others)) if own > others)
    }
}

fn requests(pod: &Pod) -> Result<Amounts, ResourceError> {
    let listed = pod_requests(pod)?.into_iter();
    let counted = listed.map(|(resource, amount)| {
        let units = match resource.as_str() {
            CPU => amount.milli(),
            _ => amount.value(),
        };
        (resource, units)
    });
    Ok(counted.filter(|(_, units)| *units > 0).collect())
}

/// A pod on the node's network has its container ports as host ports: the sources' defaults have filled them in.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let lasting = pod::containers(pod).filter(|(kind, _)| *kind != ContainerKind::Init);
    let ports = lasting.flat_map(|(_, container)| container.ports.iter().flatten());
    let or = |text: Option<&String>, default: &str| match text {
        Some(text) if !text.is_empty() => text.clone(),
        _ => default.to_owned(),
    };
    ports
        .filter_map(|port| {
            Some(HostPort {
                address: or(port.host_ip.as_ref(), ANY_ADDRESS),
                protocol: or(port.protocol.as_ref(), "TCP"),
                port: port.host_port.filter(|number| *number > 0)?,
            })
        })
        .collect()
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

/// Whether the pod has to run whatever the node is short of: it is static, the mirror of a static one, or of the highest
/// priorities (upstream's `IsCriticalPod`).
pub fn is_critical(pod: &Pod) -> bool {
    pod::is_static(pod)
        || annotation(pod, pod::CONFIG_MIRROR_ANNOTATION).is_some()
        || pod::spec(pod).priority.unwrap_or(0) >= CRITICAL_PRIORITY
}
