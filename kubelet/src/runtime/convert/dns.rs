//! What a pod resolves names with.
//!
//! Source: the Kubernetes documentation, "DNS for Services and Pods".

use std::net::IpAddr;
use std::path::Path;

use cri_proto::v1;
use k8s_openapi::api::core::v1::PodDNSConfigOption;

use crate::pod::{self, Pod};

/// Name servers a pod may have; glibc reads no more.
const MAX_SERVERS: usize = 3;
/// Search domains a pod may have.
const MAX_SEARCHES: usize = 32;
/// Bytes of all search domains with spaces between them.
const MAX_SEARCH_BYTES: usize = 2048;
/// Bytes of one search domain; longer ones make some resolvers abort.
const MAX_DOMAIN_BYTES: usize = 253;
/// Domains that a pod with cluster DNS has before the node's.
const CLUSTER_SEARCHES: usize = 3;
/// What upstream says of a node without `clusterDNS`.
const NO_CLUSTER_DNS: &str = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
/// Dots from which on a name of a pod with cluster DNS is tried as it stands first.
const CLUSTER_OPTIONS: &str = "ndots:5";

/// A `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains, without a dot at their end.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// A `resolv.conf` that has a line without its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: a nameserver without an address")]
pub struct ResolvConfError {
    /// Counted from one.
    line: usize,
}

