//! The flags that say what the node is: its name, addresses, labels and cloud.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::flags::CommandLine;
use super::issue::{Issue, Origin};
use super::labels::{check_node_labels, is_dns_subdomain};

/// What the command line says of the node, checked.
#[derive(Debug, Default)]
pub(super) struct NodeFlags {
    pub(super) name: String,
    pub(super) ips: Vec<IpAddr>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) external_cloud: bool,
}

/// Reads and checks those flags.
///
/// # Errors
/// All that is wrong with them.
pub(super) fn node_flags(line: &CommandLine, hostname: &str) -> Result<NodeFlags, Vec<Issue>> {
    let mut issues = Vec::new();
    let mut refuse = |flag: &'static str, message: String| {
        issues.push(Issue::new(Origin::Flag(flag), message));
    };
    let labels: BTreeMap<String, String> = match line.value("node-labels") {
        Some(serde_json::Value::Object(map)) => map
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        _ => BTreeMap::new(),
    };
    for message in check_node_labels(labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))) {
        refuse("node-labels", message);
    }
    let provider = line.text("cloud-provider");
    if !matches!(provider, "" | "external") {
        refuse(
            "cloud-provider",
            format!(
                "unknown cloud provider {provider:?}; leave it empty, or write external when a cloud controller runs in the cluster"
            ),
        );
    }
    let override_name = line.text("hostname-override");
    let chosen = if override_name.is_empty() {
        hostname
    } else {
        override_name
    };
    let name = chosen.trim().to_lowercase();
    if name.is_empty() {
        refuse(
            "hostname-override",
            "empty hostname is invalid; give the node a name".to_owned(),
        );
    } else if !is_dns_subdomain(&name) {
        refuse(
            "hostname-override",
            format!(
                "{name:?} cannot name a node: write lower case letters, digits, '-' and '.', with a letter or digit at both ends"
            ),
        );
    }
    let ips = node_ips(line.text("node-ip")).unwrap_or_else(|message| {
        refuse("node-ip", message);
        Vec::new()
    });
    if line.is_set("exit-on-lock-contention") && line.text("lock-file").is_empty() {
        refuse(
            "exit-on-lock-contention",
            "cannot exit on lock file contention: no lock file specified; add --lock-file"
                .to_owned(),
        );
    }
    if issues.is_empty() {
        Ok(NodeFlags {
            name,
            ips,
            labels,
            external_cloud: provider == "external",
        })
    } else {
        Err(issues)
    }
}

fn node_ips(text: &str) -> Result<Vec<IpAddr>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        ips.push(
            part.parse()
                .map_err(|_| format!("could not parse {part:?} as an IP address"))?,
        );
    }
    let unspecified = ips.iter().any(IpAddr::is_unspecified);
    match ips.as_slice() {
        [_] => Ok(ips),
        [a, b] if a.is_ipv6() != b.is_ipv6() && !unspecified => Ok(ips),
        [a, b] if a.is_ipv6() != b.is_ipv6() => {
            Err("dual-stack node IP cannot include '0.0.0.0' or '::'".to_owned())
        }
        _ => Err("must contain either a single IP or a dual-stack pair of IPs".to_owned()),
    }
}
