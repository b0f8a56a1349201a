//! Ports of containers, and what they take of the node's.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort};

use super::super::{Errors, names};

pub(super) fn check(path: &str, ports: &[ContainerPort], errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let messages = names::port(name);
            if !messages.is_empty() {
                errors.all(&format!("{path}.name"), name, messages);
            } else if !taken.insert(name) {
                errors.duplicate(format!("{path}.name"), name);
            }
        }
        let field = format!("{path}.containerPort");
        match port.container_port {
            0 => errors.required(field, ""),
            number => in_range(field, number, errors),
        }
        if let Some(number) = port.host_port.filter(|p| *p != 0) {
            in_range(format!("{path}.hostPort"), number, errors);
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        let supported = ["SCTP", "TCP", "UDP"];
        errors.one_of(format!("{path}.protocol"), protocol, &supported);
    }
}

fn in_range(path: String, number: i32, errors: &mut Errors) {
    if let Some(message) = names::port_number(number) {
        errors.invalid(path, number, message);
    }
}

/// The node's ports, each with protocol and address, that are not `used` yet.
pub(super) fn on_host(
    path: &str,
    container: &Container,
    used: &mut BTreeSet<String>,
    errors: &mut Errors,
) {
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let Some(number) = port.host_port.filter(|p| *p != 0) else {
            continue;
        };
        let protocol = port.protocol.as_deref().unwrap_or_default();
        let address = port.host_ip.as_deref().unwrap_or_default();
        let port = format!("{protocol}/{address}/{number}");
        if used.contains(&port) {
            errors.duplicate(format!("{path}.ports[{i}].hostPort"), &port);
        }
        used.insert(port);
    }
}

/// On the node's network a port cannot be another one outside.
pub(super) fn on_host_network(containers: &[Container], errors: &mut Errors) {
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if host != port.container_port {
                let path = format!("spec.containers[{i}].ports[{j}].hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(path, host, detail);
            }
        }
    }
}
