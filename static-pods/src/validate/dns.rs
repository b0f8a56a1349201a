//! Rules for a pod's names on the network: resolver configuration, aliases of hosts, the host's name.

use std::net::{Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::{Errors, names};

/// Most name servers (libc's resolver).
const NAMESERVERS: usize = 3;
/// Most search domains.
const SEARCHES: usize = 32;
/// Most bytes of all search domains, with a space between each.
const SEARCH_BYTES: usize = 2048;
/// Longest name of a host in bytes (the kernel's limit).
const HOSTNAME: usize = 64;

pub(super) fn check(spec: &PodSpec, errors: &mut Errors) {
    let policy = spec.dns_policy.as_deref().unwrap_or_default();
    errors.one_of(
        "spec.dnsPolicy",
        policy,
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    let config = spec.dns_config.as_ref();
    let servers = config
        .and_then(|c| c.nameservers.as_deref())
        .unwrap_or_default();
    match config {
        None if policy == "None" => {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.required("spec.dnsConfig", detail);
        }
        Some(_) if policy == "None" && servers.is_empty() => {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required("spec.dnsConfig.nameservers", detail);
        }
        None => {}
        Some(config) => resolver(config, servers, errors),
    }
    host_name(spec, errors);
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = format!("spec.hostAliases[{i}]");
        address(&format!("{path}.ip"), &alias.ip, errors);
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            let path = format!("{path}.hostnames[{j}]");
            errors.all(&path, name, names::subdomain(name));
        }
    }
}

fn resolver(config: &PodDNSConfig, servers: &[String], errors: &mut Errors) {
    let path = "spec.dnsConfig.nameservers";
    if servers.len() > NAMESERVERS {
        let detail = format!("must not have more than {NAMESERVERS} nameservers");
        errors.invalid(path, servers, &detail);
    }
    for (i, server) in servers.iter().enumerate() {
        address(&format!("{path}[{i}]"), server, errors);
    }
    let path = "spec.dnsConfig.searches";
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > SEARCHES {
        let detail = format!("must not have more than {SEARCHES} search paths");
        errors.invalid(path, searches, &detail);
    }
    if searches.join(" ").len() > SEARCH_BYTES {
        let detail = format!(
            "must not have more than {SEARCH_BYTES} characters (including spaces) in the search list"
        );
        errors.invalid(path, searches, &detail);
    }
    for (i, search) in searches.iter().enumerate() {
        if search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            let messages = names::subdomain_or_underscore(search);
            errors.all(&format!("{path}[{i}]"), search, messages);
        }
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.required(format!("spec.dnsConfig.options[{i}]"), "must not be empty");
        }
    }
}

fn host_name(spec: &PodSpec, errors: &mut Errors) {
    if let Some(name) = &spec.hostname_override {
        let path = "spec.hostnameOverride";
        let others = [
            ("setHostnameAsFQDN", spec.set_hostname_as_fqdn),
            ("hostNetwork", spec.host_network),
        ];
        for (other, set) in others {
            if set == Some(true) {
                errors.forbidden(path, &format!("may not be specified when {other} is true"));
            }
        }
        if name.len() > HOSTNAME {
            errors.too_long(path, HOSTNAME);
        }
        errors.all(path, name, names::subdomain(name));
    }
    let labels = [
        ("spec.hostname", &spec.hostname),
        ("spec.subdomain", &spec.subdomain),
    ];
    for (path, label) in labels {
        if let Some(label) = label.as_deref().filter(|l| !l.is_empty()) {
            errors.all(path, label, names::label(label));
        }
    }
}

/// An address in the strict form: no leading zeros, no IPv4 address dressed as IPv6.
fn address(path: &str, text: &str, errors: &mut Errors) {
    // Upstream reads it leniently first, so that a leading zero has its own message.
    let Some(read) = Address::lenient(text) else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return errors.invalid(path, text, detail);
    };
    if text.parse::<std::net::IpAddr>().is_err() {
        errors.invalid(path, text, "must not have leading 0s");
    } else if matches!(read, Address::V6(a) if a.to_ipv4_mapped().is_some()) {
        let detail = "must not be an IPv4-mapped IPv6 address";
        errors.invalid(path, text, detail);
    }
}

enum Address {
    V4,
    V6(Ipv6Addr),
}

impl Address {
    fn lenient(text: &str) -> Option<Self> {
        let bare: Vec<_> = text
            .split_inclusive(['.', ':'])
            .map(without_zeros)
            .collect();
        let bare = bare.concat();
        if bare.contains(':') {
            bare.parse().ok().map(Self::V6)
        } else {
            bare.parse::<Ipv4Addr>().ok().map(|_| Self::V4)
        }
    }
}

/// A part of an address, its separator behind it, without the zeros that say nothing.
fn without_zeros(part: &str) -> &str {
    let digits = part.trim_end_matches(['.', ':']);
    let zeros = digits.len() - digits.trim_start_matches('0').len();
    let keep_one = usize::from(zeros == digits.len() && zeros > 0);
    part.get(zeros - keep_one..).unwrap_or(part)
}

#[cfg(test)]
mod tests {
    use super::address;
    use crate::validate::Errors;

    #[test]
    fn addresses_are_read_as_upstream_does() {
        let say = |text| {
            let mut errors = Errors::default();
            address("a", text, &mut errors);
            let first = errors.0.first().map(|e| e.body.clone());
            first.map(|b| b.rsplit(": ").next().unwrap_or_default().to_owned())
        };
        for good in ["1.2.3.4", "0.0.0.0", "::", "2001:db8::ffff", "fe80::0abc"] {
            assert_eq!(say(good), None, "{good}");
        }
        for zeros in ["010.2.3.4", "1.2.3.00", "1::00001", "::1.2.3.04"] {
            assert_eq!(say(zeros).as_deref(), Some("must not have leading 0s"));
        }
        let mapped = Some("must not be an IPv4-mapped IPv6 address");
        assert_eq!(say("::ffff:1.2.3.4").as_deref(), mapped);
        for bad in [
            "",
            "1.2.3",
            "256.1.1.1",
            "a",
            "1.2.3.4/8",
            "fe80::1%eth0",
            "1:2",
            ":::",
        ] {
            let wanted = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            let found = say(bad);
            assert!(found.is_some_and(|f| wanted.ends_with(&f)), "{bad}");
        }
    }
}
