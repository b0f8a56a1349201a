//! Services in the environment of containers (the Kubernetes document "Service", "Environment variables").

use std::net::IpAddr;

use crate::objects::ServiceLink;

/// The variables by which a container finds `services`.
pub(super) fn variables(services: &[ServiceLink]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for service in services {
        of_service(service, &mut |name, value| found.push((name, value)));
    }
    found
}

fn of_service(service: &ServiceLink, put: &mut dyn FnMut(String, String)) {
    let name = in_capitals(&service.name);
    let ip = service.cluster_ip;
    put(format!("{name}_SERVICE_HOST"), ip.to_string());
    if let Some(first) = service.ports.first() {
        put(format!("{name}_SERVICE_PORT"), first.number.to_string());
    }
    for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
        let port_name = in_capitals(&port.name);
        put(
            format!("{name}_SERVICE_PORT_{port_name}"),
            port.number.to_string(),
        );
    }
    for (at, port) in service.ports.iter().enumerate() {
        let protocol = port.protocol.as_str();
        let url = match ip {
            IpAddr::V4(ip) => format!("{protocol}://{ip}:{}", port.number),
            IpAddr::V6(ip) => format!("{protocol}://[{ip}]:{}", port.number),
        };
        if at == 0 {
            put(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!(
            "{name}_PORT_{}_{}",
            port.number,
            protocol.to_ascii_uppercase()
        );
        put(format!("{prefix}_PROTO"), protocol.to_owned());
        put(format!("{prefix}_PORT"), port.number.to_string());
        put(format!("{prefix}_ADDR"), ip.to_string());
        put(prefix, url);
    }
}

fn in_capitals(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}
