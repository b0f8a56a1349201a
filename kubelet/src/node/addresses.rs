//! How the node is reached. Pure but for what is passed in.

use std::net::IpAddr;

use super::types::Address;

/// What the configuration and the host say of the node's addresses.
#[derive(Clone, Debug)]
pub(super) struct Inputs<'a> {
    /// `--node-ip`.
    pub(super) configured: &'a [IpAddr],
    /// The node's name.
    pub(super) name: &'a str,
    /// Whether a cloud controller sets addresses.
    pub(super) external_cloud: bool,
    /// Addresses of the host's interfaces.
    pub(super) own: &'a [IpAddr],
    /// What the node's name resolves to.
    pub(super) named: &'a [IpAddr],
    /// Those of the interface that the default route leads through.
    pub(super) default_route: &'a [IpAddr],
}

/// Why a configured address cannot be the node's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error("failed to validate nodeIP: {0}")]
    Configured(String),
    #[error("can't get ip address of node {0}")]
    None(String),
}

/// The addresses the node reports: one or two of its own, then its name.
pub(super) fn choose(inputs: &Inputs<'_>) -> Result<Vec<Address>, AddressError> {
    let mut specified = Vec::new();
    for ip in inputs.configured.iter().filter(|ip| !ip.is_unspecified()) {
        check(*ip, inputs.own).map_err(AddressError::Configured)?;
        specified.push(*ip);
    }
    if !specified.is_empty() {
        return Ok(addresses(&specified, inputs.name));
    }
    // A cloud controller finds out for itself, unless it is told which family.
    if inputs.external_cloud && inputs.configured.is_empty() {
        return Ok(addresses(&[], inputs.name));
    }
    if let Ok(ip) = inputs.name.parse() {
        return Ok(addresses(&[ip], inputs.name));
    }
    let prefers_v6 = inputs.configured.first().is_some_and(IpAddr::is_ipv6);
    let preferred = |ip: &&IpAddr| ip.is_ipv6() == prefers_v6;
    let valid = |list: &[IpAddr]| -> Option<IpAddr> {
        let valid: Vec<IpAddr> = list
            .iter()
            .copied()
            .filter(|ip| check(*ip, inputs.own).is_ok())
            .collect();
        valid.iter().find(preferred).or(valid.first()).copied()
    };
    let route = inputs.default_route;
    let found = valid(inputs.named)
        .or_else(|| route.iter().find(preferred).copied())
        .or_else(|| route.first().copied());
    match found {
        Some(ip) => Ok(addresses(&[ip], inputs.name)),
        None => Err(AddressError::None(inputs.name.to_owned())),
    }
}

fn addresses(ips: &[IpAddr], name: &str) -> Vec<Address> {
    let internal = ips.iter().map(|ip| ("InternalIP", ip.to_string()));
    let all = internal.chain([("Hostname", name.to_owned())]);
    all.map(|(kind, address)| Address {
        kind: kind.to_owned(),
        address,
    })
    .collect()
}

/// Whether an address can be a node's (upstream's `validateNodeIP`).
fn check(ip: IpAddr, own: &[IpAddr]) -> Result<(), String> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_loopback() {
        return Err("nodeIP can't be loopback address".to_owned());
    }
    if ip.is_multicast() {
        return Err("nodeIP can't be a multicast address".to_owned());
    }
    if link_local {
        return Err("nodeIP can't be a link-local unicast address".to_owned());
    }
    if ip.is_unspecified() {
        return Err("nodeIP can't be an all zeros address".to_owned());
    }
    match own.contains(&ip) {
        true => Ok(()),
        false => Err(format!(
            "node IP: {:?} not found in the host's network interfaces",
            ip.to_string()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn chosen(
        configured: &[&str],
        named: &[&str],
        route: &[&str],
        cloud: bool,
    ) -> Result<String, String> {
        let own = ips(&["127.0.0.1", "10.0.0.5", "10.0.0.6", "fd00::5", "fe80::1"]);
        let (configured, named, route) = (ips(configured), ips(named), ips(route));
        let inputs = Inputs {
            configured: &configured,
            name: "a",
            external_cloud: cloud,
            own: &own,
            named: &named,
            default_route: &route,
        };
        let shown = |list: Vec<Address>| {
            let each = list
                .iter()
                .map(|one| format!("{}={}", one.kind, one.address));
            each.collect::<Vec<_>>().join(" ")
        };
        choose(&inputs)
            .map(shown)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_configured_goes_first_then_the_name_then_the_default_route() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(
            chosen(&["10.0.0.6", "fd00::5"], &[], &["10.0.0.5"], false),
            ok("InternalIP=10.0.0.6 InternalIP=fd00::5 Hostname=a")
        );
        let named = &["127.0.0.1", "fd00::5", "10.0.0.6"];
        let route = &["10.0.0.5", "fd00::5"];
        assert_eq!(
            chosen(&[], named, route, false),
            ok("InternalIP=10.0.0.6 Hostname=a")
        );
        assert_eq!(
            chosen(&["::"], named, route, false),
            ok("InternalIP=fd00::5 Hostname=a")
        );
        assert_eq!(
            chosen(&[], &["127.0.0.1"], route, false),
            ok("InternalIP=10.0.0.5 Hostname=a")
        );
        assert_eq!(
            chosen(&["::"], &[], route, false),
            ok("InternalIP=fd00::5 Hostname=a")
        );
    }

    #[test]
    fn an_address_that_is_not_the_hosts_is_refused_by_its_reason() {
        let error = |text: &str| Err(text.to_owned());
        assert_eq!(
            chosen(&["10.9.9.9"], &[], &[], false),
            error(
                "failed to validate nodeIP: node IP: \"10.9.9.9\" not found in the host's network interfaces"
            )
        );
        assert_eq!(
            chosen(&["127.0.0.1"], &[], &[], false),
            error("failed to validate nodeIP: nodeIP can't be loopback address")
        );
        assert_eq!(
            chosen(&[], &[], &[], false),
            error("can't get ip address of node a")
        );
    }

    #[test]
    fn a_cloud_controller_is_left_to_find_them() {
        assert_eq!(
            chosen(&[], &["10.0.0.5"], &["10.0.0.5"], true),
            Ok("Hostname=a".to_owned())
        );
        assert_eq!(
            chosen(&["0.0.0.0"], &[], &["10.0.0.5"], true),
            Ok("InternalIP=10.0.0.5 Hostname=a".to_owned())
        );
    }
}
