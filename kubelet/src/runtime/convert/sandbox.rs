//! A pod's sandbox.

use std::collections::HashSet;
use std::net::IpAddr;

use cri_proto::v1;
use k8s_openapi::api::core::v1::ContainerPort;

use super::hostname::{HostnameError, pod_hostname};
use super::security::{self, SecurityError};
use super::{NodeSettings, identity, resources};
use crate::admission::sysctls::normalize_name;
use crate::cgroups::resources::ResourceError;
use crate::pod::{self, Pod};
use crate::userns::Range;
use crate::volumes::MountedVolumes;

/// What is known of a sandbox beyond the pod's spec.
#[derive(Clone, Debug)]
pub struct SandboxInputs<'a> {
    /// Counts the sandboxes of the pod, from 0.
    pub attempt: u32,
    /// Where the runtime writes logs: [`PodLogs::ensure_pod`](crate::logs::PodLogs::ensure_pod) as text.
    pub log_directory: &'a str,
    /// The pod's cgroup, in the words of the cgroup driver.
    pub cgroup_parent: &'a str,
    /// Of [`pod_dns`](super::dns::pod_dns).
    pub dns: v1::DnsConfig,
    /// The pod's volumes by name, set up.
    pub volumes: &'a MountedVolumes,
    /// The ids of the pod's users; none where they are the node's own.
    pub users: Option<Range>,
    /// The node.
    pub node: &'a NodeSettings,
}

/// A sandbox that cannot be asked for. Its text is the end of `Failed to create pod sandbox: …`; only another spec helps.
#[derive(Debug, thiserror::Error)]
pub enum SandboxConfigError {
    /// The host name.
    #[error(transparent)]
    Hostname(#[from] HostnameError),
    /// A quantity.
    #[error(transparent)]
    Resources(#[from] ResourceError),
    /// The security context.
    #[error(transparent)]
    Security(#[from] SecurityError),
}

/// The message that makes the sandbox of `pod`.
///
/// # Errors
/// When the spec asks for what cannot be.
pub fn sandbox_config(
    pod: &Pod,
    inputs: &SandboxInputs<'_>,
) -> Result<v1::PodSandboxConfig, SandboxConfigError> {
    let name = pod::PodName::of(pod);
    let hostname = match pod::host_network(pod) {
        // The node's own.
        true => String::new(),
        false => pod_hostname(pod, &inputs.node.cluster_domain)?.nodename,
    };
    let containers = &pod::spec(pod).containers;
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.name.to_string(),
            uid: identity::uid(pod).to_owned(),
            namespace: name.namespace.to_string(),
            attempt: inputs.attempt,
        }),
        hostname,
        log_directory: inputs.log_directory.to_owned(),
        dns_config: Some(inputs.dns.clone()),
        // Of regular containers alone, as upstream: sidecars publish no ports on the host.
        port_mappings: containers
            .iter()
            .flat_map(|container| port_mappings(container.ports.as_deref().unwrap_or_default()))
            .collect(),
        labels: identity::sandbox_labels(pod),
        annotations: identity::sandbox_annotations(pod),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: inputs.cgroup_parent.to_owned(),
            security_context: Some(security::of_sandbox(pod, inputs.volumes, inputs.users)?),
            sysctls: pod::spec(pod)
                .security_context
                .iter()
                .flat_map(|sc| sc.sysctls.iter().flatten())
                .map(|sysctl| (normalize_name(&sysctl.name), sysctl.value.clone()))
                .collect(),
            overhead: Some(resources::overhead(pod, inputs.node)?),
            resources: Some(resources::of_sandbox(pod, inputs.node)?),
        }),
        ..v1::PodSandboxConfig::default()
    })
}

/// The ports of one container; of ports that are the same by name, or unnamed by all they say, the first.
fn port_mappings(ports: &[ContainerPort]) -> Vec<v1::PortMapping> {
    let mut seen = HashSet::new();
    let distinct = ports.iter().filter(|port| seen.insert(port_key(port)));
    distinct
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn port_key(port: &ContainerPort) -> String {
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    let host_ip = port.host_ip.as_deref().unwrap_or_default();
    let family = match (host_ip, host_ip.parse::<IpAddr>()) {
        ("", _) => "any",
        (_, Ok(IpAddr::V6(_))) => "v6",
        _ => "v4",
    };
    format!(
        "{family}-{}-{host_ip}:{}:{}",
        port.protocol.as_deref().unwrap_or("TCP"),
        port.container_port,
        port.host_port.unwrap_or(0)
    )
}
