//! The text of a pod's `/etc/hosts`. Pure, but for [`node_file`].
//!
//! Programs tell the two kinds apart by their first line, so both are spelled exactly as upstream's.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::HostAlias;

/// What every pod's hosts file on the pod network begins with.
const POD_LINES: &str = "# Kubernetes-managed hosts file.\n\
    127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
/// Most of the node's own hosts file that is taken over; what is longer is cut at a line.
const NODE_FILE_LIMIT: u64 = 1 << 20;

/// The file of a pod on the pod network, with one line for each of its addresses.
#[must_use]
pub fn of_pod(
    ips: &[IpAddr],
    hostname: &str,
    domain: Option<&str>,
    aliases: &[HostAlias],
) -> String {
    let mut text = POD_LINES.to_owned();
    for ip in ips {
        // Writing to a String cannot fail.
        let _ = match domain.filter(|domain| !domain.is_empty()) {
            Some(domain) => writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}"),
            None => writeln!(text, "{ip}\t{hostname}"),
        };
    }
    text + &of_aliases(aliases)
}

/// The file of a pod on the host's network: `node_file` is the node's own.
#[must_use]
pub fn of_host_network(node_file: &[u8], aliases: &[HostAlias]) -> Vec<u8> {
    [
        HOST_HEADER.as_bytes(),
        node_file,
        of_aliases(aliases).as_bytes(),
    ]
    .concat()
}

/// Reads the node's own hosts file, `/etc/hosts`, up to 1 MiB of it.
///
/// # Errors
/// When it cannot be read.
pub fn node_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(NODE_FILE_LIMIT + 1)
        .read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > NODE_FILE_LIMIT) {
        let end = content.iter().rposition(|&byte| byte == b'\n');
        content.truncate(end.map_or(0, |end| end + 1));
    }
    Ok(content)
}

fn of_aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(ip: &str, names: &[&str]) -> HostAlias {
        HostAlias {
            ip: ip.to_owned(),
            hostnames: Some(names.iter().map(|&name| name.to_owned()).collect()),
        }
    }

    const FIXED: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

    #[test]
    fn one_line_for_each_address() {
        let ips: Vec<IpAddr> = vec!["10.1.2.3".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(
            of_pod(&ips, "web", None, &[]),
            format!("{FIXED}10.1.2.3\tweb\nfd00::7\tweb\n")
        );
        assert_eq!(
            of_pod(&ips[..1], "web", Some("sub.ns.svc.cluster.local"), &[]),
            format!("{FIXED}10.1.2.3\tweb.sub.ns.svc.cluster.local\tweb\n")
        );
    }

    #[test]
    fn aliases_come_last() {
        let aliases = [alias("1.2.3.4", &["a", "b"]), alias("::5", &["c"])];
        let expected = "\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n::5\tc\n";
        assert_eq!(
            of_pod(&[], "web", Some(""), &aliases),
            format!("{FIXED}{expected}")
        );
        assert_eq!(
            of_host_network(b"127.0.0.1 node\n", &aliases),
            format!("# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n{expected}")
                .into_bytes()
        );
    }

    #[test]
    fn a_huge_file_of_the_node_is_cut_at_a_line() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), "127.0.0.1 some-name\n".repeat(60_000)).unwrap();
        let content = node_file(temp.path()).unwrap();
        assert!(content.len() <= 1 << 20);
        assert!(content.len() > (1 << 20) - 20);
        assert!(content.ends_with(b"some-name\n"));
        std::fs::write(temp.path(), "short, without newline").unwrap();
        assert_eq!(node_file(temp.path()).unwrap(), b"short, without newline");
    }
}
