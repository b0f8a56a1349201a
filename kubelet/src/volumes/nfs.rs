//! nfs: an export of a server, mounted by mount(8) and its helper `mount.nfs`, which the node has to have.
//!
//! A server that is away holds up the thread that mounts, and at last the program is killed. What is mounted is known from
//! the mount table: looking at the directory itself would ask the server.

use std::collections::BTreeSet;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::NFSVolumeSource;

use super::persistent::Work;
use super::programs::Program;
use super::{SetUpError, teardown};
use crate::mounts;
use crate::poddir::VOLUMES;

/// The kind's directory in `volumes/`.
pub(super) const PLUGIN: &str = "kubernetes.io~nfs";
const PRIVATE: u32 = 0o750;

/// Mounts the volume `name` for the pod, and says where. What is mounted there already stays.
pub(super) fn set_up(
    work: &Work<'_>,
    name: &str,
    source: &NFSVolumeSource,
    read_only: bool,
    options: Vec<String>,
) -> Result<PathBuf, SetUpError> {
    let volumes = work.dir.dir().ensure_child(VOLUMES, PRIVATE)?;
    let parent = volumes.ensure_child(PLUGIN, PRIVATE)?;
    let path = parent.path_of(name);
    let table = mounts::below(parent.path()).map_err(SetUpError::Mounts)?;
    // The table has no links in its paths.
    let real = parent.path().canonicalize().map_err(SetUpError::Mounts)?;
    if table.iter().any(|m| m.mount_point == real.join(name)) {
        return Ok(path);
    }
    parent.ensure_child(name, PRIVATE)?;
    let mut all: BTreeSet<String> = options.into_iter().collect();
    if read_only {
        all.insert("ro".to_owned());
    }
    let all: Vec<_> = all.into_iter().collect();
    let from = format!("{}:{}", server(&source.server), source.path);
    let target = path.to_string_lossy();
    let mount = Program::mount("nfs", &all.join(","), &from, &target);
    if let Err(error) = mount.by(work.mounter).succeed(work.is_awaited) {
        // A program that was killed may have mounted it.
        let _ = teardown::unmount_below(&parent, Some(name));
        let _ = parent.remove_empty(name);
        return Err(error.into());
    }
    Ok(path)
}

/// An address of version 6 is told from the path by brackets.
fn server(name: &str) -> String {
    match name.parse::<std::net::Ipv6Addr>() {
        Ok(_) => format!("[{name}]"),
        Err(_) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_as_mount_wants_them() {
        assert_eq!(server("nas.example"), "nas.example");
        assert_eq!(server("10.0.0.1"), "10.0.0.1");
        assert_eq!(server("fd00::1"), "[fd00::1]");
    }
}
