//! A container's environment.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use static_pods::quantity::{InvalidAmount, Quantity};

use super::NodeSettings;
use super::expand::expand;
use super::identity::uid;
use crate::pod::{self, Pod};

/// Why an environment cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A configMap or secret, and no API server to ask for it.
    #[error("couldn't get {kind} {namespace}/{name}, no kubeClient defined")]
    NoApiServer {
        /// `configMap` or `secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// A source that is not built.
    #[error("environment variable {name:?}: {source_field} is not supported in this version")]
    UnsupportedSource {
        /// The variable.
        name: String,
        /// The field of `valueFrom`.
        source_field: &'static str,
    },
    /// A `fieldRef` with another `apiVersion`.
    #[error("unsupported pod version: {0}")]
    PodVersion(String),
    /// A `fieldRef` to a field that may not be referred to.
    #[error("field label not supported: {0}")]
    FieldLabel(String),
    /// A `fieldRef` with a subscript where none can be.
    #[error("field label does not support subscript: {0}")]
    Subscript(String),
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

/// Variables in the order in which they were first named; each once, with its last value.
#[derive(Debug, Default)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    }

    fn put(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(have, _)| have == name) {
            Some((_, have)) => *have = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// `text` with its references to these variables replaced.
    pub(super) fn expand(&self, text: &str) -> String {
        expand(text, |name| self.get(name))
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (String, String)> {
        self.0.into_iter()
    }
}

/// What the environment of `container` is taken from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) pod_ips: &'a [IpAddr],
    pub(super) node: &'a NodeSettings,
}

/// The environment that the spec asks for. A value may refer to variables named before it, no later ones.
pub(super) fn environment(sources: &Sources<'_>) -> Result<Environment, EnvError> {
    let namespace = || pod::PodName::of(sources.pod).namespace.to_string();
    let no_api_server = |kind, name: &str| EnvError::NoApiServer {
        kind,
        namespace: namespace(),
        name: name.to_owned(),
    };
    for from in sources.container.env_from.iter().flatten() {
        if let Some(config_map) = &from.config_map_ref {
            return Err(no_api_server("configMap", &config_map.name));
        }
        if let Some(secret) = &from.secret_ref {
            return Err(no_api_server("secret", &secret.name));
        }
    }
    let mut env = Environment::default();
    for var in sources.container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => env.expand(text),
            (_, None) => String::new(),
            (_, Some(from)) => match from {
                EnvVarSource {
                    field_ref: Some(field),
                    ..
                } => sources.field(field)?,
                EnvVarSource {
                    resource_field_ref: Some(field),
                    ..
                } => sources.resource(field)?,
                EnvVarSource {
                    config_map_key_ref: Some(key),
                    ..
                } => {
                    return Err(no_api_server("configMap", &key.name));
                }
                EnvVarSource {
                    secret_key_ref: Some(key),
                    ..
                } => {
                    return Err(no_api_server("secret", &key.name));
                }
                EnvVarSource {
                    file_key_ref: Some(_),
                    ..
                } => {
                    return Err(EnvError::UnsupportedSource {
                        name: var.name.clone(),
                        source_field: "fileKeyRef",
                    });
                }
                _ => String::new(),
            },
        };
        env.put(&var.name, value);
    }
    Ok(env)
}