impl ResolvConf {
    /// Reads the text of a `resolv.conf`. Of several `search` lines the last counts; of an option given twice, the
    /// last value.
    ///
    /// # Errors
    /// When a `nameserver` has no address.
    pub fn parse(text: &str) -> Result<Self, ResolvConfError> {
        let mut conf = Self::default();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().ok_or(ResolvConfError { line: index + 1 })?;
                    conf.servers.push(server.to_owned());
                }
                Some("search") => {
                    conf.searches = words
                        .filter(|domain| *domain != ".")
                        .map(|domain| domain.strip_suffix('.').unwrap_or(domain).to_owned())
                        .collect();
                }
                Some("options") => {
                    for option in words {
                        put_option(&mut conf.options, option.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(conf)
    }
}

/// What the node has for names.
#[derive(Clone, Debug, Default)]
pub struct DnsSettings {
    /// `clusterDNS`: the cluster's name servers.
    pub cluster_dns: Vec<IpAddr>,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// The file that `resolvConf` names; `None` when that is the empty string: then pods look nothing up.
    pub resolv_conf: Option<ResolvConf>,
    /// The node's addresses: they say of which family a name server on the node itself would be.
    pub node_ips: Vec<IpAddr>,
}

/// Something to warn of on the pod, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsWarning {
    /// `MissingClusterDNS` or `DNSConfigForming`.
    pub reason: &'static str,
    /// The text.
    pub message: String,
    /// What is to be said of the node besides.
    pub of_node: Option<String>,
}

/// What is too much in the node's own file at `path`, for the node's event `CheckLimitsForResolvConf`; pods are in a
/// cluster when there is a `cluster_domain`, which adds three domains to theirs.
#[must_use]
pub fn excess(path: &Path, conf: &ResolvConf, cluster_domain: &str) -> Option<String> {
    let most = MAX_SEARCHES
        - if cluster_domain.is_empty() {
            0
        } else {
            CLUSTER_SEARCHES
        };
    let path = path.display();
    let bytes: usize = conf.searches.iter().map(|search| search.len() + 1).sum();
    if conf.searches.len() > most {
        return Some(format!(
            "Resolv.conf file '{path}' contains search line consisting of more than {most} domains!"
        ));
    }
    if conf
        .searches
        .iter()
        .any(|search| search.len() > MAX_DOMAIN_BYTES)
    {
        return Some(format!(
            "Resolv.conf file \"{path}\" contains a search path which length is more than allowed {MAX_DOMAIN_BYTES} chars!"
        ));
    }
    (bytes > MAX_SEARCH_BYTES + 1).then(|| {
        format!(
            "Resolv.conf file '{path}' contains search line which length is more than allowed {MAX_SEARCH_BYTES} chars!"
        )
    })
}

/// The DNS settings of `pod`, cut to what resolvers bear, and what there is to warn of.
#[must_use]
pub fn pod_dns(pod: &Pod, node: &DnsSettings) -> (v1::DnsConfig, Vec<DnsWarning>) {
    let mut warnings = Vec::new();
    let mut dns = base(pod, node, &mut warnings);
    if let Some(own) = &pod::spec(pod).dns_config {
        for server in own.nameservers.iter().flatten() {
            put_new(&mut dns.servers, server.clone());
        }
        for search in own.searches.iter().flatten() {
            put_new(&mut dns.searches, search.clone());
        }
        for option in own.options.iter().flatten() {
            put_option(&mut dns.options, option_text(option));
        }
    }
    limit_servers(&mut dns.servers, &mut warnings);
    limit_searches(&mut dns.searches, &mut warnings);
    (dns, warnings)
}

fn base(pod: &Pod, node: &DnsSettings, warnings: &mut Vec<DnsWarning>) -> v1::DnsConfig {
    match pod::spec(pod).dns_policy.as_deref() {
        Some("None") => return v1::DnsConfig::default(),
        Some("Default") => return of_node(node),
        Some("ClusterFirstWithHostNet") => {}
        // `ClusterFirst`, and what sources would have refused.
        _ if pod::host_network(pod) => return of_node(node),
        _ => {}
    }
    if node.cluster_dns.is_empty() {
        warnings.push(DnsWarning {
            reason: "MissingClusterDNS",
            message: format!("pod: {:?}. {NO_CLUSTER_DNS}", pod::long_name(pod)),
            of_node: Some(NO_CLUSTER_DNS.to_owned()),
        });
        return of_node(node);
    }
    let mut searches = Vec::new();
    let domain = &node.cluster_domain;
    if !domain.is_empty() {
        let namespace = pod::PodName::of(pod).namespace;
        searches.extend([
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ]);
    }
    for search in node.resolv_conf.iter().flat_map(|conf| &conf.searches) {
        put_new(&mut searches, search.clone());
    }
    v1::DnsConfig {
        servers: node.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec![CLUSTER_OPTIONS.to_owned()],
    }
}

fn of_node(node: &DnsSettings) -> v1::DnsConfig {
    if let Some(conf) = &node.resolv_conf {
        return v1::DnsConfig {
            servers: conf.servers.clone(),
            searches: conf.searches.clone(),
            options: conf.options.clone(),
        };
    }
    // A server on the pod's own loopback: look-ups fail at once.
    let mut servers: Vec<_> = node
        .node_ips
        .iter()
        .map(|ip| if ip.is_ipv6() { "::1" } else { "127.0.0.1" }.to_owned())
        .collect();
    if servers.is_empty() {
        servers.push("127.0.0.1".to_owned());
    }
    v1::DnsConfig {
        servers,
        searches: vec![".".to_owned()],
        options: Vec::new(),
    }
}

fn put_new(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// Puts an option in the place of one of the same name.
fn put_option(options: &mut Vec<String>, option: String) {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|have| name(have) == name(&option)) {
        Some(have) => *have = option,
        None => options.push(option),
    }
}

fn option_text(option: &PodDNSConfigOption) -> String {
    let name = option.name.as_deref().unwrap_or_default();
    match option.value.as_deref() {
        Some(value) if !value.is_empty() => format!("{name}:{value}"),
        _ => name.to_owned(),
    }
}

fn limit_servers(servers: &mut Vec<String>, warnings: &mut Vec<DnsWarning>) {
    if servers.len() > MAX_SERVERS {
        servers.truncate(MAX_SERVERS);
        warnings.push(DnsWarning {
            reason: "DNSConfigForming",
            message: format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                servers.join(" ")
            ),
            of_node: None,
        });
    }
}

fn limit_searches(searches: &mut Vec<String>, warnings: &mut Vec<DnsWarning>) {
    let before = searches.len();
    searches.truncate(MAX_SEARCHES);
    searches.retain(|search| search.len() <= MAX_DOMAIN_BYTES);
    let mut bytes = 0;
    let fitting = searches
        .iter()
        .take_while(|search| {
            // The first has no space before it.
            bytes += search.len() + usize::from(bytes > 0);
            bytes <= MAX_SEARCH_BYTES
        })
        .count();
    searches.truncate(fitting);
    if searches.len() < before {
        warnings.push(DnsWarning {
            reason: "DNSConfigForming",
            message: format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                searches.join(" ")
            ),
            of_node: None,
        });
    }
}

#[cfg(test)]
mod tests;
