//! `kubelet join` and `kubelet leave` where systemd has the agent; the cluster is the double of an API server, in the machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::vm::Machine;
use tests::vm::guest::{self, POD};

use super::{PODS, Session};

/// Certificate, registration and the first status, on an emulated processor.
const JOIN: Duration = Duration::from_secs(420);
const LIMIT: Duration = Duration::from_secs(60);

/// Starts a cluster, with what it is given besides, and has the node join it.
pub(super) fn join(vm: &mut Machine, more: Option<&str>) -> Result<()> {
    let file = match more {
        Some(more) => {
            vm.put("/run/more.json", more)?;
            "/run/more.json"
        }
        None => "",
    };
    vm.ok(&format!(
        "rm -f /run/join-line && systemd-run --unit=cluster --collect /in/cluster /run/join-line \"$(hostname)\" {file} && \
         sysctl -qw net.ipv4.ip_forward=1",
    ))?;
    vm.eventually("the cluster answers", LIMIT, |vm| {
        vm.ok("test -s /run/join-line")
    })?;
    let said = vm.ok_within(JOIN, "kubelet join $(cat /run/join-line) --timeout 6m 2>&1")?;
    ensure!(said.contains("This node has joined the cluster"), "{said}");
    guest::active(vm)
}

/// Has the node leave it.
pub(super) fn leave(vm: &mut Machine) -> Result<()> {
    let left = vm.ok_within(LIMIT, "kubelet leave 2>&1")?;
    ensure!(left.contains("kubectl delete node"), "{left}");
    guest::active(vm)
}

pub(super) fn joins_and_leaves_and_ends_no_static_pod(session: &mut Session) -> Result<()> {
    let config = "sha256sum /var/lib/kubelet/config.yaml";
    let before = session.vm.ok(config)?;
    session.ends_nothing(|session| {
        join(&mut session.vm, None)?;
        // On a node of a cluster the agent answers nobody on this machine.
        session.vm.eventually("the cluster's pod runs", POD, |vm| {
            let running = guest::instances(vm)?.len();
            ensure!(running == 2 * PODS.len() + 2, "{running} run");
            vm.ok("ls -d /var/log/pods/default_from-cluster_*")
        })?;
        // The token has served.
        session.vm.ok(
            "test -e /etc/kubernetes/kubelet.conf && test ! -e /etc/kubernetes/bootstrap-kubelet.conf",
        )?;
        leave(&mut session.vm)?;
        session.vm.eventually("the cluster's pod is gone", POD, |vm| {
            let pods = vm.ok("kubelet get pods -A")?;
            ensure!(!pods.contains("from-cluster"), "{pods}");
            ensure!(guest::instances(vm)?.len() == 2 * PODS.len(), "its containers run");
            Ok(())
        })
    })?;
    let after = session.vm.ok(config)?;
    ensure!(
        after == before,
        "the configuration was {before}, is {after}"
    );
    session
        .vm
        .ok("systemctl stop cluster && test ! -e /etc/kubernetes/kubelet.conf")
        .map(drop)
}
