//! Rules for sysctls: names, and namespaces that the pod shares with its node.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec};

use super::Errors;

/// Longest name of a sysctl.
const NAME: usize = 253;

pub(super) fn check(spec: &PodSpec, context: &PodSecurityContext, errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = format!("spec.securityContext.sysctls[{i}].name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.required(path.as_str(), "");
        } else if name.len() > NAME || !is_name(name) {
            let detail = format!(
                "must have at most {NAME} characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.invalid(path.as_str(), name, &detail);
        } else if taken.contains(name) {
            errors.duplicate(path.as_str(), name);
        }
        taken.insert(name);
        let shared = match namespace(name) {
            Some(Namespace::Network) if spec.host_network == Some(true) => "hostNetwork",
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => "hostIPC",
            _ => continue,
        };
        let detail = format!("may not be specified when '{shared}' is true");
        errors.invalid(path, name, &detail);
    }
}

/// Segments of lower case letters, digits and, within, `-` and `_`, with dots or slashes between.
fn is_name(name: &str) -> bool {
    name.split(['.', '/']).all(|segment| {
        let end = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let bytes = segment.as_bytes();
        end(bytes.first())
            && end(bytes.last())
            && bytes.iter().all(|c| end(Some(c)) || b"-_".contains(c))
    })
}

enum Namespace {
    Network,
    Ipc,
}

/// The kernel namespace that has the sysctl, where one has (ipc_namespaces(7), network_namespaces(7)).
fn namespace(name: &str) -> Option<Namespace> {
    let name = dotted(name);
    // A pattern is judged by what stands before its star.
    let name = name.split('*').next().unwrap_or_default();
    match name {
        "kernel.sem"
        | "kernel.shmall"
        | "kernel.shmmax"
        | "kernel.shmmni"
        | "kernel.shm_rmid_forced"
        | "kernel.shm"
        | "kernel.msgmax"
        | "kernel.msgmnb"
        | "kernel.msgmni"
        | "kernel.msg" => Some(Namespace::Ipc),
        _ if name.starts_with("net.") => Some(Namespace::Network),
        _ if name.starts_with("fs.mqueue.") => Some(Namespace::Ipc),
        _ => None,
    }
}

/// The name with dots between its parts: of `net/ipv4/conf/eth0.1/x`, `net.ipv4.conf.eth0/1.x` (sysctl(8)).
fn dotted(name: &str) -> String {
    if name.find(['.', '/']).and_then(|at| name.get(at..at + 1)) != Some("/") {
        return name.to_owned();
    }
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    name.chars().map(swap).collect()
}
