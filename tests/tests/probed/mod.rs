//! The server `probed` (a binary of this crate) in containers: its manifest, and the file that turns it bad.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tests::containerd::Node;

/// The directory that all containers of a pod made here share, and the name of its volume.
pub(crate) struct Probed {
    binary: PathBuf,
    state: PathBuf,
}

impl Probed {
    /// Puts the binary where the node's containers find it.
    pub(crate) fn new(node: &Node) -> Result<Self> {
        let built = tests::profile_dir()?.join("probed");
        let (binary, state) = (node.path("probed-server"), node.path("probed-state"));
        fs::copy(&built, &binary).with_context(|| {
            format!("no {} (cargo build --workspace makes it)", built.display())
        })?;
        fs::create_dir_all(&state)?;
        Ok(Self { binary, state })
    }

    /// From now on every server is unhealthy.
    pub(crate) fn turn_bad(&self) -> Result<()> {
        fs::write(self.state.join("bad"), "bad\n").context("turn the servers bad")
    }

    /// And healthy again.
    pub(crate) fn turn_good(&self) -> Result<()> {
        fs::remove_file(self.state.join("bad")).context("turn the servers good")
    }

    /// A container with the server, and lines of its manifest.
    pub(crate) fn server(&self, name: &str, probes: &str) -> String {
        self.container(name, "[/probed, /state]", probes)
    }

    /// One that is healthy for so many seconds.
    pub(crate) fn server_for(&self, name: &str, seconds: u32, probes: &str) -> String {
        self.container(name, &format!("[/probed, /state, '{seconds}']"), probes)
    }

    fn container(&self, name: &str, command: &str, probes: &str) -> String {
        format!(
            "  - name: {name}\n    image: busybox:1.36\n    command: {command}\n    volumeMounts:\n    \
             - {{ name: probed, mountPath: /probed }}\n    - {{ name: state, mountPath: /state }}\n    \
             - {{ name: lib, mountPath: /lib, readOnly: true }}\n    \
             - {{ name: lib64, mountPath: /lib64, readOnly: true }}\n    {probes}\n"
        )
    }

    /// A pod of such containers, and others that mount `state`.
    pub(crate) fn pod(&self, name: &str, containers: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             volumes:\n  - {{ name: probed, hostPath: {{ path: {}, type: File }} }}\n  \
             - {{ name: state, hostPath: {{ path: {}, type: Directory }} }}\n  \
             - {{ name: lib, hostPath: {{ path: /lib }} }}\n  - {{ name: lib64, hostPath: {{ path: /lib64 }} }}\n  \
             containers:\n{containers}",
            self.binary.display(),
            self.state.display(),
        )
    }
}
