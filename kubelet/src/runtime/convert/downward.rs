//! What a pod is told of itself: its fields, and what its containers ask for and may use (the Kubernetes document
//! "Downward API").

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use static_pods::quantity::{InvalidAmount, Quantity};

use super::NodeSettings;
use super::identity::uid;
use crate::cgroups::resources::ResourceList;
use crate::pod::{self, Pod};

/// Why a field or resource has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownwardError {
    /// A `fieldRef` with another `apiVersion`.
    #[error("unsupported pod version: {0}")]
    PodVersion(String),
    /// A `fieldRef` to a field that may not be referred to.
    #[error("field label not supported: {0}")]
    FieldLabel(String),
    /// A `fieldRef` with a subscript where none can be, in an environment.
    #[error("field label does not support subscript: {0}")]
    Subscript(String),
    /// The same in a volume.
    #[error("fieldPath {0:?} does not support subscript")]
    FileSubscript(String),
    /// A `fieldRef` to a field that may be selected by, and has no value for a container.
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    /// The node's addresses are asked for and not known.
    #[error("host IP unknown; known addresses: []")]
    NoHostIp,
    /// A `resourceFieldRef` to a container that is not there.
    #[error("container {0} not found")]
    NoContainer(String),
    /// A `resourceFieldRef` to something that is no resource of containers.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// A quantity or divisor that is none.
    #[error("{what}: {text:?} is not a quantity")]
    Quantity {
        /// Whose it is.
        what: String,
        /// What the spec has.
        text: String,
        /// Why it is none.
        #[source]
        source: InvalidAmount,
    },
}

/// Map and key of `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

/// The value that `map` has for `key`, for a map of the metadata; none for what is no such map.
fn entry(pod: &Pod, map: &str, key: &str) -> Option<String> {
    let map = match map {
        "metadata.annotations" => &pod.metadata.annotations,
        "metadata.labels" => &pod.metadata.labels,
        _ => return None,
    };
    let value = map.as_ref().and_then(|map| map.get(key));
    Some(value.cloned().unwrap_or_default())
}

/// A field of the metadata as a whole.
fn of_metadata(pod: &Pod, path: &str) -> Option<String> {
    Some(match path {
        "metadata.name" => pod::PodName::of(pod).name.to_string(),
        "metadata.namespace" => pod::PodName::of(pod).namespace.to_string(),
        "metadata.uid" => uid(pod).to_owned(),
        "metadata.annotations" => map_text(pod.metadata.annotations.iter().flatten()),
        "metadata.labels" => map_text(pod.metadata.labels.iter().flatten()),
        _ => return None,
    })
}

/// The value of a field for a file of a volume. It has no addresses: a volume is there before the pod has any.
///
/// # Errors
/// When there is no such field, or it is not for files.
pub(crate) fn field_for_file(pod: &Pod, path: &str) -> Result<String, DownwardError> {
    match subscript(path) {
        Some((map, key)) => {
            entry(pod, map, key).ok_or_else(|| DownwardError::FileSubscript(path.to_owned()))
        }
        None => of_metadata(pod, path).ok_or_else(|| DownwardError::FieldPath(path.to_owned())),
    }
}

/// The value of a field for a container's environment.
pub(super) fn field_for_env(
    pod: &Pod,
    selector: &ObjectFieldSelector,
    pod_ips: &[IpAddr],
    node: &NodeSettings,
) -> Result<String, DownwardError> {
    if let Some(version) = selector.api_version.as_deref()
        && !matches!(version, "" | "v1")
    {
        return Err(DownwardError::PodVersion(version.to_owned()));
    }
    let path = selector.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        return entry(pod, map, key).ok_or_else(|| DownwardError::Subscript(path.to_owned()));
    }
    if let Some(value) = of_metadata(pod, path) {
        return Ok(value);
    }
    let spec = pod::spec(pod);
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let joined = |ips: &[IpAddr]| {
        let ips: Vec<_> = ips.iter().map(ToString::to_string).collect();
        ips.join(",")
    };
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string);
    Ok(match path {
        "spec.nodeName" | "spec.host" => text(&spec.node_name),
        "spec.serviceAccountName" => text(&spec.service_account_name),
        "status.hostIP" => first(&node.host_ips).ok_or(DownwardError::NoHostIp)?,
        "status.hostIPs" if node.host_ips.is_empty() => return Err(DownwardError::NoHostIp),
        "status.hostIPs" => joined(&node.host_ips),
        "status.podIP" => first(&ordered_pod_ips(pod, pod_ips, node)).unwrap_or_default(),
        "status.podIPs" => joined(&ordered_pod_ips(pod, pod_ips, node)),
        "spec.restartPolicy" | "spec.schedulerName" | "status.phase" => {
            return Err(DownwardError::FieldPath(path.to_owned()));
        }
        _ => return Err(DownwardError::FieldLabel(path.to_owned())),
    })
}