impl Sources<'_> {
    fn field(&self, selector: &ObjectFieldSelector) -> Result<String, EnvError> {
        if let Some(version) = selector.api_version.as_deref()
            && !matches!(version, "" | "v1")
        {
            return Err(EnvError::PodVersion(version.to_owned()));
        }
        let path = selector.field_path.as_str();
        let meta = &self.pod.metadata;
        if let Some((map, key)) = subscript(path) {
            let map = match map {
                "metadata.annotations" => &meta.annotations,
                "metadata.labels" => &meta.labels,
                _ => return Err(EnvError::Subscript(path.to_owned())),
            };
            let value = map.as_ref().and_then(|map| map.get(key));
            return Ok(value.cloned().unwrap_or_default());
        }
        let spec = pod::spec(self.pod);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let joined = |ips: &[IpAddr]| {
            let ips: Vec<_> = ips.iter().map(ToString::to_string).collect();
            ips.join(",")
        };
        let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string);
        Ok(match path {
            "metadata.name" => pod::PodName::of(self.pod).name.to_string(),
            "metadata.namespace" => pod::PodName::of(self.pod).namespace.to_string(),
            "metadata.uid" => uid(self.pod).to_owned(),
            "metadata.annotations" => map_text(meta.annotations.iter().flatten()),
            "metadata.labels" => map_text(meta.labels.iter().flatten()),
            "spec.nodeName" | "spec.host" => text(&spec.node_name),
            "spec.serviceAccountName" => text(&spec.service_account_name),
            "status.hostIP" => first(&self.node.host_ips).ok_or(EnvError::NoHostIp)?,
            "status.hostIPs" if self.node.host_ips.is_empty() => return Err(EnvError::NoHostIp),
            "status.hostIPs" => joined(&self.node.host_ips),
            "status.podIP" => first(&self.ordered_pod_ips()).unwrap_or_default(),
            "status.podIPs" => joined(&self.ordered_pod_ips()),
            "spec.restartPolicy" | "spec.schedulerName" | "status.phase" => {
                return Err(EnvError::FieldPath(path.to_owned()));
            }
            _ => return Err(EnvError::FieldLabel(path.to_owned())),
        })
    }

    /// The pod's addresses, those of the family of the node's primary address first.
    fn ordered_pod_ips(&self) -> Vec<IpAddr> {
        let mut ips = match self.pod_ips {
            [] if pod::host_network(self.pod) => self.node.host_ips.clone(),
            ips => ips.to_vec(),
        };
        if let Some(primary) = self.node.host_ips.first() {
            ips.sort_by_key(|ip| ip.is_ipv6() != primary.is_ipv6());
        }
        ips
    }

    fn resource(&self, selector: &ResourceFieldSelector) -> Result<String, EnvError> {
        let name = selector.container_name.as_deref().unwrap_or_default();
        let unsupported = || EnvError::Resource(selector.resource.clone());
        let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
        let known = matches!(resource, "cpu" | "memory" | "ephemeral-storage")
            || resource.starts_with("hugepages-");
        if !known || !matches!(side, "limits" | "requests") {
            return Err(unsupported());
        }
        let (container, takes_defaults) = match name {
            "" => (self.container, true),
            name => {
                // Defaults are laid over the regular containers only; an init container is taken as it is.
                let found = pod::containers(self.pod).find(|(_, container)| container.name == name);
                let (kind, container) =
                    found.ok_or_else(|| EnvError::NoContainer(name.to_owned()))?;
                (container, kind == pod::ContainerKind::Regular)
            }
        };
        let resources = container.resources.as_ref();
        let own = resources
            .and_then(|resources| match side {
                "limits" => resources.limits.as_ref(),
                _ => resources.requests.as_ref(),
            })
            .and_then(|list| list.get(resource));
        let mut value = self.amount(
            own,
            &format!("container {:?}: {}", container.name, selector.resource),
        )?;
        if value.is_zero()
            && side == "limits"
            && takes_defaults
            && !resource.starts_with("hugepages-")
        {
            value = self.limit_of_pod_or_node(resource)?;
        }
        let divisor = self.amount(selector.divisor.as_ref(), "divisor")?;
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

    fn limit_of_pod_or_node(&self, resource: &str) -> Result<Quantity, EnvError> {
        let of_pod = pod::spec(self.pod)
            .resources
            .as_ref()
            .and_then(|resources| resources.limits.as_ref())
            .and_then(|limits| limits.get(resource))
            .filter(|_| resource != "ephemeral-storage");
        match self.amount(of_pod, "pod limits")? {
            none if none.is_zero() => Ok(self
                .node
                .allocatable
                .get(resource)
                .cloned()
                .unwrap_or_default()),
            limit => Ok(limit),
        }
    }

    fn amount(&self, quantity: Option<&RawQuantity>, what: &str) -> Result<Quantity, EnvError> {
        let Some(quantity) = quantity else {
            return Ok(Quantity::default());
        };
        Quantity::parse_amount(&quantity.0).map_err(|source| EnvError::Quantity {
            what: what.to_owned(),
            text: quantity.0.clone(),
            source,
        })
    }
}

/// Map and key of `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
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
