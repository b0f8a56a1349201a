//! Which sysctls a pod may set.
//!
//! Source: the Kubernetes documentation, "Using sysctls in a Kubernetes Cluster". A sysctl is safe when it is
//! namespaced and cannot reach beyond its pod; others are allowed by name or by prefix in `allowedUnsafeSysctls`.

use std::fmt;

use super::Rejection;
use crate::pod::{self, Pod};

/// The safe sysctls, with the kernel from which each is namespaced.
const SAFE: &[(&str, KernelVersion)] = &[
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// IPC sysctls by name. `kernel.shm` and `kernel.msg` stand for the patterns `kernel.shm*` and `kernel.msg*`.
const IPC: &[&str] = &[
    "kernel.sem",
    "kernel.shm",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msg",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
];

/// Major and minor number of a kernel.
pub type KernelVersion = (u32, u32);

/// Reads major and minor number from what `uname -r` says. `None` when it begins with no two numbers.
#[must_use]
pub fn kernel_version(release: &str) -> Option<KernelVersion> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A sysctl's name with `.` between its parts, whichever of `net/ipv4/…` and `net.ipv4.…` it was written as. In the
/// slash form a dot belongs to a name (`net/ipv4/conf/eth0.100/rp_filter`), so both characters trade places.
#[must_use]
pub fn normalize_name(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'/' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

impl Namespace {
    /// The namespace that holds the sysctls of this name or prefix; `None` where it is not known.
    fn of(name: &str) -> Option<Self> {
        if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
            Some(Self::Ipc)
        } else if name.starts_with("net.") {
            Some(Self::Net)
        } else {
            None
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipc => "IPC",
            Self::Net => "Net",
        })
    }
}

/// An entry of `allowedUnsafeSysctls` that cannot be allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlPatternError {
    /// Not the name of a sysctl, nor one with a `*` behind it.
    #[error(
        "sysctl {0:?} must have at most 253 characters, each part of [a-z0-9_-], parts joined by . or /, and a * at the end at most"
    )]
    Malformed(String),
    /// The kernel keeps it once a node, or nobody knows.
    #[error("the sysctls {0:?} are not known to be namespaced")]
    NotNamespaced(String),
}

/// The sysctls a pod may set, by name and by prefix.
#[derive(Clone, Debug, Default)]
pub struct SysctlAllowlist {
    names: Vec<(String, Namespace)>,
    prefixes: Vec<(String, Namespace)>,
}

impl SysctlAllowlist {
    /// The safe sysctls of a kernel and those that `allowedUnsafeSysctls` adds.
    ///
    /// # Errors
    /// When an entry is no sysctl pattern, or not known to be namespaced.
    pub fn new(
        kernel: KernelVersion,
        unsafe_patterns: &[String],
    ) -> Result<Self, SysctlPatternError> {
        let mut list = Self::default();
        for (name, since) in SAFE {
            if kernel >= *since {
                list.add(name)?;
            }
        }
        for pattern in unsafe_patterns {
            list.add(pattern)?;
        }
        Ok(list)
    }

    fn add(&mut self, pattern: &str) -> Result<(), SysctlPatternError> {
        if !is_pattern(pattern) {
            return Err(SysctlPatternError::Malformed(pattern.to_owned()));
        }
        let name = normalize_name(pattern);
        let (name, into) = match name.split_once('*') {
            Some((prefix, _)) => (prefix.to_owned(), &mut self.prefixes),
            None => (name, &mut self.names),
        };
        match Namespace::of(&name) {
            Some(namespace) => {
                into.push((name, namespace));
                Ok(())
            }
            None => Err(SysctlPatternError::NotNamespaced(name)),
        }
    }

    fn namespace_of(&self, sysctl: &str) -> Option<Namespace> {
        let by_name = self.names.iter().find(|(name, _)| name == sysctl);
        by_name
            .or_else(|| {
                self.prefixes
                    .iter()
                    .find(|(prefix, _)| sysctl.starts_with(prefix.as_str()))
            })
            .map(|(_, namespace)| *namespace)
    }
}

fn is_pattern(pattern: &str) -> bool {
    let body = pattern.strip_suffix('*').unwrap_or(pattern);
    let complete = body.len() == pattern.len();
    let mut parts = body.split(['.', '/']).peekable();
    while let Some(part) = parts.next() {
        let may_be_empty = !complete && parts.peek().is_none();
        let begins_well = part.bytes().next().map_or(may_be_empty, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit()
        });
        let legal = part
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_');
        if !begins_well || !legal {
            return false;
        }
    }
    pattern.len() <= 253
}

pub(super) fn admit(pod: &Pod, allowed: &SysctlAllowlist) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|sc| sc.sysctls.iter().flatten());
    for sysctl in sysctls {
        let name = normalize_name(&sysctl.name);
        let shared = match allowed.namespace_of(&name) {
            None => {
                return Err(forbidden(format_args!("{name:?} not allowlisted")));
            }
            Some(namespace @ Namespace::Ipc) => spec.host_ipc.unwrap_or(false).then_some(namespace),
            Some(namespace @ Namespace::Net) => pod::host_network(pod).then_some(namespace),
        };
        if let Some(namespace) = shared {
            return Err(forbidden(format_args!(
                "{name:?} not allowed with host {namespace} enabled"
            )));
        }
    }
    Ok(())
}

fn forbidden(why: fmt::Arguments<'_>) -> Rejection {
    Rejection::new("SysctlForbidden", format!("forbidden sysctl: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_both_spellings() {
        for (written, meant) in [
            ("net.ipv4.tcp_rmem", "net.ipv4.tcp_rmem"),
            ("net/ipv4/tcp_rmem", "net.ipv4.tcp_rmem"),
            (
                "net/ipv4/conf/eth0.100/rp_filter",
                "net.ipv4.conf.eth0/100.rp_filter",
            ),
            (
                "net.ipv4.conf.eth0/100.rp_filter",
                "net.ipv4.conf.eth0/100.rp_filter",
            ),
            ("", ""),
        ] {
            assert_eq!(normalize_name(written), meant, "{written}");
        }
    }

    #[test]
    fn patterns_of_the_configuration() {
        let new = |pattern: &str| SysctlAllowlist::new((6, 1), &[pattern.to_owned()]).map(|_| ());
        for good in [
            "net.core.somaxconn",
            "net.*",
            "net/core/*",
            "kernel.msg*",
            "kernel.shm*",
            "fs.mqueue.*",
        ] {
            assert_eq!(new(good), Ok(()), "{good}");
        }
        for bad in ["", "Net.core", "net..core", "net.*.x", ".net", "net.core."] {
            assert_eq!(
                new(bad),
                Err(SysctlPatternError::Malformed(bad.to_owned())),
                "{bad}"
            );
        }
        assert_eq!(
            new("vm.max_map_count"),
            Err(SysctlPatternError::NotNamespaced("vm.max_map_count".into()))
        );
        assert_eq!(
            new("*"),
            Err(SysctlPatternError::NotNamespaced(String::new()))
        );
        assert_eq!(
            new("kernel.*"),
            Err(SysctlPatternError::NotNamespaced("kernel.".into()))
        );
    }

    #[test]
    fn kernels_are_read_from_their_release() {
        assert_eq!(kernel_version("6.1.0-25-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("4.15"), Some((4, 15)));
        assert_eq!(kernel_version("linux"), None);
    }
}
