//! What a private node's containerd and CNI are told.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde_json::json;

use crate::images;

/// Where distributions put the CNI plugins: Debian, then everybody else.
const PLUGIN_DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// The pods' addresses. Every node has a network namespace of its own, so all may have the same ones.
const POD_SUBNET: &str = "10.88.0.0/16";

pub(super) fn write(root: &Path) -> Result<()> {
    let plugins = PLUGIN_DIRECTORIES
        .into_iter()
        .find(|dir| Path::new(dir).join("bridge").exists())
        .with_context(|| {
            format!(
                "no CNI plugins in {PLUGIN_DIRECTORIES:?} (package containernetworking-plugins)"
            )
        })?;
    // An overlay cannot have another one as its upper directory.
    let below = statfs(root).context("file system of the node's directory")?;
    let snapshotter = if below.filesystem_type() == OVERLAYFS_SUPER_MAGIC {
        "native"
    } else {
        "overlayfs"
    };
    fs::write(
        root.join("containerd.toml"),
        containerd(root, plugins, snapshotter),
    )
    .context("write containerd.toml")?;
    fs::write(root.join("cni/10-node.conflist"), cni(root)).context("write the CNI configuration")
}

fn containerd(root: &Path, plugins: &str, snapshotter: &str) -> String {
    let root = root.display();
    let pause = images::PAUSE;
    // restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE cannot set a negative oom_score_adj, and runc then
    // dies while it makes the sandbox. For tests alone: on a real node it would weaken the agent's choices.
    format!(
        r#"version = 2
root = "{root}/containerd"
state = "{root}/run/containerd-state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "{root}/containerd.sock"

[ttrpc]
address = "{root}/containerd.ttrpc.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{root}/certs.d"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{root}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

fn cni(root: &Path) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "node",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": root.join("ipam"),
                    "ranges": [[{ "subnet": POD_SUBNET }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}
