//! What the tests of the whole agent are made of: private nodes, images, the agent's process, the fake runtime, a
//! fake logind, waits.

pub mod agent;
pub mod apiserver;
pub mod bench;
pub mod cis;
pub mod cluster;
pub mod containerd;
pub mod csi_driver;
pub mod device_plugin;
pub mod differential;
pub mod fake_runtime;
pub mod faults;
pub mod http;
pub mod images;
pub mod in_process;
pub mod logind;
pub mod manifest;
pub mod node_api;
pub mod package;
pub mod prometheus;
pub mod random;
pub mod registry;
pub mod scenario;
pub mod service;
pub mod small_disk;
pub mod spdy;
pub mod vm;
pub mod wait;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

/// Whether a test that mounts may go on: that takes root. Says that it is left out where it may not.
#[must_use]
pub fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    is_root
}

/// The target directory that the running test or demo was built into.
///
/// # Errors
/// When the running program does not lie in `<target>/<profile>/` or `<target>/<profile>/deps/`.
pub fn target_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    let target = profile.parent().context("the profile's directory")?;
    Ok(target.to_owned())
}

/// The agent as it is shipped.
///
/// # Errors
/// When `make dist` has not been run, and as [`target_dir`].
pub fn release_binary() -> Result<PathBuf> {
    let binary = target_dir()?.join("dist/kubelet");
    ensure!(
        binary.is_file(),
        "no {} (make dist makes it)",
        binary.display()
    );
    Ok(binary)
}

/// The directory of the profile, where the workspace's binaries are built.
///
/// # Errors
/// As [`target_dir`].
pub fn profile_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().context("path of the running program")?;
    let dir = program.parent().context("directory of the program")?;
    let profile = if dir.ends_with("deps") {
        dir.parent().context("parent of deps")?
    } else {
        dir
    };
    Ok(profile.to_owned())
}
