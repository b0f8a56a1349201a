//! Facts of the machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A file of the kernel's that could not be read or understood.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The size of a file system.
    #[error("cannot tell the size of the file system of {}", path.display())]
    FileSystem {
        /// A path on it.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It has no such line.
    #[error("{path} has no {what}")]
    Missing {
        /// The file.
        path: &'static str,
        /// What was looked for.
        what: &'static str,
    },
}

/// The node's addresses, at most one a family, IPv4 first: those of the interface that the default route leads through.
#[must_use]
pub fn default_route_addresses() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = default_interface_v4(&read("/proc/net/route")).map(str::to_owned);
    let v6 = default_interface_v6(&read("/proc/net/ipv6_route")).map(str::to_owned);
    let addresses = interfaces();
    let first = |interface: Option<String>, of_family: fn(&IpAddr) -> bool| {
        let interface = interface?;
        let mut on_it = addresses.iter().filter(|(name, _)| *name == interface);
        on_it
            .find(|(_, ip)| of_family(ip) && is_global(ip))
            .map(|(_, ip)| *ip)
    };
    let found = [first(v4, IpAddr::is_ipv4), first(v6, IpAddr::is_ipv6)];
    found.into_iter().flatten().collect()
}

/// The addresses of all interfaces.
#[must_use]
pub(super) fn interface_addresses() -> Vec<IpAddr> {
    interfaces().into_iter().map(|(_, ip)| ip).collect()
}

/// Addresses, each with its interface.
fn interfaces() -> Vec<(String, IpAddr)> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip()));
        Some((interface.interface_name, v4.or(v6)?))
    });
    addresses.collect()
}

/// Neither loopback nor link-local.
fn is_global(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

/// `/proc/net/route`: interface, destination, gateway, flags, …; the numbers are hexadecimal.
fn default_interface_v4(table: &str) -> Option<&str> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.get(1) == Some(&"00000000") && columns.get(7) == Some(&"00000000"))
            .then(|| columns[0])
    })
}

/// `/proc/net/ipv6_route`: destination, its prefix length, source, …, interface last.
fn default_interface_v6(table: &str) -> Option<&str> {
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (destination, prefix) = (columns.first()?, columns.get(1)?);
        let interface = columns.last().filter(|name| **name != "lo")?;
        (destination.bytes().all(|c| c == b'0') && *prefix == "00").then_some(*interface)
    })
}

/// All memory of the machine, bytes (`MemTotal` of `/proc/meminfo`).
///
/// # Errors
/// When the file cannot be read or has no such line.
pub fn memory_bytes() -> Result<u64, NodeError> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).map_err(|source| NodeError::Read { path, source })?;
    mem_total(&text).ok_or(NodeError::Missing {
        path,
        what: "MemTotal",
    })
}

fn mem_total(meminfo: &str) -> Option<u64> {
    meminfo_bytes(meminfo, "MemTotal")
}

/// A line of `/proc/meminfo`, in bytes.
pub(super) fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The most processes and threads the kernel runs at once: the least of `kernel.pid_max` and `kernel.threads-max`.
/// `None` where neither can be read.
#[must_use]
pub fn max_pids() -> Option<u64> {
    let files = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    files.into_iter().filter_map(number).min()
}

/// The size of the file system that `path` lies on, bytes.
///
/// # Errors
/// When nobody can tell.
pub fn file_system_bytes(path: &Path) -> Result<u64, NodeError> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|errno| NodeError::FileSystem {
        path: path.to_owned(),
        source: errno.into(),
    })?;
    Ok(stat.blocks().saturating_mul(stat.fragment_size()))
}

/// This machine's architecture, in Go's words.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The kernel's release, as `uname -r` prints it.
///
/// # Errors
/// When the file cannot be read.
pub fn kernel_release() -> Result<String, NodeError> {
    let path = "/proc/sys/kernel/osrelease";
    let text = std::fs::read_to_string(path).map_err(|source| NodeError::Read { path, source })?;
    Ok(text.trim().to_owned())
}

/// Whether the kernel enforces AppArmor profiles.
#[must_use]
pub fn has_apparmor() -> bool {
    std::fs::read_to_string(Path::new("/sys/module/apparmor/parameters/enabled"))
        .is_ok_and(|text| text.starts_with('Y'))
}

/// Files of `/proc/swaps` in use, by the first word of each line; empty without swap.
///
/// # Errors
/// When the file cannot be read.
pub fn swaps() -> Result<Vec<String>, NodeError> {
    let path = "/proc/swaps";
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(swap_files(&text)),
        // A kernel without swap has no such file.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(NodeError::Read { path, source }),
    }
}

/// Swap of the machine, bytes (`SwapTotal`).
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn swap_bytes() -> Result<u64, NodeError> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).map_err(|source| NodeError::Read { path, source })?;
    Ok(meminfo_bytes(&text, "SwapTotal").unwrap_or(0))
}

/// The cgroup of this process on version 2, from the root; the root itself where there is no such thing.
#[must_use]
pub fn own_cgroup_v2() -> String {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::"));
    own.unwrap_or("/").to_owned()
}

fn swap_files(text: &str) -> Vec<String> {
    let words = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(
            mem_total("MemFree: 1 kB\nMemTotal:       16303428 kB\n"),
            Some(16_303_428 * 1024)
        );
        assert_eq!(mem_total("MemTotal: lots\n"), None);
        assert!(memory_bytes().unwrap() > 1 << 20);
        assert!(max_pids().is_some_and(|most| most > 100));
    }

    #[test]
    fn a_file_system_has_a_size() {
        assert!(file_system_bytes(Path::new("/")).unwrap() > 1 << 20);
        let missing = file_system_bytes(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "cannot tell the size of the file system of /nowhere/at/all"
        );
    }

    #[test]
    fn the_default_route_names_its_interface() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n";
        assert_eq!(default_interface_v4(table), Some("eth0"));
        assert_eq!(default_interface_v4("Iface\tDestination\n"), None);
        let zero = "00000000000000000000000000000000";
        let v6 = format!(
            "{zero} 00 {zero} 00 {zero} ffffffff 1 0 200200 lo\n{zero} 00 {zero} 00 {zero} 400 1 0 3 eth0\n"
        );
        assert_eq!(default_interface_v6(&v6), Some("eth0"));
    }

    #[test]
    fn swaps_skip_the_header() {
        let text = "Filename\t\t\t\tType\t\tSize\n/dev/sda2   partition\t8\n/swapfile file 9\n";
        assert_eq!(swap_files(text), ["/dev/sda2", "/swapfile"]);
        assert_eq!(swap_files("Filename Type Size\n"), Vec::<String>::new());
    }
}
