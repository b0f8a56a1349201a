//! A runtime that loses all it knows.

use std::fs;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Node;

/// Kill, look, kill: how often, 20 ms apart.
const ROUNDS: u32 = 500;

impl Node {
    /// Ends every shim and container, and removes containerd's state, images included: as a disk that was replaced, or
    /// a person who empties `/var/lib/containerd` and starts the machine again. The agent runs on.
    ///
    /// # Errors
    /// When containerd runs, or something cannot be ended or removed.
    pub fn wipe_containerd(&self) -> Result<()> {
        ensure!(self.lock().is_none(), "containerd runs");
        self.end_containers()?;
        let root = self.path("");
        let root = root.to_str().context("path of the node")?;
        let root = root.trim_end_matches('/');
        // The peers of these mounts below the node's own /run go with them.
        let unmount = format!(
            "awk '{{print $5}}' /proc/self/mountinfo | \
             grep -e '^{root}/containerd/' -e '^{root}/run/containerd-state/' -e '^{root}/run/netns/' | \
             sort -r | while read -r mount; do umount -l \"$mount\" || exit 1; done; rm -rf /run/netns/*"
        );
        self.run("sh", &["-c", &unmount])?;
        for directory in ["containerd", "run/containerd-state", "ipam"] {
            match fs::remove_dir_all(self.path(directory)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {directory}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn end_containers(&self) -> Result<()> {
        for _ in 0..ROUNDS {
            let shims = self.cgroups.of_runtime();
            let shims = shims.into_iter().filter(|pid| is_shim(*pid));
            let mut all: Vec<i32> = self.cgroups.of_pods();
            all.extend(shims);
            if all.is_empty() {
                return Ok(());
            }
            for pid in all {
                // One that has ended in the meantime is what was wanted.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            sleep(Duration::from_millis(20));
        }
        anyhow::bail!("shims or containers survived SIGKILL")
    }
}

fn is_shim(pid: i32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
    program.ends_with(b"/containerd-shim-runc-v2")
}
