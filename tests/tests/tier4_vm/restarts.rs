//! The agent or the runtime restarts, and no container does.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::vm::guest::{self, POD};

use super::{PODS, Session};

pub(super) fn a_restart_ends_nothing(session: &mut Session) -> Result<()> {
    // A count that is to outlive everything that follows.
    if guest::restarts(&mut session.vm, "default/burstable-node", "main")? == 0 {
        let pods = guest::pods(&mut session.vm)?;
        let id = pods
            .get("default/burstable-node")
            .and_then(|pod| pod.status.as_ref()?.container_statuses.as_ref()?.first())
            .and_then(|status| status.container_id.as_deref())
            .map(|id| id.trim_start_matches("containerd://").to_owned())
            .unwrap_or_default();
        session
            .vm
            .ok(&format!("ctr -n k8s.io tasks kill -s KILL {id}"))?;
        session.vm.eventually("it is replaced", POD, |vm| {
            let count = guest::restarts(vm, "default/burstable-node", "main")?;
            ensure!(count == 1, "restart count {count}");
            Ok(())
        })?;
        guest::all_ready(&mut session.vm, &PODS)?;
    }
    session.ends_nothing(|session| {
        session.vm.ok("systemctl restart kubelet")?;
        guest::active(&mut session.vm)
    })?;
    session.ends_nothing(|session| {
        session
            .vm
            .ok("systemctl kill --signal=KILL --kill-whom=main kubelet")?;
        let limit = Duration::from_secs(60);
        session.vm.eventually("it was started anew", limit, |vm| {
            let restarts = guest::unit(vm, "NRestarts")?;
            ensure!(restarts != "0", "NRestarts is {restarts}");
            Ok(())
        })?;
        guest::active(&mut session.vm)
    })
}

pub(super) fn a_restart_of_the_runtime_ends_nothing(session: &mut Session) -> Result<()> {
    session.ends_nothing(|session| {
        let before = guest::unit(&mut session.vm, "MainPID")?;
        session.vm.ok("systemctl restart containerd")?;
        let after = guest::unit(&mut session.vm, "MainPID")?;
        ensure!(before == after, "the agent was restarted too");
        Ok(())
    })?;
    // And the agent has found it again.
    session.manifest("later", LATER)?;
    let mut with_later = PODS.to_vec();
    with_later.push("default/later-node");
    guest::all_ready(&mut session.vm, &with_later)?;
    session.vm.ok("rm /etc/kubernetes/manifests/later.yaml")?;
    guest::all_ready(&mut session.vm, &PODS).map(drop)
}

const LATER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: later}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, '100000']
";

/// READY comes without the runtime; STATUS says what is missing.
pub(super) fn active_without_the_runtime(session: &mut Session) -> Result<()> {
    session.ends_nothing(|session| {
        let vm = &mut session.vm;
        vm.ok("systemctl stop kubelet && systemctl stop containerd")?;
        // The agent's unit wants containerd, and would start it. (A masked unit would lose its KillMode, and the
        // containers their shims.)
        vm.ok("systemctl start --job-mode=ignore-dependencies kubelet")?;
        guest::active(vm)?;
        vm.eventually("STATUS names the runtime", Duration::from_secs(60), |vm| {
            let line = guest::unit(vm, "StatusText")?;
            ensure!(line.contains("containerd.sock"), "Status: {line}");
            Ok(())
        })?;
        let line = guest::unit(vm, "StatusText")?;
        println!("{}: Status without a runtime: {line}", session.system);
        vm.ok("systemctl start containerd")?;
        vm.eventually("STATUS names it no more", POD, |vm| {
            let line = guest::unit(vm, "StatusText")?;
            ensure!(!line.contains("containerd.sock"), "Status: {line}");
            Ok(())
        })
    })
}
