//! From the name of a host to its addresses: the only place that asks for them.
//!
//! Not `getaddrinfo`: in a static binary it would load the host's NSS modules, which are linked against another C
//! library. The hosts file is read first, then the name servers of `resolv.conf` are asked, as `files dns` in
//! `nsswitch.conf` has it; a systemd-resolved is asked through the address it writes there. Both files are read for each
//! question, so that a change is seen at once, and nothing is kept between two questions: no cache, no task, no socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

/// Where the host's own names are (hosts(5)).
const HOSTS: &str = "/etc/hosts";
/// Where the name servers are (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The name server where `resolv.conf` names none, or is absent (resolv.conf(5)).
const THIS_HOST: &str = "nameserver 127.0.0.1\n";
/// Name servers beyond these are passed over (`MAXNS`, resolv.conf(5)).
const MOST_SERVERS: usize = 3;

/// The addresses of the host of this name, with `port`, in the order in which they are to be tried. An address is its own
/// name. Takes as long as `resolv.conf` allows (by default ten seconds for each server): whoever has less time drops the
/// future, and with it everything that was begun.
///
/// # Errors
/// When the name has none, or nobody could be asked.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = addresses(host, HOSTS.as_ref(), RESOLV_CONF.as_ref()).await?;
    Ok(found
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect())
}

async fn addresses(host: &str, hosts: &Path, resolv_conf: &Path) -> io::Result<Vec<IpAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    // Small local files: not worth a thread.
    let named = in_hosts(&read(hosts)?, host);
    if !named.is_empty() {
        return Ok(named);
    }
    if is_local(host) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    ask(host, servers(&read(resolv_conf)?)?).await
}

/// Asks one server after the other, and all of them again, as glibc does: the second one is there for when the first is
/// silent or failing. The resolver by itself would give all of them together no more time than one.
async fn ask(host: &str, whom: (ResolverConfig, ResolverOpts)) -> io::Result<Vec<IpAddr>> {
    let (config, mut options) = whom;
    let rounds = std::mem::take(&mut options.attempts).max(1);
    // Probes and hooks try one address after the other, and pods have IPv4 addresses more often than not.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    let mut failed = io::Error::other("no name server could be asked");
    for server in (0..rounds).flat_map(|_| config.name_servers()) {
        let (domain, search) = (config.domain().cloned(), config.search().to_vec());
        let config = ResolverConfig::from_parts(domain, search, vec![server.clone()]);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options.clone();
        let resolver = builder.build().map_err(io::Error::other)?;
        match resolver.lookup_ip(host).await {
            Ok(found) => return Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => {
                return Err(io::Error::new(io::ErrorKind::NotFound, error));
            }
            Err(error) => failed = io::Error::other(error),
        }
    }
    Err(failed)
}

/// The bytes of a file; none where it is absent.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// The addresses a hosts file has for `host`, in its order.
fn in_hosts(file: &[u8], host: &str) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(file);
    let wanted = host.strip_suffix('.').unwrap_or(host);
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        if words.any(|name| name.eq_ignore_ascii_case(wanted)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// Whether a name is this host whatever anybody says (RFC 6761, section 6.3).
fn is_local(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Whom to ask, and how. A line that cannot be understood is passed over, as glibc does: one typo must not make every name
/// unknown.
fn servers(file: &[u8]) -> io::Result<(ResolverConfig, ResolverOpts)> {
    let text = String::from_utf8_lossy(file);
    let mut kept = String::new();
    let mut servers = 0;
    for line in text.lines() {
        let server = line.split_whitespace().next() == Some("nameserver");
        // A server is needed for a file to be one.
        let rest = if server { "" } else { THIS_HOST };
        if (server && servers == MOST_SERVERS)
            || parse_resolv_conf(format!("{rest}{line}\n")).is_err()
        {
            continue;
        }
        servers += usize::from(server);
        kept.push_str(line);
        kept.push('\n');
    }
    if servers == 0 {
        kept.push_str(THIS_HOST);
    }
    parse_resolv_conf(kept).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
