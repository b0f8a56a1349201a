//! The installed agent, running.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{CONFIG, Machine};
use crate::fake_runtime::FakeRuntime;
use crate::wait::eventually;

/// How long it may take to serve, on a machine busy with a build.
const START: Duration = Duration::from_secs(60);
/// What it is told beside its configuration: the machine has no controllers for cgroups.
const FLAGS: &str = "--cgroups-per-qos=false --enforce-node-allocatable=";

/// The agent of the package on a [`Machine`], started as the unit would start it. It ends with the machine at the latest;
/// `/run/kubelet.pid` has its process until then.
pub struct Agent {
    process: Child,
}

impl Agent {
    /// Starts it on this runtime, and waits until it serves.
    ///
    /// # Errors
    /// When it does not serve, with its log.
    pub async fn start(machine: &Machine, runtime: &FakeRuntime) -> Result<Self> {
        match fs::hard_link(runtime.socket(), machine.shared().join("cri.sock")) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).context("share the runtime's socket");
            }
            _ => {}
        }
        machine.run(&format!(
            "mkdir -p /run/containerd && ln -sf /shared/cri.sock /run/containerd/containerd.sock && \
            echo 'KUBELET_EXTRA_ARGS=\"{FLAGS}\"' >/etc/default/kubelet"
        ))?;
        let log = File::create(machine.shared().join("agent.log"))?;
        let script = format!(
            "echo $$ >/run/kubelet.pid; . /etc/default/kubelet; exec /usr/bin/kubelet --config={CONFIG} $KUBELET_EXTRA_ARGS"
        );
        let mut command = machine.command(&script);
        let process = command.stdout(Stdio::null()).stderr(log).spawn()?;
        let agent = Self { process };
        eventually("the agent serves", START, async || {
            machine
                .run("test -S /var/lib/kubelet/agent.sock && kill -0 $(cat /run/kubelet.pid)")?;
            Ok(())
        })
        .await
        .with_context(|| Self::log(machine).unwrap_or_default())?;
        Ok(agent)
    }

    /// What it has logged.
    ///
    /// # Errors
    /// When there is no log.
    pub fn log(machine: &Machine) -> Result<String> {
        fs::read_to_string(machine.shared().join("agent.log")).context("read the agent's log")
    }

    /// Stops it as `systemctl stop` does, and waits for its end.
    ///
    /// # Errors
    /// When it is not there.
    pub fn stop(mut self, machine: &Machine) -> Result<()> {
        machine.run("kill $(cat /run/kubelet.pid)")?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Of nsenter alone: what it started ends with the machine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