/// The pod's addresses, those of the family of the node's primary address first.
fn ordered_pod_ips(pod: &Pod, pod_ips: &[IpAddr], node: &NodeSettings) -> Vec<IpAddr> {
    let mut ips = match pod_ips {
        [] if pod::host_network(pod) => node.host_ips.clone(),
        ips => ips.to_vec(),
    };
    if let Some(primary) = node.host_ips.first() {
        ips.sort_by_key(|ip| ip.is_ipv6() != primary.is_ipv6());
    }
    ips
}

/// The value of a resource for a file of a volume. Without a limit of its own a container may use what pods may use of
/// the node.
///
/// # Errors
/// When there is no such container or resource.
pub(crate) fn resource_for_file(
    pod: &Pod,
    selector: &ResourceFieldSelector,
    allocatable: &ResourceList,
) -> Result<String, DownwardError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let (_, container) = container(pod, name)?;
    let of_node = |resource: &str| Ok(allocatable.get(resource).cloned().unwrap_or_default());
    resource(selector, container, Some(&of_node))
}

/// The value of a resource for the environment of `own`.
pub(super) fn resource_for_env(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    node: &NodeSettings,
) -> Result<String, DownwardError> {
    let limit = |resource: &str| limit_of_pod_or_node(pod, resource, node);
    match selector.container_name.as_deref().unwrap_or_default() {
        "" => resource(selector, own, Some(&limit)),
        name => {
            // Defaults are laid over the regular containers only; an init container is taken as it is.
            let (kind, container) = container(pod, name)?;
            let limit: Option<&Limit<'_>> = match kind {
                pod::ContainerKind::Regular => Some(&limit),
                _ => None,
            };
            resource(selector, container, limit)
        }
    }
}

fn container<'p>(
    pod: &'p Pod,
    name: &str,
) -> Result<(pod::ContainerKind, &'p Container), DownwardError> {
    let found = pod::containers(pod).find(|(_, container)| container.name == name);
    found.ok_or_else(|| DownwardError::NoContainer(name.to_owned()))
}

/// What a container may use that says nothing itself, by resource.
type Limit<'a> = dyn Fn(&str) -> Result<Quantity, DownwardError> + 'a;

fn resource(
    selector: &ResourceFieldSelector,
    container: &Container,
    limit: Option<&Limit<'_>>,
) -> Result<String, DownwardError> {
    let unsupported = || DownwardError::Resource(selector.resource.clone());
    let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let known = matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || resource.starts_with("hugepages-");
    if !known || !matches!(side, "limits" | "requests") {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let own = resources
        .and_then(|resources| match side {
            "limits" => resources.limits.as_ref(),
            _ => resources.requests.as_ref(),
        })
        .and_then(|list| list.get(resource));
    let what = format!("container {:?}: {}", container.name, selector.resource);
    let mut value = amount(own, &what)?;
    if let Some(limit) = limit
        && value.is_zero()
        && side == "limits"
        && !resource.starts_with("hugepages-")
    {
        value = limit(resource)?;
    }
    let divisor = amount(selector.divisor.as_ref(), "divisor")?;
    let divisor = match divisor.is_zero() {
        true => Quantity::of(1),
        false => divisor,
    };
    let (value, divisor) = match resource {
        "cpu" => (value.milli(), divisor.milli()),
        _ => (value.value(), divisor.value()),
    };
    // Rounded up; neither is below zero, and the divisor is not zero.
    Ok((value / divisor + i64::from(value % divisor > 0)).to_string())
}

fn limit_of_pod_or_node(
    pod: &Pod,
    resource: &str,
    node: &NodeSettings,
) -> Result<Quantity, DownwardError> {
    let of_pod = pod::spec(pod)
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref())
        .and_then(|limits| limits.get(resource))
        .filter(|_| resource != "ephemeral-storage");
    match amount(of_pod, "pod limits")? {
        none if none.is_zero() => Ok(node.allocatable.get(resource).cloned().unwrap_or_default()),
        limit => Ok(limit),
    }
}

fn amount(quantity: Option<&RawQuantity>, what: &str) -> Result<Quantity, DownwardError> {
    let Some(quantity) = quantity else {
        return Ok(Quantity::default());
    };
    Quantity::parse_amount(&quantity.0).map_err(|source| DownwardError::Quantity {
        what: what.to_owned(),
        text: quantity.0.clone(),
        source,
    })
}

/// `key="value"` lines, sorted by key, values quoted as Go does.
fn map_text<'a>(map: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let lines: Vec<_> = map
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect();
    lines.join("\n")
}

/// A string as Go's `strconv.Quote` writes it.
pub(crate) fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
